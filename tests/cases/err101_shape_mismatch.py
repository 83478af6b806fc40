"""The second layer was made for the output of a wider first one."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def net(features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(features, 10))


def sick() -> Program:
    return Program(Classifier(net(128)), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Classifier(net(32)), loader(), trainer={"max_steps": 5})
