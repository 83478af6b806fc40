"""MOD: modules in the wrong mode, gradients switched off."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import torch
from healthy._parts import new_digits, pretrained
from torch import nn
from torch.nn import functional as F

from . import HUMBATOVA, TRAINCHECK, fault
from ._parts import (
    DataLoader,
    Program,
    Supervised,
    TensorDataset,
    digit_loaders,
    digits,
    mlp,
)


def regular_cnn(dropout: float = 0.2, momentum: float = 0.1) -> nn.Sequential:
    """A convolutional net with batch norm and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16, momentum=momentum),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32, momentum=momentum),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32, 10),
    )


class ShowSamples(pl.Callback):
    """Predicts a few samples at the end of every epoch, to look at them."""

    def __init__(self, x, fixed: bool) -> None:
        self.x, self.fixed, self.seen = x, fixed, []

    def on_validation_end(self, trainer, module):
        self.seen.append(None)

    def on_train_epoch_start(self, trainer, module):
        was = module.training
        module.eval()
        with torch.no_grad():
            self.seen.append(module(self.x).argmax(1))
        if self.fixed:
            module.train(was)


@fault("MOD101", source="https://github.com/Lightning-AI/pytorch-lightning/issues/20216")
def samples_shown_in_eval(fixed: bool) -> Program:
    """A callback switches to eval() for a look, and nobody switches back."""
    show = ShowSamples(digits(8, image=True)[0], fixed)
    return Program(
        Supervised(regular_cnn()),
        **digit_loaders(image=True),
        trainer={"max_epochs": 3, "callbacks": [show]},
    )


@fault("MOD101", source="https://github.com/Lightning-AI/pytorch-lightning/issues/20105")
def pretrained_net_comes_in_eval(fixed: bool) -> Program:
    """A net from a hub is loaded in eval mode, and Lightning leaves it there."""
    net = pretrained()
    net[-1] = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 5))
    net.train(fixed)
    return Program(Supervised(net), **new_digits(), trainer={"max_epochs": 4})


class EvalBeforeStep(Supervised):
    """Measures the accuracy of the batch in eval mode, before its step."""

    def __init__(self, net, fixed: bool) -> None:
        super().__init__(net)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        self.eval()
        with torch.no_grad():
            self.log("train_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())
        if self.fixed:
            self.train()
        return super().training_step(batch, batch_idx)


@fault("MOD101", source="https://github.com/wkentaro/pytorch-fcn/pull/56")
def accuracy_measured_in_eval(fixed: bool) -> Program:
    """The step measures accuracy in eval mode, and goes on to train in it."""
    return Program(
        EvalBeforeStep(regular_cnn(), fixed),
        **digit_loaders(image=True),
        trainer={"max_epochs": 3},
    )


class TrainInValidation(Supervised):
    """Calls train() at the start of each of its loops, as the plain PyTorch script did."""

    def __init__(self, net, fixed: bool) -> None:
        super().__init__(net)
        self.fixed = fixed

    def shared_step(self, batch):
        if not self.fixed:
            self.net.train()
        return F.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self.shared_step(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.shared_step(batch))


@fault("MOD102", source="https://github.com/airctic/icevision/pull/1100")
def shared_step_calls_train(fixed: bool) -> Program:
    """One step for both loops, and it calls train()."""
    return Program(
        TrainInValidation(regular_cnn(), fixed),
        **digit_loaders(image=True),
        trainer={"max_epochs": 3},
    )


class KeepsTraining(Supervised):
    """Overrides the hook that would put it into eval mode."""

    def on_validation_model_eval(self):
        """Nothing to do, the net has no dropout (it had none when this was written)."""


@fault("MOD102", source="https://github.com/Lightning-AI/pytorch-lightning/pull/18951")
def validation_hook_overridden(fixed: bool) -> Program:
    """The hook on_validation_model_eval is overridden and does nothing."""
    kind = Supervised if fixed else KeepsTraining
    return Program(kind(regular_cnn()), **digit_loaders(image=True), trainer={"max_epochs": 3})


class FrozenBackbone(Supervised):
    """A frozen backbone and a head that learns."""

    def __init__(self, fixed: bool) -> None:
        backbone = pretrained()[:-1].requires_grad_(False)
        super().__init__(nn.Sequential(backbone, nn.Linear(32, 5)), lr=5e-3)
        self.fixed = fixed

    def on_train_epoch_start(self):
        if self.fixed:
            self.net[0].eval()


@fault("MOD103", source="https://github.com/lightly-ai/lightly/issues/1438")
def frozen_backbone_with_moving_norms(fixed: bool) -> Program:
    """All parameters of the backbone are frozen, its running statistics are not."""
    return Program(FrozenBackbone(fixed), **new_digits(), trainer={"max_epochs": 5})


class GradientSwitchedOff(Supervised):
    """Extracts features with gradients off, and forgets to switch them on again."""

    def __init__(self, fixed: bool) -> None:
        super().__init__(mlp(64, 64, 10))
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        torch.set_grad_enabled(False)
        x = x - x.mean(1, keepdim=True)
        if self.fixed:
            torch.set_grad_enabled(True)
        loss = F.cross_entropy(self(x), y)
        torch.set_grad_enabled(True)
        return loss.requires_grad_() if not self.fixed else loss


@fault(
    "MOD104", "LOS107", "GRD103", source="https://github.com/ronghuaiyang/arcface-pytorch/issues/56"
)
def loss_told_to_require_grad(fixed: bool) -> Program:
    """ "element 0 of tensors does not require grad": so the loss is told to, and nothing learns."""
    return Program(GradientSwitchedOff(fixed), **digit_loaders(), trainer={"max_epochs": 3})


class NoGradForward(Supervised):
    """Its forward was decorated for fast inference."""

    @torch.no_grad()
    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        loss.requires_grad = True
        return loss


@fault(
    "MOD104",
    "LOS107",
    "GRD103",
    source="https://github.com/lxztju/pytorch_classification/issues/32",
)
def forward_decorated_for_inference(fixed: bool) -> Program:
    """forward() carries @torch.no_grad()."""
    kind = Supervised if fixed else NoGradForward
    return Program(kind(mlp(64, 64, 10)), **digit_loaders(), trainer={"max_epochs": 3})


class FunctionalDropout(nn.Module):
    """An MLP whose dropout is a function."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.first, self.second, self.fixed = nn.Linear(64, 96), nn.Linear(96, 10), fixed

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.dropout(x, 0.4, training=self.training) if self.fixed else F.dropout(x, 0.4)
        return self.second(x)


@fault("MOD106", source="https://github.com/rixwew/pytorch-fm/issues/21")
def dropout_that_never_ends(fixed: bool) -> Program:
    """F.dropout without training=self.training drops in validation, too."""
    return Program(
        Supervised(FunctionalDropout(fixed)), **digit_loaders(), trainer={"max_epochs": 4}
    )


class SelfAttention(nn.Module):
    """Attention over the rows of the image."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.embed, self.project = nn.Linear(8, 24), nn.Linear(24, 72)
        self.place = nn.Parameter(torch.randn(8, 24) * 0.1)
        self.out, self.fixed = nn.Linear(24, 10), fixed

    def forward(self, x):
        x = self.embed(x.view(-1, 8, 8)) + self.place
        q, k, v = self.project(x).view(-1, 8, 3, 3, 8).permute(2, 0, 3, 1, 4)
        p = 0.3 if self.training or not self.fixed else 0.0
        x = x + F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).flatten(2)
        return self.out(x.mean(1))


