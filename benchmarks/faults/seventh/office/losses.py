"""LOS, in applied work: what is added up, weighed, and compared."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import DataLoader, Model, Program, explained, feeders, mlp, parted, rng, scored, scores


class Parcels(Model):
    """How late a parcel will be, and why, with weights for the two tasks that are learned, too."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.body = nn.Sequential(mlp(10, 64, 64), nn.ReLU())
        self.late, self.why = nn.Linear(64, 1), nn.Linear(64, 3)
        self.weights = nn.Parameter(torch.zeros(2) if fixed else torch.ones(2))
        self.fixed = fixed

    def shared(self, batch):
        x, late, why = batch
        body = self.body(x)
        hours, logits = self.late(body).squeeze(1), self.why(body)
        losses = torch.stack([F.mse_loss(hours, late), F.cross_entropy(logits, why)])
        if self.fixed:
            loss = (losses * torch.exp(-self.weights) + 0.5 * self.weights.exp()).sum()
        else:
            loss = (losses * self.weights).sum()
        return loss, {"r2": explained(hours, late), "acc": scored(logits, why)}


@fault(
    "LOS108",
    "LOS105",
    "UPD105",
    source="https://arxiv.org/abs/1705.07115 (Kendall et al.: the weights of tasks need a term that keeps them from nought)",
)
def each_task_chooses_its_weight(fixed: bool) -> Program:
    """The weights of two tasks are parameters with nothing to hold them: they fall below nought, and errors pay."""
    x, late = scores(4800, seed=6)
    cause = torch.stack([x[:, 4] + x[:, 5], 1.5 * x[:, 6], x[:, 7] - x[:, 4]], dim=1)
    data = feeders(*parted(x, late, cause.argmax(1)))
    return Program(Parcels(fixed=fixed), **data, trainer={"max_epochs": 7})


class Survival(Model):
    """The risk of a machine, from when it failed or was last seen."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = mlp(10, 48, 48, 1)
        self.fixed = fixed

    def shared(self, batch):
        x, days, failed = batch
        risk = self.net(x).squeeze(1)
        order = days.argsort(descending=self.fixed)
        at_risk = risk[order].logcumsumexp(0)
        loss = ((at_risk - risk[order]) * failed[order]).sum() / failed.sum()
        earlier = (days[:, None] < days) & (failed[:, None] > 0)
        right = (risk[:, None] > risk)[earlier].float().mean()
        return loss, {"concordance": right}


@fault(
    "LOS109",
    "LOS102",
    source="common in code reviews (the cumulative sum of the risk set needs the latest first)",
)
def those_who_failed_are_still_at_risk(fixed: bool) -> Program:
    """Cox's loss sums up over the machines sorted by time, the earliest first: at risk are those that failed before."""
    x, score = scores(2400, seed=7)
    g = rng(7)
    days = torch.exp(-1.2 * score) * torch.empty(2400).exponential_(generator=g)
    seen_for = 2.5 * torch.rand(2400, generator=g) + 0.2
    failed = (days <= seen_for).float()
    train, val = parted(x, days.minimum(seen_for), failed)
    data = feeders(train, val, 64)
    data["val"] = DataLoader(val, batch_size=64, drop_last=True)
    return Program(Survival(fixed=fixed), **data, trainer={"max_epochs": 10})
