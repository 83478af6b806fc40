"""The scores of the classes are squeezed into [-1, 1] before the cross entropy."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def sick() -> Program:
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.Tanh())
    return Program(Classifier(net), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Program(Classifier(net), loader(), trainer={"max_steps": 5})
