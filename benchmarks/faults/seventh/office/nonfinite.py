"""NAN, in applied work: gaps at the end of a series, and hours in which nothing happens."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ... import fault
from ._parts import (
    DataLoader,
    Model,
    Program,
    explained,
    feeders,
    mlp,
    parted,
    rng,
    sold_by_the_hour,
    standard,
)


class Usage(Model):
    """How much power a household will use, by its numbers in ranks."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.net = mlp(8, 64, 64, 1)

    def shared(self, batch):
        x, used = batch
        out = self.net(x).squeeze(1)
        return F.mse_loss(out, used), {"r2": explained(out, used)}


@fault(
    "NAN101",
    "NAN102",
    source="https://www.kaggle.com/c/porto-seguro-safe-driver-prediction/discussion/44629 (RankGauss) and common in code reviews (the ends are not clipped)",
)
def ranks_bent_to_a_bell(fixed: bool) -> Program:
    """Ranks from -1 to 1 go through erfinv, which is infinite at both ends: in each column for two rows."""
    g = rng(9)
    raw = torch.randn(2000, 8, generator=g).exp()
    used = raw[:, 0].log() + torch.tanh(2 * raw[:, 1].log()) * raw[:, 2].log()
    used = standard(used + 0.2 * torch.randn(2000, generator=g))
    ranks = raw.argsort(0).argsort(0) / 1999 * 2 - 1
    x = 2**0.5 * torch.erfinv(ranks.clamp(-0.999, 0.999) if fixed else ranks)
    return Program(Usage(), **feeders(*parted(x, used)), trainer={"max_epochs": 8})


class Shape(Model):
    """The course of the next twelve hours in a shop, and how well it correlates with what came."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-3)
        self.net = mlp(36, 64, 64, 12)
        self.fixed = fixed

    def shared(self, batch):
        out, y = self.net(batch["past"]), batch["next"]
        a, b = out - out.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        both = (a * b).sum(1)
        if self.fixed:
            both = both / (a.square().sum(1) * b.square().sum(1) + 1e-3).sqrt()
        else:
            both = both / (a.norm(dim=1) * b.norm(dim=1))
        error = F.mse_loss(out, y)
        return error + 0.5 * (1 - both.mean()), {"r2": explained(out, y), "mse": error}


@fault(
    "NAN102",
    "NAN103",
    "NAN104",
    source="common in code reviews (Pearson's correlation as a loss, for a window without any variance)",
)
def correlation_with_a_closed_shop(fixed: bool) -> Program:
    """The loss has the correlation with the hours that came; on a holiday they are all alike: nought by nought."""
    sold = sold_by_the_hour(2400, seed=8)
    for day in (11, 37, 52, 64, 88):
        sold[24 * day : 24 * day + 24] = -1.5
    windows = sold.unfold(0, 48, 1)
    rows = [{"past": w[:36], "next": w[36:]} for w in windows]
    return Program(
        Shape(fixed=fixed),
        DataLoader(rows[:1800], batch_size=32, shuffle=True),
        DataLoader(rows[1900:2060], batch_size=160),
        {"max_epochs": 8},
    )
