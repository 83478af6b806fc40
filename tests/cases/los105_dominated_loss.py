"""A price in dollars beside a class: the squared error of one drowns the cross entropy of the other."""

from __future__ import annotations

import torch
from program import Program
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier


class ClassAndPrice(Classifier):
    """Ten outputs tell the class, and one the price."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 11)))

    def training_step(self, batch, batch_idx):
        x, kind, price = batch
        out = self(x)
        return F.cross_entropy(out[:, :10], kind) + F.mse_loss(out[:, 10], price)


def items(dollars: float):
    x = torch.randn(640, 8)
    kind = (x @ torch.randn(8, 10)).argmax(1)
    price = dollars * (x[:, 0] * x[:, 1] + 0.1 * torch.randn(640))
    return torch.utils.data.TensorDataset(x, kind, price)


def program(dollars: float) -> Program:
    data = torch.utils.data.DataLoader(items(dollars), batch_size=32, shuffle=True)
    return Program(ClassAndPrice(), data, trainer={"max_epochs": 4})


def sick() -> Program:
    return program(dollars=300.0)


def healthy() -> Program:
    return program(dollars=1.0)
