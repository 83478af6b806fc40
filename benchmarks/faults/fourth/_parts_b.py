"""Data of several kinds, each from a generator of its own, and a few modules to fill in."""

from __future__ import annotations

import itertools
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


class Learner(pl.LightningModule):
    """The same step in both loops: it returns the loss and the metrics to log."""

    lr = 2e-3

    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, metrics = self.step(batch)
        self.log("train_loss", loss)
        self.log_dict({f"train_{k}": v for k, v in metrics.items()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, metrics = self.step(batch)
        self.log("val_loss", loss)
        self.log_dict({f"val_{k}": v for k, v in metrics.items()})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Classifier(Learner):
    """Cross entropy and accuracy of a net on (input, label)."""

    def __init__(self, net: nn.Module, lr: float = 2e-3) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), {"acc": hits(logits, y)}


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """The share of samples whose class is right."""
    return (logits.argmax(-1) == y).float().mean()


def r2(prediction: Tensor, target: Tensor) -> Tensor:
    """The share of the target's variance that is explained."""
    return 1 - F.mse_loss(prediction, target) / target.var()


def dense(*widths: int) -> nn.Sequential:
    """Linear layers with a ReLU between any two."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def two_loaders(*tensors: Tensor, batch_size: int = 32, held_out: float = 0.2) -> dict[str, Any]:
    """A random fifth to validate on; the rest is shuffled."""
    return split_loaders(TensorDataset(*tensors), batch_size=batch_size, held_out=held_out)


def split_loaders(dataset: Any, *, batch_size: int = 32, held_out: float = 0.2) -> dict[str, Any]:
    """The same for any data set."""
    train, val = random_split(dataset, [1 - held_out, held_out], generator=source(7))
    return {
        "train": DataLoader(train, batch_size=batch_size, shuffle=True, drop_last=True),
        "val": DataLoader(val, batch_size=128),
    }


def source(seed: int = 0) -> torch.Generator:
    """A generator of random numbers that nothing else draws from."""
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same each time."""
    return torch.randn(*shape, generator=source(seed))


def whole(high: int, *shape: int, seed: int = 0) -> Tensor:
    """Whole numbers below `high`, the same each time."""
    return torch.randint(high, shape, generator=source(seed))


def scaled(x: Tensor) -> Tensor:
    """Each column to mean zero and variance one."""
    return (x - x.mean(0)) / x.std(0)


def shapes(size: int = 1600, side: int = 16) -> tuple[Tensor, Tensor]:
    """Grey images (N, 1, side, side) of a disc, a frame, a cross, or a ring, and which it is."""
    kind = torch.arange(size) % 4
    centre = 5 + (side - 10) * torch.rand(size, 2, 1, 1, generator=source(1))
    reach = 2.6 + 1.6 * torch.rand(size, 1, 1, generator=source(2))
    rows, columns = torch.arange(side)[:, None] - centre[:, 0], torch.arange(side) - centre[:, 1]
    far = (rows**2 + columns**2).sqrt()
    most, least = torch.maximum(rows.abs(), columns.abs()), torch.minimum(rows.abs(), columns.abs())
    drawn = [
        far < reach,
        (most < reach) & (most > reach - 1.3),
        (most < reach) & (least < 0.8),
        (far < reach) & (far > reach - 1.3),
    ]
    seen = torch.stack(drawn, 1)[torch.arange(size), kind].float()
    seen = (seen - 0.12) / 0.32 + 0.4 * noise(size, side, side, seed=3)
    return seen[:, None], kind


def instruments(size: int = 1200, length: int = 256) -> tuple[Tensor, Tensor]:
    """Sounds (N, 1, length) of four instruments at any pitch, and which one it is."""
    kind = torch.arange(size) % 4
    parts = torch.tensor(
        [[1, 0, 0.1, 0], [1, 0.7, 0.5, 0.3], [0.3, 0, 1, 0], [0.4, 1, 0.1, 0.6]], dtype=torch.float
    )[kind]
    pitch = 0.12 + 0.1 * torch.rand(size, 1, 1, generator=source(1))
    phase = 6.28 * torch.rand(size, 4, 1, generator=source(2))
    times = torch.arange(length) * pitch * torch.arange(1, 5)[:, None]
    sound = (parts[..., None] * torch.sin(times + phase)).sum(1)
    sound = sound / sound.std(1, keepdim=True) + 0.7 * noise(size, length, seed=3)
    return sound[:, None], kind


def headlines(size: int = 2000, length: int = 12, words: int = 200) -> tuple[Tensor, Tensor]:
    """Token ids (N, length) of four topics, half of the words from a topic's own list, 1 upwards."""
    topic = torch.arange(size) % 4
    common = 1 + whole(words // 2, size, length, seed=1)
    own = 1 + words // 2 + words // 8 * topic[:, None] + whole(words // 8, size, length, seed=2)
    is_own = torch.rand(size, length, generator=source(3)) < 0.25
    return torch.where(is_own, own, common), topic


def sales(size: int = 2400) -> tuple[Tensor, Tensor, Tensor]:
    """Flats: categories (N, 2) of 8 and 5 kinds, numbers (N, 6), and the logarithm of the price, scaled."""
    kinds = torch.stack([whole(8, size, seed=1), whole(5, size, seed=2)], 1)
    x = noise(size, 6, seed=3)
    price = noise(8, seed=4)[kinds[:, 0]] + 0.7 * noise(5, seed=5)[kinds[:, 1]]
    price = price + x[:, 0] + 0.6 * x[:, 1] * x[:, 2] - 0.5 * x[:, 3].abs()
    return kinds, x, scaled(price + 0.3 * noise(size, seed=6))


def consumption(size: int = 1500, past: int = 48, ahead: int = 12) -> tuple[Tensor, Tensor]:
    """What households use: (N, past) and (N, ahead), with a daily rhythm and slow drift."""
    t = torch.arange(past + ahead)
    start = whole(24, size, seed=1)[:, None]
    height = 0.6 + torch.rand(size, 1, generator=source(2))
    level = 0.5 * noise(size, 1, seed=3)
    drift = 0.1 * noise(size, past + ahead, seed=4).cumsum(1)
    y = height * torch.sin(6.283 * (t + start) / 24) + level + drift
    y = y + 0.1 * noise(size, past + ahead, seed=5)
    return y[:, :past], y[:, past:]


def stars(size: int = 6000, users: int = 80, films: int = 60) -> tuple[Tensor, Tensor]:
    """Pairs (N, 2) of a user and a film, and the stars given, 1.0 to 5.0."""
    pairs = torch.stack([whole(users, size, seed=1), whole(films, size, seed=2)], 1)
    taste, kind = noise(users, 3, seed=3), noise(films, 3, seed=4)
    liked = (taste[pairs[:, 0]] * kind[pairs[:, 1]]).sum(1) / 3**0.5
    liked = liked + 0.5 * noise(films, seed=5)[pairs[:, 1]] + 0.3 * noise(size, seed=6)
    return pairs, (3.2 + liked).round().clamp(1, 5)


def tumours() -> tuple[Tensor, Tensor]:
    """The breast cancer table, scaled, and 1 for benign."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return scaled(torch.tensor(x, dtype=torch.float)), torch.tensor(y)


def house_numbers(size: int = 2000) -> tuple[Tensor, Tensor]:
    """Three handwritten digits side by side, (N, 1, 8, 24), and the digits (N, 3)."""
    from program import digits

    x, y = digits(1797, image=True)
    chosen = whole(len(x), size, 3, seed=1)
    return torch.cat([x[chosen[:, i]] for i in range(3)], dim=3), y[chosen]
