"""What several programs of the zoo share: data, nets, and modules that train them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import lightning.pytorch as pl
import torch
from program import digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Learner(pl.LightningModule):
    """Trains a net on batches of (input, target)."""

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss,
        lr: float = 5e-3,
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", self.loss(self(x), y), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Classifier(Learner):
    """Trains a net to tell classes apart, and logs its validation accuracy."""

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        lr: float = 5e-3,
    ) -> None:
        super().__init__(net, loss, lr)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y), prog_bar=True)
        self.log("val_acc", (logits.argmax(1) == y).float().mean(), prog_bar=True)


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths, with an activation between them."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), activation()]
    return nn.Sequential(*layers[:-1])


def conv(
    channels_in: int,
    channels_out: int,
    stride: int = 1,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        norm(channels_out),
        nn.ReLU(),
    )


def cnn(classes: int = 10, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    """A small convolutional net for 8x8 images."""
    return nn.Sequential(
        conv(1, 16, norm=norm),
        conv(16, 32, stride=2, norm=norm),
        conv(32, 32, norm=norm),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


class Block(nn.Module):
    """A transformer block with the norm before (pre-LN) or after (post-LN) each residual sum."""

    def __init__(
        self, width: int = 32, heads: int = 4, *, pre: bool = True, scale: float | None = None
    ) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = mlp(width, 4 * width, width, activation=nn.GELU)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.pre = pre
        self.scale1 = nn.Parameter(scale * torch.ones(width)) if scale else 1.0
        self.scale2 = nn.Parameter(scale * torch.ones(width)) if scale else 1.0

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.pre:
            x = x + self.scale1 * self._attend(self.norm1(x), mask)
            return x + self.scale2 * self.mlp(self.norm2(x))
        x = self.norm1(x + self.scale1 * self._attend(x, mask))
        return self.norm2(x + self.scale2 * self.mlp(x))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


def causal_mask(length: int) -> Tensor:
    """What may not be attended: -inf above the diagonal."""
    return torch.full((length, length), -math.inf).triu(1)


def split(*tensors: Tensor, held_out: float = 0.25) -> tuple[TensorDataset, TensorDataset]:
    """Shuffles the samples and holds a part of them out for validation."""
    order = torch.randperm(len(tensors[0]))
    held = int(held_out * len(order))
    return (
        TensorDataset(*(t[order[held:]] for t in tensors)),
        TensorDataset(*(t[order[:held]] for t in tensors)),
    )


def loaders(
    train: Dataset[Any], val: Dataset[Any], batch_size: int = 32
) -> dict[str, DataLoader[Any]]:
    """The train and val loaders of a `Program`; only the first shuffles."""
    return {
        "train": DataLoader(train, batch_size, shuffle=True),
        "val": DataLoader(val, batch_size),
    }


def digit_loaders(
    size: int = 1024, batch_size: int = 32, *, image: bool = True
) -> dict[str, DataLoader[Any]]:
    """Loaders of handwritten digits."""
    return loaders(*split(*digits(size, image=image)), batch_size=batch_size)


def standardized(x: Any) -> Tensor:
    """Columns of mean 0 and standard deviation 1 (constant columns become 0)."""
    x = torch.as_tensor(x, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6)


def table(load: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """One of scikit-learn's bundled tables: standardized features, and targets as they are."""
    x, y = load(return_X_y=True)
    return standardized(x), torch.as_tensor(y)


def moons(size: int = 1024, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Two interleaving half circles, standardized, and which of the two it is."""
    from sklearn.datasets import make_moons

    x, y = make_moons(size, noise=noise, random_state=int(torch.randint(1 << 30, ())))
    return standardized(x), torch.as_tensor(y)


def text() -> str:
    """Real English prose of some 12,000 characters: scikit-learn's descriptions of its data sets."""
    from sklearn import datasets

    loads = (
        datasets.load_digits,
        datasets.load_wine,
        datasets.load_iris,
        datasets.load_breast_cancer,
    )
    return "\n".join(load().DESCR for load in loads).lower()


def characters() -> tuple[Tensor, int]:
    """The prose as character ids, and the size of the vocabulary."""
    prose = text()
    vocabulary = {character: i for i, character in enumerate(sorted(set(prose)))}
    return torch.tensor([vocabulary[character] for character in prose]), len(vocabulary)


@cache
def _pretrained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, y = digits(1797, image=True)
        known = y < 5
        net = cnn(classes=5)
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
        for _ in range(4):
            for i in torch.randperm(int(known.sum())).split(32):
                optimizer.zero_grad()
                F.cross_entropy(net(x[known][i]), y[known][i]).backward()
                optimizer.step()
    return net.eval()


def pretrained() -> nn.Sequential:
    """A fresh copy of the small CNN, trained on the digits 0 to 4; the last layer is its head."""
    return copy.deepcopy(_pretrained()).train().requires_grad_()


def new_digits(batch_size: int = 32) -> dict[str, DataLoader[Any]]:
    """Loaders of the digits 5 to 9, which the pretrained net has never seen, as classes 0 to 4."""
    x, y = digits(1797, image=True)
    return loaders(*split(x[y >= 5], y[y >= 5] - 5), batch_size=batch_size)
