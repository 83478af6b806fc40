"""A batch norm whose momentum was meant for another library: its running statistics lag behind."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def net(momentum: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32, momentum=momentum), nn.ReLU(), nn.Linear(32, 10)
    )


def sick() -> Program:
    return Program(Classifier(net(momentum=0.001), lr=1e-2), loader(), trainer={"max_epochs": 4})


def healthy() -> Program:
    return Program(Classifier(net(momentum=0.1), lr=1e-2), loader(), trainer={"max_epochs": 4})
