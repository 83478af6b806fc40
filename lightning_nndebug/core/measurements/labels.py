"""The labels of the batches, as class counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..findings import Misconfiguration
from . import Measurement, Moment
from .batches import Place, asked, conventional, tensors
from .loss_calls import LossCall, LossCalls

# More classes than that are a vocabulary: it has no balance that could be expected of it.
MOST_CLASSES = 1000
_DRAWN = 100  # classes that the report can tell apart
_VOCABULARY = 20  # from so many classes on, an embedding of just that size is one


Form = Literal["index", "one_hot", "binary", "multilabel", "soft"]


@dataclass(frozen=True)
class Computed:
    """Targets that a function of the user's makes of a batch."""

    function: Callable[[Any], Any]

    def read(self, batch: Any) -> Tensor | None:
        """Returns the targets of this batch; None if the function fails on it."""
        try:
            targets = self.function(batch)
        except Exception:  # batches of validation may be made otherwise
            return None
        return targets if isinstance(targets, Tensor) else None

    def __str__(self) -> str:
        return "target_fn(batch)"


Asked = Place | Computed | None


@dataclass(frozen=True)
class Target(Measurement):
    """Where the labels of a batch are, and how they tell classes apart.

    Found by what a loss function was given, and read at the same place of every batch from then on.
    A target that is also an input (a language model's), a regression's, and one that was made in
    the step are none.

    Attributes:
        name: How the user writes it, such as ``batch[1]``.
        place: Where it is; None if ``target_fn`` computes it.
        read: Returns it from a batch.
        classes: How many classes the loss tells apart; 0 if that is not known.
        ignored: The class number that does not count.
        form: A class number, a row with a single 1, yes or no, several of them, or probabilities.
        dense: Whether each sample has many labels: a mask, or one for every token.
        weight: The weights that the loss gives to the classes.
        reweighted: Whether samples may be weighted in a way that we do not see, as in a focal loss.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_validation_batch_start",
        "on_validation_batch_end",
        "on_validation_epoch_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls,)
    options: ClassVar[tuple[str, ...]] = ("target_key", "target_fn")

    name: str
    place: Place | None
    read: Callable[[Any], Tensor | None]
    classes: int
    ignored: int | None
    form: Form
    dense: bool
    weight: tuple[float, ...] | None
    reweighted: bool

    @property
    def is_single(self) -> bool:
        """Whether each sample belongs to exactly one class."""
        return self.form in ("index", "one_hot", "binary") and not self.dense

    def ignores(self, number: int) -> bool:
        """Returns whether the loss leaves a class out."""
        weight = self.weight if self.weight and len(self.weight) == self.classes else None
        return number == self.ignored or (weight is not None and weight[number] == 0)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Target | None:
        """Returns what was found; at the end of a step, looks at what the loss was given in it."""
        if moment.trainer.overfit_batches > 0:  # the same few batches for ever, on purpose
            return None
        if not hasattr(memory, "found"):
            memory.asked = asked_for(moment.batch, memory.target_key, memory.target_fn)
            memory.found, memory.ambiguous = None, False
        calls = moment.take(LossCalls) if moment.hook == "on_train_batch_end" else None
        if calls is not None and memory.found is None:
            memory.found = _search(moment.batch, memory.asked, calls)
        elif calls is not None and _contradicts(memory.found, calls.calls):
            memory.ambiguous = True
        return None if memory.ambiguous else memory.found

    def fits(self, labels: Tensor) -> bool:
        """Returns whether these labels can be counted: there are some, in a form that is known."""
        if not labels.dim() or not labels.numel():
            return False
        is_flat = labels.numel() == len(labels) and self.form != "soft"
        return (
            is_flat
            or self.form in ("index", "binary")
            or labels.numel() == len(labels) * self._bins
        )

    def tally(self, labels: Tensor) -> Tensor:
        """Returns how many samples show each class, on the device and without waiting for it."""
        bins = self._bins
        if labels.numel() == len(labels) and self.form != "soft":
            return _count(self._numbers(labels.reshape(-1)), bins + 2)[1:-1]
        rows = labels.reshape(len(labels), -1)
        if self.form == "index":
            shown = torch.zeros(len(rows), bins + 2, device=rows.device)
            return shown.scatter_(1, self._numbers(rows), 1.0)[:, 1:-1].sum(0)
        if self.form == "binary":
            return torch.stack([(rows == 0).any(1).sum(), (rows == 1).any(1).sum()]).float()
        return rows.float().sum(0)

    @property
    def _bins(self) -> int:
        return self.classes or MOST_CLASSES + 1

    def _numbers(self, labels: Tensor) -> Tensor:
        """Returns class numbers from 1, and 0 or one too many for everything that is no class."""
        numbers = labels.long().clamp(-1, self._bins).add_(1)
        if self.ignored is None or not 0 <= self.ignored < self._bins:
            return numbers
        return numbers.masked_fill(labels == self.ignored, 0)


@dataclass(frozen=True)
class Labels(Measurement):
    """The labels of a batch.

    Attributes:
        target: Where they were.
        labels: They themselves, for this step.
        validation: Whether it is a batch of validation.
        late: Whether they could not be read before the step: it has shown where they are.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_validation_batch_start",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (Target,)

    target: Target
    labels: Tensor = field(repr=False)
    validation: bool
    late: bool

    @cached_property
    def counts(self) -> Tensor:
        """How many samples show each class, on the device."""
        return self.target.tally(self.labels)

    def is_new(self, moment: Moment) -> bool:
        """Returns whether this is the moment at which they were read."""
        return moment.hook.endswith("batch_end" if self.late else "batch_start")

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Labels | None:
        """Reads the labels; of several sets to validate on, those of the first."""
        target, late = moment.take(Target), moment.hook == "on_train_batch_end"
        if target is None or moment.dataloader_idx or (late and hasattr(memory, "known")):
            return None
        memory.known = True
        labels = target.read(moment.batch)
        if labels is None or not target.fits(labels):
            return None
        return cls(target, labels.detach(), moment.hook == "on_validation_batch_start", late)

    def snapshot(self) -> dict[str, Any]:
        """The counts of a training batch, unless there are too many classes to be drawn."""
        if self.validation or not 0 < self.target.classes <= _DRAWN:
            return {}
        return {"target": self.target.name, "counts": [round(one) for one in self.counts.tolist()]}


