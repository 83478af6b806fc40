"""MOD, as people meet it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, accuracy, loaders, rng


class GCN(Model):
    """Two graph convolutions, and the mean over all nodes."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(5e-3)
        self.first, self.second = nn.Linear(6, 32), nn.Linear(32, 32)
        self.head, self.fixed = nn.Linear(32, 12), fixed

    def measure(self, batch):
        x, links, kind = batch
        h = F.relu(self.first(links @ x))
        h = F.dropout(h, 0.3, training=self.training) if self.fixed else F.dropout(h, 0.3)
        h = F.relu(self.second(links @ h)).mean(1)
        h = F.dropout(h, 0.3, training=self.training) if self.fixed else F.dropout(h, 0.3)
        logits = self.head(h)
        return F.cross_entropy(logits, kind), {"acc": accuracy(logits, kind)}


@fault(
    "MOD106",
    "MOD102",
    "OUT105",
    source="common in code reviews: F.dropout without training=self.training",
)
def graph_net_drops_whoever_asks(fixed: bool) -> Program:
    """F.dropout is called without training=self.training: nodes are dropped in validation, too."""
    g = rng(11)
    kind = torch.arange(2400) % 12
    links = (torch.rand(2400, 4, 4, generator=g) < 0.5).float().triu(1)
    links = links + links.transpose(1, 2) + torch.eye(4)
    links = links / links.sum(2, keepdim=True)
    centre = 1.1 * torch.randn(12, 6, generator=g)
    x = centre[kind][:, None] + 1.2 * torch.randn(2400, 4, 6, generator=g)
    return Program(GCN(fixed=fixed), **loaders(x, links, kind), trainer={"max_epochs": 10})
