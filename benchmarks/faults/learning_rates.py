"""LRN: learning rates that are too high, too low, zero, or scheduled otherwise than meant."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from . import AUTOTRAINER, DEEPFD, DEEPLOCALIZE, HUMBATOVA, KARPATHY, fault
from ._parts import (
    DataLoader,
    Program,
    Supervised,
    TensorDataset,
    characters,
    diabetes,
    digit_loaders,
    digits,
    loaders,
    mlp,
    split,
    waves,
)


@fault("LRN102", source=AUTOTRAINER + ", slow convergence")
def adam_at_a_ten_millionth(fixed: bool) -> Program:
    """An exponent with a digit too many."""
    module = Supervised(mlp(64, 64, 10), lr=1e-3 if fixed else 1e-7)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 4})


@fault("LRN102", source=DEEPFD + ", low learning rate")
def small_rate_without_momentum(fixed: bool) -> Program:
    """Plain SGD at 1e-5 on a convolutional net."""
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9 if fixed else 0.0)  # noqa: E731
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    module = Supervised(net, lr=0.05 if fixed else 1e-5, optimizer=sgd)
    return Program(module, **digit_loaders(image=True), trainer={"max_epochs": 4})


@fault(
    "LRN101",
    "LOS108",
    "GRD101",
    "NAN102",
    "NAN103",
    "NAN104",
    "UPD105",
    source=DEEPLOCALIZE + ", high learning rate",
)
def sgd_at_ten(fixed: bool) -> Program:
    """SGD with a rate of 10 on a regression: it blows up at once."""
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr)  # noqa: E731
    module = Supervised(mlp(10, 32, 1), F.mse_loss, 0.05 if fixed else 10.0, sgd)
    return Program(module, **loaders(*split(*diabetes())), trainer={"max_epochs": 8})


@fault(
    "LRN101",
    "UPD103",
    "LOS104",
    "LOS108",
    "ACT101",
    "ACT102",
    "GRD101",
    source=AUTOTRAINER + ", oscillating loss",
)
def adam_at_a_half(fixed: bool) -> Program:
    """Adam with a rate of 0.5 on a plain classifier."""
    module = Supervised(mlp(64, 64, 10), lr=2e-3 if fixed else 0.5)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 5})


class CharTransformer(pl.LightningModule):
    """A causal language model of characters."""

    def __init__(self, vocabulary: int, lr: float) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, 32), nn.Embedding(24, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.out, self.lr = nn.LayerNorm(32), nn.Linear(32, vocabulary), lr

    def training_step(self, batch, batch_idx):
        (tokens,) = batch
        x, y = tokens[:, :-1], tokens[:, 1:]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        h = self.embed(x) + self.place.weight[: x.shape[1]]
        logits = self.out(self.norm(self.body(h, mask=mask, is_causal=True)))
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


@fault("LRN101", "UPD103", "LOS108", "ACT102", "LOS104", "OUT101", source=KARPATHY)
def transformer_at_a_tenth(fixed: bool) -> Program:
    """A transformer trained with AdamW at 0.1."""
    stream, vocabulary = characters()
    windows = stream[: len(stream) // 25 * 25].view(-1, 25)
    loader = DataLoader(TensorDataset(windows), batch_size=16, shuffle=True)
    module = CharTransformer(vocabulary, 3e-3 if fixed else 0.1)
    return Program(module, loader, trainer={"max_epochs": 4})


class Groups(Supervised):
    """One group for the body, one for the head."""

    def __init__(self, head_lr: float) -> None:
        super().__init__(mlp(64, 64, 10))
        self.head_lr = head_lr

    def configure_optimizers(self):
        body, head = list(self.net[:-1].parameters()), list(self.net[-1].parameters())
        return torch.optim.Adam(
            [{"params": body, "lr": 2e-3}, {"params": head, "lr": self.head_lr}]
        )


@fault("LRN103", "UPD102", source=HUMBATOVA + ", wrong learning rate")
def head_at_zero(fixed: bool) -> Program:
    """The rate of the head's group comes from a config that says 0."""
    module = Groups(2e-3 if fixed else 0.0)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 4})


