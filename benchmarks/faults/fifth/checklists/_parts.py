"""What these programs share: where the faults are told, a few kinds of data, and their loaders."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

REASONS = (
    "https://blog.slavv.com/37-reasons-why-your-neural-network-is-not-working-4020854bd607"
    " (37 reasons why your neural network is not working)"
)
TOBIN = "http://josh-tobin.com/troubleshooting-deep-neural-networks.html (Troubleshooting)"
PLAYBOOK = "https://github.com/google-research/tuning_playbook (Deep learning tuning playbook)"
CS231N = "https://cs231n.github.io/neural-networks-2/ and -3/ (CS231n)"
DUCK = "http://theorangeduck.com/page/neural-network-not-working (My neural network isn't working)"
DIAGNOSIS = "https://arxiv.org/abs/2112.04036 (DeepDiagnosis)"
LIGHTNING = "https://lightning.ai/docs/pytorch/stable/common/"


def dice(seed: int = 0) -> torch.Generator:
    """A generator of its own, so that nothing else changes the data."""
    return torch.Generator().manual_seed(seed)


def standardized(x: Tensor) -> Tensor:
    """Each column with mean zero and deviation one."""
    return (x - x.mean(0)) / x.std(0)


def feed(*tensors: Tensor, size: int = 32, held_out: float = 0.2) -> tuple[DataLoader, DataLoader]:
    """A shuffled training loader and a validation loader, of rows dealt at random."""
    order = torch.randperm(len(tensors[0]), generator=dice(1))
    n = int(len(order) * (1 - held_out))
    train, val = (TensorDataset(*(t[i] for t in tensors)) for i in (order[:n], order[n:]))
    return DataLoader(train, batch_size=size, shuffle=True), DataLoader(val, batch_size=128)


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """The share of right answers."""
    return (logits.argmax(1) == y).float().mean()


def explained(out: Tensor, y: Tensor) -> Tensor:
    """The share of the variance that is explained."""
    return 1 - ((out - y) ** 2).mean() / y.var()


class Learner(pl.LightningModule):
    """What most notebooks begin with: a net, a loss, and Adam."""

    def __init__(self, net: nn.Module, lr: float = 1e-3) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y), prog_bar=True)
        self.log("val_acc", hits(logits, y), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Estimator(Learner):
    """The same for a number to each row."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log("train_mse", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        self.log_dict({"val_mse": F.mse_loss(out, y), "val_r2": explained(out, y)})


def garments(size: int = 1800, side: int = 16, noise: float = 0.6) -> tuple[Tensor, Tensor]:
    """Grey pictures (N, 1, side, side) of six outlines: shirt, trousers, dress, bag, shoe, and hat."""
    g = dice(11)
    rows = torch.linspace(-1, 1, side)[:, None]
    cols = torch.linspace(-1, 1, side)[None]
    y = torch.randint(6, (size,), generator=g)
    pictures = torch.empty(size, 1, side, side)
    for i, kind in enumerate(y.tolist()):
        dy, dx = (torch.rand(2, generator=g) * 0.4 - 0.2).tolist()
        s = 0.8 + 0.3 * torch.rand(1, generator=g).item()
        v, h = (rows - dy) / s, (cols - dx).abs() / s
        u = (cols - dx) / s
        body = (h < 0.35) & (v.abs() < 0.7)
        shape = (
            body | ((h < 0.8) & (v > -0.7) & (v < -0.35)),
            body & ((h > 0.1) | (v < -0.4)),
            (h < 0.15 + 0.3 * (v + 0.7)) & (v.abs() < 0.7),
            ((h < 0.6) & (v > -0.1) & (v < 0.6)) | ((h < 0.4) & (h > 0.25) & (v > -0.5) & (v < 0)),
            (((v > 0.2) & (v < 0.6) & (h < 0.7)) | ((u < -0.3) & (u > -0.7) & (v.abs() < 0.6))),
            ((v > 0.1) & (v < 0.35) & (h < 0.8)) | ((h < 0.4) & (v > -0.5) & (v < 0.2)),
        )[kind]
        pictures[i, 0] = shape.float()
    pictures += noise * torch.randn(pictures.shape, generator=g)
    return (pictures - pictures.mean()) / pictures.std(), y


def movements(size: int = 1600, length: int = 48, noise: float = 0.9) -> tuple[Tensor, Tensor]:
    """Accelerometers (N, 3, length) and what the person did: sit, walk, run, climb, or cycle."""
    g = dice(12)
    y = torch.randint(5, (size,), generator=g)
    rate = torch.tensor([0.05, 0.35, 0.7, 0.3, 0.5])[y][:, None, None]
    swing = torch.tensor(
        [[0.1] * 3, [1, 0.4, 0.3], [1.6, 0.8, 0.4], [0.7, 1.2, 0.3], [0.2, 0.6, 1.3]]
    )
    phase = 6.28 * torch.rand(size, 3, 1, generator=g)
    wave = torch.sin(
        rate * torch.arange(length) * (0.9 + 0.2 * torch.rand(size, 1, 1, generator=g)) + phase
    )
    x = swing[y][:, :, None] * wave + noise * torch.randn(size, 3, length, generator=g)
    return x / x.std(), y


