"""What several of these programs share: a module to fill in, and the data of a few offices."""

from __future__ import annotations

import itertools
import math
from typing import Any

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

__all__ = [
    "DataLoader",
    "Dataset",
    "Model",
    "Program",
    "TensorDataset",
    "customers",
    "digits",
    "explained",
    "feeders",
    "mlp",
    "parted",
    "rng",
    "scans",
    "scored",
    "scores",
    "sold_by_the_hour",
    "standard",
    "tickets",
]


class Model(pl.LightningModule):
    """Logs what `shared` gives, the loss first, in training and in validation."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        self.lr = lr

    def shared(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, others = self.shared(batch)
        self.log("train/loss", loss)
        self.log_dict({f"train/{name}": value for name, value in others.items()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, others = self.shared(batch)
        self.log("val/loss", loss, prog_bar=True)
        self.log_dict({f"val/{name}": value for name, value in others.items()})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def rng(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def standard(x: Tensor) -> Tensor:
    """Each column with mean 0 and deviation 1."""
    return (x - x.mean(0)) / x.std(0)


def scored(logits: Tensor, y: Tensor) -> Tensor:
    """The share of samples whose class is found."""
    return (logits.argmax(1) == y).float().mean()


def explained(out: Tensor, y: Tensor) -> Tensor:
    """The share of the variance that is explained."""
    return 1 - (out - y).square().mean() / y.var()


def parted(*columns: Tensor, held_out: float = 0.2, seed: int = 5) -> tuple[Dataset, Dataset]:
    """Samples to train on and others to validate, drawn at random."""
    order = torch.randperm(len(columns[0]), generator=rng(seed))
    cut = int(len(order) * (1 - held_out))
    train = TensorDataset(*(column[order[:cut]] for column in columns))
    return train, TensorDataset(*(column[order[cut:]] for column in columns))


def feeders(train: Dataset, val: Dataset, batch_size: int = 32) -> dict[str, Any]:
    """Shuffled batches to train on, and others to validate."""
    return {
        "train": DataLoader(train, batch_size=batch_size, shuffle=True, drop_last=True),
        "val": DataLoader(val, batch_size=128),
    }


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLUs in between."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def customers(size: int = 2000, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Standardized numbers (N, 8), a kind of contract out of 5 (N,), and a score that hangs on them (N,)."""
    g = rng(seed)
    numbers = torch.randn(size, 8, generator=g)
    contract = torch.randint(5, (size,), generator=g)
    offset = torch.tensor([-1.2, -0.5, 0.0, 0.6, 1.1])[contract]
    score = numbers[:, 0] + numbers[:, 1] * (contract > 2) - 0.8 * numbers[:, 2].abs()
    score = score + offset + 0.5 * numbers[:, 3] + 0.25 * torch.randn(size, generator=g)
    return numbers, contract, (score - score.mean()) / score.std()


def scores(size: int = 2000, features: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standardized numbers (N, features), and a standardized quantity (N,) that hangs on four of them."""
    g = rng(seed)
    x = torch.randn(size, features, generator=g)
    y = x[:, 0] + 0.8 * x[:, 1] * torch.tanh(2 * x[:, 2]) + torch.sin(1.5 * x[:, 3])
    y = y + 0.2 * torch.randn(size, generator=g)
    return x, (y - y.mean()) / y.std()


def sold_by_the_hour(hours: int = 2400, seed: int = 0) -> Tensor:
    """What a shop sells in each hour, standardized: by the day, by the week, and a slow drift."""
    g = rng(seed)
    t = torch.arange(hours)
    day = torch.sin(2 * math.pi * (t - 9) / 24) + 0.4 * torch.sin(4 * math.pi * t / 24)
    week = 1 + 0.5 * ((t // 24) % 7 >= 5).float()
    drift = torch.zeros(hours)
    shocks = 0.1 * torch.randn(hours, generator=g)
    for i in range(1, hours):
        drift[i] = 0.95 * drift[i - 1] + shocks[i]
    sold = day * week + drift + 0.15 * torch.randn(hours, generator=g)
    return (sold - sold.mean()) / sold.std()


def tickets(
    size: int = 2000, topics: int = 4, longest: int = 28, seed: int = 0
) -> tuple[list[Tensor], Tensor]:
    """Texts of 8 to `longest` word numbers above 0, some of them words of their topic, and the topics."""
    g = rng(seed)
    topic = torch.randint(topics, (size,), generator=g)
    texts = []
    for kind in topic.tolist():
        length = int(torch.randint(8, longest + 1, (1,), generator=g))
        common = torch.randint(1, 200, (length,), generator=g)
        own = 200 + 15 * kind + torch.randint(15, (length,), generator=g)
        texts.append(torch.where(torch.rand(length, generator=g) < 0.25, own, common))
    return texts, topic


def scans(size: int = 320, side: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy scans (N, 1, side, side), each of its own gain, and the mask of one bright organ."""
    g = rng(seed)
    centre = torch.randint(7, side - 7, (size, 2, 1, 1), generator=g)
    radius = 3 + 3 * torch.rand(size, 1, 1, generator=g)
    rows, columns = torch.arange(side)[:, None], torch.arange(side)[None]
    mask = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < radius**2
    gain = torch.exp(torch.randn(size, 1, 1, generator=g) * 0.8)
    image = gain * (mask.float() * 1.5 + 0.5 * torch.randn(size, side, side, generator=g))
    return ((image - image.mean()) / image.std())[:, None], mask.float()[:, None]
