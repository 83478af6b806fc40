"""Whether a step can be run again in a run that is well: it must not play outside of the module."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from ..foreign import changed, picture
from . import Measurement, Moment

_LOOKS = 3


@dataclass(frozen=True)
class Repeatable(Measurement):
    """What the first steps have changed that a sandbox could not put back.

    Attributes:
        foreign: The attribute that holds it, such as an environment; None if there is none.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_start", "on_train_batch_end")
    lasting: ClassVar[bool] = True

    foreign: str | None

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Repeatable | None:
        """Compares pictures from before and after the user's own steps."""
        looks = vars(memory).setdefault("looks", 0)
        if looks >= _LOOKS:
            return None
        if moment.hook == "on_train_batch_start":
            memory.before = picture(moment.module)
            return None
        memory.looks += 1
        found = changed(memory.before, picture(moment.module))
        if found and memory.looks == 1:  # a first step sets up what the next ones only use
            return None
        memory.foreign = vars(memory).get("foreign") or found
        return cls(memory.foreign)


def is_repeatable(moment: Moment) -> bool:
    """Returns whether the first steps are known to have left nothing behind."""
    known = moment.take(Repeatable)
    return known is not None and known.foreign is None
