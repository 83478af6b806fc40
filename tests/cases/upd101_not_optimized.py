"""The layers are in a plain list, of which the module and its optimizer do not know."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


class Deep(Classifier):
    def __init__(self, container: type) -> None:
        super().__init__(nn.Linear(64, 10))
        self.layers = container([nn.Linear(64, 64), nn.Linear(64, 64)])

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.net(x)


def sick() -> Program:
    return Program(Deep(list), loader(), trainer={"max_epochs": 2})


def healthy() -> Program:
    return Program(Deep(nn.ModuleList), loader(), trainer={"max_epochs": 2})
