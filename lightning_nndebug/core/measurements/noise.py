"""How much of a gradient is signal, and how much the chance of which samples are in a batch."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import ClassVar

from ..trainer import accumulation, gradient_scale, loss_scale
from . import Measurement, Moment
from .gradients import held_parameters, is_sharded, read_norms
from .schedules import optimizer_name

_EVERY = 2  # updates: one of so many is measured,
_WINDOW = 128  # and so many of those are looked at together
_FEWEST = 16


@dataclass(frozen=True)
class GradientNoise(Measurement):
    """The noise of the gradient, where an update accumulates batches: they show how they differ.

    With g the gradient of one of n batches and G the mean of all, (n |G|^2 - |g|^2) / (n - 1) is an
    unbiased estimate of the square of the true gradient, and (|g|^2 - |G|^2) / (n - 1) of the
    variance of G (McCandlish et al. 2018, appendix A.1). Both are averaged over the last updates.

    Attributes:
        optimizer: Whose gradient it is.
        signal: Squared norm of the true gradient; may be negative where it is lost in the noise,
        error: and the standard error of that.
        noise: Variance of the gradient of an update, summed over its entries,
        noise_error: and the standard error of that.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_before_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
    )

    optimizer: str
    signal: float
    error: float
    noise: float
    noise_error: float

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> GradientNoise | None:
        """Reads the norm after the first batch, and again before the update."""
        # Replicas hold the mean over all of them by the time of the update, unlike after a batch.
        if accumulation(moment.trainer) == 1 or moment.trainer.world_size > 1:
            return None
        seen: _Seen = vars(memory).setdefault("seen", _Seen())
        if moment.hook == "on_before_backward":
            seen.batches += 1
        elif moment.hook == "on_before_optimizer_step":
            return seen.update(moment)
        elif seen.batches == 1 and not seen.updates % _EVERY:
            optimizer, scale = moment.trainer.optimizers[0], loss_scale(moment.trainer)
            seen.first = _square(moment, optimizer) * (accumulation(moment.trainer) / scale) ** 2
        return None


class _Seen:
    """What the updates so far have shown."""

    def __init__(self) -> None:
        self.batches = self.updates = 0
        self.first: float | None = None
        self.signals: deque[float] = deque(maxlen=_WINDOW)
        self.noises: deque[float] = deque(maxlen=_WINDOW)

    def update(self, moment: Moment) -> GradientNoise | None:
        """Compares the gradient of the update with that of its first batch."""
        first, count = self.first, self.batches
        self.updates += 1
        self.batches, self.first = 0, None
        if first is None or count == 1:
            return None
        factor = accumulation(moment.trainer) / count
        scale = gradient_scale(moment.trainer, moment.optimizer)
        whole = _square(moment, moment.optimizer) * (factor / scale) ** 2
        if not math.isfinite(first + whole):
            return None
        self.signals.append((count * whole - first) / (count - 1))
        self.noises.append((first - whole) / (count - 1))
        if len(self.signals) < _FEWEST:
            return None
        root = math.sqrt(len(self.signals))
        return GradientNoise(
            optimizer_name(moment.trainer, moment.optimizer),
            signal=fmean(self.signals), error=stdev(self.signals) / root,
            noise=fmean(self.noises), noise_error=stdev(self.noises) / root,
        )  # fmt: skip


def _square(moment: Moment, optimizer: object) -> float:
    held = held_parameters(moment.module, optimizer)
    if is_sharded(moment.trainer, held):
        return math.nan
    norms = read_norms([one.grad for _, one in held if one.grad is not None])
    return math.fsum(one**2 for one in norms)
