"""How much better than the best constant answer the net is, in training and in validation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..mode_effects import effect
from . import Measurement, Moment
from .batches import tensors
from .first_layers import FirstLayers
from .labels import MOST_CLASSES
from .loss_calls import LossCall, LossCalls, ValidationLossCalls

_ROWS = 4096  # samples of a call that are judged; pixels and tokens count as samples
REGRESSIONS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_ENTRIES = 2**16  # of the inputs, whose texture is looked at
_FEW = 32  # samples; fewer say little
_SETTLED = 50  # steps, of which running statistics with a momentum of 0.1 forget the first
_HONEST = 2  # epochs, in which nothing is known by heart
_KEPT = 8  # calls, until they are enough
_SURE = 3.0  # standard errors


@dataclass(frozen=True)
class Tally:
    """What the net has answered to some samples, and what the best constant would have.

    For classes, the loss is the cross entropy and the error the share of wrong answers; for a
    regression, both are the mean square, and that of the best constant is the variance, or what the
    mean of training comes to in validation. They are computed from predictions and targets, so that
    they compare, however the user's own loss is weighted, smoothed, summed or regularized.

    The skill of telling classes apart counts each of them alike (Youden 1950): it stays what it is
    where one of two sets was balanced and the other was not.

    Attributes:
        samples: How many.
        loss: Their mean loss.
        error: Their mean error.
        constant_loss: The loss of the best constant answer to them.
        constant_error: The error of it.
        classes: How many classes there are; 0 for a regression.
        recalls: For each class that occurs, how many samples of it there are, and how many of them
            are found.
    """

    samples: int
    loss: float
    error: float
    constant_loss: float
    constant_error: float
    classes: int
    recalls: tuple[tuple[float, float], ...] = ()

    @property
    def skill(self) -> float:
        """1 if all is known, 0 if no more than a constant, less if it does even worse."""
        if not self.classes:
            return 1 - self.error / self.constant_error
        chance = 1 / len(self.recalls)
        recall = statistics.fmean(found / count for count, found in self.recalls)
        return (recall - chance) / (1 - chance)

    @property
    def uncertainty(self) -> float:
        """The standard error of the skill; for a regression, that of a normal variable."""
        if not self.classes:
            return (1 - min(self.skill, 1)) * math.sqrt(2 / self.samples)
        # A class that is always found, of few samples, is not beyond doubt (Agresti, Coull 1998).
        rates = [(count + 4, (found + 2) / (count + 4)) for count, found in self.recalls]
        return math.sqrt(sum(p * (1 - p) / n for n, p in rates)) / (len(rates) - 1)

    @property
    def is_known(self) -> bool:
        """Whether the answers are better than chance, beyond doubt."""
        return self.skill > _SURE * self.uncertainty


@dataclass(frozen=True)
class Look:
    """Training and validation side by side.

    Attributes:
        step: When, on the x-axis of the loggers.
        train: Training since the validation before, or the one before that if it was too short to
            tell; of more than a few steps, the later half.
        validation: The validation.
        is_fresh: Whether that was one of the first two epochs: what the net says to samples that it
            has been trained on once at most is hardly less honest than a validation.
    """

    step: int
    train: Tally
    validation: Tally
    is_fresh: bool = False


@dataclass(frozen=True)
class Skill(Measurement):
    """All looks of this run so far, the last one being new.

    Taken where both steps call one and the same loss function once, on hard labels or on a target
    of a regression: a mixture of labels, several tasks or terms of a loss do not compare, nor do
    samples that were weighted one by one.

    Attributes:
        looks: One for each validation.
        noises: Modules that disturb training alone, such as dropout, with their strength.
        shift: How far the inputs of training are from those of validation, in their mean, spread
            and roughness, relative to the spread.
        is_remade: Whether the step makes something else of the inputs before the net gets them.
        is_single: Whether every sample has one answer, and not one for each pixel or token.
        is_settling: Whether validation uses running statistics that lag behind the first steps.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_end",
        "on_validation_batch_end",
        "on_validation_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (
        LossCalls,
        ValidationLossCalls,
        FirstLayers,
    )

    looks: tuple[Look, ...]
    noises: Mapping[str, float]
    shift: float = 0.0
    is_remade: bool = False
    is_single: bool = False
    is_settling: bool = False

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Skill | None:
        """Adds up what was heard, on its device; reads it once after each validation."""
        if not hasattr(memory, "looks"):
            memory.looks, memory.train, memory.validation, memory.odd = (), [], [], False
            memory.inputs, memory.shapes, memory.is_single = [[], []], [set(), set()], True
            memory.trained = set()
        if memory.odd:
            return None
        if moment.hook == "on_validation_end":
            return _close(cls, moment, memory)
        validates = moment.hook == "on_validation_batch_end"
        heard: Any = moment.take(ValidationLossCalls if validates else LossCalls)
        if heard is None or moment.dataloader_idx:
            return None
        call = only(logged_apart(heard.calls, memory.trained if validates else set()))
        sums = None if call is None or call.is_weighed else sums_of(call)
        if call is None or sums is None:
            memory.odd = bool(heard.calls) or not validates
            return None
        (memory.validation if validates else memory.train).append((call.function, sums))
        memory.trained |= set() if validates else {call.function}
        memory.shapes[validates] |= _shapes(moment.batch, call)
        memory.is_single &= _is_single(moment.batch, call)
        if (texture := _texture(moment.batch, call)) is not None:
            memory.inputs[validates] = [*memory.inputs[validates][-31:], texture]
        return None


