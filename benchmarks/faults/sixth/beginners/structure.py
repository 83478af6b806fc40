"""STR: layers in an order that cannot be meant."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Coursework, Program, accuracy, moons, served


class Moons(Coursework):
    """Three blocks, each normed and with dropout."""

    def __init__(self, *, bent: bool) -> None:
        super().__init__(lr=5e-3)
        layers = []
        for before, after in ((2, 32), (32, 32), (32, 32)):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after)]
            layers += [nn.ReLU()] if bent else []
        self.net = nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(32, 2))

    def forward(self, x):
        return self.net(x)

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)


@fault(
    "STR103",
    "GEN102",
    source="https://dev.to/olabamipetaiwo/a-practical-guide-to-classifying-non-linear-datasets-with-pytorch"
    "-4he1 (deeper alone does not bend a line)",
)
def normed_and_never_bent(fixed: bool) -> Program:
    """Linear and BatchNorm three times over, and no activation between: half moons cut by a straight line."""
    return Program(Moons(bent=fixed), **served(*moons()), trainer={"max_epochs": 6})
