"""STR, in applied work: layers that were put together from parts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, customers, feeders, parted, rng, scored, scores


class Claims(Model):
    """Which of four desks a claim goes to."""

    def __init__(self, groups: int) -> None:
        super().__init__(lr=4e-3)
        self.net = nn.Sequential(
            nn.Linear(12, 64, bias=False), nn.GroupNorm(groups, 64), nn.SiLU(), nn.Linear(64, 4)
        )

    def shared(self, batch):
        x, desk = batch
        logits = self.net(x)
        return F.cross_entropy(logits, desk), {"acc": scored(logits, desk)}


@fault(
    "STR104",
    "GRD104",
    "OUT101",
    "OUT103",
    "LOS104",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.GroupNorm.html (as many groups as channels: an instance norm, of one value in a table)",
)
def as_many_groups_as_columns(fixed: bool) -> Program:
    """GroupNorm(64, 64) came from a net for images; in a table each group is one number, and its norm is nought."""
    g = rng(2)
    x = torch.randn(3000, 12, generator=g)
    worth = x[:, :4] + 0.8 * x[:, 4:8].abs()
    desk = (worth + 0.2 * torch.randn(3000, 4, generator=g)).argmax(1)
    data = feeders(*parted(x, desk))
    return Program(Claims(8 if fixed else 64), **data, trainer={"max_epochs": 10})


class Renewal(Model):
    """Whether a contract is renewed, by numbers, the contract, and the region."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.numbers = nn.Sequential(nn.Linear(8, 24), nn.SiLU(), nn.Linear(24, 24))
        self.contract, self.region = nn.Embedding(5, 24), nn.Embedding(16, 24)
        self.head = nn.Sequential(nn.Linear(72, 48), nn.SiLU(), nn.Linear(48, 2))
        self.fixed = fixed

    def shared(self, batch):
        numbers, contract, region, stays = batch
        n, c, r = self.numbers(numbers), self.contract(contract), self.region(region)
        logits = self.head(torch.cat([n, c, r] if self.fixed else [c, r, r], dim=1))
        return F.cross_entropy(logits, stays), {"acc": scored(logits, stays)}


@fault(
    "GRD103",
    "OUT103",
    "STR105",
    "UPD101",
    "GEN102",
    source="common in code reviews (a name typed twice in torch.cat, where all widths are alike)",
)
def region_twice_and_no_numbers(fixed: bool) -> Program:
    """What is put together is contract, region, and region again: the numbers are encoded, and left behind."""
    numbers, contract, score = customers(2400, seed=3)
    region = torch.randint(16, (2400,), generator=rng(3))
    score = score + 0.6 * torch.randn(16, generator=rng(4))[region]
    stays = (score > score.median()).long()
    data = feeders(*parted(numbers, contract, region, stays))
    return Program(Renewal(fixed=fixed), **data, trainer={"max_epochs": 8})