def logged_apart(calls: tuple[LossCall, ...], functions: set[str]) -> tuple[LossCall, ...]:
    """Leaves out what is computed for a log: no part of the loss, or of another kind, or again.

    Args:
        calls: Those of a step.
        functions: What training calls, if this is a validation.
    """
    own = [one for one in calls if one.factor != 0 and (one.function in functions or not functions)]
    return tuple(
        one for i, one in enumerate(own) if not any(_is_same(one, other) for other in own[:i])
    )


def _is_same(one: LossCall, other: LossCall) -> bool:
    has_same = (one.function, one.place, one.shape) == (other.function, other.place, other.shape)
    return has_same and one.place is not None and torch.equal(one.input, other.input)


def only(calls: tuple[LossCall, ...]) -> LossCall | None:
    """Returns the call that is the loss, if there is one alone."""
    if len(calls) != 1 or calls[0].failed or calls[0].target is None:
        return None
    return calls[0]


def sums_of(call: LossCall) -> Tensor | None:
    """Returns sums over the samples of a call: number, loss, error, then those of the constant.

    These are the counts of the classes, then how many of each are found; for a regression, the sums
    and the sums of squares of the target, column by column. None if it cannot be said what the
    answers are.
    """
    if call.target is None:
        return None
    inputs, target = call.input.detach().float(), call.target.detach()
    if call.has_indices and call.axis is not None and (call.classes or 0) <= MOST_CLASSES:
        rows = inputs.movedim(call.axis, -1).reshape(-1, inputs.shape[call.axis])[:_ROWS]
        return _of_classes(rows, target.reshape(-1)[: len(rows)], call.ignored)
    if call.function in ("binary_cross_entropy_with_logits", "binary_cross_entropy"):
        if call.is_multilabel or inputs.numel() != target.numel():
            return None
        yes = inputs.reshape(-1)[:_ROWS]
        yes = yes if call.function.endswith("logits") else yes.clamp(1e-7, 1 - 1e-7).logit()
        rows = torch.stack([torch.zeros_like(yes), yes], 1)
        return _of_classes(rows, target.reshape(-1)[: len(rows)], None)
    if call.function in REGRESSIONS and inputs.shape == target.shape and inputs.dim():
        inputs, target = (
            one.reshape(len(one), -1)[:_ROWS].to(_precise(one)) for one in (inputs, target)
        )
        squares = (inputs - target).square().mean(1).sum()
        number = squares.new_tensor([len(target)])
        return torch.cat([number, squares[None], squares[None], target.mean(1).sum()[None],
                          target.sum(0), target.square().sum(0)])  # fmt: skip
    return None


def tally(function: str, parts: list[Tensor], known: list[Tensor] | None = None) -> Tally | None:
    """Adds sums up, with one transfer to the host; None if they are too few or not finite.

    Args:
        function: The loss function.
        parts: Sums over some samples.
        known: Those that the best constant is taken from, if not from the parts themselves: a later
            part of a series may keep near a level of its own, which nobody knew before.
    """
    if not parts or any(one.shape != parts[0].shape for one in parts):
        return None
    number, loss, error, *rest = torch.stack(parts).sum(0).tolist()
    if number < _FEW or not math.isfinite(loss):
        return None
    if function not in REGRESSIONS:
        counts, found = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        recalls = tuple(pair for pair in zip(counts, found, strict=True) if pair[0])
        shares = [count / number for count, _ in recalls]
        entropy = -sum(one * math.log(one) for one in shares)
        if len(shares) < 2:  # noqa: PLR2004
            return None
        return Tally(
            int(number), loss / number, error / number, entropy, 1 - max(shares), len(counts),
            recalls,
        )  # fmt: skip
    columns = (len(rest) - 1) // 2
    sums, squares = rest[1 : 1 + columns], rest[1 + columns :]
    means = [one / number for one in sums]
    if known and known[0].shape == parts[0].shape:
        total = torch.stack(known).sum(0).tolist()
        means = [one / total[0] for one in total[4 : 4 + columns]]
    variance = statistics.fmean(
        (square - 2 * mean * one) / number + mean**2
        for mean, one, square in zip(means, sums, squares, strict=True)
    )
    if not variance > 0:
        return None
    return Tally(int(number), loss / number, error / number, variance, variance, 0)


