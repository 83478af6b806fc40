"""In which order the dimensions of the inputs are, at the first layers and in validation."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor

from . import Measurement, Moment
from .first_layers import FirstLayers
from .inputs import Inputs
from .rows import Rows

_IMAGES = 4  # dimensions of a batch of them
_COLOURS = (1, 3, 4)

Sizes = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Axes(Measurement):
    """What tells in which order dimensions are, as far as it has come to be known.

    Attributes:
        name: Where the input is.
        first: What the first layers were given, if this is a look at them.
        sizes: Height and width of the images of training and of validation, where all images of a
            set have one size.
        rows: Samples with their masks, if they have some.
    """

    hooks: ClassVar[tuple[str, ...]] = Inputs.hooks
    needs: ClassVar[tuple[type[Measurement], ...]] = (FirstLayers, Inputs, Rows)

    name: str
    first: FirstLayers | None
    sizes: Sizes | None
    rows: Rows | None = None

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Axes | None:
        """Returns what is new at this moment, with what was known before of the images."""
        if not hasattr(memory, "looks"):
            memory.looks, memory.sizes = 0, {"train": set(), "validation": set()}
        inputs, is_validation = moment.take(Inputs), "validation" in moment.hook
        if inputs is not None and moment.hook.endswith("batch_start"):
            known = memory.sizes["validation" if is_validation else "train"]
            if len(known) <= 1:
                known.add(_size(inputs.read_main(moment.batch)))
        first = moment.take(FirstLayers) if moment.hook == "on_train_batch_end" else None
        if first is not None and first.looks == memory.looks:
            first = None
        memory.looks = memory.looks if first is None else first.looks
        sizes, rows = _single(memory.sizes), moment.take(Rows)
        if rows is not None and rows.is_mask:
            memory.rows = rows
        rows = vars(memory).get("rows")
        is_known = sizes is not None or rows is not None
        if first is None and not (is_known and moment.hook.endswith("epoch_end")):
            return None
        return cls("batch" if inputs is None else str(inputs.main), first, sizes, rows)


def _size(images: Tensor | None) -> tuple[int, int] | None:
    """Returns height and width, whether the channels are first or last; None if it is no image."""
    if images is None or images.dim() != _IMAGES:
        return None
    _, first, middle, last = images.shape
    return (first, middle) if last in _COLOURS and first not in _COLOURS else (middle, last)


def _single(sizes: dict[str, set[Any]]) -> Sizes | None:
    """Returns the one size of each set, if each has but one."""
    train, validation = sizes.values()
    if len(train) != 1 or len(validation) != 1 or None in train | validation:
        return None
    return (*train, *validation)
