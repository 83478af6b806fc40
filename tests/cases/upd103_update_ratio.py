"""The first layer starts 100,000 times too large for its learning rate; a norm hides that."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip


def sick() -> Program:
    layers = net()
    nn.init.normal_(layers[0].weight, std=1e4)
    return Program(Classifier(layers), loader(), trainer={"max_epochs": 3})


def healthy() -> Program:
    layers = net()
    nn.init.normal_(layers[0].weight, std=1e-1)
    return Program(Classifier(layers), loader(), trainer={"max_epochs": 3})
