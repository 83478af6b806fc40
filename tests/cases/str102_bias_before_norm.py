"""The batch norm takes away the bias that the layer before it has added."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def program(bias: bool) -> Program:
    net = nn.Sequential(
        nn.Linear(64, 64, bias=bias), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
    )
    return Program(Classifier(net), loader(), trainer={"max_epochs": 2})


def sick() -> Program:
    return program(bias=True)


def healthy() -> Program:
    return program(bias=False)
