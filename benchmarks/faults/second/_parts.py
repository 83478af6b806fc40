"""What several programs of the second held-out set share: data of the kinds that people have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset


def patches(size: int = 1200, side: int = 12) -> tuple[Tensor, Tensor]:
    """Noisy colour images (N, 3, side, side), standardized, and which of six: a bar or a square, in a colour."""
    y = torch.arange(size) % 6
    image = 0.5 * torch.randn(size, 3, side, side)
    for i, kind in enumerate(y.tolist()):
        top, left = torch.randint(1, side - 6, (2,)).tolist()
        high, wide = (5, 5) if kind < 3 else (2, 6)
        image[i, kind % 3, top : top + high, left : left + wide] += 2.0
    return (image - image.mean()) / image.std(), y


def demand(hours: int = 2400) -> Tensor:
    """The demand for electricity by the hour, standardized: a day, a week, and some weather."""
    t = torch.arange(hours)
    weather = torch.zeros(hours)
    for i in range(1, hours):
        weather[i] = 0.9 * weather[i - 1] + 0.15 * torch.randn(())
    series = torch.sin(6.283 * t / 24) + 0.5 * torch.sin(6.283 * t / 168) + weather
    return (series - series.mean()) / series.std()


def windows(series: Tensor, past: int = 24, ahead: int = 1) -> tuple[Tensor, Tensor]:
    """All windows (N, past) of a series, and what follows each (N, ahead)."""
    both = series.unfold(0, past + ahead, 1)
    return both[:, :past].contiguous(), both[:, past:].contiguous()


def forecasts(series: Tensor, past: int = 24, ahead: int = 1) -> tuple[Dataset, Dataset]:
    """Windows of the first three quarters of a series to train on, and of the last quarter to validate."""
    cut = 3 * len(series) // 4
    parts = series[:cut], series[cut:]
    train, val = (TensorDataset(*windows(part, past, ahead)) for part in parts)
    return train, val


def passages(ids: Tensor, length: int, step: int, block: int = 200) -> tuple[Tensor, Tensor]:
    """Pieces (N, length) of a text to train on, and those of other passages of it to validate."""
    blocks = ids[: len(ids) // block * block].view(-1, block)
    order = torch.randperm(len(blocks))
    held = len(blocks) // 5
    train, val = (
        blocks[part].unfold(1, length, step).flatten(0, 1) for part in (order[held:], order[:held])
    )
    return train, val


def ratings(
    size: int = 8000, users: int = 120, items: int = 80, noise: float = 0.3
) -> tuple[Tensor, Tensor, Tensor]:
    """Who rated what, none of it twice, and with how many of five stars."""
    taste, kind = torch.randn(users, 3), torch.randn(items, 3)
    pair = torch.randperm(users * items)[:size]
    user, item = pair // items, pair % items
    stars = 3 + 0.8 * (taste[user] * kind[item]).sum(1) + noise * torch.randn(size)
    return user, item, stars.clamp(1, 5)


def communities(size: int = 600, members: int = 24, groups: int = 3) -> tuple[Tensor, ...]:
    """Graphs: normalized adjacency (N, M, M), noisy features (N, M, 8), and the group of each node (N, M)."""
    y = torch.randint(groups, (size, members))
    close = torch.where(y[:, :, None] == y[:, None], 0.6, 0.08)
    edges = (torch.rand(size, members, members) < close).float().triu(1)
    edges = edges + edges.mT + torch.eye(members)
    degree = edges.sum(2).rsqrt()
    adjacency = degree[:, :, None] * edges * degree[:, None]
    x = torch.randn(groups, 8)[y] + 1.5 * torch.randn(size, members, 8)
    return adjacency, x / x.std(), y


def clients(size: int = 2000, features: int = 10) -> tuple[Tensor, Tensor]:
    """A standardized table (N, features), and whether each client stays (N,): not a linear matter."""
    x = torch.randn(size, features)
    score = 1.5 * x[:, 0] - x[:, 1] + 1.5 * x[:, 2] * x[:, 3] + 0.5 * torch.randn(size)
    return x, (score > 0).long()


def rings(size: int = 2000) -> tuple[Tensor, Tensor]:
    """Points of the plane on three rings about one another, and which ring it is."""
    y = torch.arange(size) % 3
    angle = 6.283 * torch.rand(size)
    radius = 0.5 + 0.7 * y + 0.1 * torch.randn(size)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return x / x.std(), y


def lesions(size: int = 480, side: int = 16) -> tuple[Tensor, Tensor]:
    """Noisy scans (N, 1, side, side), standardized, and a mask (N, 1, side, side) of what is bright in them."""
    rows, columns = torch.arange(side)[:, None], torch.arange(side)[None]
    centre = torch.randint(4, side - 4, (size, 2, 1, 1))
    axes = torch.randint(2, 5, (size, 2, 1, 1))
    away = ((rows - centre[:, 0]) / axes[:, 0]) ** 2 + ((columns - centre[:, 1]) / axes[:, 1]) ** 2
    mask = (away < 1).float()[:, None]
    image = 1.5 * mask + 0.6 * torch.randn(size, 1, side, side)
    return (image - image.mean()) / image.std(), mask


class UNet(nn.Module):
    """Two levels down and up again, with a skip connection."""

    def __init__(self, width: int = 12, *, norm: bool = False) -> None:
        super().__init__()
        self.down = self.double(1, width, norm)
        self.bottom = nn.Sequential(nn.MaxPool2d(2), self.double(width, 2 * width, norm))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.end = nn.Sequential(self.double(2 * width, width, norm), nn.Conv2d(width, 1, 1))

    @staticmethod
    def double(before: int, after: int, norm: bool) -> nn.Sequential:
        layers: list[nn.Module] = []
        for k in (before, after):
            layers.append(nn.Conv2d(k, after, 3, padding=1, bias=not norm))
            layers += [nn.BatchNorm2d(after), nn.ReLU()] if norm else [nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        top = self.down(x)
        return self.end(torch.cat([top, self.up(self.bottom(top))], dim=1))


def overlap(logits: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of what is found and what is there."""
    found, there = logits > 0, mask > 0.5
    return (found & there).sum() / (found | there).sum().clamp_min(1)
