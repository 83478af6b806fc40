"""Whether samples that come again do so by nature, and whether other processes have them too."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from . import Measurement, Moment
from .inputs import Inputs
from .rows import Rows
from .samples import FIRST, Samples


@dataclass(frozen=True)
class Doubles(Measurement):
    """What one must know of copies beside their number.

    Attributes:
        rows: Samples of this process, once they are known.
        ranks: How many processes have gone through the very same samples: all of them, or 1.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_start", *Inputs.hooks)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Samples, Rows)
    lasting: ClassVar[bool] = True

    rows: Rows | None = None
    ranks: int = 1

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Doubles | None:
        """Compares the processes early in the first epoch and at its end: there they meet."""
        if moment.hook == "on_train_start":
            memory.known, memory.meetings = cls(), ["on_train_epoch_end"]
            planned = moment.trainer.num_training_batches
            if planned >= FIRST and not moment.trainer.fit_loop.restarting:
                memory.meetings.append("on_train_batch_start")
            return cls()
        rows, ranks = moment.take(Rows), memory.known.ranks
        is_early = moment.hook == "on_train_batch_start"
        if moment.hook in memory.meetings and (not is_early or moment.batch_idx == FIRST - 1):
            memory.meetings.remove(moment.hook)
            if _shares_out(moment.trainer):
                ranks = _equal(moment.trainer, moment.take(Samples))
        if rows is memory.known.rows and ranks == memory.known.ranks:
            return None
        memory.known = cls(rows, ranks)
        return cls(rows, ranks)


def _shares_out(trainer: Any) -> bool:
    """Tells whether each process is to have samples of its own."""
    wanted = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}
    return bool(trainer.world_size > 1 and wanted.get("num_replicas") == trainer.world_size)


def _equal(trainer: Any, samples: Samples | None) -> int:
    """Returns the number of processes if all have the same samples, else 1; all must come here."""
    known = samples is not None and bool(samples.least)
    least = samples.least if samples is not None and known else (0,)
    width = Samples.BUCKETS + 1
    mine = torch.zeros(width, dtype=torch.int64)
    mine[: len(least)] = torch.tensor(least)
    mine[-1] = known
    both = torch.cat([mine, -mine]).to(trainer.strategy.root_device)
    most, less = trainer.strategy.reduce(both, reduce_op="max").cpu().split(width)
    return int(trainer.world_size) if bool((most == -less).all()) and bool(most[-1]) else 1
