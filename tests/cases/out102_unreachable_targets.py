"""A tanh at the end of a net that is to tell how much darker the left half of an image is."""

from __future__ import annotations

from program import Program, digits
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Weigher(Classifier):
    def loss(self, x, y):
        return F.mse_loss(self(x).squeeze(1), y)


def program(last: nn.Module) -> Program:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), last)
    x, _ = digits()
    left, right = x.unflatten(1, (8, 2, 4)).sum((1, 3)).unbind(1)
    return Program(Weigher(net), loader(x, left - right), trainer={"max_epochs": 3})


def sick() -> Program:
    return program(nn.Tanh())


def healthy() -> Program:
    return program(nn.Identity())
