"""Yes and no are 1 and -1, as for a support vector machine, and go into a cross entropy."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


class IsEven(Classifier):
    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
        )

    def loss(self, x, y):
        return F.binary_cross_entropy_with_logits(self(x), y)


def sick() -> Program:
    x, y = digits()
    even = torch.where(y % 2 == 0, 1.0, -1.0)
    return Program(IsEven(), loader(x, even), trainer={"max_epochs": 2})


def healthy() -> Program:
    x, y = digits()
    even = torch.where(y % 2 == 0, 1.0, 0.0)
    return Program(IsEven(), loader(x, even), trainer={"max_epochs": 2})