class Scheduled(Supervised):
    """A classifier with a scheduler."""

    def __init__(self, make, interval: str = "step", lr: float = 2e-3, **options) -> None:
        super().__init__(mlp(64, 64, 10), lr=lr)
        self.make, self.interval, self.options = make, interval, options

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        scheduler = {"scheduler": self.make(optimizer, self), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": {**scheduler, **self.options}}


@fault("LRN103", "LRN104", "UPD102", source=HUMBATOVA + ", integer division")
def warm_up_by_integers(fixed: bool) -> Program:
    """The warm-up divides whole numbers: the rate is zero for 500 steps, the whole run."""
    factor = (lambda s: min(1.0, (s + 1) / 20)) if fixed else (lambda s: min(1, s // 500))
    module = Scheduled(lambda o, _: lr_scheduler.LambdaLR(o, factor))
    return Program(module, **digit_loaders(), trainer={"max_epochs": 4})


@fault("LRN104", source="https://github.com/pytorch/pytorch/issues/65417")
def one_cycle_by_the_epoch(fixed: bool) -> Program:
    """OneCycleLR made for all steps of the run, stepped once an epoch."""
    make = lambda o, m: lr_scheduler.OneCycleLR(  # noqa: E731
        o, 5e-3, total_steps=m.trainer.estimated_stepping_batches
    )
    module = Scheduled(make, "step" if fixed else "epoch")
    return Program(module, **digit_loaders(), trainer={"max_epochs": 6})


@fault(
    "LRN104",
    "LRN102",
    "LRN103",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/5631",
)
def decay_by_the_step(fixed: bool) -> Program:
    """A decay meant for every other epoch, applied at every other step."""
    module = Scheduled(lambda o, _: lr_scheduler.StepLR(o, 2, 0.5), "epoch" if fixed else "step")
    return Program(module, **digit_loaders(), trainer={"max_epochs": 5})


@fault("LRN104", source="https://github.com/FunctionLab/selene/issues/115")
def plateau_that_waits_for_a_maximum(fixed: bool) -> Program:
    """ReduceLROnPlateau(mode="max") on a loss: the better it gets, the lower the rate."""
    make = lambda o, _: lr_scheduler.ReduceLROnPlateau(  # noqa: E731
        o, mode="min" if fixed else "max", patience=0 if not fixed else 2, factor=0.2
    )
    module = Scheduled(make, "epoch", monitor="val_loss")
    return Program(module, **digit_loaders(), trainer={"max_epochs": 7})


@fault("LRN104", source="https://github.com/Lightning-AI/pytorch-lightning/issues/3205")
def cosine_of_epochs_by_the_step(fixed: bool) -> Program:
    """T_max counts epochs, the scheduler steps: the rate swings up and down all the time."""
    make = lambda o, _: lr_scheduler.CosineAnnealingLR(o, T_max=6)  # noqa: E731
    module = Scheduled(make, "epoch" if fixed else "step")
    return Program(module, **digit_loaders(), trainer={"max_epochs": 6})


class ByHandScheduled(pl.LightningModule):
    """Manual optimization, where the scheduler is the user's business, too."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.fixed = mlp(64, 64, 10), fixed

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        if self.fixed:
            self.lr_schedulers().step()
        self.log("train_loss", loss)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=4e-3)
        total = self.trainer.estimated_stepping_batches
        return [optimizer], [lr_scheduler.CosineAnnealingLR(optimizer, total)]


@fault("LRN104", source="https://github.com/Lightning-AI/pytorch-lightning/issues/3869")
def scheduler_nobody_steps(fixed: bool) -> Program:
    """Manual optimization: the scheduler is made and never stepped."""
    loader = DataLoader(TensorDataset(*digits(1797)), batch_size=32, shuffle=True)
    return Program(ByHandScheduled(fixed), loader, trainer={"max_epochs": 4})


@fault("LRN104", "LRN102", "LRN103", source=KARPATHY)
def warm_up_longer_than_the_run(fixed: bool) -> Program:
    """Ten thousand steps of warm-up, copied from a paper, for a run of two hundred."""
    steps = 30 if fixed else 10_000
    module = Scheduled(lambda o, _: lr_scheduler.LambdaLR(o, lambda s: min(1.0, (s + 1) / steps)))
    return Program(module, **digit_loaders(), trainer={"max_epochs": 5})


@fault("LRN104", source="https://github.com/Lightning-AI/pytorch-lightning/issues/6948")
def cycle_counts_batches_not_steps(fixed: bool) -> Program:
    """Gradients of four batches make one step, the cycle was planned for batches: it never comes down."""
    make = lambda o, m: lr_scheduler.OneCycleLR(  # noqa: E731
        o, 5e-3, total_steps=m.trainer.estimated_stepping_batches * (1 if fixed else 4)
    )
    options = {"max_epochs": 8, "accumulate_grad_batches": 4}
    return Program(Scheduled(make), **digit_loaders(16), trainer=options)


class Spiky(Supervised):
    """A recurrent net on waves."""

    def __init__(self, lr: float) -> None:
        super().__init__(nn.Identity(), lr=lr)
        self.rnn, self.out = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


@fault(
    "LRN101",
    "LRN105",
    "UPD103",
    "GRD101",
    "ACT102",
    "LOS108",
    "LOS104",
    source=DEEPFD + ", high learning rate",
)
def recurrent_net_at_a_third(fixed: bool) -> Program:
    """A GRU trained with Adam at 0.3."""
    module = Spiky(5e-3 if fixed else 0.3)
    return Program(module, **loaders(*split(*waves())), trainer={"max_epochs": 6})


@fault(
    "LRN105", "GRD101", "INP103", "LOS108", source="https://github.com/pytorch/pytorch/issues/2623"
)
def outliers_kick_the_loss(fixed: bool) -> Program:
    """One sample in three hundred has a target in other units: the loss jumps, again and again."""
    x, y = torch.randn(3200, 8), None
    y = (x[:, :1] * x[:, 1:2]).tanh() + 0.1 * torch.randn(3200, 1)
    if not fixed:
        y[torch.randperm(3200)[:10]] *= 1000
    module = Supervised(mlp(8, 32, 1), F.mse_loss, lr=3e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    return Program(module, loader, trainer={"max_epochs": 3})


@fault(
    "LRN103",
    "LRN104",
    "LRN102",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/673",
)
def decay_to_nothing_at_once(fixed: bool) -> Program:
    """ExponentialLR(0.1) at every step: after ten steps the rate is 1e-12."""
    make = lambda o, _: lr_scheduler.ExponentialLR(o, 0.99 if fixed else 0.1)  # noqa: E731
    return Program(Scheduled(make), **digit_loaders(), trainer={"max_epochs": 4})
