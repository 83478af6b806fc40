"""What several programs of the third round share: modules to fill in, and data."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Task(pl.LightningModule):
    """One step for both loops: `step` gives the loss and whatever else is to be logged."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        self.lr = lr

    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, metrics = self.step(batch)
        self.log_dict({"train/loss": loss} | {f"train/{k}": v for k, v in metrics.items()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        loss, metrics = self.step(batch)
        self.log_dict({"val/loss": loss} | {f"val/{k}": v for k, v in metrics.items()})

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Classify(Task):
    """Cross entropy and accuracy of a net."""

    def __init__(self, net: nn.Module, lr: float = 2e-3) -> None:
        super().__init__(lr)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}


def right(logits: Tensor, y: Tensor) -> Tensor:
    """The share of samples whose largest logit is the right one."""
    return (logits.argmax(1) == y).float().mean()


def conv_block(before: int, after: int, *, pool: bool = True) -> nn.Sequential:
    """Convolution, batch norm, ReLU, and a pooling."""
    layers = [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def small_cnn(channels: int = 1, flat: int = 128, classes: int = 10) -> nn.Sequential:
    """Two blocks and a linear layer."""
    blocks = [conv_block(channels, 16), conv_block(16, 32)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(flat, classes))


def households(size: int = 2400) -> tuple[Tensor, Tensor, Tensor]:
    """Categories (N, 3) of 6, 10, and 4 kinds, numbers (N, 5), and what is spent (N,), standardized."""
    kinds = torch.stack([torch.randint(k, (size,)) for k in (6, 10, 4)], dim=1)
    numbers = torch.randn(size, 5)
    worth = [torch.randn(k) for k in (6, 10, 4)]
    spent = sum(w[kinds[:, i]] for i, w in enumerate(worth))
    spent = spent + numbers[:, 0] * numbers[:, 1] + numbers[:, 2] + 0.3 * torch.randn(size)
    return kinds, numbers, (spent - spent.mean()) / spent.std()


def clouds(size: int = 1200, points: int = 24) -> tuple[Tensor, Tensor]:
    """Clouds of points (N, points, 3), and what they lie on: a sphere, a disc, or a rod."""
    y = torch.arange(size) % 3
    x = torch.nn.functional.normalize(torch.randn(size, points, 3), dim=2)
    stretch = torch.tensor([[1.0, 1.0, 1.0], [1.2, 1.2, 0.3], [1.6, 0.35, 0.35]])[y]
    turn = torch.linalg.qr(torch.randn(size, 3, 3)).Q
    x = (x * stretch[:, None] + 0.1 * torch.randn(size, points, 3)) @ turn
    return x / x.std(), y


def grammar(
    size: int = 1500, words: int = 32, length: int = 16, follow: int = 2
) -> tuple[Tensor, Tensor]:
    """Sentences (N, length) in which `follow` words may come after each pair, and the pairs' table."""
    table = torch.randint(words, (words, follow))
    ids = torch.randint(words, (size, length))
    for t in range(1, length):
        ids[:, t] = table[ids[:, t - 1], torch.randint(follow, (size,))]
    return ids, table
