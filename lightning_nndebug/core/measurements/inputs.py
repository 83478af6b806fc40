"""Which tensors of a batch go into the net, and which samples they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..findings import Misconfiguration
from . import Measurement, Moment
from .batches import NAMES, Place, asked, conventional, tensors
from .labels import Asked, asked_for
from .loss_calls import LossCalls

# What a batch has beside inputs and targets, by the last word of its name.
_BESIDES = (
    "id", "ids", "idx", "index", "indices", "mask", "masks", "length", "lengths", "len",
    "weight", "weights", "size", "sizes", "shape",
)  # fmt: skip
_TOKENS = ("input_ids", "token_ids", "tokens", "decoder_input_ids")
_END_TO_END = ("edge_index", "batch_sizes")  # in graphs, and in packed sequences
_VALUES = 4096  # of a sample go into its fingerprint, evenly spaced


@dataclass(frozen=True)
class Inputs(Measurement):
    """Where the inputs are in a batch, and along which dimension its samples are.

    Found when the first step has shown what its loss takes for targets. Not known of graphs, whose
    first dimension is no sample, of samples that are laid end to end, of single ones that come
    without a batch, and of batches of one value that nothing is compared with.

    Attributes:
        places: The tensors that go in, in the order of the batch.
        axes: For each of them, the dimension along which the samples are.
        main: The one that says most about a sample.
        target: What the loss compares the outputs with, if it is in the batch.
        tokens: Whether the main one is looked up in an embedding.
        identity: What tells samples apart, if the user says so.
        selects: Whether a mask says which of the samples count.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_train_epoch_end",
        "on_validation_batch_start",
        "on_validation_epoch_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls,)
    options: ClassVar[tuple[str, ...]] = ("input_key", "target_key", "target_fn", "sample_id_key")

    places: tuple[Place, ...]
    axes: tuple[int, ...]
    main: Place
    target: Asked = None
    tokens: bool = False
    identity: Place | None = None
    selects: bool = False

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Inputs | None:
        """Returns what the first step has shown."""
        if moment.trainer.overfit_batches > 0:  # the same few batches for ever, on purpose
            return None
        if moment.hook == "on_train_batch_end" and not hasattr(memory, "found"):
            memory.found = _described(cls, moment.batch, moment.take(LossCalls), memory)
        return vars(memory).get("found")

    def read(self, batch: Any) -> list[Tensor]:
        """Returns the inputs with the samples first; nothing if this batch is made otherwise."""
        found = [place.read(batch) for place in self.places]
        if any(
            one is None or one.dim() <= axis for one, axis in zip(found, self.axes, strict=True)
        ):
            return []
        rows = [
            one.detach().transpose(0, axis)
            for one, axis in zip(found, self.axes, strict=True)
            if one is not None
        ]
        return rows if len({len(one) for one in rows}) == 1 and len(rows[0]) else []

    def read_main(self, batch: Any) -> Tensor | None:
        """Returns the main input with the samples first."""
        rows = self.read(batch)
        return rows[self.places.index(self.main)] if rows else None

    def values(self, batch: Any) -> list[Tensor]:
        """Returns what tells samples apart: of all that is read, some values of each."""
        one = None if self.identity is None else self.identity.read(batch)
        rows = self.read(batch) if one is None else [one]
        if not rows or not rows[0].dim():
            return []
        return [sampled(one.as_subclass(Tensor)) for one in rows]

    def fingerprints(self, batch: Any, weights: Tensor) -> Tensor | None:
        """Returns the ``fingerprints`` of a batch; None if it is made otherwise."""
        values = self.values(batch)
        return fingerprints(values, weights) if values else None


