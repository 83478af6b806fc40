"""NAN, out of the checklists: logarithms, divisions, and roots of what is nought or less."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from sklearn.datasets import make_classification
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ... import DEEPLOCALIZE, HUMBATOVA, fault
from ..._parts import Program
from ._parts import (
    CS231N,
    REASONS,
    TOBIN,
    Learner,
    dice,
    explained,
    feed,
    flats,
    hits,
    standardized,
)


def bicycles(size: int = 2000) -> tuple[torch.Tensor, ...]:
    """Weather (N, 6), hour, and day of the week, and how many bicycles are hired."""
    g = dice(81)
    x = torch.randn(size, 6, generator=g)
    hour, day = torch.randint(24, (size,), generator=g), torch.randint(7, (size,), generator=g)
    level = 4 + 2.5 * torch.sin((hour - 9) / 3.8) + 1.2 * (day > 4) + x[:, 0] - x[:, 1].abs()
    return x, hour, day, torch.poisson(level.clamp_min(0.2), generator=g)


class Hires(pl.LightningModule):
    """Adds up what the hour, the day, and the weather do; judged by the error of logarithms."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.hour, self.day = nn.Embedding(24, 1), nn.Embedding(7, 1)
        self.weather = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 1))
        self.fixed = fixed

    def forward(self, x, hour, day):
        out = (self.hour(hour) + self.day(day) + self.weather(x)).squeeze(1)
        return F.softplus(out) if self.fixed else out

    def rmsle(self, out, count):
        return ((out + 1).log() - (count + 1).log()).square().mean().sqrt()

    def training_step(self, batch, batch_idx):
        *inputs, count = batch
        loss = self.rmsle(self(*inputs), count)
        self.log("train_rmsle", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        *inputs, count = batch
        out = self(*inputs)
        self.log("val_rmsle", self.rmsle(out, count))
        self.log("val_mae", F.l1_loss(out, count))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-2)


@fault(
    "NAN102",
    "NAN103",
    "NAN104",
    source="https://forums.fast.ai (What are the different ways a logarithm can result in a NaN? 2022); "
    + HUMBATOVA,
)
def fewer_than_no_bicycles(fixed: bool) -> Program:
    """The error is one of logarithms of hires plus one, and what is added up is below minus one at times."""
    train, val = feed(*bicycles(), size=32)
    return Program(Hires(fixed=fixed), train, val, {"max_epochs": 5})


def incomes(size: int = 2000) -> tuple[torch.Tensor, ...]:
    """Applicants: income in euros, with some who have none, other columns, and who is granted a loan."""
    g = dice(82)
    income = (10 + 0.6 * torch.randn(size, generator=g)).exp()
    income[torch.rand(size, generator=g) < 0.006] = 0.0
    other = torch.randn(size, 5, generator=g)
    odds = (1 + income).log().sub(10).clamp(-2, 2) + other[:, 0] - other[:, 1] * other[:, 2]
    return income, other, (odds + 0.3 * torch.randn(size, generator=g) > 0).long()


@fault(
    "NAN101",
    "NAN102",
    source=TOBIN + " (numerical instability: log, exp, div); " + DEEPLOCALIZE,
)
def logarithm_of_no_income(fixed: bool) -> Program:
    """Incomes become logarithms in the table, and some applicants have none: minus infinity."""
    income, other, y = incomes()
    x = (income + 1).log() if fixed else income.log()
    known = x[x.isfinite()]
    x = ((x - known.mean()) / known.std())[:, None].clamp(min=-3 if fixed else None, max=9)
    net = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 2))
    train, val = feed(torch.cat([x, other], dim=1), y, size=50)
    return Program(Learner(net, lr=5e-3), train, val, {"max_epochs": 6})


class Recommender(pl.LightningModule):
    """Fills rows of ratings in, of which most are missing, and is judged by the error of each user."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 40))
        self.fixed = fixed

    def loss(self, batch):
        seen, hidden = batch["mask"], batch["hidden"]
        error = ((self.net(batch["ratings"] * seen) - batch["ratings"]) * hidden).square().sum(1)
        count = hidden.sum(1).clamp_min(1)
        return (error / count + 1e-8).sqrt().mean() if self.fixed else (error / count).sqrt().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_rmse", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_rmse", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "NAN103",
    "NAN104",
    source="https://discuss.pytorch.org/t/rmse-loss-function/16540 (the gradient of sqrt at nought)",
)
def root_of_a_user_without_a_gap(fixed: bool) -> Program:
    """The error of a user with nothing to be filled in is nought, and the slope of its root infinite."""
    g = dice(83)
    ratings = torch.randn(1500, 4, generator=g) @ torch.randn(4, 40, generator=g) / 2
    hidden = torch.rand(1500, 40, generator=g) < 0.2 * torch.rand(1500, 1, generator=g).clamp(
        0.3, 1
    )
    hidden[torch.rand(1500, generator=g) < 0.01] = False
    keys = ("ratings", "mask", "hidden")
    columns = zip(ratings, (~hidden).float(), hidden.float(), strict=True)
    rows = [dict(zip(keys, row, strict=True)) for row in columns]
    train = DataLoader(rows[:1200], batch_size=24, shuffle=True)
    return Program(
        Recommender(fixed=fixed), train, DataLoader(rows[1200:], batch_size=100), {"max_epochs": 5}
    )


class Linear(pl.LightningModule):
    """Linear regression by gradient descent, as in the first lecture."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.zeros(5, 1)), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x @ self.w + self.b

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = ((self(x) - y) ** 2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_r2", explained(self(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@fault(
    "LRN101",
    "INP103",
    "NAN102",
    "NAN104",
    "LOS108",
    "GRD101",
    "NAN105",
    source="https://forums.fast.ai/t/help-with-simple-celcius-to-f-linear-regression-using-pytorch-gradient-"
    "descent-autograd/18783; " + CS231N + "; " + REASONS + ", no. 30 and 37 (NaN)",
)
def descent_on_square_metres(fixed: bool) -> Program:
    """Square metres, years, and euros go into gradient descent as they are: within ten steps all is NaN."""
    x, y = flats(1600)
    if fixed:
        x, y = standardized(x), standardized(y)
    train, val = feed(x, y, size=32)
    return Program(Linear(), train, val, {"max_epochs": 5, "log_every_n_steps": 1})


class ByHand(pl.LightningModule):
    """Binary cross entropy written out, over a net for pairs of texts."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.last, self.fixed = nn.Linear(64, 1), fixed

    def loss(self, z, y):
        if self.fixed:
            return F.binary_cross_entropy_with_logits(z, y)
        p = torch.sigmoid(z)
        return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.last(self.net(x)).squeeze(1)
        loss = self.loss(z, y)
        self.log("bce", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        z = self.last(self.net(x)).squeeze(1)
        self.log("val_bce", self.loss(z, y))
        self.log("val_acc", hits(torch.stack([-z, z], dim=1), y.long()))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "NAN102",
    "NAN103",
    "LOS102",
    source=DEEPLOCALIZE
    + "; https://stackoverflow.com/q/33712178 (log of nought in the cross entropy)",
)
def one_minus_a_certain_yes(fixed: bool) -> Program:
    """log(1 - p) is written out, and for the plainest cases p is soon one: nought times infinity."""
    x, y = make_classification(2000, 30, n_informative=12, class_sep=1.6, flip_y=0, random_state=3)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    train, val = feed(standardized(x), y, size=32)
    return Program(ByHand(fixed=fixed), train, val, {"max_epochs": 6})
