"""Cross-entropy by hand: the log of a probability that was rounded to 0."""

from __future__ import annotations

from program import Program
from torch.nn import functional as F

from cases._parts import Classifier, loader


class ByHand(Classifier):
    def loss(self, x, y):
        p = (100 * self(x)).softmax(1)
        return -(F.one_hot(y, 10) * p.log()).sum(1).mean()


class ByLibrary(Classifier):
    def loss(self, x, y):
        return F.cross_entropy(100 * self(x), y)


def sick() -> Program:
    return Program(ByHand(lr=1e-2), loader(), trainer={"max_epochs": 3})


def healthy() -> Program:
    return Program(ByLibrary(lr=1e-2), loader(), trainer={"max_epochs": 3})
