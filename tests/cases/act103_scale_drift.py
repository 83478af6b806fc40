"""One fixed standard deviation for all weights, so that every layer's answer is larger than the last."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def fixed(weight):
    nn.init.normal_(weight, std=0.5)


def program(initialize) -> Program:
    net = nn.Sequential()
    for _ in range(4):
        net.extend([nn.Linear(64, 64), nn.ReLU()])
        initialize(net[-2].weight)
    net.append(nn.Linear(64, 10))
    return Program(Classifier(net), loader(), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(fixed)


def healthy() -> Program:
    return program(nn.init.kaiming_normal_)
