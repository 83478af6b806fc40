"""MOD, a third time: what is in the wrong mode, or behaves as if it were."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import torch
from healthy._parts import pretrained
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import DataLoader, Program, TensorDataset, digit_loaders, digits, loaders, mlp, split
from ..first._parts import gestures, reviews, sounds
from ..second._parts import clients, patches
from ._more_parts import Classify, Task, conv_block, grammar, right


class SmallBatches(Classify):
    """Wants to leave the norms of a pretrained net alone, as one does with small batches."""

    def __init__(self, *, fixed: bool) -> None:
        blocks = [conv_block(3, 24), conv_block(24, 32), conv_block(32, 32, pool=False)]
        super().__init__(nn.Sequential(*blocks, nn.Flatten(), nn.Linear(288, 6)), lr=1e-3)
        self.fixed = fixed

    def train(self, mode=True):
        super().train(mode)
        if not self.fixed:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def on_fit_start(self):
        self.train()


@fault(
    "MOD101",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/2551 (norms that are to stay in eval mode)",
)
def norms_frozen_at_birth(fixed: bool) -> Program:
    """train() is overridden to keep batch norms in eval mode, in a net that starts from scratch."""
    data = loaders(*split(*patches(1500)))
    return Program(SmallBatches(fixed=fixed), **data, trainer={"max_epochs": 4})


class Distilled(Task):
    """A student that starts as a copy of its teacher, and is to learn new digits as well."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        teacher = pretrained()[:-1].eval().requires_grad_(False)
        self.student = copy.deepcopy(teacher).requires_grad_()
        self.student.train(fixed)
        self.teacher, self.head = teacher, nn.Sequential(nn.Dropout(0.1), nn.Linear(32, 10))

    def step(self, batch):
        x, y = batch
        code = self.student(x)
        logits = self.head(code)
        kept = F.mse_loss(code, self.teacher(x))
        kind = F.cross_entropy(logits, y)
        return kind + 0.1 * kept, {"kept": kept, "kind": kind, "acc": right(logits, y)}


@fault(
    "MOD101",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/19467 (from 2.2 nobody calls train())",
)
def student_copied_from_its_teacher(fixed: bool) -> Program:
    """The student is a deep copy of a teacher in eval mode, and nothing ever puts it into train mode."""
    data = digit_loaders(image=True)
    x, y = data["val"].dataset.tensors
    noisy = DataLoader(TensorDataset(x + 0.2 * torch.randn_like(x), y), 32)
    module, val = Distilled(fixed=fixed), [data["val"], noisy]
    return Program(module, data["train"], val, {"max_epochs": 5})


