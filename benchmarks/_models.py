"""The nets that costs are measured on, from 0.1 M to 124 M parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Subject:
    """A net, and what makes a batch for it: a new one every time, with something to learn."""

    net: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]
    lr: float = 1e-4
    steps: int = 0


class Step(pl.LightningModule):
    """The plainest training step there is."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.net, self.lr = subject.net(), subject.lr

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x).flatten(0, -2), y.flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Bottleneck(nn.Module):
    def __init__(self, inner: int, outer: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, outer, 1, bias=False), nn.BatchNorm2d(outer),
        )  # fmt: skip
        self.skip = nn.Identity()
        if inner != outer or stride != 1:
            self.skip = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def resnet50() -> nn.Module:
    """He et al. 2016, 25.6 M parameters."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inner = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(depth):
            layers.append(Bottleneck(inner, 4 * width, width, stride if index == 0 else 1))
            inner = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, 1000))


class GPT(nn.Module):
    """The size of GPT-2 small: 12 layers, 12 heads, 768 wide, tied embedding of 50,257 tokens."""

    def __init__(
        self,
        layers: int = 12,
        width: int = 768,
        heads: int = 12,
        tokens: int = 50257,
        length: int = 1024,
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        h = self.tokens(x) + self.places.weight[: x.shape[1]]
        return self.blocks(h, mask, is_causal=True) @ self.tokens.weight.T


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 128, 3, 2, 1), nn.BatchNorm2d(128), nn.ReLU(),
        nn.Conv2d(128, 256, 3, 2, 1), nn.BatchNorm2d(256), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 2, 1), nn.BatchNorm2d(256), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def rows(n: int = 256) -> Callable[[], tuple[Tensor, Tensor]]:
    """Rows (n, 64) of numbers; the class is which of the first ten is the largest."""

    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 64)
        return x, x[:, :10].argmax(1)

    return batch


def images(n: int, size: int, classes: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Noisy images (n, 3, size, size), of a colour to each class."""
    colours = torch.randn(classes, 3, 1, 1, generator=torch.Generator().manual_seed(0))

    def batch() -> tuple[Tensor, Tensor]:
        y = torch.randint(classes, (n,))
        return torch.randn(n, 3, size, size) + colours[y], y

    return batch


def counting(length: int = 128, tokens: int = 200) -> tuple[Tensor, Tensor]:
    """A sequence (1, length) that counts on in steps of one size; and the token after each."""
    start, step = torch.randint(tokens, (2, 1))
    x = (start + step * torch.arange(length + 1)) % tokens
    return x[None, :-1], x[None, 1:]


SUBJECTS = {
    "mlp 0.1M": Subject(mlp, rows(), 1e-3),
    "cnn 1M": Subject(cnn, images(64, 32, 10), 1e-3),
    "resnet50 26M": Subject(resnet50, images(8, 96, 1000)),
    "gpt2 124M": Subject(GPT, counting),
}


def _grown(layers: int = 4, width: int = 256, batch: int = 256, steps: int = 300) -> Subject:
    def net() -> nn.Module:
        widths = [64, *[width] * layers]
        hidden = pairwise(widths)
        parts = [part for a, b in hidden for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*parts, nn.Linear(width, 10))

    return Subject(net, rows(batch), 1e-3, steps)


GROWTH = {
    **{f"{n} layers": _grown(layers=n) for n in (4, 16, 64)},
    **{f"width {n}": _grown(width=n) for n in (64, 1024)},
    **{f"batch of {n}": _grown(batch=n) for n in (16, 4096)},
    **{f"{n} steps": _grown(steps=n) for n in (50, 3000)},
}
