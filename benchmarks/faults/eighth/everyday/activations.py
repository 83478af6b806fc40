"""ACT, as people meet it."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, accuracy, digits, loaders, textures, vision


class Cloth(Model):
    """Tells four kinds of cloth apart."""

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.net = vision()

    def measure(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}


@fault(
    "ACT101",
    "LRN101",
    "OUT101",
    "LOS104",
    "GRD104",
    "UPD103",
    source="https://cs231n.github.io/neural-networks-1/ (a large rate knocks ReLUs off the data, "
    "and they never come back)",
)
def convolutions_at_a_rate_of_one_tenth(fixed: bool) -> Program:
    """Adam at 0.1, as SGD has it in papers: the first steps push every ReLU below zero for good."""
    x, y = textures()
    return Program(
        Cloth(2e-3 if fixed else 0.1),
        **loaders((x - x.mean()) / x.std(), y),
        trainer={"max_epochs": 10},
    )


class Tanh(Model):
    """Digits, by an MLP whose weights are set by hand."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(1e-3)
        self.net = nn.Sequential(
            nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10)
        )
        for layer in self.net[::2]:
            if fixed:
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.uniform_(layer.weight, -1, 1)
            nn.init.zeros_(layer.bias)

    def measure(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}


@fault(
    "ACT102",
    "UPD104",
    "LOS101",
    source="https://cs231n.github.io/neural-networks-2/ (initialization that saturates)",
)
def weights_drawn_between_minus_one_and_one(fixed: bool) -> Program:
    """Weights are drawn between -1 and 1, whatever the width: every tanh starts at one of its
    ends.
    """
    return Program(Tanh(fixed=fixed), **loaders(*digits(1797)), trainer={"max_epochs": 12})
