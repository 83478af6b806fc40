"""The penalty on the weights is subtracted: the larger they get, the better."""

from __future__ import annotations

import torch
from program import Program

from cases._parts import Classifier, loader


class Penalized(Classifier):
    def __init__(self, penalty: float) -> None:
        super().__init__()
        self.penalty = penalty

    def loss(self, x, y):
        size = sum(p.square().sum() for p in self.parameters())
        return super().loss(x, y) + self.penalty * size

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sick() -> Program:
    return Program(Penalized(-0.2), loader(), trainer={"max_steps": 120})


def healthy() -> Program:
    return Program(Penalized(1e-4), loader(), trainer={"max_steps": 120})
