"""ACT in the trades: units that sit at their ends."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, dense, rng, stars_given

DAY = 86400.0


class Cooling(Trade):
    """The temperature of a hall over a day, out of the equation of its cooling."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.net, self.fixed = dense(1, 32, 32, 1, act=nn.Tanh), fixed

    def forward(self, seconds):
        return self.net(2 * seconds / DAY - 1 if self.fixed else seconds)

    def training_step(self, batch, batch_idx):
        (t,) = batch
        t = t.requires_grad_()
        u = self(t)
        slope = torch.autograd.grad(u.sum(), t, create_graph=True)[0] * DAY
        equation = (slope + 3 * (u - torch.sin(2 * math.pi * t / DAY))).square().mean()
        start = (self(torch.zeros(1, 1)) - 1).square().mean()
        self.log_dict({"equation": equation, "start": start})
        return equation + 10 * start

    def validation_step(self, batch, batch_idx):
        t, u = batch
        self.log("val_loss", F.mse_loss(self(t), u))


@fault(
    "ACT102",
    "INP103",
    "LOS104",
    source="https://github.com/NeuroDiffGym/neurodiffeq/issues/90 (oscillator equation in a large domain), "
    "https://github.com/lululxvi/deepxde/issues/257 (rescale, such that x is from 0 to 1)",
)
def seconds_of_a_whole_day(fixed: bool) -> Program:
    """A net of tanh for an equation gets its time in seconds, from 0 to 86400: every unit is at an end."""
    t = DAY * torch.rand(2048, 1, generator=rng(1))
    day = torch.linspace(0, 1, 200)[:, None]
    w = 2 * math.pi
    rest = (9 * torch.sin(w * day) - 3 * w * torch.cos(w * day)) / (9 + w**2)
    u = rest + (1 + 3 * w / (9 + w**2)) * torch.exp(-3 * day)
    return Program(
        Cooling(fixed=fixed),
        DataLoader(TensorDataset(t), batch_size=64, shuffle=True),
        DataLoader(TensorDataset(day * DAY, u), batch_size=200),
        {"max_epochs": 10},
    )


class TwoTowers(Trade):
    """Whether a user likes an item: one tower for each, and the product of what they say."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.user, self.item = nn.Embedding(200, 16), nn.Embedding(120, 16)
        last = [] if fixed else [nn.ReLU()]
        self.left = nn.Sequential(*dense(16, 32, 16), *last)
        self.right = nn.Sequential(*dense(16, 32, 16), *last)

    def step(self, batch):
        user, item, likes = batch
        score = (self.left(self.user(user)) * self.right(self.item(item))).sum(1)
        loss = F.binary_cross_entropy_with_logits(score, likes)
        return loss, {"acc": ((score > 0) == (likes > 0.5)).float().mean()}


@fault(
    "OUT102",
    "ACT101",
    "LOS102",
    source="https://www.tensorflow.org/recommenders/examples/deep_retrieval (no activation for the last layer)",
)
def towers_that_end_in_a_relu(fixed: bool) -> Program:
    """Both towers end in a ReLU, so no product is below nought, and nobody can dislike anything."""
    user, item, stars = stars_given(each=90)
    data = both(user, item, (stars > stars.median()).float(), batch_size=256)
    return Program(TwoTowers(fixed=fixed), **data, trainer={"max_epochs": 6})
