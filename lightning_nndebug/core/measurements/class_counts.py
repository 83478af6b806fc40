"""How often each class is shown, and how often it is recognized."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import WeightedRandomSampler
from torchmetrics import Metric

from . import Measurement, Moment
from .labels import MOST_CLASSES, Labels, Target
from .loss_calls import LossCall, LossCalls, ValidationLossCalls
from .schedules import planned_steps

_BINS = MOST_CLASSES + 1
_FIRST = 16  # batches before the first look in training
_TOGETHER = 16  # batches whose labels are counted at once, where each sample has one
_GROUPS = 100  # of samples with weights of their own
# What takes every sample as often as any other.
_PLAIN = ("RandomSampler", "SequentialSampler", "SubsetRandomSampler", "DistributedSampler")
_BATCHING = ("BatchSampler", "_BatchSamplerWrapper")


@dataclass(frozen=True)
class Recognition(Measurement):
    """Labels against predictions, per class, in a batch whose loss calls were heard.

    Where each sample may have several labels, no and yes are the classes.

    Attributes:
        table: Four rows, on the device: samples of the class, those of them that were predicted
            right, samples that were predicted to be of the class, and the sum of the probabilities
            that samples of the class were given of being of it.
        validation: Whether it is a batch of validation.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end", "on_validation_batch_end")
    needs: ClassVar[tuple[type[Measurement], ...]] = (Target, LossCalls, ValidationLossCalls)

    table: Tensor
    validation: bool

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Recognition | None:
        """Compares the predictions of the first loss call that got the labels."""
        validation = moment.hook == "on_validation_batch_end"
        target = moment.take(Target)
        heard: Any = moment.take(ValidationLossCalls if validation else LossCalls)
        if target is None or target.place is None or heard is None or moment.dataloader_idx:
            return None
        for call in heard.calls:
            if call.place == target.place and (validation or call.input.requires_grad):
                table = _table(call, target)
                return None if table is None else cls(table, validation)
        return None


