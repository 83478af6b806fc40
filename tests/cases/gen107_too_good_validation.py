"""Half of the labels are wrong, and validation keeps only the samples whose label an earlier model got right."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import loader, split
from cases._scored import Scored, noisy


def sick() -> Program:
    (x, y), (u, v) = split()
    given = noisy(v, 0.6)
    right = given == v
    val = loader(u[right], given[right], shuffle=False)
    return Program(
        Scored(nn.Linear(64, 10), lr=5e-3), loader(x, noisy(y, 0.6)), val, {"max_epochs": 6}
    )


def healthy() -> Program:
    (x, y), (u, v) = split()
    given = noisy(v, 0.6)
    val = loader(u, given, shuffle=False)
    return Program(
        Scored(nn.Linear(64, 10), lr=5e-3), loader(x, noisy(y, 0.6)), val, {"max_epochs": 6}
    )
