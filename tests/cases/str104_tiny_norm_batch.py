"""Batches of two: the batch norm makes -1 and +1 of whatever it gets."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def program(norm: nn.Module) -> Program:
    net = nn.Sequential(nn.Linear(64, 64, bias=False), norm, nn.ReLU(), nn.Linear(64, 10))
    return Program(Classifier(net), loader(batch_size=2), trainer={"max_steps": 100})


def sick() -> Program:
    return program(nn.BatchNorm1d(64))


def healthy() -> Program:
    return program(nn.LayerNorm(64))