@dataclass(frozen=True)
class ClassCounts(Measurement):
    """Labels and predictions per class since the last look, added up over all ranks.

    The looks are at the end of each validation, and when the number of training batches is a power
    of two: there all ranks meet, whatever they have seen.

    Attributes:
        target: Where the labels were.
        train: How many samples of training show each class.
        validation: How many samples of this validation do, if it is the end of one.
        train_table: The table of ``Recognition`` for those steps of training that were heard.
        validation_table: The same for validation.
        passes: How often training has gone through its data; 0 if not once.
        resampled: Whether a sampler of the user's own decides which samples come.
        metrics: Names of what the user logs.
        batches: How many training batches there were so far.
        look: How often this was taken, counted from 1.
        is_last: Whether the run is over, as far as that is planned.
        draws: For each group of samples that a sampler gives the same weight, their number and that
            weight, the smallest group first; nothing if there is no such sampler.
        is_drawn: Whether a sampler draws the samples of validation by weight.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_validation_batch_start",
        "on_validation_batch_end",
        "on_validation_epoch_end",
    )
    noted: ClassVar[tuple[str, ...]] = hooks[:2]
    needs: ClassVar[tuple[type[Measurement], ...]] = (Labels, Recognition)

    target: Target
    train: Tensor
    validation: Tensor
    train_table: Tensor
    validation_table: Tensor
    passes: int
    resampled: bool
    metrics: tuple[str, ...]
    batches: int
    look: int
    is_last: bool = False
    draws: tuple[tuple[int, float], ...] = ()
    is_drawn: bool = False

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> ClassCounts | None:
        """Adds up on the device; over the ranks where they meet."""
        if not hasattr(memory, "sums"):
            device = moment.trainer.strategy.root_device
            precise = torch.float32 if device.type == "mps" else torch.float64
            memory.sums = torch.zeros(10, _BINS, dtype=precise, device=device)
            memory.metric, memory.batches, memory.look = _Sum(memory.sums), 0, 0
            memory.waiting, memory.target, memory.next = ([], []), None, _FIRST
            memory.draws = _draws(moment.trainer)
        if (labels := moment.take(Labels)) is not None and labels.is_new(moment):
            memory.target = labels.target
            _add(labels.target, labels.labels, int(labels.validation), memory)
        if moment.hook.endswith("batch_start"):
            return None
        if moment.hook.endswith("batch_end"):
            if (one := moment.take(Recognition)) is not None:
                rows = memory.sums[6:10] if one.validation else memory.sums[2:6]
                rows[:, : one.table.shape[1]] += one.table
            if moment.hook == "on_validation_batch_end":
                return None
            if not _is_due(moment, memory):
                return None
        target = moment.take(Target)
        for validation in (0, 1):
            _count(target, validation, memory)
        sums = memory.metric.gathered(memory.sums, _fingerprint(target))
        memory.sums.zero_()
        if sums is None or target is None:
            return None
        sums = sums[:, : target.classes or _BINS]
        memory.look += 1
        return cls(
            target, sums[0], sums[1], sums[2:6], sums[6:10], _passes(moment),
            _is_resampled(moment.trainer), tuple(moment.trainer.callback_metrics), memory.batches,
            memory.look, moment.step >= _end(moment.trainer), memory.draws,
            _draws_validation(moment.trainer),
        )  # fmt: skip

    @classmethod
    def note(cls, moment: Moment, memory: SimpleNamespace) -> int:
        """Counts on: the data may be sorted, or a class as rare as one batch in a hundred."""
        if moment.hook == "on_train_batch_end":
            memory.batches += 1
        elif memory.target is not None:
            labels = memory.target.read(moment.batch)
            if labels is not None and memory.target.fits(labels):
                _add(memory.target, labels.detach(), 0, memory)
        return 0

    def snapshot(self) -> dict[str, Any]:
        """How often each class was shown, in training and validation."""
        train, validation = (
            [round(one) for one in counts.tolist()] for counts in (self.train, self.validation)
        )
        return {"target": self.target.name, "train": train, "validation": validation}


def _is_due(moment: Moment, memory: SimpleNamespace) -> bool:
    """Counts a batch of training; returns whether to look after it."""
    memory.batches += 1
    if not moment.batch_idx or memory.batches == 1:
        memory.end = math.inf if moment.trainer.enable_validation else _end(moment.trainer)
    if memory.batches < memory.next and moment.step < memory.end:
        return False
    while memory.next <= memory.batches:
        memory.next *= 2
    return True


def _add(target: Target, labels: Tensor, validation: int, memory: SimpleNamespace) -> None:
    """Keeps a copy of the labels until enough of them are together."""
    waiting = memory.waiting[validation]
    if waiting and waiting[0].shape[1:] != labels.shape[1:]:
        _count(target, validation, memory)
    waiting.append(labels.clone())
    if len(waiting) == _TOGETHER or labels.numel() > len(labels):
        _count(target, validation, memory)


def _count(target: Target | None, validation: int, memory: SimpleNamespace) -> None:
    waiting = memory.waiting[validation]
    if waiting and target is not None:
        counts = target.tally(torch.cat(waiting))
        memory.sums[validation, : len(counts)] += counts
    waiting.clear()


class _Sum(Metric):
    """Adds a tensor up over all ranks, if all of them mean the same by it."""

    full_state_update = False
    sums: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, zeros: Tensor) -> None:
        super().__init__()
        mark = torch.zeros((), dtype=torch.int64, device=zeros.device)
        self.add_state("sums", zeros.clone(), dist_reduce_fx="sum")  # else it adds to ours
        self.add_state("least", mark, dist_reduce_fx="min")
        self.add_state("most", mark, dist_reduce_fx="max")
        self.to(zeros.device)

    def update(self, sums: Tensor, mark: int) -> None:
        self.sums += sums
        self.least = self.most = torch.full_like(self.least, mark)

    def compute(self) -> tuple[Tensor, Tensor]:
        return self.sums, self.least == self.most

    def gathered(self, sums: Tensor, mark: int) -> Tensor | None:
        self.update(sums, mark)
        total, agreed = self.compute()
        total = total.clone()
        self.reset()
        return total.cpu() if agreed else None


def _fingerprint(target: Target | None) -> int:
    if target is None:
        return 0
    return zlib.crc32(f"{target.name} {target.classes} {target.form}".encode())


def _passes(moment: Moment) -> int:
    trainer = moment.trainer
    if trainer.num_training_batches == float("inf"):
        return 1  # an endless stream is never through: what has come so far stands for all of it
    return int(trainer.current_epoch + trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def _end(trainer: Any) -> float:
    return planned_steps(trainer) - 1  # the last one is counted afterwards


def _draws(trainer: Any) -> tuple[tuple[int, float], ...]:
    """Returns what samplers that draw by weight make of groups of samples with the same weight."""
    weights = [getattr(one, "weights", None) for _, one in _samplers(trainer.fit_loop)]
    if len(weights) != 1 or not isinstance(weights[0], Tensor) or weights[0].dim() != 1:
        return ()
    values, sizes = torch.unique(weights[0].detach().double().cpu(), return_counts=True)
    if not 1 < len(values) <= _GROUPS:
        return ()
    return tuple(sorted(zip(sizes.tolist(), values.tolist(), strict=True)))


def _draws_validation(trainer: Any) -> bool:
    """Tells whether the samples to validate on are drawn by weights of their own."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    drawn = (one for _, one in _samplers(loop) if isinstance(one, WeightedRandomSampler))
    return any(bool((one.weights != one.weights[0]).any()) for one in drawn)


