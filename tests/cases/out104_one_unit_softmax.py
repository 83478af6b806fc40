"""A softmax loss on the single output of a net that tells small digits from large ones."""

from __future__ import annotations

from program import Program, digits
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Binary(Classifier):
    def __init__(self, loss_function) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)))
        self.loss_function = loss_function

    def loss(self, x, y):
        return self.loss_function(self(x), y.unsqueeze(1))


def program(loss_function) -> Program:
    x, y = digits()
    return Program(Binary(loss_function), loader(x, (y >= 5).float()), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(F.cross_entropy)


def healthy() -> Program:
    return program(F.binary_cross_entropy_with_logits)
