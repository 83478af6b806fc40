"""Each sample has a loss of its own, and nobody takes the mean."""

from __future__ import annotations

from program import Program
from torch.nn import functional as F

from cases._parts import Classifier, loader


class PerSample(Classifier):
    def loss(self, x, y):
        return F.cross_entropy(self(x), y, reduction="none")


class Mean(PerSample):
    def loss(self, x, y):
        return super().loss(x, y).mean()


def sick() -> Program:
    return Program(PerSample(), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Mean(), loader(), trainer={"max_steps": 5})
