"""Weights of standard deviation 2 drive every tanh to one of its ends."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader

LEAD = "UPD104"  # which finds the cause


def wide(weight):
    nn.init.normal_(weight, std=2.0)


def program(initialize) -> Program:
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    initialize(net[0].weight)
    return Program(Classifier(net), loader(), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(wide)


def healthy() -> Program:
    return program(nn.init.xavier_normal_)
