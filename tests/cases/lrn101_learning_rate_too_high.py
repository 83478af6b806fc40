"""A learning rate for plain SGD is kept when momentum is added: the steps jump over every valley."""

from __future__ import annotations

import torch
from program import Program
from torch import nn

from cases._parts import Classifier, loader


class WithMomentum(Classifier):
    def __init__(self, lr: float) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
        self.lr = lr

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def sick() -> Program:
    return Program(WithMomentum(lr=2.0), loader(), trainer={"max_epochs": 2})


def healthy() -> Program:
    return Program(WithMomentum(lr=0.1), loader(), trainer={"max_epochs": 2})
