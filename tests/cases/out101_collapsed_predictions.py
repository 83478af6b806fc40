"""Every row of a picture votes, but the votes are averaged over the pictures instead of the rows."""

from __future__ import annotations

from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


class Voters(Classifier):
    def __init__(self, axis: int) -> None:
        super().__init__(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 10)), lr=3e-3)
        self.axis = axis

    def forward(self, x):
        votes = self.net(x.squeeze(1))
        return votes.mean(self.axis, keepdim=True).expand_as(votes)[:, 0]


def program(axis: int) -> Program:
    return Program(Voters(axis), loader(*digits(image=True)), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(axis=0)


def healthy() -> Program:
    return program(axis=1)
