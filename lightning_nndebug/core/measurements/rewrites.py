"""Whether somebody writes the weights anew from epoch to epoch, so that each begins untrained."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from . import Measurement, Moment
from .gradients import held_parameters, is_sharded
from .weights import entries, is_dense

_MOST = 16  # matrices are looked at
_MOVED = 0.999  # a cosine below it: an epoch has left its mark
_UNLIKE = 0.3  # a cosine below it: weights that have nothing to do with those before


@dataclass(frozen=True)
class Rewrites(Measurement):
    """How many epochs in a row have begun with weights that know nothing of the epoch before.

    Only matrices that an optimizer holds are counted, and only if that goes for most of them.

    Attributes:
        epochs: How many.
        is_start: Whether the last one began, to the last bit, as the first one did.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step", "on_train_epoch_end")
    lasting: ClassVar[bool] = True
    restless: ClassVar[bool] = True  # the first step of an epoch is one of many

    epochs: int = 0
    is_start: bool = False

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Rewrites | None:
        """Compares a few entries of each when an epoch ends, and before the next one's first step.

        Whatever the module's own hooks write lies between the two.
        """
        if not hasattr(memory, "first"):
            memory.first, memory.end, memory.epochs, memory.waits = None, None, 0, True
        if moment.hook == "on_train_epoch_end":
            memory.end, memory.waits = _entries(moment), True
            return None
        if not memory.waits:
            return None
        memory.waits = False
        now, before = _entries(moment), memory.end
        if memory.first is None:
            memory.first = now
            return cls()
        found = _are_anew(memory.first, before, now) if before else (False, False)
        memory.epochs = memory.epochs + 1 if any(found) else 0
        return cls(memory.epochs, found[0])


def _entries(moment: Moment) -> dict[str, Tensor]:
    held = [
        pair for one in moment.trainer.optimizers for pair in held_parameters(moment.module, one)
    ]
    if is_sharded(moment.trainer, held):
        return {}
    chosen = [(name, p) for name, p in held if p.dim() > 1 and is_dense(p)]
    return {name: entries(p).clone() for name, p in chosen[:: -(-len(chosen) // _MOST) or 1]}


def _are_anew(
    first: dict[str, Tensor], before: dict[str, Tensor], now: dict[str, Tensor]
) -> tuple[bool, bool]:
    """Tells whether most matrices are what they were at first, or what they never were."""
    names = [name for name in now if name in before and name in first]
    left = [one for one in names if not torch.equal(first[one], before[one])]  # 0 has no direction
    moved = [one for one in left if _cosine(first[one], before[one]) < _MOVED]
    if len(moved) <= len(names) / 2:
        return False, False
    back = sum(torch.equal(first[one], now[one]) for one in moved)
    anew = sum(_cosine(before[one], now[one]) < _UNLIKE for one in moved)
    return back > len(names) / 2, anew > len(names) / 2


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=0))