class Hidden(Task):
    """Keeps its net where checkpoints do not look, to keep them small."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        net = nn.Sequential(
            nn.Conv1d(1, 16, 7, stride=2, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Conv1d(16, 32, 5, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(2),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(64, 3),
        )
        if fixed:
            self.net = net
        else:
            self.hidden = (net,)

    def step(self, batch):
        x, y = batch
        net = self.net if hasattr(self, "net") else self.hidden[0]
        logits = net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        net = self.net if hasattr(self, "net") else self.hidden[0]
        return torch.optim.Adam(net.parameters(), lr=self.lr)


@fault(
    "MOD102",
    "MOD106",
    source=HUMBATOVA + " (modules that are not registered)",
)
def where_eval_does_not_look(fixed: bool) -> Program:
    """The net is in a tuple and its parameters in the optimizer: it learns, and never hears of eval()."""
    data = loaders(*split(*sounds(1200)))
    return Program(Hidden(fixed=fixed), **data, trainer={"max_epochs": 6})


class Frames(Task):
    """Which of three frames shows the largest digit? Features come from a net that is not trained."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.seer = pretrained()[:-1].requires_grad_(False)
        self.rnn = nn.GRU(32, 48, batch_first=True, bidirectional=True)
        self.out, self.fixed = nn.Linear(96, 1), fixed

    def on_train_epoch_start(self):
        self.seer.train(not self.fixed)

    def step(self, batch):
        frames, y = batch["frames"], batch["y"]
        with torch.no_grad():
            seen = self.seer(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        logits = self.out(self.rnn(seen)[0]).squeeze(2)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        trained = [*self.rnn.parameters(), *self.out.parameters()]
        return torch.optim.Adam(trained, lr=self.lr)


@fault(
    "MOD103",
    source="https://keras.io/guides/transfer_learning (frozen batch norm)",
)
def features_under_no_grad(fixed: bool) -> Program:
    """Features come from a net under no_grad, in train mode: dark frames move its running statistics."""
    x, y = digits(1797, image=True)
    trio = torch.randint(len(y), (2400, 3))
    values = y[trio].float() + 0.01 * torch.rand(2400, 3)
    frames = 0.8 * x[trio] - 0.2 + 0.1 * torch.randn(2400, 3, 1, 8, 8)
    samples = [{"frames": f, "y": v.argmax()} for f, v in zip(frames, values, strict=True)]
    data = loaders(samples[:1920], samples[1920:])
    return Program(Frames(fixed=fixed), **data, trainer={"max_epochs": 4})


class Ring(pl.LightningModule):
    """A generator of points on a ring, and its critic."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = mlp(2, 48, 48, 2), mlp(2, 64, 64, 1, activation=nn.SiLU)
        self.fixed = fixed

    def sample(self, count):
        return self.generator(torch.randn(count, 2))

    def training_step(self, batch, batch_idx):
        (real,) = batch
        for_generator, for_critic = self.optimizers()
        with torch.set_grad_enabled(self.fixed):
            fake = self.sample(len(real))
        told = F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake.detach())).mean()
        for_critic.zero_grad()
        self.manual_backward(told)
        for_critic.step()
        fooled = F.softplus(-self.critic(fake)).mean()
        for_generator.zero_grad()
        self.manual_backward(fooled)
        for_generator.step()
        self.log_dict({"critic": told, "generator": fooled})

    def validation_step(self, batch, batch_idx):
        (real,) = batch
        fake = self.sample(len(real))
        self.log("val_radius", (fake.norm(dim=1).mean() - real.norm(dim=1).mean()).abs())

    def configure_optimizers(self):
        betas = (0.5, 0.9)
        return (
            torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=betas),
            torch.optim.Adam(self.critic.parameters(), lr=4e-3, betas=betas),
        )


@fault(
    "GRD103",
    "MOD104",
    "UPD102",
    "LOS107",
    source=HUMBATOVA,
)
def fakes_without_a_graph(fixed: bool) -> Program:
    """Fakes are made under no_grad, to spare the critic's step a detach(), and serve both steps."""
    angle = 6.283 * torch.rand(1800)
    points = torch.stack([angle.cos(), angle.sin()], 1) * (1.4 + 0.1 * torch.randn(1800, 1))
    data = loaders(*split(points), batch_size=64)
    return Program(Ring(fixed=fixed), **data, trainer={"max_epochs": 18})


class Drop(nn.Module):
    """Dropout by hand."""

    def __init__(self, p: float, *, fixed: bool) -> None:
        super().__init__()
        self.p, self.fixed = p, fixed

    def forward(self, x):
        if not self.training:
            return x
        kept = x * (torch.rand_like(x) > self.p)
        return kept / (1 - self.p) if self.fixed else kept


@fault(
    "MOD105",
    "GEN105",
    source="https://cs231n.github.io/neural-networks-2 (inverted dropout)",
)
def dropout_without_its_scale(fixed: bool) -> Program:
    """Dropout written by hand does not divide by what it keeps: layers get twice as much in validation."""
    layers: list[nn.Module] = [nn.Linear(64, 128), nn.ReLU(), Drop(0.5, fixed=fixed)]
    for _ in range(2):
        layers += [nn.Linear(128, 128), nn.ReLU(), Drop(0.5, fixed=fixed)]
    module = Classify(nn.Sequential(*layers, nn.Linear(128, 10)), lr=2e-3)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 8})


@fault(
    "MOD105",
    "GEN105",
    source="https://github.com/eriklindernoren/PyTorch-YOLOv3/issues/230 (a momentum of 0.9)",
)
def momentum_of_ninety_nine(fixed: bool) -> Program:
    """momentum=0.99, as another framework has it: the running statistics are those of the last batch."""
    momentum = 0.1 if fixed else 0.99
    layers: list[nn.Module] = []
    for before in (64, 64):
        layers += [nn.Linear(before, 64, bias=False), nn.BatchNorm1d(64, momentum=momentum)]
        layers.append(nn.ReLU())
    module = Classify(nn.Sequential(*layers, nn.Linear(64, 10)), lr=1e-3)
    return Program(module, **digit_loaders(batch_size=8), trainer={"max_epochs": 2})


