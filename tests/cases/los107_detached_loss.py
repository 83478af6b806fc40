"""The loss is made of the predicted classes, and argmax has no gradient."""

from __future__ import annotations

from program import Program
from torch.nn import functional as F

from cases._parts import Classifier, loader


class CountsErrors(Classifier):
    def loss(self, x, y):
        return (self(x).argmax(1) != y).float().mean().requires_grad_()


class ComparesScores(Classifier):
    def loss(self, x, y):
        return F.cross_entropy(self(x), y)


def sick() -> Program:
    return Program(CountsErrors(), loader(), trainer={"max_steps": 20})


def healthy() -> Program:
    return Program(ComparesScores(), loader(), trainer={"max_steps": 20})
