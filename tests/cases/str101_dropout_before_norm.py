"""Dropout feeds a batch norm, which remembers a variance that validation does not have."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def program(*layers: nn.Module) -> Program:
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), *layers, nn.Linear(128, 10))
    return Program(Classifier(net), loader(), trainer={"max_epochs": 2})


def sick() -> Program:
    return program(nn.Dropout(0.5), nn.BatchNorm1d(128))


def healthy() -> Program:
    return program(nn.BatchNorm1d(128), nn.Dropout(0.5))
