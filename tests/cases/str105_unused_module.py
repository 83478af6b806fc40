"""The second hidden layer is made, and `forward` does not call it."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.second = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.first(x).relu()
        return self.head(x)


class Whole(Net):
    def forward(self, x):
        x = self.first(x).relu()
        x = self.second(x).relu()
        return self.head(x)


def sick() -> Program:
    return Program(Classifier(Net()), loader(), trainer={"max_epochs": 2})


def healthy() -> Program:
    return Program(Classifier(Whole()), loader(), trainer={"max_epochs": 2})
