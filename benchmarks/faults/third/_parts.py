"""What several of these programs share: learners that say how well they do, and a few kinds of data."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .._parts import Supervised
from ..first._parts import explained


class Value(Supervised):
    """A regression that says how much of the variance it explains."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


def small_cnn(channels: int, classes: int, width: int = 16) -> nn.Sequential:
    """Two convolutions and a linear layer, for images of any size."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


def cut(*tensors: Tensor, held_out: float = 0.2) -> tuple[list[Any], list[Any]]:
    """The samples, one by one, and in their order: those to train on, and those to validate."""
    samples = list(zip(*tensors, strict=True))
    n = int(len(samples) * (1 - held_out))
    return samples[:n], samples[n:]
