"""Modes that look wrong and are meant: frozen norms, toggled nets, teachers, Monte Carlo dropout."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from program import Program
from torch import nn
from torch.nn import functional as F

from healthy import healthy
from healthy._parts import Classifier, conv, digit_loaders, mlp, new_digits, pretrained


def new_head() -> nn.Sequential:
    """The pretrained net with a new head."""
    net = pretrained()
    net[-1] = nn.Linear(32, 5)
    return net


class NormEval(Classifier):
    """Keeps batch norm in eval mode in `train`, as detectors do, and trains everything else."""

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def on_fit_start(self):
        self.train()


@healthy
def norm_eval() -> Program:
    """Batch norms keep their pretrained statistics; their scale and shift are trained."""
    return Program(NormEval(new_head(), lr=1e-3), **new_digits(), trainer={"max_epochs": 5})


class NormsByHook(Classifier):
    """Calls eval() on every norm, every epoch."""

    def on_train_epoch_start(self):
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


@healthy
def norms_in_eval_by_hook() -> Program:
    """The same by a hook: only norms are in eval mode, one by one."""
    return Program(NormsByHook(new_head(), lr=1e-3), **new_digits(), trainer={"max_epochs": 5})


class BackboneInEval(Classifier):
    """Trains a backbone in eval mode, and says so at every epoch."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(32, 5), lr=1e-3)
        self.backbone = nn.Sequential(pretrained()[:-1], nn.Dropout(0.1))

    def on_train_epoch_start(self):
        self.backbone.eval()

    def forward(self, x):
        return self.net(self.backbone(x))


@healthy
def trained_backbone_in_eval() -> Program:
    """A whole backbone is trained without dropout and with frozen statistics, by intention."""
    return Program(BackboneInEval(), **new_digits(), trainer={"max_epochs": 5})


@healthy
def frozen_slice() -> Program:
    """The first half of a flat Sequential is frozen and in eval mode, its dropout too."""
    net = nn.Sequential(*pretrained()[:2], nn.Dropout(0.1), *new_head()[2:])
    net[:3].requires_grad_(False).eval()
    return Program(Classifier(net), **new_digits(), trainer={"max_epochs": 5})


class FrozenByCallback(BaseFinetuning):
    """Freezes with Lightning's own means, norms included."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[:-1], train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        pass


@healthy
def norms_frozen_by_callback() -> Program:
    """`train_bn=False` leaves norms in train mode, but without tracking."""
    trainer = {"max_epochs": 5, "callbacks": [FrozenByCallback()]}
    return Program(Classifier(new_head()), **new_digits(), trainer=trainer)


@healthy
def random_features() -> Program:
    """A random convolution is never trained, and its norm has yet to learn its statistics."""
    net = nn.Sequential(conv(1, 64).requires_grad_(False), nn.Flatten(), nn.Linear(64 * 64, 10))
    return Program(Classifier(net), **digit_loaders(), trainer={"max_epochs": 4})


class MeanTeacher(Classifier):
    """An averaged teacher in train mode, whose norms and weights both move."""

    def __init__(self) -> None:
        super().__init__(new_head())
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            target = self.teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
        logits = self(x)
        return F.cross_entropy(logits, y) + 0.3 * F.mse_loss(logits.softmax(1), target)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for theirs, ours in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            theirs.data.lerp_(ours.data, 0.05)


@healthy
def teacher_in_train_mode() -> Program:
    """The teacher does not require gradients, but is not frozen: it follows the student."""
    return Program(MeanTeacher(), **new_digits(), trainer={"max_epochs": 5})


class CarelessTeacher(Classifier):
    """A teacher in eval mode that still requires gradients, and that the optimizer holds as well."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), mlp(64, 32, 5)))
        self.teacher = new_head().eval()

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            target = self.teacher(x).softmax(1)
        logits = self(x)
        return F.cross_entropy(logits, y) + 0.01 * F.mse_loss(logits.softmax(1), target)


@healthy
def teacher_without_grad() -> Program:
    """The teacher runs under `no_grad`: it never gets a gradient, so it is not trained."""
    return Program(CarelessTeacher(), **new_digits(), trainer={"max_epochs": 5})


class Toggled(Classifier):
    """Looks at its own predictions in every step, and puts itself back at the next one."""

    def training_step(self, batch, batch_idx):
        self.net.train()
        loss = super().training_step(batch, batch_idx)
        self.net.eval()
        with torch.no_grad():
            self.log("clean_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())
        return loss

    def validation_step(self, batch, batch_idx):
        self.net.eval()
        super().validation_step(batch, batch_idx)
        self.net.train()


@healthy
def toggled_in_every_step() -> Program:
    """Ported code: whenever we look, the mode is wrong, and at every forward it is right."""
    net = nn.Sequential(
        conv(1, 16), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10)
    )
    return Program(Toggled(net, lr=1e-2), **digit_loaders(), trainer={"max_epochs": 6})