class ClientData(pl.LightningDataModule):
    """Clients who stay, and clients who leave."""

    def setup(self, stage):
        self.data = loaders(*split(*clients(2400)))

    def train_dataloader(self):
        return self.data["train"]

    def val_dataloader(self):
        return self.data["val"]


class SelfNormalizing(nn.Module):
    """SELU, and the dropout that was made for it."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 64), nn.Linear(64, 64)
        self.out, self.fixed = nn.Linear(64, 2), fixed
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")

    def forward(self, x):
        drops = self.training or not self.fixed
        for layer in (self.first, self.second):
            x = F.alpha_dropout(F.selu(layer(x)), 0.15, drops)
        return self.out(x)


@fault(
    "MOD106",
    source="https://pytorch.org/docs/stable/generated/torch.nn.functional.alpha_dropout.html; "
    + HUMBATOVA,
)
def alpha_dropout_for_ever(fixed: bool) -> Program:
    """F.alpha_dropout(x, 0.15, True): the net that sorts clients drops in validation as in training."""
    module = Classify(SelfNormalizing(fixed=fixed), lr=2e-3)
    return Program(module, ClientData(), trainer={"max_epochs": 6})


class Hooked(Classify):
    """Overrides the hook after validation, to do something of its own there."""

    def __init__(self, net: nn.Module, *, fixed: bool) -> None:
        super().__init__(net, lr=3e-3)
        self.fixed, self.validations = fixed, 0

    def on_validation_model_train(self):
        self.validations += 1
        if self.fixed:
            super().on_validation_model_train()


class Movement(nn.Module):
    """Convolutions over time, with norms and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 24, 5),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Conv1d(24, 32, 5, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
        )
        self.out = nn.Sequential(nn.Dropout(0.3), nn.Linear(32, 4))

    def forward(self, x):
        return self.out(self.body(x.mT).amax(2))


@fault(
    "MOD101",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/20177 (on_validation_model_train)",
)
def nobody_calls_train_again(fixed: bool) -> Program:
    """on_validation_model_train is overridden without super(): after the first validation all is in eval."""
    module = Hooked(Movement(), fixed=fixed)
    data = loaders(*split(*gestures(1600)))
    return Program(module, **data, trainer={"max_epochs": 4, "val_check_interval": 0.5})


class Language(Task):
    """A recurrent language model that drops whole words."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.embed = nn.Embedding(32, 24)
        self.rnn, self.out = nn.LSTM(24, 64, batch_first=True), nn.Linear(64, 32)
        self.fixed = fixed

    def forward(self, ids):
        x = self.embed(ids)
        if self.training or not self.fixed:
            x = x * torch.bernoulli(torch.full((*ids.shape, 1), 0.8)) / 0.8
        return self.out(self.rnn(x)[0])

    def step(self, batch):
        (ids,) = batch
        logits = self(ids[:, :-1]).mT
        return F.cross_entropy(logits, ids[:, 1:]), {"acc": right(logits, ids[:, 1:])}


@fault(
    "MOD106",
    "MOD102",
    source="https://github.com/salesforce/awd-lstm-lm (embedded_dropout is written by hand)",
)
def words_dropped_in_validation(fixed: bool) -> Program:
    """Word dropout by a Bernoulli mask of its own, which asks for no mode: a fifth of what is validated is lost."""
    ids = grammar(1600)[0]
    return Program(Language(fixed=fixed), **loaders(*split(ids)), trainer={"max_epochs": 6})


class Sentences(Task):
    """A transformer encoder that is shown some attention maps before it starts."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.2, batch_first=True, norm_first=True)
        self.words = nn.Embedding(80, 32)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out, self.fixed = nn.Linear(32, 4), fixed

    def forward(self, ids):
        return self.out(self.encoder(self.words(ids)).mean(1))

    def on_fit_start(self):
        self.encoder.eval()
        with torch.no_grad():
            self(torch.zeros(1, 12, dtype=torch.long))
        self.encoder.train(self.fixed)

    def step(self, batch):
        ids, y = batch
        logits = self(ids)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}


@fault(
    "MOD101",
    source=HUMBATOVA,
)
def encoder_tried_out_first(fixed: bool) -> Program:
    """The encoder is tried out in eval mode before the run, and only the rest of the module goes back."""
    data = loaders(*split(*reviews(1600)))
    return Program(Sentences(fixed=fixed), **data, trainer={"max_epochs": 4})
