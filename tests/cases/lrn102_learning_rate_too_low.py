"""The learning rate lacks four zeros before the exponent: everything looks calm, nothing is learned."""

from __future__ import annotations

import torch
from program import Program
from torch import nn

from cases._parts import Classifier, loader


class Adam(Classifier):
    def __init__(self, lr: float) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
        self.lr = lr

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def sick() -> Program:
    return Program(Adam(lr=1e-7), loader(), trainer={"max_epochs": 4})


def healthy() -> Program:
    return Program(Adam(lr=1e-3), loader(), trainer={"max_epochs": 4})
