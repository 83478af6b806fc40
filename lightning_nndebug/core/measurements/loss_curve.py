"""The training loss from the beginning of the run to now, in a few numbers."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from . import Measurement, Moment
from .losses import Loss

_BINS = 256
_FIRST_LOOK = 64  # steps; then 128, 256, ...
_LEAST = 20  # bins; fewer have no slope to speak of
_ROUNDING = 1e-9
_SLOW = 0.1  # of its peak: a learning rate below that has been lowered to end there


@dataclass(frozen=True)
class LossCurve(Measurement):
    """The mean loss of equal stretches of the run. Not taken where several optimizers take turns.

    Attributes:
        means: The mean loss of each stretch, 20 to 256 of them,
        rates: and its mean learning rate.
        length: How many optimizer steps there are in a stretch.
        step: The step it reaches to.
        over: Whether training has ended.
        on_purpose: Whether the end was called for by a callback or the user, or is that of a trial.
        annealed: Whether the learning rate has come down to less than a tenth of its peak.
        unseen: The least share of the training data that ``limit_train_batches`` has kept from it.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_train_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (Loss,)

    means: tuple[float, ...]
    length: int
    step: int
    over: bool = False
    on_purpose: bool = False
    annealed: bool = False
    unseen: float = 0.0
    rates: tuple[float, ...] = ()

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> LossCurve | None:
        """Adds the loss of each step; looks at steps 64, 128, 256, ... and at the end."""
        if not hasattr(memory, "means"):
            memory.means, memory.rates, memory.length = [], [], 1
            memory.part, memory.last = [], None
            memory.is_one, memory.peak, memory.next = True, 0.0, _FIRST_LOOK
        over = moment.hook == "on_train_end"
        _add(moment, memory)
        due = moment.hook == "on_train_batch_end" and moment.step >= memory.next
        if not memory.is_one or len(memory.means) < _LEAST or not (over or due):
            return None
        memory.next = max(memory.next, 2 ** math.floor(math.log2(moment.step)) * 2)
        trainer, rate = moment.trainer, _rate(moment)
        return cls(
            means=tuple(memory.means),
            length=memory.length,
            step=moment.step,
            over=over,
            on_purpose=bool(trainer.should_stop or trainer.fast_dev_run or trainer.overfit_batches),
            annealed=rate < _SLOW * memory.peak,
            unseen=_unseen(trainer) if over else 0.0,
            rates=tuple(memory.rates),
        )

    def by_rate(self) -> LossCurve:
        """Returns it in stretches of equal sums of learning rates, which are never shorter.

        Where the learning rate comes down, a loss stands still that would go on falling.
        """
        whole, most = sum(self.rates), max(self.rates, default=0.0)
        if not 0 < whole < math.inf:
            return self
        count = int(whole / most + _ROUNDING)
        stretches: list[list[float]] = [[] for _ in range(count)]
        for mean, rate, end in zip(self.means, self.rates, accumulate(self.rates), strict=True):
            middle = (end - rate / 2) / whole
            stretches[min(int(count * middle), count - 1)].append(mean)
        return replace(self, means=tuple(map(statistics.fmean, stretches)), rates=())

    def part(self, first: float, last: float) -> list[float]:
        """Returns the stretches between two shares of the run."""
        return list(self.means[round(first * len(self.means)) : round(last * len(self.means))])

    def gain(self, share: float) -> tuple[float, float]:
        """Tells what the last part of the run has still gained.

        Args:
            share: How much of the run is held against as much of it before.

        Returns:
            What the loss has fallen from the one to the other, as a share of all that it has fallen
            since the beginning, and the standard error of that.
        """
        late, before = self.part(1 - share, 1), self.part(1 - 2 * share, 1 - share)
        fallen = statistics.fmean(self.part(0, 0.05)) - statistics.fmean(late)
        # From one stretch to the next, so that the slope itself is no noise.
        steps = [b - a for part in (before, late) for a, b in pairwise(part)]
        error = math.sqrt(statistics.fmean(one * one for one in steps) / len(late))
        if not (math.isfinite(fallen) and fallen > 3 * error):  # or something is NaN
            return 0.0, math.inf
        return (statistics.fmean(before) - statistics.fmean(late)) / fallen, error / fallen


def _add(moment: Moment, memory: SimpleNamespace) -> None:
    loss = moment.take(Loss)
    if loss is None or loss is memory.last:
        return
    rate = _rate(moment)
    memory.last, memory.peak = loss, max(memory.peak, rate)
    for one in (*loss.before, loss):
        memory.is_one &= one.optimizer == 0
        memory.part.append((one.value, rate))
        if len(memory.part) == memory.length:
            losses, rates = zip(*memory.part, strict=True)
            memory.means.append(statistics.fmean(losses))
            memory.rates.append(statistics.fmean(rates))
            memory.part = []
        if len(memory.means) == _BINS:
            memory.means, memory.rates = _halved(memory.means), _halved(memory.rates)
            memory.length *= 2


def _halved(series: list[float]) -> list[float]:
    return [(a + b) / 2 for a, b in zip(series[::2], series[1::2], strict=True)]


def _unseen(trainer: Any) -> float:
    loader = trainer.train_dataloader
    if trainer.limit_train_batches in (None, 1.0) or not isinstance(loader, DataLoader):
        return 0.0
    try:
        batches = len(loader)
    except TypeError:  # a stream
        return 0.0
    return max(0.0, 1 - (trainer.fit_loop.total_batch_idx + 1) / batches) if batches else 0.0


def _rate(moment: Moment) -> float:
    groups = (group for one in moment.trainer.optimizers for group in one.param_groups)
    return max((float(group.get("lr", 0.0)) for group in groups), default=0.0)
