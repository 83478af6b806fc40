"""All that the net knows of a digit must pass through a single unit."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def net(units: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, units), nn.Tanh(), nn.Linear(units, 10))


def sick() -> Program:
    return Program(Classifier(net(1), lr=3e-2), loader(), trainer={"max_epochs": 10})


def healthy() -> Program:
    return Program(Classifier(net(32), lr=3e-2), loader(), trainer={"max_epochs": 10})
