"""The weights of the classes come from a table that counts the sevens a thousand times too high."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Weighted(Classifier):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), lr=1e-2)
        self.weight = weight

    def loss(self, x, y):
        return F.cross_entropy(self(x), y, weight=self.weight)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


def run(weight: torch.Tensor) -> Program:
    x, y = digits()
    train, val = loader(x[:768], y[:768], batch_size=64), loader(x[768:], y[768:], shuffle=False)
    return Program(Weighted(weight), train, val, trainer={"max_epochs": 8})


def sick() -> Program:
    weight = torch.ones(10)
    weight[7] = 0.001
    return run(weight)


def healthy() -> Program:
    weight = torch.ones(10)
    return run(weight)
