"""A recurrent state is carried over to the next batch, with all that it was computed from."""

from __future__ import annotations

import torch
from program import Program
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Recurrent(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head, self.state = nn.GRUCell(64, 32), nn.Linear(32, 10), None

    def kept(self, state):
        return state

    def loss(self, x, y):
        state = torch.zeros(len(x), 32) if self.state is None else self.state
        state = self.cell(x, state)
        self.state = self.kept(state)
        return F.cross_entropy(self.head(state), y)


class Detached(Recurrent):
    def kept(self, state):
        return state.detach()


def sick() -> Program:
    return Program(Recurrent(), loader(drop_last=True), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Detached(), loader(drop_last=True), trainer={"max_steps": 5})
