"""Which samples came when: fingerprints of the samples of training and validation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import Measurement, Moment
from .inputs import Inputs, fingerprints, new_weights
from .loaders import TrainLoader

_EPOCHS = 3  # whose samples are looked at; in the first, all is new
_BATCHES = 2**14  # at most
FIRST = 8  # the fingerprints of so many batches are read at once,
_EVERY = 16  # and then those of so many together: to read makes the host wait for the device
_LARGE = 2**15  # values of a batch, whose fingerprints are made at once; of others, together
_KEPT = 2**16  # fingerprints that are remembered: of more samples, a random half, quarter, ...
_PREFIX = 2048  # samples of which the order is remembered
_VALIDATIONS = 3  # that are looked at
_ALIKE = 4  # samples of a batch, for them to be all alike


@dataclass(frozen=True)
class Overlap:
    """Which samples of a validation training has seen by then.

    Attributes:
        seen: How many samples of validation are remembered,
        distinct: how many of them differ,
        known: and how many are equal to one of training.
        trained: How many samples of training are remembered, at the same rate.
        repeats: How many pairs of samples of one set are equal, in an epoch and this validation.
        look: Which validation it is, counted from 1.
        copies: Which share of the samples of an epoch of training are copies of others, in the
            data themselves: 0 if samples are drawn with replacement.
    """

    seen: int
    distinct: int
    known: int
    trained: int
    repeats: int
    look: int
    copies: float = 0.0


@dataclass(frozen=True)
class Samples(Measurement):
    """Which samples of training came again so far, on this rank.

    Attributes:
        name: The input that tells most about them.
        size: How many samples a batch has.
        batches: How many batches were looked at in all,
        epoch: in so many epochs before this one.
        is_whole: Whether the epoch is over.
        alike: For how many batches in a row all samples of a batch have been the same,
        blank: and for how many, each was a single value throughout;
        value: which one; NaN if they differ.
        pairs: How many batches followed another one in the same epoch,
        same: and how many of them were equal to it, and not blank.
        seen: How many samples of this epoch are remembered, and how many of them for the first
            time in it: ``seen - distinct`` are copies.
        distinct: See there.
        often: How many of the distinct samples came how often in this epoch.
        steady: Which share of the samples came as often as in the first epoch; None during it.
        by_class: For each class, how often its distinct samples came on average.
        class_sizes: How many different samples each class has; empty if there are too many.
        ordered: Which share of the first samples of this epoch came in the order of the first
            epoch; None before the second one.
        overlap: What of it validation has; when one is over.
        least: The least fingerprint of the first epoch so far in each of equal ranges: two
            processes that have the same ones have the same samples. Told after the first batches
            and at the end.
    """

    hooks: ClassVar[tuple[str, ...]] = Inputs.hooks
    needs: ClassVar[tuple[type[Measurement], ...]] = (Inputs, TrainLoader)
    BUCKETS: ClassVar[int] = 64

    name: str
    size: int
    batches: int
    epoch: int = 0
    is_whole: bool = False
    alike: int = 0
    blank: int = 0
    value: float = 0.0
    pairs: int = 0
    same: int = 0
    seen: int = 0
    distinct: int = 0
    often: dict[int, int] = field(default_factory=dict)
    steady: float | None = None
    by_class: dict[int, float] = field(default_factory=dict)
    class_sizes: dict[int, int] = field(default_factory=dict)
    ordered: float | None = None
    overlap: Overlap | None = None
    least: tuple[int, ...] = ()

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Samples | None:
        """Gathers fingerprints on their device, and reads those of several batches together."""
        inputs = moment.take(Inputs)
        if inputs is None:
            return None
        if not hasattr(memory, "roll"):
            memory.roll = _Roll(inputs)
        roll: _Roll = memory.roll
        if moment.hook.startswith("on_validation"):
            is_read = roll.hear_validation(moment)
        else:
            is_read = roll.hear(moment)
        return roll.told(moment) if is_read else None


# Fingerprints of a batch, or the values to make them of; its labels; the first value of all.
_Heard = tuple[Tensor | list[Tensor], Tensor | None, Tensor]


class _Roll:
    """All that is remembered: 25 MB at most, whatever the data."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.weights = inputs, new_weights()
        self.pending: list[_Heard] = []
        self.pending_validation: list[Tensor] = []
        self.train, self.validations = _Sketch(), 0
        self.overlap: Overlap | None = None
        self.batches = self.size = self.alike = self.blank = self.pairs = self.same = 0
        self.value, self.epoch = math.nan, 0
        self.number, self.is_over = -1, False
        self.first: list[int] = []
        self.first_counts: Counter[int] = Counter()
        self.begin()

    def begin(self) -> None:
        """Begins an epoch."""
        self.last: tuple[int, ...] = ()
        self.order: list[int] = []
        self.counts: Counter[int] = Counter()
        self.labels: dict[int, int] = {}

    def hear(self, moment: Moment) -> bool:
        """Notes a batch of training; returns whether what is pending was read."""
        number = moment.trainer.fit_loop.total_batch_idx
        self.is_over |= number > self.number + 1  # some were left out: the counts would not hold
        self.number = number
        if self.is_over or self.epoch >= _EPOCHS or self.batches >= _BATCHES:
            self.pending.clear()
            return False
        if moment.hook == "on_train_epoch_end":
            self.read()
            return self.batches > 0
        if moment.hook == "on_train_batch_end" and self.batches + len(self.pending):
            return False  # only of the first batch did the step have to show what is what
        values, main = self.inputs.values(moment.batch), self.inputs.read_main(moment.batch)
        if not values or main is None:
            return False
        if self.weights.device != values[0].device:
            self.weights = self.weights.to(values[0].device)
        if sum(one.numel() for one in values) > _LARGE:
            known: Tensor | list[Tensor] = fingerprints(values, self.weights)
        else:
            known = [one.detach().clone() for one in values]
        labels = self._labels(moment, len(main))
        self.pending.append((known, labels, main.flatten()[0].detach().clone()))
        if self.batches >= FIRST and len(self.pending) < _EVERY:
            return False
        self.read()
        return True

    def read(self) -> None:
        """Copies the fingerprints to the host, and takes them up batch by batch."""
        if not self.pending:
            return
        marks = self._marks()
        given = [one for _, one, _ in self.pending if one is not None]
        labels = torch.cat(given).tolist() if len(given) == len(self.pending) else None
        values = torch.stack([one.double().real for _, _, one in self.pending]).tolist()
        start = 0
        for (one, _, _), value in zip(self.pending, values, strict=True):
            part = slice(start, start + len(one if isinstance(one, Tensor) else one[0]))
            self.add(marks[part], labels[part] if labels else None, value)
            start = part.stop
        self.pending.clear()

    def _marks(self) -> list[int]:
        """Returns the fingerprints of all samples that are pending, those of one form at once."""
        found: list[Tensor] = []
        for _, some in groupby((one for one, _, _ in self.pending), _form):
            batches = list(some)
            known = [one for one in batches if isinstance(one, Tensor)]
            columns = zip(*(one for one in batches if not isinstance(one, Tensor)), strict=True)
            values = [torch.cat(same) for same in columns]
            found += known or [fingerprints(values, self.weights)]
        return torch.cat(found).tolist()

    def add(self, marks: list[int], labels: list[int] | None, value: float) -> None:
        """Takes up one batch."""
        self.batches += 1
        self.size = len(marks)
        distinct = set(marks)
        one, few = len(distinct) == 1, len(marks) < _ALIKE
        self.alike = self.alike + 1 if one and not few else self.alike if few else 0
        blank = distinct == {-1}
        same_value = value == self.value or not self.blank
        self.value = value if blank and same_value else math.nan
        self.blank = self.blank + 1 if blank else 0
        batch = tuple(sorted(marks))
        if self.last:
            self.pairs += 1
            self.same += batch == self.last and not blank
        self.last = batch
        if len(self.order) < _PREFIX:
            self.order += marks
        real = [mark for mark in marks if mark >= 0] if -1 in distinct else marks
        self.train.add(real)
        self.counts.update(self.train.kept(real))
        if labels is not None:
            self.labels.update(zip(marks, labels, strict=True))
        if len(self.counts) > len(self.train.marks):
            for known in (self.counts, self.labels):
                for mark in [mark for mark in known if not self.train.keeps(mark)]:
                    del known[mark]

    def hear_validation(self, moment: Moment) -> bool:
        """Notes a batch of validation; returns whether this one is over."""
        # A mask may choose other samples of the same batch for validation.
        if self.validations >= _VALIDATIONS or self.inputs.selects or not _validates_once(moment):
            return False
        if moment.hook == "on_validation_batch_start":
            marks = self.inputs.fingerprints(moment.batch, self.weights)
            if marks is not None and len(self.pending_validation) < _BATCHES:
                self.pending_validation.append(marks)
            return False
        if not self.pending_validation:
            return False
        self.read()
        self.validations += 1
        heard = torch.cat(self.pending_validation).tolist()
        self.pending_validation.clear()
        kept = self.train.kept(mark for mark in heard if mark >= 0)
        counts, loader = self.first_counts or self.counts, moment.take(TrainLoader)
        replaces = loader is not None and loader.replaces is True
        self.overlap = Overlap(
            seen=len(kept),
            distinct=len(set(kept)),
            known=sum(mark in self.train.marks for mark in kept),
            trained=len(self.train.marks),
            repeats=_pairs(counts) + _pairs(Counter(kept)),
            look=self.validations,
            copies=0.0 if replaces else 1 - len(counts) / max(1, counts.total()),
        )
        return self.batches > 0

    def told(self, moment: Moment) -> Samples:
        """Returns what is known; at the end of an epoch, turns the page."""
        is_whole = moment.hook == "on_train_epoch_end"
        ordered = None
        if self.epoch and self.first and (is_whole or len(self.order) >= len(self.first)):
            pairs = list(zip(self.first, self.order, strict=False))
            ordered = sum(a == b for a, b in pairs) / max(1, len(pairs))
        times: dict[int, list[int]] = {}
        for mark, count in self.counts.items():
            if mark in self.labels:
                times.setdefault(self.labels[mark], []).append(count)
        told = Samples(
            name=str(self.inputs.main),
            size=self.size,
            batches=self.batches,
            epoch=self.epoch,
            is_whole=is_whole,
            alike=self.alike,
            blank=self.blank,
            value=self.value,
            pairs=self.pairs,
            same=self.same,
            seen=self.counts.total(),
            distinct=len(self.counts),
            often=dict(Counter(self.counts.values())),
            steady=self._steadiness(),
            by_class={label: sum(all_) / len(all_) for label, all_ in times.items()},
            class_sizes={} if self.train.mask else dict(Counter(self.labels.values())),
            ordered=ordered,
            overlap=self.overlap if moment.hook.startswith("on_validation") else None,
            least=self._least() if not self.epoch and (is_whole or self.batches == FIRST) else (),
        )
        if is_whole:
            self.first = self.first or self.order
            self.first_counts = self.first_counts or self.counts
            self.epoch += 1
            self.begin()
        return told

    def _steadiness(self) -> float | None:
        both = [mark for mark in self.counts if mark in self.first_counts]
        if not both:
            return None
        return sum(self.counts[mark] == self.first_counts[mark] for mark in both) / len(both)

    def _least(self) -> tuple[int, ...]:
        least = [2**63 - 1] * Samples.BUCKETS
        for mark in self.counts:
            bucket = mark >> 57
            least[bucket] = min(least[bucket], mark)
        return tuple(least)

    def _labels(self, moment: Moment, samples: int) -> Tensor | None:
        place = self.inputs.target
        labels = None if place is None else place.read(moment.batch)
        if labels is None or labels.is_floating_point() or not labels.dim():
            return None
        if not labels.numel() == len(labels) == samples:
            return None
        return labels.detach().flatten()


def _form(heard: Tensor | list[Tensor]) -> tuple[Any, ...]:
    return () if isinstance(heard, Tensor) else tuple((x.shape[1:], x.dtype) for x in heard)


class _Sketch:
    """A random sample of fingerprints; which ones, depends on nothing but themselves."""

    def __init__(self) -> None:
        self.marks: set[int] = set()
        self.mask = 0

    def keeps(self, mark: int) -> bool:
        return not mark & self.mask

    def kept(self, marks: Iterable[int]) -> list[int]:
        return [mark for mark in marks if not mark & self.mask] if self.mask else list(marks)

    def add(self, marks: Iterable[int]) -> None:
        self.marks.update(self.kept(marks))
        while len(self.marks) > _KEPT:
            self.mask = 2 * self.mask + 1
            self.marks = set(self.kept(self.marks))


def _pairs(counts: Counter[int]) -> int:
    return sum(count * (count - 1) for count in counts.values()) // 2


def _validates_once(moment: Moment) -> bool:
    """Tells whether there is one set to validate on. Of several, one may be that of training."""
    batches = getattr(moment.trainer, "num_val_batches", [])
    return not moment.dataloader_idx and (not isinstance(batches, list) or len(batches) == 1)
