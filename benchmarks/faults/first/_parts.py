"""What several held-out faults share: data that looks like somebody's, and a module to fill in."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Learner(pl.LightningModule):
    """Adam on all its parameters; `loss_of` is for the heirs to write."""

    lr = 2e-3

    def loss_of(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss_of(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss_of(batch), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def reviews(size: int = 1200, words: int = 80, length: int = 12) -> tuple[Tensor, Tensor]:
    """Sentences of word ids (N, length), and which of four products each speaks of."""
    y = torch.arange(size) % 4
    common = torch.randint(4, words, (size, length))
    telling = 4 + 8 * y[:, None] + torch.randint(8, (size, length))
    return torch.where(torch.rand(size, length) < 0.35, telling, common), y


def sentences(size: int = 1200) -> list[tuple[Tensor, Tensor]]:
    """Sentences of nine to twelve words, one by one, and which product each speaks of."""
    lengths = torch.randint(9, 13, (size,)).tolist()
    return [(ids[:n], y) for ids, y, n in zip(*reviews(size), lengths, strict=True)]


def sounds(size: int = 900, length: int = 64, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Noisy tones (N, 1, length) of several pitches, and which pitch it is."""
    y = torch.arange(size) % classes
    pitch = (0.25 * 1.7**y)[:, None] * (1 + 0.05 * torch.randn(size, 1))
    wave = torch.sin(pitch * torch.arange(length) + 6.3 * torch.rand(size, 1))
    return (wave + 0.6 * torch.randn(size, length))[:, None], y


def gestures(size: int = 900, length: int = 24) -> tuple[Tensor, Tensor]:
    """Windows (N, length, 3) of an accelerometer, and which of four movements it is."""
    y = torch.arange(size) % 4
    time = torch.arange(length) * torch.tensor([0.3, 0.3, 0.8, 0.8])[y][:, None]
    phase = 6.3 * torch.rand(size, 1)
    lag = torch.tensor([0.0, 1.6, 0.0, 1.6])[y][:, None]
    x = torch.stack([(time + phase + k * lag).sin() for k in range(3)], dim=2)
    x = x + 0.4 * torch.randn_like(x)
    return x / x.std(), y


def meters(size: int = 1200) -> tuple[Tensor, Tensor]:
    """A table (N, 8) of measurements, and a quantity (N, 1) that depends on them, both standardized."""
    x = torch.randn(size, 8)
    y = x[:, 0] + x[:, 1] * x[:, 2] + torch.sin(2 * x[:, 3]) + 0.2 * torch.randn(size)
    return x, ((y - y.mean()) / y.std())[:, None]


def batches(*tensors: Tensor, size: int = 32, **options: Any) -> DataLoader[Any]:
    """A loader that shuffles."""
    return DataLoader(TensorDataset(*tensors), batch_size=size, shuffle=True, **options)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """The share of right answers."""
    return (logits.argmax(1) == y).float().mean()


def explained(prediction: Tensor, y: Tensor) -> Tensor:
    """The share of the variance that is explained."""
    return 1 - F.mse_loss(prediction, y) / y.var()