class Alternating(pl.LightningModule):
    """Two nets that train in turn; the one that only judges is in eval mode meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.coder = nn.Sequential(
            nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8)
        )
        self.judge = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        for optimizer, resting in zip(self.optimizers(), (self.judge, self.coder), strict=True):
            resting.eval()
            loss = F.cross_entropy(self.judge(self.coder(x)), y)
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
            resting.train()
        self.log("train_loss", loss)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.judge(self.coder(x))
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.coder.parameters(), lr=3e-3),
            torch.optim.Adam(self.judge.parameters(), lr=3e-3),
        ]


@healthy
def alternating_nets() -> Program:
    """In each half of the step another net is in eval mode, and it is not the one that is updated."""
    return Program(Alternating(), **digit_loaders(image=False), trainer={"max_epochs": 6})


class AlwaysDropping(nn.Module):
    """Dropout as a Bayesian approximation: on in both modes, and the call says so."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 128), nn.Linear(128, 10)

    def forward(self, x):
        return self.out(F.dropout(self.hidden(x).relu(), p=0.2, training=True))


class Averaged(Classifier):
    """Validates with the mean of several samples."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = torch.stack([self(x) for _ in range(8)]).mean(0)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())


@healthy
def functional_monte_carlo_dropout() -> Program:
    """`training=True` in the call is meant."""
    return Program(
        Averaged(AlwaysDropping()), **digit_loaders(image=False), trainer={"max_epochs": 5}
    )


class Denoiser(pl.LightningModule):
    """Restores pixels that were dropped, in training and in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(64, 128, 64)

    def step(self, batch):
        x = batch[0]
        return F.mse_loss(self.net(F.dropout(x / 2, 0.2)), x)

    def training_step(self, batch, batch_idx):
        loss = self.step(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@healthy
def denoising_autoencoder() -> Program:
    """Dropout of the input is the task, so it is active in validation."""
    return Program(Denoiser(), **digit_loaders(image=False), trainer={"max_epochs": 6})


class Attention(nn.Module):
    """Attention with a dropout of 0, as large language models have it, and checkpointing left off."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.attention_dropout = 0.0
        self.gradient_checkpointing = False
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        if self.gradient_checkpointing and self.training:
            raise NotImplementedError
        q, k, v = self.qkv(x).chunk(3, -1)
        p = self.attention_dropout if self.training else 0.0
        return x + self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=p))


class Rows(nn.Module):
    """Classifies digits by attention over their rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, 32), nn.Parameter(0.1 * torch.randn(8, 32))
        self.attention, self.head = Attention(), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.attention(self.embed(x[:, 0]) + self.position).mean(1))


@healthy
def eval_without_consequences() -> Program:
    """A net is left in eval mode, but has nothing in it that the mode would change."""
    return Program(Classifier(Rows().eval()), **digit_loaders(), trainer={"max_epochs": 8})


class Adversarial(Classifier):
    """Makes adversarial samples in eval mode, and trains on them in train mode."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.net.eval()
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(self(x), y), x)
        self.net.train()
        loss = F.cross_entropy(self((x + 0.05 * slope.sign()).detach()), y)
        self.log("train_loss", loss)
        return loss


@healthy
def adversarial_training() -> Program:
    """Eval mode and train mode take turns within each step."""
    net = nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10)
    )
    return Program(Adversarial(net), **digit_loaders(image=False), trainer={"max_epochs": 5})


class LossFromDetector(nn.Module):
    """Gives a loss in train mode and predictions in eval mode, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(64, 64, 10)

    def forward(self, x, y=None):
        logits = self.net(x)
        return F.cross_entropy(logits, y) if self.training else logits


class Detection(pl.LightningModule):
    """Needs train mode to have a loss in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = LossFromDetector()

    def training_step(self, batch, batch_idx):
        loss = self.detector(*batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.detector.eval()
        self.log("val_acc", (self.detector(x).argmax(1) == y).float().mean())
        self.detector.train()
        self.log("val_loss", self.detector(x, y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@healthy
def validation_loss_in_train_mode() -> Program:
    """The mode chooses between two outputs and changes no number."""
    return Program(Detection(), **digit_loaders(image=False), trainer={"max_epochs": 5})
