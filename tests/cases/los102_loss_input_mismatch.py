"""The net ends in a softmax, and cross_entropy takes the softmax once more."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def sick() -> Program:
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.Softmax(dim=1))
    return Program(Classifier(net), loader(), trainer={"max_epochs": 2})


def healthy() -> Program:
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Program(Classifier(net), loader(), trainer={"max_epochs": 2})
