"""The last layer is initialized far too large: the untrained net is wrong, and sure of it."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def sick() -> Program:
    large = net()
    nn.init.normal_(large[2].weight, std=4.0)
    return Program(Classifier(large, lr=3e-3), loader(), trainer={"max_epochs": 3})


def healthy() -> Program:
    small = net()
    nn.init.normal_(small[2].weight, std=0.01)
    return Program(Classifier(small, lr=3e-3), loader(), trainer={"max_epochs": 3})
