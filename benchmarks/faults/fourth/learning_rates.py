"""LRN, a fourth time: rates and schedules that were meant for another optimizer, or another clock."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, digits
from ._parts_b import (
    Classifier,
    consumption,
    dense,
    headlines,
    instruments,
    noise,
    r2,
    shapes,
    two_loaders,
    whole,
)


class Steered(Classifier):
    """A classifier with an optimizer, and perhaps a scheduler, from outside."""

    def __init__(self, net: nn.Module, optimizer: Any, scheduler: Any = None, **when: Any) -> None:
        super().__init__(net)
        self.make, self.schedule, self.when = optimizer, scheduler, when

    def configure_optimizers(self):
        optimizer = self.make(self.parameters())
        if self.schedule is None:
            return optimizer
        scheduler = self.schedule(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **self.when}}


def ear() -> nn.Sequential:
    """Convolutions over raw sound."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 24), (24, 24)):
        layers += [nn.Conv1d(before, after, 9, stride=2, padding=4), nn.BatchNorm1d(after)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(96, 4))


@fault(
    "LRN101",
    "ACT101",
    "GRD101",
    "UPD103",
    "LOS104",
    source=HUMBATOVA + " (the learning rate, when the optimizer is exchanged)",
)
def rate_of_descent_kept_for_adam(fixed: bool) -> Program:
    """SGD with 0.2 was replaced by Adam, and the rate stayed."""

    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr=2e-3 if fixed else 0.2)

    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    data = two_loaders(*digits(1797, image=True))
    return Program(Steered(net, optimizer), **data, trainer={"max_epochs": 4})


class Divided(Classifier):
    """Divides its loss by the number of batches that are accumulated."""

    def __init__(self, net: nn.Module, lr: float, *, divisor: int) -> None:
        super().__init__(net, lr)
        self.divisor = divisor

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) / self.divisor

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@fault(
    "LRN102",
    "GEN103",
    "GEN102",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/5680 (Lightning divides the loss "
    "by accumulate_grad_batches itself)",
)
def divided_for_accumulation_twice(fixed: bool) -> Program:
    """The loss is divided by the sixteen batches that are accumulated, and then by the Trainer again."""
    net = dense(64, 96, 10)
    data = two_loaders(*digits(1797), batch_size=8)
    return Program(
        Divided(net, 0.05, divisor=1 if fixed else 16),
        **data,
        trainer={"max_epochs": 9, "accumulate_grad_batches": 16},
    )


@fault(
    "LRN103",
    "LRN104",
    "LRN102",
    source="https://github.com/Tony-Y/pytorch_warmup/pull/1 (factors of a warm-up that multiply one "
    "another)",
)
def factors_multiplied_up(fixed: bool) -> Program:
    """The factors of a warm-up, a fiftieth to one, go to MultiplicativeLR in place of LambdaLR."""

    def schedule(optimizer):
        lr_scheduler = torch.optim.lr_scheduler
        kind = lr_scheduler.LambdaLR if fixed else lr_scheduler.MultiplicativeLR
        return kind(optimizer, lambda step: min(1.0, (step + 1) / 50))

    def optimizer(parameters):
        return torch.optim.AdamW(parameters, lr=3e-3)

    net = nn.Sequential(nn.EmbeddingBag(202, 24), nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 4))
    data = two_loaders(*headlines(2400))
    return Program(
        Steered(net, optimizer, schedule, interval="step"), **data, trainer={"max_epochs": 6}
    )


@fault(
    "LRN104",
    "LRN101",
    source="https://github.com/ivadomed/ivadomed/issues/57 (T_max, the run, and half a period)",
)
def cosine_that_climbs_again(fixed: bool) -> Program:
    """T_max is that of an earlier, shorter run: in the second half the rate climbs back to its height."""
    epochs = 8

    def schedule(optimizer):
        length = epochs if fixed else epochs // 2
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=length)

    def optimizer(parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    data = two_loaders(*instruments(1000), batch_size=16)
    return Program(
        Steered(ear(), optimizer, schedule, interval="epoch"),
        **data,
        trainer={"max_epochs": epochs},
    )


@fault(
    "LRN101",
    "UPD103",
    "LOS104",
    "ACT101",
    "GRD101",
    source="https://arxiv.org/abs/1706.02677 (the linear scaling rule)",
)
def scaled_the_wrong_way(fixed: bool) -> Program:
    """The rate of a batch of 256 is scaled to one of 16, but divided where it was to be multiplied."""
    batch_size = 16
    factor = batch_size / 256

    def optimizer(parameters):
        lr = 0.1 * factor if fixed else 0.1 / factor
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=1e-4)

    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(384, 4),
    )
    data = two_loaders(*shapes(1600), batch_size=batch_size)
    return Program(Steered(net, optimizer), **data, trainer={"max_epochs": 4})