def news(
    size: int = 2000, words: int = 300, length: int = 20, topics: int = 4
) -> tuple[Tensor, Tensor]:
    """Headlines (N, length) of word ids above 0, a third of the words typical of one of the topics."""
    g = dice(13)
    y = torch.randint(topics, (size,), generator=g)
    common = torch.randint(1, words, (size, length), generator=g)
    own = 1 + y[:, None] + topics * torch.randint(20, (size, length), generator=g)
    return torch.where(torch.rand(size, length, generator=g) < 0.25, own, common), y


def flats(size: int = 2000) -> tuple[Tensor, Tensor]:
    """A table of flats: square metres, rooms, floor, year, distance in metres; and rent in euros."""
    g = dice(14)
    area = 30 + 90 * torch.rand(size, generator=g)
    rooms = (area / 25 + 0.5 * torch.randn(size, generator=g)).round().clamp(1, 6)
    floor = torch.randint(8, (size,), generator=g).float()
    year = 1900 + 120 * torch.rand(size, generator=g)
    metres = 200 + 7800 * torch.rand(size, generator=g)
    rent = 11 * area * (1.3 - 0.6 * metres / 8000) + 25 * rooms + 10 * floor
    rent = rent + 0.03 * (year - 1960) ** 2 + 40 * torch.randn(size, generator=g)
    return torch.stack([area, rooms, floor, year, metres], dim=1), rent[:, None]


def power(hours: int = 2400) -> Tensor:
    """A town's power by the hour, in megawatts: days, weeks, and weather."""
    g = dice(15)
    t = torch.arange(hours)
    daily = torch.sin(6.283 * t / 24) + 0.4 * torch.sin(12.566 * t / 24 + 1)
    weekly = 0.6 * (((t // 24) % 7) < 5)
    weather = torch.zeros(hours)
    shocks = 0.12 * torch.randn(hours, generator=g)
    for i in range(1, hours):
        weather[i] = 0.95 * weather[i - 1] + shocks[i]
    return 50 + 12 * (daily + weekly + weather)


def windows(series: Tensor, past: int = 24) -> tuple[Tensor, Tensor]:
    """Each hour (N, 1), and the hours before it (N, past, 1)."""
    cut = series.unfold(0, past + 1, 1)
    return cut[:, :-1, None].contiguous(), cut[:, -1:].contiguous()


def two_moons(size: int = 2000, noise: float = 0.15) -> tuple[Tensor, Tensor]:
    """The two moons of scikit-learn."""
    from sklearn.datasets import make_moons

    x, y = make_moons(size, noise=noise, random_state=0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def friedman(size: int = 1600) -> tuple[Tensor, Tensor]:
    """Friedman's first regression problem, standardized: ten columns, and (N, 1)."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(size, n_features=10, noise=0.5, random_state=0)
    x, y = (torch.tensor(a.astype(np.float32)) for a in (x, y))
    return standardized(x), standardized(y[:, None])


def photographs(size: int = 1200, side: int = 16) -> Tensor:
    """Patches (N, 3, side, side) of the two photographs that come with scikit-learn, as bytes."""
    from sklearn.datasets import load_sample_images

    g, pieces = dice(16), []
    images = [torch.tensor(i).permute(2, 0, 1) for i in load_sample_images().images]
    for i in range(size):
        image = images[i % 2]
        top = torch.randint(image.shape[1] - side, (), generator=g)
        left = torch.randint(image.shape[2] - side, (), generator=g)
        pieces.append(image[:, top : top + side, left : left + side])
    return torch.stack(pieces)


def spots(size: int = 900, side: int = 20) -> tuple[Tensor, Tensor]:
    """Microscope images (N, 1, side, side) and the mask of the one cell, left of the middle more often."""
    g = dice(17)
    centre = 4 + (side - 8) * torch.rand(size, 2, 1, 1, generator=g)
    radius = 2.5 + 2 * torch.rand(size, 1, 1, generator=g)
    rows, cols = torch.arange(side)[:, None], torch.arange(side)[None]
    mask = (rows - centre[:, 0]) ** 2 + (cols - centre[:, 1]) ** 2 < radius**2
    image = 1.5 * mask + 0.6 * torch.randn(size, side, side, generator=g)
    return standardized(image.flatten()).view(size, 1, side, side), mask[:, None].float()


def small_cnn(
    classes: int = 6, channels: int = 1, width: int = 16, *, norm: bool = True
) -> nn.Sequential:
    """Two convolutions with pooling, and a linear layer, for images of 16 x 16."""
    layers: list[Any] = []
    for before, after in ((channels, width), (width, 2 * width)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=not norm)]
        layers += ([nn.BatchNorm2d(after)] if norm else []) + [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * width, classes))
