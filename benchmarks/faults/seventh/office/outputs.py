"""OUT, in applied work: what a forecast can say, and whom it depends on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import DataLoader, Model, Program, explained, feeders, mlp, parted, rng, scores


class Sold(Model):
    """How many pieces are sold, in tens."""

    def __init__(self, last: nn.Module, usual: float) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(mlp(6, 64, 64, 1), last)
        nn.init.constant_(self.net[0][-1].bias, usual)

    def shared(self, batch):
        x, sold = batch
        out = self.net(x).squeeze(1)
        return F.mse_loss(out, sold), {"r2": explained(out, sold)}


@fault(
    "OUT102",
    "ACT102",
    "GEN102",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.ReLU6.html and common in code reviews (taken over from a net for phones)",
)
def no_more_than_sixty_are_sold(fixed: bool) -> Program:
    """The last activation is a ReLU6, as in the mobile net it was copied from: no forecast exceeds six tens."""
    g = rng(3)
    x = torch.randn(2400, 6, generator=g)
    rate = F.softplus(1.5 + 1.5 * x[:, 0] + 1.2 * x[:, 1] * (x[:, 2] > 0) + x[:, 3]) + 0.1
    sold = 2 * rate * (0.9 + 0.2 * torch.rand(2400, generator=g))
    data = feeders(*parted(x, sold))
    last = nn.Softplus() if fixed else nn.ReLU6()
    return Program(Sold(last, usual=sold.mean().item()), **data, trainer={"max_epochs": 10})


class Ranks(Model):
    """The rank of an applicant, a number that is scaled in the end."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = mlp(10, 64, 64, 1)
        self.fixed = fixed

    def forward(self, x):
        out = self.net(x).squeeze(1)
        return out if self.fixed else 3 * out / out.detach().abs().max()

    def shared(self, batch):
        x, y = batch
        out = self(x)
        error = F.mse_loss(out, y)
        return error, {"rmse": error.sqrt()}


@fault(
    "OUT105",
    "GEN105",
    "GEN101",
    source="common in code reviews (scores are divided by the largest of the batch, and later asked for one by one)",
)
def scaled_by_the_best_of_the_batch(fixed: bool) -> Program:
    """Scores are divided by the largest of their batch; in use applicants come a few at a time, so one is always best."""
    train, val = parted(*scores(2000, seed=5))
    data = feeders(train, val)
    data["val"] = DataLoader(val, batch_size=4)
    return Program(Ranks(fixed=fixed), **data, trainer={"max_epochs": 9})
