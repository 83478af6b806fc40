"""No activation between two layers, which can do no more than one."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def program(*between: nn.Module) -> Program:
    net = nn.Sequential(nn.Linear(64, 64), *between, nn.Linear(64, 10))
    return Program(Classifier(net), loader(), trainer={"max_epochs": 2})


def sick() -> Program:
    return program()


def healthy() -> Program:
    return program(nn.ReLU())
