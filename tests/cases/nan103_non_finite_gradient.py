"""The root of a squared distance that can be 0: finite itself, but its derivative is not."""

from __future__ import annotations

from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


class Pairs(Classifier):
    """Pulls samples of one class together, each sample paired with a shifted copy of the batch."""

    eps = 0.0

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8)))

    def loss(self, x, y):
        z = self(x)
        squared = (z - z.roll(1, 0)).pow(2).sum(1)
        distance = (squared + self.eps).sqrt()
        same = (y == y.roll(1)).float()
        return (same * distance + (1 - same) * (1 - distance).relu()).mean()


class SafePairs(Pairs):
    eps = 1e-8


def batches():
    x, y = digits()
    x[101], y[101] = x[100], y[100]  # the data has a sample twice
    return loader(x, y, shuffle=False)


def sick() -> Program:
    return Program(Pairs(), batches(), trainer={"max_epochs": 1})


def healthy() -> Program:
    return Program(SafePairs(), batches(), trainer={"max_epochs": 1})
