"""NAN, as people meet it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, explained, loaders, mlp, rng, standard, weather


class Wage(Model):
    """What is paid for a job, judged by the error of its logarithm."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(5e-3)
        self.net, self.fixed = mlp(5, 32, 32, 1), fixed

    def measure(self, batch):
        x, wage = batch
        out = self.net(x)
        out = F.softplus(out) + 1e-3 if self.fixed else out
        return F.mse_loss(out.log(), wage.log()), {"r2": explained(out, wage)}


@fault(
    "NAN102",
    "NAN104",
    "OUT102",
    source="common on Kaggle: the RMSLE of predictions below zero",
)
def logarithm_of_a_wage_below_zero(fixed: bool) -> Program:
    """The loss compares logarithms, and nothing keeps the net from wages below zero."""
    g = rng(12)
    x = torch.randn(2500, 5, generator=g)
    log_wage = 0.5 + 0.4 * x[:, :1] + 0.3 * x[:, 1:2] * x[:, 2:3] + 0.3 * x[:, 3:4].abs()
    wage = torch.exp(log_wage + 0.1 * torch.randn(2500, 1, generator=g))
    return Program(Wage(fixed=fixed), **loaders(x, wage), trainer={"max_epochs": 12})


class Sensors(Model):
    """The next temperature, by a GRU."""

    def __init__(self) -> None:
        super().__init__(3e-3)
        self.gru, self.head = nn.GRU(4, 24, batch_first=True), nn.Linear(24, 1)

    def measure(self, batch):
        past, coming = batch
        out = self.head(self.gru(past)[0][:, -1])
        return F.mse_loss(out, coming), {"r2": explained(out, coming)}


def carried(series: torch.Tensor) -> torch.Tensor:
    """Every gap is filled with the value before it, as ffill does."""
    hours = torch.arange(len(series))[:, None]
    last = torch.where(series.isnan(), 0, hours).cummax(0).values
    return series.gather(0, last)


@fault(
    "NAN101",
    "NAN104",
    source="https://pandas.pydata.org/docs/reference/api/pandas.DataFrame.ffill.html",
)
def gaps_before_the_first_value(fixed: bool) -> Program:
    """Gaps are filled with the value before them: a sensor that starts late has NaN up to its
    first value.
    """
    series = standard(weather(2000))
    series[torch.rand(2000, 4, generator=rng(13)) < 0.02] = torch.nan
    series[:90, 3] = torch.nan
    series = carried(series)
    if fixed:
        series = carried(series.flip(0)).flip(0)
    past = series.unfold(0, 12, 1)[:-1].transpose(1, 2)
    data = loaders(past, series[12:, 1:2], batch_size=64)
    return Program(Sensors(), **data, trainer={"max_epochs": 16})
