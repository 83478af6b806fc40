"""What a net may know of the answers before it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from . import Measurement, Moment
from .foresight import Foresight
from .rows import Rows
from .samples import Overlap, Samples


@dataclass(frozen=True)
class Leaks(Measurement):
    """All that tells whether answers leak into the inputs, as far as it has come to be known.

    Attributes:
        name: The input that tells most about the samples.
        overlap: Which samples of validation are in the training data.
        rows: Samples with their labels.
        foresight: Whether a language model sees the tokens that it is asked for.
    """

    hooks: ClassVar[tuple[str, ...]] = Samples.hooks
    needs: ClassVar[tuple[type[Measurement], ...]] = (Samples, Rows, Foresight)

    name: str
    overlap: Overlap | None = None
    rows: Rows | None = None
    foresight: Foresight | None = None

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Leaks | None:
        """Returns what is new at this moment."""
        samples, rows = moment.take(Samples), moment.take(Rows)
        foresight = moment.take(Foresight)
        overlap = None if samples is None else samples.overlap
        if samples is not None:
            memory.name = samples.name
        is_new = rows is not None and rows.look > vars(memory).get("look", 0)
        if rows is not None:
            memory.look = rows.look
        if not (overlap or is_new or foresight):
            return None
        return cls(
            name=vars(memory).get("name", ""),
            overlap=overlap,
            rows=rows if is_new else None,
            foresight=foresight,
        )
