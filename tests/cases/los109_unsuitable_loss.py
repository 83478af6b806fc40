"""The number of the class is predicted by a squared error, as if 3 were between 2 and 4."""

from __future__ import annotations

from program import Program
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Quantity(Classifier):
    def loss(self, x, y):
        return F.mse_loss(self(x).squeeze(1), y.float())


def net(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))


def sick() -> Program:
    return Program(Quantity(net(1)), loader(), trainer={"max_epochs": 2})


def healthy() -> Program:
    return Program(Classifier(net(10)), loader(), trainer={"max_epochs": 2})
