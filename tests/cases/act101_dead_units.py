"""Biases drawn around -2, meant to make the units sparse, silence nearly all of them."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def program(bias: float) -> Program:
    hidden = nn.Linear(64, 64)
    nn.init.normal_(hidden.bias, mean=bias)
    net = nn.Sequential(hidden, nn.ReLU(), nn.Linear(64, 10))
    return Program(Classifier(net), loader(), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(bias=-2.0)


def healthy() -> Program:
    return program(bias=0.0)
