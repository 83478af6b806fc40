"""The table is sorted by the value that is to be predicted, and nobody shuffles."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from program import Program
from torch import nn
from torch.nn import functional as F

from cases._parts import loader


class Regression(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x).squeeze(1), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def sick() -> Program:
    x = torch.randn(1024, 8)
    y = x[:, 0] + x[:, 1] * x[:, 2] + 0.3 * torch.randn(1024)
    order = y.argsort()
    train = loader(x[order], y[order], shuffle=False)
    return Program(Regression(), train, trainer={"max_epochs": 3})


def healthy() -> Program:
    x = torch.randn(1024, 8)
    y = x[:, 0] + x[:, 1] * x[:, 2] + 0.3 * torch.randn(1024)
    order = y.argsort()
    train = loader(x[order], y[order], shuffle=True)
    return Program(Regression(), train, trainer={"max_epochs": 3})
