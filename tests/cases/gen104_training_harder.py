"""Dropout leaves one unit in ten."""

from __future__ import annotations

from program import Program

from cases._parts import loader, split
from cases._scored import Scored, wide


def program(dropout: float) -> Program:
    train, val = split()
    net = wide(dropout=dropout)
    return Program(Scored(net), loader(*train), loader(*val, shuffle=False), {"max_epochs": 4})


def sick() -> Program:
    return program(0.9)


def healthy() -> Program:
    return program(0.1)
