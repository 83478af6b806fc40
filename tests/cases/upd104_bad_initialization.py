"""All weights of the hidden layer start from the same number, so that all its units stay alike."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def net(initialize) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(),
        nn.Linear(32, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip
    for layer in layers[::2]:
        initialize(layer.weight)
    return layers


def sick() -> Program:
    module = Classifier(net(lambda weight: nn.init.constant_(weight, 0.05)))
    return Program(module, loader(), trainer={"max_steps": 40})


def healthy() -> Program:
    return Program(Classifier(net(nn.init.kaiming_normal_)), loader(), trainer={"max_steps": 40})