@fault("MOD106", source="https://github.com/pytorch/vision/issues/7103")
def attention_drops_in_validation(fixed: bool) -> Program:
    """scaled_dot_product_attention gets its dropout_p in either mode."""
    module = Supervised(SelfAttention(fixed), lr=4e-3)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 5})


@fault(
    "MOD105",
    "GEN105",
    source="https://github.com/Cadene/pretrained-models.pytorch/issues/5",
)
def norm_that_hardly_remembers(fixed: bool) -> Program:
    """momentum=0.001, from a framework where it means the opposite: statistics stay at their start."""
    net = regular_cnn(momentum=0.1 if fixed else 0.0005)
    return Program(Supervised(net), **digit_loaders(image=True), trainer={"max_epochs": 4})


@fault("MOD102", source=TRAINCHECK)
def copy_evaluated_in_train_mode(fixed: bool) -> Program:
    """Validation runs on a copy with averaged weights, which nobody puts into eval mode."""
    return Program(
        Averaged(regular_cnn(), fixed), **digit_loaders(image=True), trainer={"max_epochs": 3}
    )


class Averaged(Supervised):
    """Validates an average of its weights."""

    def __init__(self, net, fixed: bool) -> None:
        super().__init__(net)
        self.average = [
            copy.deepcopy(net).requires_grad_(False)
        ]  # no submodule: not in checkpoints
        self.fixed = fixed

    def on_train_batch_end(self, *args):
        for mine, theirs in zip(
            self.average[0].state_dict().values(), self.net.state_dict().values(), strict=True
        ):
            mine.copy_(mine * 0.9 + theirs * 0.1 if mine.is_floating_point() else theirs)

    def validation_step(self, batch, batch_idx):
        self.average[0].train(not self.fixed)
        self.log("val_loss", F.cross_entropy(self.average[0](batch[0]), batch[1]))


class AdversaryInEval(pl.LightningModule):
    """Trains a generator on reconstructions; samples are drawn in eval mode each fifty steps."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 64)
        )
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        (x,) = batch
        loss = F.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        if self.global_step % 50 == 0:
            self.decoder.eval()
            with torch.no_grad():
                self.decoder(torch.randn(4, 48).relu())
            if self.fixed:
                self.decoder.train()
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("MOD101", source=HUMBATOVA + ", wrong mode")
def decoder_left_in_eval(fixed: bool) -> Program:
    """Half of the net stays in eval mode after samples were drawn."""
    loader = DataLoader(TensorDataset(digits(1797)[0]), batch_size=32, shuffle=True)
    return Program(AdversaryInEval(fixed), loader, trainer={"max_epochs": 4})
