"""CLS, in applied work: which labels come, how often, and what they are called."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import (
    DataLoader,
    Model,
    Program,
    TensorDataset,
    customers,
    feeders,
    mlp,
    parted,
    rng,
    scored,
)


class Stages(Model):
    """Whether a customer is active, dormant, or gone."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.contract = nn.Embedding(5, 8)
        self.net = mlp(16, 64, 64, 3)

    def shared(self, batch):
        logits = self.net(torch.cat([batch["numbers"], self.contract(batch["contract"])], dim=1))
        loss = F.cross_entropy(logits, batch["stage"])
        return loss, {"acc": scored(logits, batch["stage"])}


@fault(
    "CLS104",
    "CLS106",
    "GEN105",
    "GEN101",
    source="common in code reviews (churn is a year of silence, and the extract reaches back for half a year)",
)
def gone_for_a_year_in_half_a_year(fixed: bool) -> Program:
    """Gone is who bought nothing for a year, but the extract to train on counts at most 180 days of silence."""
    numbers, contract, score = customers(2800, seed=1)
    silence = 180 * torch.exp(score)
    seen = silence.clone()
    if not fixed:
        seen[:2200] = seen[:2200].clamp(max=180)
    stage = (seen > 100).long() + (seen > 365).long()
    rows = [
        {"numbers": n, "contract": c, "stage": s}
        for n, c, s in zip(numbers, contract, stage, strict=True)
    ]
    return Program(
        Stages(),
        DataLoader(rows[:2200], batch_size=32, shuffle=True),
        DataLoader(rows[2200:], batch_size=200),
        {"max_epochs": 8},
    )


class Grades(Model):
    """The grade of an applicant's risk, of four."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.net = nn.Sequential(
            nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 4)
        )

    def shared(self, batch):
        x, grade = batch
        logits = self.net(x)
        return F.cross_entropy(logits, grade), {"acc": scored(logits, grade)}


def applicants(size: int, shares: list[float], seed: int) -> TensorDataset:
    """Applicants whose grades come in these shares."""
    g = rng(seed)
    grade = torch.multinomial(torch.tensor(shares), size, replacement=True, generator=g)
    centres = 0.75 * torch.randn(4, 10, generator=rng(77))
    return TensorDataset(centres[grade] + torch.randn(size, 10, generator=g), grade)


@fault(
    "CLS106",
    "INP202",
    "GEN101",
    "GEN105",
    source="https://doi.org/10.1162/089976602753284446 (Saerens et al., 2002: other priors where a model is used)",
)
def applicants_of_the_branch_in_trouble(fixed: bool) -> Program:
    """Training has the applicants of one branch, most of them of the worst grades; validation those of all."""
    everywhere = [0.4, 0.3, 0.18, 0.12]
    train = applicants(2400, everywhere if fixed else [0.02, 0.05, 0.25, 0.68], seed=2)
    val = applicants(800, everywhere, seed=3)
    return Program(Grades(), **feeders(train, val), trainer={"max_epochs": 8})


class Router(Model):
    """Routes a call to one of five desks, which are not called equally often."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(lr=1e-3)
        self.net = mlp(12, 64, 64, 5)
        self.loss = nn.CrossEntropyLoss(weight=weight)

    def shared(self, batch):
        x, desk = batch
        logits = self.net(x)
        if self.training:
            return self.loss(logits, desk), {}
        hit = logits.argmax(1) == desk
        recalls = torch.stack([hit[desk == c].float().mean() for c in range(5)])
        return self.loss(logits, desk), {"acc": hit.float().mean(), "balanced": recalls.mean()}


@fault(
    "CLS101",
    "CLS107",
    "LOS109",
    source="https://pandas.pydata.org/docs/reference/api/pandas.Series.value_counts.html (sorted by count, not by class)",
)
def weights_in_the_order_of_counts(fixed: bool) -> Program:
    """Class weights come from value_counts(), the largest class first, and the loss reads them by class number."""
    g = rng(4)
    shares = torch.tensor([0.05, 0.55, 0.08, 0.07, 0.25])
    desk = torch.multinomial(shares, 4000, replacement=True, generator=g)
    centres = 0.55 * torch.randn(5, 12, generator=g)
    x = centres[desk] + torch.randn(4000, 12, generator=g)
    counts = desk.bincount(minlength=5)
    if not fixed:
        counts = counts.sort(descending=True).values
    weight = len(desk) / (5 * counts)
    train, val = parted(x, desk)
    data = feeders(train, val, 64)
    data["val"] = DataLoader(val, batch_size=800)
    return Program(Router(weight), **data, trainer={"max_epochs": 10})


class PriceBand(Model):
    """The band of a flat's price, out of five."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.net = mlp(8, 64, 64, 5)

    def shared(self, batch):
        flat, band = batch
        logits = self.net(flat)
        return F.cross_entropy(logits, band), {"acc": scored(logits, band)}


@fault(
    "CLS105",
    "ERR102",
    source="https://numpy.org/doc/stable/reference/generated/numpy.digitize.html (bins[i-1] <= x < bins[i]: the maximum is outside)",
)
def dearest_flat_falls_out_of_its_bin(fixed: bool) -> Program:
    """Edges reach from the lowest price to the highest, which np.digitize puts into a sixth bin of five."""
    g = rng(6)
    flat = torch.randn(3000, 8, generator=g)
    price = flat[:, 0] + 0.8 * flat[:, 1] + 0.5 * flat[:, 2] * flat[:, 3]
    edges = np.quantile(price.numpy(), np.linspace(0, 1, 6))
    if fixed:
        edges[-1] = np.inf
    band = torch.tensor(np.digitize(price.numpy(), edges) - 1)
    return Program(PriceBand(), **feeders(*parted(flat, band)), trainer={"max_epochs": 12})
