"""STR, in applied work: layers that were put together from parts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, feeders, parted, rng, scored


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
    x = torch.randn(6000, 12, generator=g)
    worth = x[:, :4] + 0.8 * x[:, 4:8].abs()
    desk = (worth + 0.2 * torch.randn(6000, 4, generator=g)).argmax(1)
    data = feeders(*parted(x, desk))
    return Program(Claims(8 if fixed else 64), **data, trainer={"max_epochs": 5})
