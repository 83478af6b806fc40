"""What the programs of one author of this round share: a module to fill in, and data of its own seed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Trained(pl.LightningModule):
    """The same step in both loops, logged under the name of each."""

    lr = 2e-3

    def measure(self, batch: Any) -> dict[str, Tensor]:
        """The loss, under that name, and other numbers to log."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        numbers = self.measure(batch)
        self.log("train_loss", numbers["loss"], prog_bar=True)
        return numbers["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        numbers = self.measure(batch)
        self.log_dict({f"val_{k}": v for k, v in numbers.items()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Sorter(Trained):
    """Tells classes apart."""

    def __init__(self, net: nn.Module, lr: float = 2e-3) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def measure(self, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        logits = self(x)
        return {"loss": F.cross_entropy(logits, y), "acc": hits(logits, y)}


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """The share of right answers."""
    return (logits.argmax(1) == y).float().mean()


def dice(seed: int) -> torch.Generator:
    """A generator of its own, so that the data are the same each time."""
    return torch.Generator().manual_seed(seed)


def feed(
    train: Dataset | list, val: Dataset | list, batch_size: int = 32, **options: Any
) -> dict[str, Any]:
    """A shuffled loader to train on, and one to validate."""
    return {
        "train": DataLoader(train, batch_size, shuffle=True, **options),
        "val": DataLoader(val, 2 * batch_size, **options),
    }


def tables(*tensors: Tensor, held_out: int) -> tuple[TensorDataset, TensorDataset]:
    """All rows but the last ones, and the last ones."""
    return (
        TensorDataset(*(t[:-held_out] for t in tensors)),
        TensorDataset(*(t[-held_out:] for t in tensors)),
    )


def dense(*widths: int) -> nn.Sequential:
    """Linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def frames(size: int = 1500, height: int = 12, width: int = 20) -> tuple[Tensor, Tensor]:
    """Grey frames (N, height, width) of a camera, each with a square, a cross, a ring, or a bar."""
    g = dice(11)
    y = torch.randint(4, (size,), generator=g)
    shapes = torch.zeros(4, 5, 5)
    shapes[0] = 1.0
    shapes[1, 2], shapes[1, :, 2] = 1.0, 1.0
    shapes[2] = 1.0
    shapes[2, 1:4, 1:4] = 0.0
    shapes[3, :, 1:4] = 1.0
    x = 0.5 * torch.randn(size, height, width, generator=g)
    row = torch.randint(height - 4, (size,), generator=g).tolist()
    column = torch.randint(width - 4, (size,), generator=g).tolist()
    for i, (r, c) in enumerate(zip(row, column, strict=True)):
        x[i, r : r + 5, c : c + 5] += shapes[y[i]]
    return (x - x.mean()) / x.std(), y


def scans(size: int = 1500, points: int = 32) -> tuple[Tensor, Tensor]:
    """Scanned things (N, points, 3) in metres about their middle: poles, cars, walls, and crowns."""
    g = dice(12)
    y = torch.randint(4, (size,), generator=g)
    stretch = torch.tensor([[0.1, 0.1, 2.0], [1.5, 0.8, 0.6], [2.0, 0.1, 1.5], [1.2, 1.2, 1.2]])[y]
    x = F.normalize(torch.randn(size, points, 3, generator=g), dim=2) * stretch[:, None]
    angle = 6.283 * torch.rand(size, generator=g)
    turn = torch.zeros(size, 3, 3)
    turn[:, 0, 0], turn[:, 1, 1], turn[:, 2, 2] = angle.cos(), angle.cos(), 1.0
    turn[:, 0, 1], turn[:, 1, 0] = -angle.sin(), angle.sin()
    return x @ turn + 0.25 * torch.randn(size, points, 3, generator=g), y


class PointNet(nn.Module):
    """Looks at each point, and keeps the largest of what it saw."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.point = dense(3, 32, 64)
        self.head = nn.Sequential(nn.LayerNorm(64), *dense(64, 32, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.point(x).amax(1))


def tones(
    size: int = 1200, classes: int = 4, seed: int = 13, length: int = 256
) -> tuple[Tensor, Tensor]:
    """Noisy sounds (N, length), and which of several pitches each has."""
    g = dice(seed)
    y = torch.randint(classes, (size,), generator=g)
    pitch = (0.25 * 1.45**y)[:, None] * (1 + 0.04 * torch.randn(size, 1, generator=g))
    phase = 6.283 * torch.rand(size, 1, generator=g)
    loud = 0.2 + 2 * torch.rand(size, 1, generator=g)
    wave = torch.sin(pitch * torch.arange(length) + phase) * loud
    return wave + 0.3 * torch.randn(size, length, generator=g), y


def small_convnet(classes: int, channels: int = 1, width: int = 16) -> nn.Sequential:
    """Two blocks of convolution and batch norm, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )
