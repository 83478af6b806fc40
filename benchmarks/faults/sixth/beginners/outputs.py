"""OUT: answers that cannot be given."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Coursework, Program, passengers, served


class Passenger(Coursework):
    """The chance to be saved."""

    def __init__(self, *, rectified: bool) -> None:
        super().__init__(lr=3e-3)
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 64), nn.Linear(64, 32), nn.Linear(32, 1)
        self.rectified = rectified

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = self.fc3(x)
        return torch.sigmoid(F.relu(x) if self.rectified else x)

    def loss_and_metric(self, batch):
        x, y = batch
        p = self(x)
        right = (p.round() == y.unsqueeze(1)).float().mean()
        return F.binary_cross_entropy(p, y.float().unsqueeze(1)), right


@fault(
    "OUT102",
    "ACT101",
    "OUT101",
    "LOS102",
    source="https://stats.stackexchange.com/questions/257127 (a ReLU and then a sigmoid: the least is 0.5)",
)
def rectified_before_the_sigmoid(fixed: bool) -> Program:
    """The last layer has its ReLU like all the others, and the sigmoid after it never falls below a half."""
    data = served(*passengers(seed=91))
    return Program(Passenger(rectified=not fixed), **data, trainer={"max_epochs": 6})
