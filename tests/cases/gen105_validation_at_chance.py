"""The class map of validation was made anew: the same digits have other numbers there."""

from __future__ import annotations

import torch
from program import Program

from cases._parts import loader, split
from cases._scored import Scored

ANEW = torch.tensor([3, 7, 0, 9, 1, 6, 8, 2, 5, 4])


def sick() -> Program:
    train, (x, y) = split()
    return Program(
        Scored(lr=3e-3), loader(*train), loader(x, ANEW[y], shuffle=False), {"max_epochs": 3}
    )


def healthy() -> Program:
    train, (x, y) = split()
    return Program(Scored(lr=3e-3), loader(*train), loader(x, y, shuffle=False), {"max_epochs": 3})