def fingerprints(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Returns a number for each sample that no other sample has; -1 for one without content.

    Bits are added up as integers, so that equal samples have equal numbers whatever their batch,
    and nothing is drawn or rounded.

    Args:
        values: Some values of each sample, for all that is read: see ``Inputs.values``.
        weights: From ``new_weights``.
    """
    total = torch.zeros(len(values[0]), dtype=torch.int64, device=values[0].device)
    varied = torch.zeros_like(total, dtype=torch.bool)
    for number, one in enumerate(values):
        bits = _bits(one)
        mixed = (bits * weights.to(bits.device)[: bits.shape[1]]).sum(1)
        total = total + (mixed ^ (mixed >> 31)) * (2 * number + 0x5851F42D4C957F2D)
        single = bits.shape[1] == 1
        varied |= (bits != bits[:, :1]).any(1) | single
    total = (total ^ (total >> 32)) * 0x2545F4914F6CDD1D
    total = (total ^ (total >> 29)) & 0x7FFFFFFFFFFFFFFF
    return torch.where(varied, total, -1)


def new_weights() -> Tensor:
    """Returns the weights of the values in a fingerprint: always the same, whatever the seed."""
    own = torch.Generator().manual_seed(0)
    return torch.randint(-(2**62), 2**62, (_VALUES,), generator=own) * 2 + 1


def sampled(rows: Tensor, count: int = _VALUES) -> Tensor:
    """Returns about so many values of each row at most, evenly spaced."""
    # In the order of the memory: to flatten channels-last images otherwise would copy them.
    order = sorted(range(1, rows.dim()), key=rows.stride, reverse=True)
    flat = rows.permute(0, *order).flatten(1) if rows.dim() > 1 else rows.unsqueeze(1)
    return flat[:, :: stride(flat.shape[1], count)]


def stride(size: int, count: int) -> int:
    """Returns the distance of so many values; an odd one meets all columns of an image."""
    step = -(-size // count)
    return step + (step > 1 and step % 2 == 0)


def _described(
    cls: type[Inputs], batch: Any, calls: LossCalls | None, memory: SimpleNamespace
) -> Inputs | None:
    """Tells inputs from targets, masks, lengths and numbers of samples."""
    identity = asked(batch, "sample_id_key", memory.sample_id_key)
    numbers = None if identity is None else identity.read(batch)
    if numbers is not None and not numbers.dim():
        raise Misconfiguration(
            f"sample_id_key={memory.sample_id_key!r} is a single number, allowed is a tensor with "
            f"a number for each sample."
        )
    chosen = asked(batch, "input_key", memory.input_key)
    target = asked_for(batch, memory.target_key, memory.target_fn)
    leaves = [(place, one) for place, one in tensors(batch) if _counts(one)]
    if not leaves or any(_word(place) in _END_TO_END for place, _ in leaves):
        return None
    if [place for place, _ in leaves] == [conventional(batch)]:
        return None  # what goes in is text, sparse, or something else that is no plain tensor
    heard = calls.calls if calls is not None else ()
    embedded = calls.embedded if calls is not None else frozenset()
    aims = [one.place for one in heard if one.place is not None]
    usual = _usual(batch, leaves)
    # What only picks scores is an action or a position as well as a label.
    compared = [one.place for one in heard if one.function != "gather" or one.place == usual]
    target = target or next((one for one in compared if one and one not in embedded), None)
    if (target or usual) is None and all(
        bool((one == one.flatten()[0]).all()) for _, one in leaves
    ):
        return None  # it only counts the steps of a loop that makes its own data
    left_out = {*aims, usual, target, identity} - embedded
    inputs = [
        (place, one)
        for place, one in leaves
        if place not in left_out and not _is_beside(place, one) and _word(place) not in NAMES
    ]
    # What is to be restored is input and target in one.
    inputs = inputs or [one for one in leaves if one[0] not in (usual, identity)] or leaves
    if chosen is not None:
        inputs = [one for one in leaves if one[0] == chosen]
    aim = target or usual
    answers = None if aim is None else aim.read(batch)
    is_restored = answers is not None and [place for place, _ in inputs] == [aim]
    if answers is not None and answers.dim() <= is_restored:
        return None
    count = _samples(inputs, answers)
    found = [(place, one, axis) for place, one in inputs if (axis := _axis(one, count)) is not None]
    # A number for each sample may be anything, unless it is looked up.
    telling = [one for one in found if one[1].numel() > count or one[0] in embedded]
    if not telling and len(found) == len(inputs):
        telling = found  # else these say where the samples begin in what holds them end to end
    if not telling:
        return None
    main = max(telling, key=lambda one: (one[1].numel(), one[1].is_floating_point()))[0]
    return cls(
        places=tuple(place for place, _, _ in telling),
        axes=tuple(axis for _, _, axis in telling),
        main=main,
        target=aim,
        tokens=main in embedded,
        identity=identity,
        selects=any(one.dtype is torch.bool and one.shape == (count,) for _, one in leaves),
    )


def _usual(batch: Any, leaves: list[tuple[Place, Tensor]]) -> Place | None:
    """Returns the target by convention; of a pair of equally large things, there is none."""
    place = conventional(batch)
    own = place.read(batch) if place is not None else None
    others = [one.numel() for other, one in leaves if other != place]
    return place if own is not None and others and own.numel() < max(others) else None


def _is_beside(place: Place, one: Tensor) -> bool:
    word = _word(place)
    if one.dtype is torch.bool:
        return True
    return word not in _TOKENS and word.rpartition("_")[2] in _BESIDES


def _word(place: Place) -> str:
    """Returns the name of a tensor, if it has one."""
    key = place.keys[-1] if place.keys else None
    return key.lower() if isinstance(key, str) else ""


def _counts(one: Tensor) -> bool:
    return one.dim() > 0 and one.numel() > 0


def _samples(inputs: list[tuple[Place, Tensor]], target: Tensor | None) -> int:
    """Returns the size of the batch: as the targets have it, else as most inputs do."""
    if (
        target is not None
        and target.dim()
        and any(_axis(one, len(target)) is not None for _, one in inputs)
    ):
        return len(target)
    sizes = Counter(len(one) for _, one in inputs)
    return sizes.most_common(1)[0][0] if sizes else 0


def _axis(one: Tensor, samples: int) -> int | None:
    """Returns where the samples are: first, or second where the time comes first."""
    return next((axis for axis in (0, 1) if axis < one.dim() and one.shape[axis] == samples), None)


def _bits(values: Tensor) -> Tensor:
    """Returns values as integers that differ if the values do."""
    if values.is_complex():
        values = torch.view_as_real(values).flatten(1)[:, :_VALUES]
    if values.dtype is torch.bool:
        values = values.to(torch.uint8)
    if values.is_floating_point():
        size = values.element_size()
        values = values + 0.0 if size > 1 else values  # -0 is 0: what a mask leaves of a number
        values = values.view(
            {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(size, torch.uint8)
        )
    if values.element_size() < 8:  # noqa: PLR2004 -- bytes
        return values.to(torch.int64)
    return values ^ (values >> 32)  # of small numbers in float64, the low bits are all zero
