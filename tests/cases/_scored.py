"""A classifier that logs its accuracy beside the loss."""

from __future__ import annotations

import torch
from torch import nn

from cases._parts import Classifier


class Scored(Classifier):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(x, y))
        self.log("val_acc", (self(x).argmax(1) == y).float().mean())


def wide(*, dropout: float = 0.0, hidden: int = 128) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10)
    )


def noisy(y: torch.Tensor, share: float) -> torch.Tensor:
    """Returns the labels with a share of them drawn at random."""
    return torch.where(torch.rand(len(y)) < share, torch.randint(10, y.shape), y)
