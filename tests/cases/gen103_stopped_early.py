"""Two epochs, where the loss falls for ten."""

from __future__ import annotations

from program import Program

from cases._parts import loader, split
from cases._scored import Scored


def program(epochs: int) -> Program:
    train, val = split()
    return Program(Scored(), loader(*train), loader(*val, shuffle=False), {"max_epochs": epochs})


def sick() -> Program:
    return program(2)


def healthy() -> Program:
    return program(15)
