"""What several cases share: a classifier of digits, and loaders."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from program import digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Classifier(pl.LightningModule):
    """Classifies digits with a net that maps (N, 64) to (N, 10)."""

    def __init__(self, net: nn.Module | None = None, lr: float = 1e-3) -> None:
        super().__init__()
        self.net = net or nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.lr = lr

    def forward(self, x):
        return self.net(x)

    def loss(self, x, y):
        return F.cross_entropy(self(x), y)

    def training_step(self, batch, batch_idx):
        return self.loss(*batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(*batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def loader(x: torch.Tensor | None = None, y: torch.Tensor | None = None, **options) -> DataLoader:
    """Returns shuffled batches of 32, of the digits unless told otherwise."""
    if x is None or y is None:
        x, y = digits()
    return DataLoader(TensorDataset(x, y), **{"batch_size": 32, "shuffle": True, **options})


def split() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Returns the digits in random order, three quarters to train and one to validate on."""
    x, y = digits(1797)
    order = torch.randperm(len(y))
    x, y = x[order], y[order]
    return (x[:1347], y[:1347]), (x[1347:], y[1347:])


def unseen() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns digits that are not among those of ``loader()``."""
    x, y = digits(1797)
    return x[1024:], y[1024:]
