"""What several of these programs share: a module to fill in, and data that are the same each time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = [
    "DataLoader",
    "Program",
    "Task",
    "digits",
    "explained",
    "fresh",
    "givers",
    "handwriting",
    "load_curve",
    "loaders",
    "mlp",
    "pictograms",
    "right",
    "vectors",
]


class Task(pl.LightningModule):
    """One step for both loops: `step` gives the loss and whatever else is to be logged."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        self.lr = lr

    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, metrics = self.step(batch)
        self.log_dict({"train_loss": loss} | {f"train_{k}": v for k, v in metrics.items()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, metrics = self.step(batch)
        self.log_dict({"val_loss": loss} | {f"val_{k}": v for k, v in metrics.items()})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def fresh(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def right(logits: Tensor, y: Tensor) -> Tensor:
    """The share of samples whose largest logit is the right one."""
    return (logits.argmax(1) == y).float().mean()


def explained(out: Tensor, y: Tensor) -> Tensor:
    """The share of the variance that is explained."""
    return 1 - (out - y).square().mean() / y.var()


def loaders(*tensors: Tensor, batch_size: int = 32, held_out: float = 0.2) -> dict[str, Any]:
    """Shuffled batches to train on, and others to validate."""
    order = torch.randperm(len(tensors[0]), generator=fresh(1))
    cut = int(len(order) * (1 - held_out))
    train = TensorDataset(*(t[order[:cut]] for t in tensors))
    val = TensorDataset(*(t[order[cut:]] for t in tensors))
    return {
        "train": DataLoader(train, batch_size=batch_size, shuffle=True, drop_last=True),
        "val": DataLoader(val, batch_size=128),
    }


def handwriting(*, image: bool = False, batch_size: int = 32) -> dict[str, Any]:
    """All of scikit-learn's digits."""
    return loaders(*digits(1797, image=image), batch_size=batch_size)


def pictograms(size: int = 1500, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy colour images (N, 3, side, side) of a disc, a square, a ring, a cross, or a bar."""
    g = fresh(seed)
    y = torch.arange(size) % 5
    centre = torch.randint(6, side - 6, (size, 2, 1, 1), generator=g)
    grid = torch.arange(side)
    down, across = (grid[:, None] - centre[:, 0]).abs(), (grid[None] - centre[:, 1]).abs()
    far = (down.square() + across.square()).float().sqrt()
    kinds = [
        far < 4.5,
        (down < 4) & (across < 4),
        (far < 5) & (far > 2.5),
        ((down < 2) & (across < 5)) | ((across < 2) & (down < 5)),
        (down < 2) & (across < 6),
    ]
    shape = torch.stack(kinds)[y, torch.arange(size)].float()
    paint = 0.6 + 0.8 * torch.rand(size, 3, 1, 1, generator=g)
    x = shape[:, None] * paint + 0.25 * torch.randn(size, 3, side, side, generator=g)
    return (x - x.mean()) / x.std(), y


def givers(size: int = 1600, length: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sentences (N, length) in which one of six people gives to another, and who does: the first named."""
    g = fresh(seed)
    ids = torch.randint(7, 30, (size, length), generator=g)
    people = torch.stack([torch.randperm(6, generator=g)[:2] for _ in range(size)])
    places = [torch.randperm(length - 1, generator=g)[:2].sort().values + 1 for _ in range(size)]
    ids.scatter_(1, torch.stack(places), people + 1)
    ids[:, 0] = 0
    return ids, people[:, 0]


def load_curve(hours: int = 2400, seed: int = 0) -> Tensor:
    """What a town draws from the grid, hour by hour, standardized."""
    g = fresh(seed)
    t = torch.arange(hours)
    week = 1 - 0.4 * ((t // 24) % 7 >= 5).float()
    curve = week * (1 + 0.6 * torch.sin(2 * math.pi * (t - 8) / 24))
    drift = torch.zeros(hours)
    shocks = 0.12 * torch.randn(hours, generator=g)
    for i in range(1, hours):
        drift[i] = 0.9 * drift[i - 1] + shocks[i]
    curve = curve + drift
    return (curve - curve.mean()) / curve.std()


def vectors(size: int = 1600, features: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standardized measurements (N, features) and a quantity (N,) that hangs on five of them."""
    g = fresh(seed)
    x = torch.randn(size, features, generator=g)
    y = x[:, 0] + x[:, 1] * x[:, 2] + torch.sin(2 * x[:, 3]) - 0.5 * x[:, 4].square()
    y = y + 0.2 * torch.randn(size, generator=g)
    return x, (y - y.mean()) / y.std()


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLUs in between."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
