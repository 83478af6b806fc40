"""What several faults share: a module that trains a net, and data in a few wrappings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from healthy._parts import characters, loaders, mlp, split, standardized, table
from program import Program, digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

__all__ = [
    "DataLoader",
    "Program",
    "Supervised",
    "TensorDataset",
    "blobs",
    "characters",
    "diabetes",
    "digit_loaders",
    "digits",
    "loaders",
    "mlp",
    "scenes",
    "split",
    "standardized",
    "table",
    "waves",
]


class Supervised(pl.LightningModule):
    """Trains a net on (input, target), as the first page of every tutorial does."""

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[..., Tensor] = F.cross_entropy,
        lr: float = 2e-3,
        optimizer: Callable[..., Any] = torch.optim.Adam,
    ) -> None:
        super().__init__()
        self.net, self.loss, self.lr, self.optimizer = net, loss, lr, optimizer

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        self.log("val_loss", self.loss(out, y))
        if not y.is_floating_point() and out.ndim == y.ndim + 1 and out.shape[1] > 1:
            self.log("val_acc", (out.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=self.lr)


def digit_loaders(batch_size: int = 32, *, image: bool = False, size: int = 1797) -> dict[str, Any]:
    """Train and val loaders of handwritten digits, in [-1, 1]."""
    return loaders(*split(*digits(size, image=image)), batch_size=batch_size)


def diabetes(*, column: bool = True) -> tuple[Tensor, Tensor]:
    """The diabetes table, standardized, and its target, standardized: (N, 1), or (N,)."""
    from sklearn.datasets import load_diabetes

    x, y = table(load_diabetes)
    y = standardized(y[:, None])
    return x, (y if column else y.squeeze(1))


def blobs(
    size: int = 1200, classes: int = 4, features: int = 16, spread: float = 1.5
) -> tuple[Tensor, Tensor]:
    """Gaussian clouds, one to a class."""
    centres = torch.randn(classes, features)
    y = torch.arange(size) % classes
    return centres[y] + spread * torch.randn(size, features) / 2, y


def scenes(size: int = 256, side: int = 16, radius: float = 3.0) -> tuple[Tensor, Tensor]:
    """Noisy images (N, 1, side, side) with one bright disc each, and the mask of the disc."""
    centre = torch.randint(3, side - 3, (size, 2, 1, 1))
    rows, columns = torch.arange(side)[:, None], torch.arange(side)[None]
    mask = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < radius**2
    image = mask.float() * 1.5 + 0.5 * torch.randn(size, side, side)
    return standardized(image.flatten()).view(size, 1, side, side), mask


def waves(size: int = 800, length: int = 20) -> tuple[Tensor, Tensor]:
    """Noisy sine waves (N, length, 1) of three frequencies, and which one it is."""
    y = torch.arange(size) % 3
    frequency = torch.tensor([0.3, 0.6, 1.0])[y][:, None]
    phase = 6.3 * torch.rand(size, 1)
    x = torch.sin(frequency * torch.arange(length) + phase) + 0.2 * torch.randn(size, length)
    return x[..., None], y
