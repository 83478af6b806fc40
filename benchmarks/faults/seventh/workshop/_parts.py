"""What several of these programs share: a step for both loops, and small data."""

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
    "Paper",
    "Program",
    "digits",
    "dots",
    "explained",
    "feed",
    "generator",
    "images",
    "mlp",
    "right",
    "waves_of_time",
]


class Paper(pl.LightningModule):
    """A model whose `losses` gives the loss of a batch, and what else is worth a log."""

    def __init__(self, lr: float = 2e-3, *, cosine: bool = False) -> None:
        super().__init__()
        self.lr, self.cosine = lr, cosine

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, extra = self.losses(batch)
        self.log("train_loss", loss)
        self.log_dict({f"train_{k}": v for k, v in extra.items()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, extra = self.losses(batch)
        self.log("val_loss", loss)
        self.log_dict({f"val_{k}": v for k, v in extra.items()})

    def scheduled(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer, with a rate that goes down to nothing until the end of the run."""
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return self.scheduled(optimizer) if self.cosine else optimizer


def generator(seed: int) -> torch.Generator:
    """A generator of its own, so that data are the same each time."""
    return torch.Generator().manual_seed(seed)


def right(logits: Tensor, y: Tensor) -> Tensor:
    """The accuracy."""
    return (logits.argmax(1) == y).float().mean()


def explained(out: Tensor, y: Tensor) -> Tensor:
    """R squared."""
    return 1 - (out - y).square().mean() / y.var()


def feed(*tensors: Tensor, batch_size: int = 32, held_out: int = 300) -> dict[str, Any]:
    """Shuffled batches for training, and the rest for validation."""
    order = torch.randperm(len(tensors[0]), generator=generator(11))
    train, val = order[held_out:], order[:held_out]
    return {
        "train": DataLoader(
            TensorDataset(*(t[train] for t in tensors)),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
        ),
        "val": DataLoader(TensorDataset(*(t[val] for t in tensors)), batch_size=100),
    }


def images(**options: Any) -> dict[str, Any]:
    """All of scikit-learn's digits as (1, 8, 8)."""
    return feed(*digits(1797, image=True), **options)


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers, and an activation between any two."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


def dots(size: int = 1500, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy images (N, 1, side, side) with one bright spot, and where it is: (N, 2), x and y."""
    g = generator(seed)
    place = torch.randint(2, side - 2, (size, 2), generator=g)
    grid = torch.arange(side)
    across = (grid[None, None, :] - place[:, 0, None, None]).square()
    down = (grid[None, :, None] - place[:, 1, None, None]).square()
    image = 4 * torch.exp(-(across + down) / 3.0) + 0.4 * torch.randn(size, side, side, generator=g)
    image = (image - image.mean()) / image.std()
    return image[:, None], place


def waves_of_time(steps: int = 2400, seed: int = 0) -> Tensor:
    """A standardized series with two periods and a slow drift."""
    g = generator(seed)
    t = torch.arange(steps)
    noise, drift = 0.15 * torch.randn(steps, generator=g), torch.zeros(steps)
    for i in range(1, steps):
        drift[i] = 0.97 * drift[i - 1] + noise[i]
    series = torch.sin(2 * math.pi * t / 24) + 0.5 * torch.sin(2 * math.pi * t / 9) + drift
    return (series - series.mean()) / series.std()
