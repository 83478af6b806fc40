"""Attention over the rows of a picture whose weights add up to 1 over the batch instead."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


class Reader(Classifier):
    """Adds up the rows of a picture, each as much as it is worth."""

    def __init__(self, axis: int) -> None:
        super().__init__(nn.Sequential(nn.Linear(8, 64), nn.ReLU()), lr=3e-3)
        self.worth, self.head = nn.Linear(64, 8), nn.Linear(8 * 64, 10)
        self.axis = axis

    def forward(self, x):
        rows = self.net(x.squeeze(1))
        weights = torch.softmax(self.worth(rows), dim=self.axis)
        return self.head((weights.mT @ rows).flatten(1))


def program(axis: int) -> Program:
    return Program(Reader(axis), loader(*digits(image=True)), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(axis=0)


def healthy() -> Program:
    return program(axis=1)
