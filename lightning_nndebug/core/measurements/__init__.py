"""Measurements: what can be known at one moment, taken once however many ask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from typing_extensions import Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

M = TypeVar("M", bound="Measurement")

_YOUNG, _YOUNG_BUDGET = 200, 0.1  # occasions, and the share of their time that looks may cost
# Multiples of the golden ratio modulo 1 spread evenly and never fall into a period.
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(eq=False, slots=True)
class Moment:
    """The Lightning hook that is running, with what Lightning hands to it; one is made every time.

    Args:
        hook: Its name, such as ``on_before_optimizer_step``.
        trainer: The Trainer.
        module: The user's LightningModule, never a wrapper of it.
        step: Where we are on the x-axis of the loggers.
        take: Takes another measurement at this moment, or returns the one of this step.
        request: Asks for a measurement at the next occasion, whatever its cadence says.
        directory: Where files of the run go; None if it leaves none.
        batch, batch_idx, outputs, loss, optimizer, dataloader_idx: As the hook was called.
    """

    hook: str
    trainer: Any
    module: Any
    step: int
    take: Callable[[type[M]], M | None]
    request: Callable[[type[Measurement]], None]
    directory: Path | None = None
    batch: Any = None
    batch_idx: int = 0
    outputs: Any = None
    loss: Any = None
    optimizer: Any = None
    dataloader_idx: int = 0

    def __deepcopy__(self, _: dict[int, Any]) -> Moment:
        """Returns itself: who copies a module with our hooks does not mean the run."""
        return self


@dataclass(frozen=True)
class Cadence:
    """When a measurement is worth its price.

    Args:
        first: It is taken at each of this many first occasions,
        every: and then at one of so many on average, in step with nothing: two optimizers that
            take turns are both seen,
        budget: or more rarely, so that it costs at most this share of the run's time; of the first
            200 occasions, a tenth.
        since: Where the spread begins, by default after the first ones. Of two kinds that agree on
            this, the rarer is looked at when the other is, which leaves more steps without a look.
    """

    first: int = 0
    every: float = 1.0
    budget: float = 0.01
    since: int | None = None

    def due(self, occasion: int, price: float, step_time: float) -> bool:
        """Returns whether to look at this occasion (counted from 0); times are in seconds."""
        if occasion < self.first:
            return True
        # Short runs are to be seen as well: a bit more may be spent on the beginning.
        budget = max(self.budget, _YOUNG_BUDGET) if occasion < _YOUNG else self.budget
        interval = max(self.every, price / (budget * step_time) if step_time else 1.0)
        since = self.first if self.since is None else self.since
        return (occasion - since) * _GOLDEN % 1.0 < 1.0 / interval


EVERY_TIME = Cadence()
ON_REQUEST = Cadence(every=math.inf)


class Measurement:
    """Base of all measurements: frozen dataclasses of plain numbers and, for a step, tensors.

    Subclasses say where they are taken and how. ``memory`` is theirs for one run: a place for what
    the next look needs (lists of modules, handles, counters). It also carries the ``options``.

    Attributes:
        hooks: The hooks at which it is taken.
        prepares: The hook at which ``prepare`` runs, for those who must watch before they know.
        cadence: When.
        lasting: Whether it stays known after its step, until the run ends.
        options: Options of the asking detector that change what is measured, by name.
        needs: Other kinds that it takes by ``moment.take``.
        restless: Whether it must see every batch of training. The others rest for a while where the
            whole of them is dear beside a step.
        noted: The hooks at which ``note`` runs while it rests.
        before: Those of the steps that were only noted, in order; each has its ``step``.
    """

    hooks: ClassVar[tuple[str, ...]]
    prepares: ClassVar[str | None] = None
    cadence: ClassVar[Cadence] = EVERY_TIME
    lasting: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[type[Measurement], ...]] = ()
    restless: ClassVar[bool] = False
    noted: ClassVar[tuple[str, ...]] = ()
    before: Sequence[Any] = ()

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Self | None:
        """Returns what is known at this moment, or None if the question does not apply."""
        raise NotImplementedError

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Begins to watch the step."""

    @classmethod
    def note(cls, moment: Moment, memory: SimpleNamespace) -> int:
        """Keeps the least that will be needed of a batch in which it rests.

        Returns for how many batches from the next one on all must be awake.
        """
        return 0

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Leaves nothing behind: after every look, and when the run ends, however it ends."""

    def curves(self) -> dict[str, float]:
        """Returns numbers by name, which the record keeps of every step, as means once it is long.

        Not of a measurement that is taken several times a step.
        """
        return {}

    def snapshot(self) -> dict[str, Any]:
        """Returns what the record keeps of some looks, ever more rarely, in plain builtins.

        Under ``layers``, a quantity's name leads to numbers by layer: the report draws them over
        time, whoever has measured them.
        """
        return {}
