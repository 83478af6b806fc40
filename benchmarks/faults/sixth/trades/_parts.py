"""What the programs of the trades share: a step for both loops, loaders, and a few kinds of data."""

from __future__ import annotations

import itertools
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..._parts import digits


class Trade(pl.LightningModule):
    """`step` gives the loss and what else is to be logged, in training and in validation."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        self.lr = lr

    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, metrics = self.step(batch)
        self.log("train_loss", loss, prog_bar=True)
        self.log_dict({f"train_{k}": v for k, v in metrics.items()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, metrics = self.step(batch)
        self.log("val_loss", loss, prog_bar=True)
        self.log_dict({f"val_{k}": v for k, v in metrics.items()})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def rng(number: int) -> torch.Generator:
    """Random numbers for data, apart from those of the net."""
    return torch.Generator().manual_seed(number)


def both(*tensors: Tensor, batch_size: int = 32, held_out: float = 0.2) -> dict[str, DataLoader]:
    """Loaders to train with, shuffled, and to validate with."""
    n = int(len(tensors[0]) * (1 - held_out))
    train = TensorDataset(*(t[:n] for t in tensors))
    val = TensorDataset(*(t[n:] for t in tensors))
    return {
        "train": DataLoader(train, batch_size=batch_size, shuffle=True),
        "val": DataLoader(val, batch_size=128),
    }


def dense(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between each two."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


def digits_at_random(*, image: bool = False) -> tuple[Tensor, Tensor]:
    """All handwritten digits, in a random order."""
    x, y = digits(1797, image=image)
    order = torch.randperm(len(x), generator=rng(3))
    return x[order], y[order]


def hit(logits: Tensor, y: Tensor) -> Tensor:
    """The share that is right."""
    return (logits.argmax(1) == y).float().mean()


def scenes_with_discs(
    size: int, side: int, *, low: float, high: float, number: int
) -> tuple[Tensor, Tensor]:
    """Masks of one disc each (N, side, side), and the boxes around them (x0, y0, x1, y1), in 0..1."""
    g = rng(number)
    radius = low + (high - low) * torch.rand(size, 1, 1, generator=g)
    centre = radius + (side - 1 - 2 * radius) * torch.rand(size, 2, 1, generator=g)
    rows, columns = torch.arange(side)[:, None], torch.arange(side)[None]
    cy, cx = centre[:, :1], centre[:, 1:]
    mask = ((rows - cy) ** 2 + (columns - cx) ** 2 < radius**2).float()
    box = torch.cat([cx - radius, cy - radius, cx + radius, cy + radius], dim=2)
    return mask, box.squeeze(1) / (side - 1)


def stars_given(
    users: int = 200, items: int = 120, each: int = 30, tastes: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """Who rated what, and how far from three stars; tastes have a few directions."""
    g = rng(11)
    user = torch.arange(users).repeat_interleave(each)
    item = torch.cat([torch.randperm(items, generator=g)[:each] for _ in range(users)])
    taste, kind = torch.randn(users, tastes, generator=g), torch.randn(items, tastes, generator=g)
    worth = 0.5 * torch.randn(items, generator=g)
    stars = (taste[user] * kind[item]).sum(1) / tastes**0.5 + worth[item]
    stars = stars + 0.3 * torch.randn(len(user), generator=g)
    order = torch.randperm(len(user), generator=g)
    return user[order], item[order], stars[order]


def explained(out: Tensor, y: Tensor) -> Tensor:
    """The share of the variance that is explained."""
    return 1 - (out - y).square().mean() / y.var()
