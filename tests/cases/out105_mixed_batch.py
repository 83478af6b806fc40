"""A recurrent net takes the samples for time steps: its state runs on from picture to picture."""

from __future__ import annotations

from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


class Reader(Classifier):
    """Reads a picture row by row."""

    def __init__(self, **options) -> None:
        super().__init__(nn.GRU(8, 32, **options), lr=3e-3)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        states, _ = self.net(x.squeeze(1))
        return self.head(states.mean(1))


def program(**options) -> Program:
    return Program(Reader(**options), loader(*digits(image=True)), trainer={"max_epochs": 3})


def sick() -> Program:
    return program()


def healthy() -> Program:
    return program(batch_first=True)
