"""What the programs after reports share: a module to fill in, loaders, and data with a seed of their own."""

from __future__ import annotations

import itertools
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Task(pl.LightningModule):
    """`step` gives the loss and what else is to be logged, for both loops."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        self.lr = lr

    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, metrics = self.step(batch)
        self.log("train_loss", loss)
        self.log_dict({f"train_{name}": value for name, value in metrics.items()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, metrics = self.step(batch)
        self.log("val_loss", loss, prog_bar=True)
        self.log_dict({f"val_{name}": value for name, value in metrics.items()})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


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
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}


class Regress(Task):
    """Mean squared error of a net, and how much of the variance it explains."""

    def __init__(self, net: nn.Module, lr: float = 2e-3) -> None:
        super().__init__(lr)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1)

    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        loss = F.mse_loss(self(x), y)
        return loss, {"r2": 1 - loss.detach() / y.var()}


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """The share of the samples that are classified rightly."""
    return (logits.argmax(1) == y).float().mean()


def rng(seed: int) -> torch.Generator:
    """A generator of random numbers for data."""
    return torch.Generator().manual_seed(seed)


def cut(*tensors: Tensor, share: float = 0.8) -> tuple[TensorDataset, TensorDataset]:
    """The first samples to train on, and the others to validate."""
    n = int(share * len(tensors[0]))
    return TensorDataset(*(t[:n] for t in tensors)), TensorDataset(*(t[n:] for t in tensors))


def loaders(train: Any, val: Any, batch_size: int = 32, **options: Any) -> dict[str, DataLoader]:
    """Batches of both, shuffled to train."""
    return {
        "train": DataLoader(train, batch_size, shuffle=True, generator=rng(1), **options),
        "val": DataLoader(val, 128, **options),
    }


def shuffled(*tensors: Tensor, seed: int = 0) -> list[Tensor]:
    """The same samples in another order."""
    order = torch.randperm(len(tensors[0]), generator=rng(seed))
    return [t[order] for t in tensors]


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with a ReLU between each two."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def conv(before: int, after: int, *more: nn.Module) -> nn.Sequential:
    """A convolution, its batch norm, and a ReLU."""
    layers = [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, *more)


def cells(size: int = 600, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Grey microscope images (N, 1, side, side), the mask of the cell (N, side, side), its box in pixels."""
    g = rng(seed)
    middle = torch.randint(4, side - 4, (size, 2, 1, 1), generator=g).float()
    radius = 2 + 2 * torch.rand(size, 2, 1, 1, generator=g)
    grid = torch.arange(side, dtype=torch.float32)
    rows, columns = grid[:, None] - middle[:, 0], grid[None] - middle[:, 1]
    mask = (rows / radius[:, 0]) ** 2 + (columns / radius[:, 1]) ** 2 < 1
    image = 1.6 * mask + 0.5 * torch.randn(size, side, side, generator=g)
    image = (image - image.mean()) / image.std()
    box = torch.cat([middle[:, 1], middle[:, 0], 2 * radius[:, 1], 2 * radius[:, 0]], 1)
    return image[:, None], mask, box.flatten(1)


def texts(
    size: int = 1500, length: int = 16, topics: int = 4, words: int = 100, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Token ids (N, length) in 1..words-1, and the topic, which a third of the words give away."""
    g = rng(seed)
    y = torch.randint(topics, (size,), generator=g)
    own = (words - 1) // (2 * topics)
    special = 1 + y[:, None] * own + torch.randint(own, (size, length), generator=g)
    common = torch.randint(1 + topics * own, words, (size, length), generator=g)
    hints = torch.rand(size, length, generator=g) < 0.33
    return torch.where(hints, special, common), y


def cardio(size: int = 1000, length: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy beats (N, length, 1) of three rhythms, and which one it is."""
    g = rng(seed)
    y = torch.randint(3, (size,), generator=g)
    pace = torch.tensor([0.25, 0.4, 0.6])[y][:, None] + 0.03 * torch.randn(size, 1, generator=g)
    phase = 6.28 * torch.rand(size, 1, generator=g)
    x = torch.sin(pace * torch.arange(length) + phase)
    return (x + 0.3 * torch.randn(size, length, generator=g))[..., None], y


def customers(size: int = 1600, columns: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standardized columns of customers, and what they spend, standardized; columns act on each other."""
    g = rng(seed)
    x = torch.randn(size, columns, generator=g)
    y = x[:, 0] * x[:, 1] + (2 * x[:, 2]).sin() + 0.7 * x[:, 3].abs() + 0.4 * x[:, 4]
    y = y + 0.2 * torch.randn(size, generator=g)
    return x, (y - y.mean()) / y.std()


def series(size: int = 1500, seed: int = 0) -> Tensor:
    """The load of a grid by the hour (size,), standardized: days, weeks, and weather that lasts."""
    g = rng(seed)
    hours = torch.arange(size)
    weather = torch.zeros(size)
    noise = torch.randn(size, generator=g)
    for t in range(1, size):
        weather[t] = 0.8 * weather[t - 1] + noise[t]
    load = 1.5 * torch.sin(hours * 6.283 / 24) + 0.7 * torch.sin(hours * 6.283 / 168) + weather
    return (load - load.mean()) / load.std()


def windows(values: Tensor, length: int, ahead: int = 1) -> tuple[Tensor, Tensor]:
    """Every window (N, length, 1) and the value that comes `ahead` steps after its last."""
    x = values.unfold(0, length, 1)
    n = len(values) - length - ahead + 1
    return x[:n, :, None], values[length + ahead - 1 :][:n]
