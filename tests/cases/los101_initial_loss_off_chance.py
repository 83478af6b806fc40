"""The biases of the last layer start far apart: the untrained net is wrong, and sure of it."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def program(spread) -> Program:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    nn.init.normal_(net[2].bias, std=spread)
    return Program(Classifier(net, lr=3e-3), loader(), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(spread=20.0)


def healthy() -> Program:
    return program(spread=0.0)
