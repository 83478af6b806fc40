"""A tanh at the end of a net that is to read off numbers from 0 to 9."""

from __future__ import annotations

from program import Program, digits
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Reader(Classifier):
    def loss(self, x, y):
        return F.mse_loss(self(x).squeeze(1), y)


def program(last: nn.Module) -> Program:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), last)
    x, y = digits()
    return Program(Reader(net), loader(x, y.float()), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(nn.Tanh())


def healthy() -> Program:
    return program(nn.Identity())
