"""STR in the trades: how the net is put together."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, explained, stars_given


class NeuralFiltering(Trade):
    """Neural collaborative filtering: both vectors side by side, and layers upon them."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.user, self.item = nn.Embedding(150, 16), nn.Embedding(80, 16)
        widths = [32, 64, 32, 16]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.last, self.fixed = nn.Linear(16, 1), fixed

    def forward(self, user, item):
        h = torch.cat([self.user(user), self.item(item)], dim=1)
        for layer in self.layers:
            h = F.relu(layer(h)) if self.fixed else layer(h)
        return self.last(h).squeeze(1)

    def step(self, batch):
        user, item, stars = batch
        out = self(user, item)
        return F.mse_loss(out, stars), {"r2": explained(out, stars)}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.02)


@fault(
    "STR103",
    "GEN102",
    source="https://arxiv.org/abs/1708.05031 (neural collaborative filtering, and its activations), "
    "https://arxiv.org/abs/2105.08095 (NeuraLint: missing activation)",
)
def tower_for_tastes_without_a_bend(fixed: bool) -> Program:
    """The loop over the layers forgot its ReLU: the tower adds what it thinks of both and sees no taste."""
    user, item, stars = stars_given(users=150, items=80, each=72, tastes=2)
    data = both(user, item, stars, batch_size=128)
    return Program(NeuralFiltering(fixed=fixed), **data, trainer={"max_epochs": 6})