def _samplers(loop: Any) -> Iterator[tuple[Any, Any]]:
    """Yields what puts batches together, and what it takes the samples from."""
    for loader in getattr(getattr(loop, "_combined_loader", None), "flattened", ()):
        batches = getattr(loader, "batch_sampler", None)
        sampler = getattr(batches, "sampler", None) or getattr(loader, "sampler", None)
        # In DDP, Lightning wraps a sampler in a data set in a sampler.
        yield batches, getattr(getattr(sampler, "dataset", None), "_sampler", sampler)


def _is_resampled(trainer: Any) -> bool:
    """Tells a sampler that prefers some samples from those that take every one as it comes."""
    for batches, sampler in _samplers(trainer.fit_loop):
        if type(sampler).__name__ not in _PLAIN:
            return True
        if batches is not None and type(batches).__name__ not in _BATCHING:
            return True
    return False


def _table(call: LossCall, target: Target) -> Tensor | None:
    chances, numbers = _predictions(call, target), call.target
    if chances is None or numbers is None or call.classes != target.classes:
        return None
    if call.is_multilabel and target.form == "one_hot":
        numbers = numbers.argmax(1)
    elif call.is_binary:
        numbers = numbers > 0.5  # noqa: PLR2004
    elif not call.has_indices:
        if target.form == "soft":
            return None
        numbers = numbers.argmax(call.axis)
    numbers = numbers.detach().flatten().long()
    counted = (numbers >= 0) & (numbers < target.classes)
    if call.ignored is not None:
        counted &= numbers != call.ignored
    weight, numbers = counted.float(), torch.where(counted, numbers, 0)
    guesses = chances.argmax(1)
    table = torch.zeros(4, target.classes, device=chances.device)
    table[0].scatter_add_(0, numbers, weight)
    table[1].scatter_add_(0, numbers, weight * (guesses == numbers))
    table[2].scatter_add_(0, guesses, weight)
    trust = chances.gather(1, numbers.unsqueeze(1)).squeeze(1)
    table[3].scatter_add_(0, numbers, weight * trust)
    return table


def _predictions(call: LossCall, target: Target) -> Tensor | None:
    """Returns the probability of each class: a row for each label."""
    scores = call.input.detach().float()
    if call.classes is None:
        return None
    if call.is_binary:
        yes = scores if call.function == "binary_cross_entropy" else scores.sigmoid()
        if call.is_multilabel and target.form == "one_hot":
            return yes
        return torch.stack([1 - yes, yes], dim=-1).reshape(-1, 2)
    scores = scores.movedim(call.axis or 0, -1).reshape(-1, call.classes)
    return scores.exp() if call.function in ("nll_loss", "gather") else scores.softmax(1)
