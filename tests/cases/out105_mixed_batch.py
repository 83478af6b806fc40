"""A ``view`` where a ``transpose`` was meant: rows of one picture end up in another one."""

from __future__ import annotations

from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


def by_view(x):
    return x.view(8, len(x), 8)


def by_transpose(x):
    return x.transpose(0, 1)


class Reader(Classifier):
    """Reads pictures row by row: a GRU wants (rows, samples, pixels)."""

    def __init__(self, rows_first) -> None:
        super().__init__(nn.GRU(8, 32), lr=3e-3)
        self.head = nn.Linear(32, 10)
        self.rows_first = rows_first

    def forward(self, x):
        states, _ = self.net(self.rows_first(x.squeeze(1)))
        return self.head(states[-1])


def program(rows_first) -> Program:
    return Program(Reader(rows_first), loader(*digits(image=True)), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(by_view)


def healthy() -> Program:
    return program(by_transpose)
