"""The losses that led to the first one that is not finite."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from . import Measurement, Moment
from .losses import Loss

_MOST = 50  # losses that are kept


@dataclass(frozen=True)
class Divergence(Measurement):
    """How the loss went before it was not finite any more. Taken when that has come.

    Attributes:
        losses: The last losses that were finite, in order.
        loss: The one that is not.
        step: The optimizer steps before it.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step", "on_train_batch_end")
    needs: ClassVar[tuple[type[Measurement], ...]] = (Loss,)

    losses: tuple[float, ...]
    loss: float
    step: int

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Divergence | None:
        """Follows the losses; the first of several that are not finite is the one that counts."""
        if not hasattr(memory, "losses"):
            memory.losses, memory.last = deque(maxlen=_MOST), None
        last = moment.take(Loss)
        if last is None or last is memory.last:
            return None
        memory.last = last
        found = None
        for one in (*last.before, last):
            if math.isfinite(one.value):
                memory.losses.append(one.value)
            elif memory.losses:
                found = cls(tuple(memory.losses), one.value, one.step)
                memory.losses.clear()
        return found
