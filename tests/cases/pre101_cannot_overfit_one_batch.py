"""Everything has to pass through a single unit: too narrow for ten classes."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def program(width) -> Program:
    net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    return Program(Classifier(net), loader(), trainer={"max_steps": 5})


def sick() -> Program:
    return program(width=1)


def healthy() -> Program:
    return program(width=32)