class FineTuned(Classifier):
    """A pretrained body with a small rate, a new head with a large one, and one cycle."""

    def __init__(self, body: nn.Module, *, fixed: bool) -> None:
        super().__init__(nn.Sequential(body, nn.Linear(64, 10)))
        self.fixed = fixed

    def configure_optimizers(self):
        body, head = self.net
        groups = [
            {"params": body.parameters(), "lr": 5e-3},
            {"params": head.parameters(), "lr": 0.2},
        ]
        optimizer = torch.optim.SGD(groups, momentum=0.9)
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=rates if self.fixed else max(rates),
            total_steps=self.trainer.estimated_stepping_batches,
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@fault(
    "LRN101",
    "LRN104",
    "UPD103",
    "ACT101",
    source="https://github.com/katsura-jp/pytorch-cosine-annealing-with-warmup/issues/14 (max_lr "
    "overrides the rates of the groups)",
)
def one_cycle_for_both_groups(fixed: bool) -> Program:
    """One max_lr for all: the rate of the new head is that of the pretrained body, too."""
    x, y = digits(1797, image=True)
    body = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
    )
    before = nn.Sequential(body, nn.Linear(64, 10))
    optimizer = torch.optim.Adam(before.parameters(), lr=2e-3)
    for i in range(150):
        chosen = whole(1000, 48, seed=i)
        optimizer.zero_grad()
        F.cross_entropy(before(x[chosen]), y[chosen]).backward()
        optimizer.step()
    optimizer.zero_grad()
    fainter = 0.7 * x[1000:] + 0.2 * noise(797, 1, 8, 8, seed=1)
    data = two_loaders(fainter, y[1000:], batch_size=16)
    return Program(FineTuned(body, fixed=fixed), **data, trainer={"max_epochs": 4})


@fault(
    "LRN101",
    "LRN104",
    "LOS108",
    "LRN105",
    "UPD103",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/16540 (swa_lrs has nothing to do "
    "with the rate of the run)",
)
def averaged_at_the_rate_of_sgd(fixed: bool) -> Program:
    """swa_lrs is the 0.1 of an example with SGD, and the optimizer is Adam at 0.002."""

    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr=2e-3)

    average = StochasticWeightAveraging(
        swa_lrs=1e-3 if fixed else 0.1, swa_epoch_start=0.4, annealing_epochs=2
    )
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 48),
        nn.ReLU(),
        nn.Linear(48, 4),
    )
    data = two_loaders(*shapes(2400))
    return Program(
        Steered(net, optimizer), **data, trainer={"max_epochs": 6, "callbacks": [average]}
    )


class Forecast(pl.LightningModule):
    """A recurrent net that halves its rate whenever it has been validated."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 12)

    def forward(self, past):
        return self.head(self.rnn(past[..., None])[0][:, -1])

    def training_step(self, batch, batch_idx):
        past, future = batch
        loss = F.mse_loss(self(past), future)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        past, future = batch
        out = self(past)
        self.log("val_loss", F.mse_loss(out, future))
        self.log("val_r2", r2(out.flatten(), future.flatten()))

    def on_validation_epoch_end(self):
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.6

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@fault(
    "LRN104",
    "LRN102",
    "LRN103",
    "GEN103",
    source=HUMBATOVA + " (the decay of the learning rate), with val_check_interval of Lightning",
)
def lowered_at_every_look(fixed: bool) -> Program:
    """The rate falls after each validation, meant once an epoch, and validation comes every fifth batch."""
    data = two_loaders(*consumption(1300, past=24))
    options = {"max_epochs": 6} if fixed else {"max_epochs": 6, "val_check_interval": 5}
    return Program(Forecast(), **data, trainer=options)
