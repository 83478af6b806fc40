"""Predictions of shape (N, 1) and targets of shape (N,): each is compared with all."""

from __future__ import annotations

import torch
from program import Program
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Columns(Classifier):
    def loss(self, x, y):
        return F.mse_loss(self(x), y)


class Rows(Classifier):
    def loss(self, x, y):
        return F.mse_loss(self(x).squeeze(-1), y)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(640, 8)
    return x, x[:, 0] * x[:, 1] + x[:, 2]


def sick() -> Program:
    return Program(Columns(net(), lr=1e-2), loader(*data()), trainer={"max_epochs": 3})


def healthy() -> Program:
    return Program(Rows(net(), lr=1e-2), loader(*data()), trainer={"max_epochs": 3})
