"""NAN, as people meet it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, explained, loaders, mlp, rng, standard, weather


class Visits(Model):
    """How many visits will a clinic have?"""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(3e-3)
        self.net, self.fixed = mlp(5, 32, 32, 1), fixed

    def measure(self, batch):
        x, visits = batch
        out = self.net(x)
        rate = F.softplus(out) + 1e-4 if self.fixed else F.relu(out)
        loss = (rate - visits * torch.log(rate)).mean()
        return loss, {"r2": explained(rate, visits)}


@fault(
    "NAN102",
    "ACT101",
    "NAN103",
    "NAN104",
    source="common on forums: the logarithm of a ReLU in a Poisson likelihood",
)
def poisson_rate_out_of_a_relu(fixed: bool) -> Program:
    """The rate of a Poisson likelihood comes out of a ReLU, and its logarithm is that of zero."""
    g = rng(12)
    x = torch.randn(2500, 5, generator=g)
    rate = torch.exp(1 + 1.0 * x[:, :1] - 0.6 * x[:, 1:2] * x[:, 2:3].tanh())
    visits = torch.poisson(rate.clamp(max=30), generator=g)
    return Program(Visits(fixed=fixed), **loaders(x, visits), trainer={"max_epochs": 10})


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
    """Gaps are filled with the value before them: a sensor that starts late has NaN up to its first value."""
    series = standard(weather(2000))
    series[torch.rand(2000, 4, generator=rng(13)) < 0.02] = torch.nan
    series[:90, 3] = torch.nan
    series = carried(series)
    if fixed:
        series = carried(series.flip(0)).flip(0)
    past = series.unfold(0, 12, 1)[:-1].transpose(1, 2)
    data = loaders(past, series[12:, 1:2], batch_size=64)
    return Program(Sensors(), **data, trainer={"max_epochs": 16, "gradient_clip_val": 5.0})
