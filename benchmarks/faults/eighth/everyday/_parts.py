"""What several of these programs share: a module to fill in, and data."""

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
    "Model",
    "Program",
    "TensorDataset",
    "accuracy",
    "cut",
    "digits",
    "explained",
    "houses",
    "loaders",
    "mlp",
    "molecules",
    "reviews",
    "rng",
    "standard",
    "textures",
    "vision",
    "weather",
]


class Model(pl.LightningModule):
    """Trains and validates with what `measure` gives: the loss, and metrics by name."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.lr = lr

    def measure(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, metrics = self.measure(batch)
        self.log("train_loss", loss)
        for name, value in metrics.items():
            self.log(f"train_{name}", value)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, metrics = self.measure(batch)
        self.log("val_loss", loss, prog_bar=True)
        for name, value in metrics.items():
            self.log(f"val_{name}", value, prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def rng(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """The share of samples that are classified rightly."""
    return (logits.argmax(1) == y).float().mean()


def explained(out: Tensor, y: Tensor) -> Tensor:
    """The share of the variance that is explained."""
    return 1 - (out - y).square().mean() / y.var()


def standard(x: Tensor) -> Tensor:
    """Every column of mean 0 and deviation 1."""
    return (x - x.mean(0)) / x.std(0)


def cut(*tensors: Tensor, held_out: float = 0.2) -> tuple[TensorDataset, TensorDataset]:
    """A training set and a validation set, by chance."""
    order = torch.randperm(len(tensors[0]), generator=rng(1))
    first = int(len(order) * held_out)
    val = TensorDataset(*(t[order[:first]] for t in tensors))
    return TensorDataset(*(t[order[first:]] for t in tensors)), val


def loaders(*tensors: Tensor, batch_size: int = 32) -> dict[str, Any]:
    """Shuffled batches to train on, and others to validate."""
    train, val = cut(*tensors)
    return {
        "train": DataLoader(train, batch_size=batch_size, shuffle=True, drop_last=True),
        "val": DataLoader(val, batch_size=256),
    }


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLUs in between."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def vision(kinds: int = 4) -> nn.Sequential:
    """A small net for small colour images."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, kinds),
    )  # fmt: skip


def textures(size: int = 1600, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Colour photographs (N, 3, side, side) in [0, 1] of four kinds of cloth, and which it is."""
    g = rng(seed)
    y = torch.arange(size) % 4
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = 2 * math.pi * torch.rand(size, 2, 1, 1, generator=g)
    wave = 2 * math.pi / (4 + 1.5 * torch.rand(size, 1, 1, generator=g))
    rows = torch.sin(wave * down + phase[:, 0])
    columns = torch.sin(wave * across + phase[:, 1])
    slanted = torch.sin(wave * (down + across) / math.sqrt(2) + phase[:, 0])
    cloth = torch.stack([rows, columns, slanted, rows * columns])[y, torch.arange(size)]
    colour = 0.1 + 0.15 * torch.rand(size, 3, 1, 1, generator=g)
    noise = 0.22 * torch.randn(size, 3, side, side, generator=g)
    return (0.5 + colour * cloth[:, None] + noise).clamp(0, 1), y


def reviews(size: int = 2400, length: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Word numbers (N, length), 0 for padding, and whether there is more praise than blame."""
    g = rng(seed)
    y = torch.randint(2, (size,), generator=g)
    words = torch.randint(21, 100, (size, length), generator=g)
    place = torch.rand(size, 16, generator=g).argsort(1)
    much = torch.randint(3, 6, (size,), generator=g)
    for i in range(5):
        own = torch.randint(10, (size,), generator=g) + 1
        word = own + 10 * (y if i < 3 else 1 - y)
        rows = torch.arange(size)[i < much]
        words[rows, place[rows, i]] = word[rows]
    long = torch.randint(16, length + 1, (size, 1), generator=g)
    return words * (torch.arange(length) < long), y


def houses(size: int = 3000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Measurements (N, 8) of houses, standardized, and their price (N, 1), standardized."""
    g = rng(seed)
    x = torch.randn(size, 8, generator=g)
    price = (
        x[:, 0] * (1 + 0.5 * x[:, 1]) + (x[:, 2] - x[:, 3]).abs() + 0.8 * torch.tanh(2 * x[:, 4])
    )
    price = price + 0.3 * x[:, 5] + 0.2 * torch.randn(size, generator=g)
    return x, standard(price[:, None])


def weather(hours: int = 2000, seed: int = 0) -> Tensor:
    """Hour by hour (T, 4): pressure in hPa, temperature in K, humidity in percent, wind in m/s."""
    g = rng(seed)
    hour = torch.arange(hours)
    state = torch.zeros(hours, 3)
    shocks = torch.randn(hours, 3, generator=g)
    for i in range(1, hours):
        state[i] = 0.93 * state[i - 1] + 0.36 * shocks[i]
    day = torch.sin(2 * math.pi * (hour - 9) / 24)
    pressure = 1013 + 8 * state[:, 0]
    temperature = 285 + 5 * day + 3 * state[:, 1]
    humidity = 65 - 12 * day - 5 * state[:, 1] + 5 * state[:, 2]
    wind = 5 + 1.5 * day - 0.8 * state[:, 0] + 0.3 * torch.randn(hours, generator=g)
    return torch.stack([pressure, temperature, humidity, wind], dim=1)


def molecules(size: int = 2000, atoms: int = 9, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Kinds of atoms (N, atoms), bonds (N, atoms, atoms), and an energy (N,) about -400."""
    g = rng(seed)
    kind = torch.randint(4, (size, atoms), generator=g)
    bond = (torch.rand(size, atoms, atoms, generator=g) < 0.25).float().triu(1)
    bond = bond + bond.transpose(1, 2)
    each = torch.tensor([-38.0, -54.0, -40.0, -46.0])[kind].sum(1)
    pair = torch.tensor([[0.0, -3, 1, 0], [-3, 1, 0, 2], [1, 0, -2, 0], [0, 2, 0, -4]])
    between = (pair[kind[:, :, None], kind[:, None]] * bond).sum((1, 2)) / 2
    return kind, bond, each + between + 0.5 * torch.randn(size, generator=g)