def _of_classes(rows: Tensor, labels: Tensor, ignored: int | None) -> Tensor | None:
    if len(rows) != len(labels):
        return None
    counted = (labels >= 0) & (labels < rows.shape[1])
    if labels.is_floating_point():
        counted &= labels == labels.round()
    if ignored is not None:
        counted &= labels != ignored
    labels = torch.where(counted, labels, torch.zeros_like(labels)).long()
    losses = torch.logsumexp(rows, 1) - rows.gather(1, labels[:, None])[:, 0]
    weight = counted.to(_precise(rows))
    right = (rows.argmax(1) == labels) * weight
    counts = torch.zeros(2, rows.shape[1], dtype=weight.dtype, device=rows.device)
    counts[0].scatter_add_(0, labels, weight)
    counts[1].scatter_add_(0, labels, right)
    sums = torch.stack([weight.sum(), (losses * weight).sum(), (weight - right).sum()])
    return torch.cat([sums, counts.flatten()])


def _close(cls: type[Skill], moment: Moment, memory: SimpleNamespace) -> Skill | None:
    parts, memory.train, heard, memory.validation = memory.train, [], memory.validation, []
    functions = {function for function, _ in (*parts, *heard)}
    sizes, memory.shapes = memory.shapes, [set(), set()]
    if len(functions) != 1 or (all(sizes) and sizes[0].isdisjoint(sizes[1])):
        memory.odd = memory.odd or len(functions) > 1
        return None  # as while images grow from epoch to epoch
    (function,) = functions
    late = [one for _, one in parts[len(parts) // 2 if len(parts) > 3 else 0 :]]  # noqa: PLR2004
    train, validation = tally(function, late), tally(function, [one for _, one in heard], late)
    if train is None or validation is None:
        if train is None:  # epochs of a few steps, of which not all are heard
            memory.train = parts[-_KEPT:]
        return None
    look = Look(moment.step, train, validation, is_fresh=moment.trainer.current_epoch < _HONEST)
    memory.looks = (*memory.looks, look)
    shift = _shift(*memory.inputs)
    has_norms = any(effect(one) == "norm" for one in moment.module.modules())
    is_settling = has_norms and moment.step < _SETTLED
    first = moment.take(FirstLayers)
    is_remade = (
        first is not None and bool(first.layers) and not any(one.place for one in first.layers)
    )
    return cls(memory.looks, noises(moment.module), shift, is_remade, memory.is_single, is_settling)


def _is_single(batch: Any, call: LossCall) -> bool:
    target = call.place.read(batch) if call.place is not None else None
    return target is not None and target.dim() > 0 and target.numel() == len(target)


def _shapes(batch: Any, call: LossCall) -> set[tuple[int, ...]]:
    given = [one for place, one in tensors(batch) if place != call.place]
    return {tuple(one.shape[1:]) for one in given[:1] if one.is_floating_point()}


def _texture(batch: Any, call: LossCall) -> Tensor | None:
    """Returns the mean, spread and roughness of the inputs: what noise and the like change."""
    given = [one for place, one in tensors(batch) if place != call.place]
    if not given or not given[0].is_floating_point() or given[0].numel() < 2:  # noqa: PLR2004
        return None
    values = given[0].detach().reshape(-1)[:_ENTRIES].float()
    return torch.stack([values.mean(), values.std(), values.diff().abs().mean()])


def _shift(train: list[Tensor], validation: list[Tensor]) -> float:
    if not train or not validation or train[0].shape != validation[0].shape:
        return 0.0
    one, other = torch.stack(train).mean(0), torch.stack(validation).mean(0)
    return float((one - other).abs().max() / other[1].clamp_min(1e-12))


def noises(module: Any) -> dict[str, float]:
    """Returns the modules that disturb training alone, with their strength."""
    return {
        name: float(getattr(one, "p", 0.0))
        for name, one in module.named_modules()
        if effect(one) == "noise"
    }


def _precise(one: Tensor) -> torch.dtype:
    return torch.float32 if one.device.type == "mps" else torch.float64
