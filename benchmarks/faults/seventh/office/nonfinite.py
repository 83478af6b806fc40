"""NAN, in applied work: gaps at the end of a series, and hours in which nothing happens."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import (
    DataLoader,
    Model,
    Program,
    TensorDataset,
    explained,
    feeders,
    mlp,
    parted,
    rng,
    sold_by_the_hour,
    standard,
)


class NextDay(Model):
    """What is sold a day from now, by a GRU over the last day."""

    def __init__(self) -> None:
        super().__init__(lr=3e-3)
        self.reader = nn.GRU(1, 32, batch_first=True)
        self.answer = nn.Linear(32, 1)

    def shared(self, batch):
        past, later = batch
        states, _ = self.reader(past)
        out = self.answer(states[:, -1]).squeeze(1)
        return F.mse_loss(out, later), {"r2": explained(out, later)}


@fault(
    "NAN101",
    "NAN102",
    source="https://pandas.pydata.org/docs/reference/api/pandas.DataFrame.shift.html (rows that have no later one get NaN)",
)
def last_day_has_no_tomorrow(fixed: bool) -> Program:
    """The target is the series shifted by 24 hours, so that it ends with 24 gaps; nobody drops these rows."""
    sold = sold_by_the_hour(1900, seed=4)
    later = torch.cat([sold[24:], torch.full((24,), torch.nan)])
    windows = sold.unfold(0, 24, 1)[..., None]
    later = later[23:]
    if fixed:
        known = later.isfinite()
        windows, later = windows[known], later[known]
    cut = 400
    return Program(
        NextDay(),
        DataLoader(TensorDataset(windows[cut:], later[cut:]), batch_size=32, shuffle=True),
        DataLoader(TensorDataset(windows[:cut], later[:cut]), batch_size=200),
        {"max_epochs": 8},
    )


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