def _count(numbers: Tensor, bins: int) -> Tensor:
    if numbers.device.type == "cpu":  # elsewhere it makes the host wait
        return torch.bincount(numbers, minlength=bins)
    counts = torch.zeros(bins, device=numbers.device)
    return counts.scatter_add_(0, numbers, counts.new_ones(()).expand_as(numbers))


def asked_for(batch: Any, key: str | int | None, function: Any) -> Asked:
    """Returns what the user says of the targets, checked against the first batch.

    Raises:
        Misconfiguration: If there is no such tensor.
    """
    if function is not None:
        try:
            given = function(batch)
        except Exception as error:
            raise Misconfiguration(f"target_fn raised {error!r} on the first batch.") from error
        if not isinstance(given, Tensor):
            raise Misconfiguration(f"target_fn must return a tensor, got {type(given).__name__}.")
        return next((place for place, one in tensors(batch) if one is given), Computed(function))
    return asked(batch, "target_key", key)


def _search(batch: Any, asked: Asked, calls: LossCalls) -> Target | None:
    """Takes the first call that fits, else what the user points to."""
    for call in calls.calls:
        place = call.place
        if call.failed or place is None or asked not in (None, place):
            continue
        if asked is None and not _is_label(call, place, calls, batch):
            continue
        labels = place.read(batch)
        found = None if labels is None else _described(call, place, labels)
        if found is not None:
            return found
    return None if asked is None else _guess(asked, asked.read(batch))


def _is_label(call: LossCall, place: Place, calls: LossCalls, batch: Any) -> bool:
    """Tells labels from what is predicted of the inputs themselves: tokens, pixels, actions."""
    # Scores of a single sample may have lost all of their dimensions to ``squeeze``.
    dense = call.target is not None and call.target.numel() > math.prod(call.shape[:1])
    language = call.classes in calls.vocabularies and (dense or (call.classes or 0) >= _VOCABULARY)
    if place in calls.embedded or language:
        return False
    usual = place == conventional(batch)
    if call.function == "gather":  # of scores by class; but by action, position, ... as well
        return usual
    return usual or place != next((one for one, _ in tensors(batch)), None)


def _described(call: LossCall, place: Place, labels: Tensor) -> Target | None:
    """Describes labels by what the loss does with them; None if they tell no classes apart."""
    classes, rows = call.classes or 0, labels.reshape(len(labels), -1) if labels.dim() else None
    if rows is None or not 1 < classes <= MOST_CLASSES:
        return None
    several = rows.shape[1] > 1
    form: Form = "index"
    if call.axis is None and not call.is_multilabel:
        form = "binary"
    elif several and not call.has_indices:
        form = "multilabel" if call.is_multilabel else "soft"
        if classes > 2 and _is_one_hot(rows):  # noqa: PLR2004
            form = "one_hot"
    dense = several and form in ("index", "binary")
    if form in ("binary", "multilabel") and not _is_binary(rows):
        return None
    if not call.whole and not dense:
        return None
    own = call.is_binary and call.options.get("weight") is not None
    return Target(
        str(place), place, place.read, classes, call.ignored, form, dense,
        weight=None if call.weight is None else tuple(call.weight.flatten().tolist()),
        reweighted=own or call.options.get("reduction") == "none",
    )  # fmt: skip


def _guess(asked: Place | Computed, labels: Any) -> Target | None:
    """Describes labels that the user points to, but that no loss function was seen to get."""
    if not isinstance(labels, Tensor) or not labels.dim() or not labels.numel():
        return None
    rows = labels.reshape(len(labels), -1)
    several, classes = rows.shape[1] > 1, 0
    form: Form = "index"
    if labels.is_floating_point():
        if not _is_binary(rows):
            return None
        form, classes = "binary", 2
        if several:
            form, classes = "one_hot" if _is_one_hot(rows) else "multilabel", rows.shape[1]
    elif bool((rows > MOST_CLASSES).any()):
        return None
    place = asked if isinstance(asked, Place) else None
    dense = several and form == "index"
    return Target(
        str(asked), place, asked.read, classes, None, form, dense, weight=None, reweighted=True
    )


def _contradicts(found: Target, calls: Iterable[LossCall]) -> bool:
    """Tells whether the same tensor is now said to have other classes, as when tasks take turns."""
    same = (one.classes for one in calls if one.place == found.place and one.classes)
    return found.place is not None and next(same, found.classes) not in (found.classes, 0)


def _is_binary(rows: Tensor) -> bool:
    return bool(((rows == 0) | (rows == 1)).all())


def _is_one_hot(rows: Tensor) -> bool:
    return _is_binary(rows) and bool((rows.sum(1) == 1).all())
