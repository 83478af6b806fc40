"""Data as coursework and notebooks have it, each from a generator of its own, and a plain module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

__all__ = [
    "Coursework",
    "Program",
    "accuracy",
    "convolutional",
    "digits",
    "drawings",
    "moons",
    "news",
    "passengers",
    "rolls",
    "served",
    "split",
]


class Coursework(pl.LightningModule):
    """The module of an assignment: `loss_and_metric` is asked in both loops."""

    metric = "acc"

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.lr = lr

    def loss_and_metric(self, batch: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, metric = self.loss_and_metric(batch)
        self.log("train_loss", loss)
        self.log(f"train_{self.metric}", metric)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, metric = self.loss_and_metric(batch)
        self.log("val_loss", loss)
        self.log(f"val_{self.metric}", metric)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """The share of rows whose largest logit is that of the class."""
    return (logits.argmax(dim=1) == y).float().mean()


def rolls(seed: int) -> torch.Generator:
    """A generator that nobody else draws from."""
    return torch.Generator().manual_seed(seed)


def split(*tensors: Tensor, share: float = 0.8, seed: int = 42) -> Sequence[Any]:
    """Cuts the rows of tensors into training and validation at random."""
    data = TensorDataset(*tensors)
    size = int(share * len(data))
    return random_split(data, [size, len(data) - size], generator=rolls(seed))


def served(*tensors: Tensor, batch_size: int = 32) -> dict[str, DataLoader]:
    """The loaders of a tutorial: shuffled to train, in order to validate."""
    train, val = split(*tensors)
    return {
        "train": DataLoader(train, batch_size=batch_size, shuffle=True),
        "val": DataLoader(val, batch_size=128),
    }


def passengers(size: int = 1600, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Passengers of a ship (N, 6), standardized, and who of them was saved."""
    g = rolls(seed)
    woman = (torch.rand(size, generator=g) < 0.45).float()
    deck = torch.randint(1, 4, (size,), generator=g).float()
    age = 30 + 14 * torch.randn(size, generator=g)
    family = torch.randint(0, 5, (size,), generator=g).float()
    fare = (4 - deck) * 20 + 12 * torch.randn(size, generator=g)
    port = torch.randint(0, 3, (size,), generator=g).float()
    odds = 3.4 * woman - 1.3 * (deck - 2) - 0.05 * (age - 30) - 1.4 * (family > 2).float() - 1.0
    saved = torch.rand(size, generator=g) < torch.sigmoid(1.6 * odds)
    x = torch.stack([woman, deck, age, family, fare, port], dim=1)
    return (x - x.mean(0)) / x.std(0), saved.long()


def drawings(size: int = 1200, side: int = 16, seed: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Coloured squares, discs, and crosses (N, 3, side, side) in [0, 1], their kind, and their mask."""
    g = rolls(seed)
    kind = torch.arange(size) % 3
    centre = torch.randint(4, side - 4, (2, size, 1, 1), generator=g)
    reach = torch.randint(3, 5, (size, 1, 1), generator=g)
    rows = (torch.arange(side).view(1, -1, 1) - centre[0]).abs()
    columns = (torch.arange(side).view(1, 1, -1) - centre[1]).abs()
    square = torch.maximum(rows, columns) <= reach
    disc = rows**2 + columns**2 <= (reach + 0.5) ** 2
    cross = (torch.minimum(rows, columns) < 2) & (torch.maximum(rows, columns) <= reach)
    mask = torch.stack([square, disc, cross])[kind, torch.arange(size)].float()
    colour = 0.5 + 0.5 * torch.rand(size, 3, 1, 1, generator=g)
    ground = 0.3 * torch.rand(size, 3, 1, 1, generator=g)
    image = ground + (colour - ground) * mask[:, None]
    noise = 0.1 * torch.randn(size, 3, side, side, generator=g)
    return (image + noise).clamp(0, 1), kind, mask[:, None]


def news(
    size: int = 1600, length: int = 20, words: int = 400, topics: int = 4, seed: int = 3
) -> tuple[Tensor, Tensor]:
    """News as word numbers (N, length), and the topic: some of its words are the topic's own."""
    g = rolls(seed)
    topic = torch.arange(size) % topics
    own = torch.randperm(words - 1, generator=g)[: 25 * topics].view(topics, 25) + 1
    ids = torch.randint(1, words, (size, length), generator=g)
    picked = own[topic[:, None], torch.randint(0, 25, (size, length), generator=g)]
    return torch.where(torch.rand(size, length, generator=g) < 0.35, picked, ids), topic


def moons(size: int = 1600, seed: int = 4) -> tuple[Tensor, Tensor]:
    """Two half moons, one round the other, standardized."""
    from sklearn.datasets import make_moons

    x, y = make_moons(size, noise=0.12, random_state=seed)
    x = torch.tensor(x, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0), torch.tensor(y)


def convolutional(channels: int, classes: int, side: int = 16) -> nn.Sequential:
    """Two convolutions with their pooling, and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )
