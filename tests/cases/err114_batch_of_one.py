"""1025 samples in batches of 32: the last one holds a single sample, and batch norm cannot use it."""

from __future__ import annotations

from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def sick() -> Program:
    return Program(Classifier(net()), loader(*digits(1025)), trainer={"max_epochs": 1})


def healthy() -> Program:
    train = loader(*digits(1025), drop_last=True)
    return Program(Classifier(net()), train, trainer={"max_epochs": 1})
