"""The penalty on the weights is subtracted; a norm behind them hides how large they get."""

from __future__ import annotations

import torch
from program import Program
from torch import nn

from cases._parts import Classifier, loader


class Penalized(Classifier):
    def __init__(self, penalty: float) -> None:
        super().__init__(
            nn.Sequential(
                nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
            )
        )
        self.penalty = penalty

    def loss(self, x, y):
        return super().loss(x, y) + self.penalty * self.net[0].weight.square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sick() -> Program:
    return Program(Penalized(-0.2), loader(), trainer={"max_steps": 120})


def healthy() -> Program:
    return Program(Penalized(1e-4), loader(), trainer={"max_steps": 120})
