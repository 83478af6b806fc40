"""How much alike the samples of a batch are, compared with those of the whole epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import Measurement, Moment
from .inputs import Inputs, sampled

_VALUES = 64  # of a sample, evenly spaced
_BATCHES = 2**12  # of the first epoch at most, evenly spaced: 7 MB
_CLASSES = 32  # more are not told apart
_FEW = 8  # batches of equal size, at least
_LONGEST_STRIDE = 32  # of a window
_TOGETHER, _LARGE = 16, 2**15  # batches are summed up together; values, of which one waits for none

_Batch = tuple[Tensor, Tensor | None]
_Kinds = tuple[int, ...]


@dataclass(frozen=True)
class Succession(Measurement):
    """How much of the variance in the first epoch lies between batches, not within them.

    The intraclass correlation: 0 if each batch is a random draw, 1 if all samples of a batch are
    the same. Of tokens, only the targets are compared.

    Attributes:
        name: Where the input is.
        batches: How many batches there were.
        inputs: The largest correlation among the values of the input,
        inputs_p: and the chance of so much in random order, corrected for their number.
        target: Likewise of a continuous target,
        target_p: and its chance.
        labels: Likewise of the class labels; 0 if there are none.
        slides: Whether samples are windows that slide over a series: each overlaps the next one.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_train_epoch_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (Inputs,)

    name: str
    batches: int
    inputs: float
    inputs_p: float
    target: float = 0.0
    target_p: float = 1.0
    labels: float = 0.0
    slides: bool = False

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Succession | None:
        """Gathers means and variances of each batch on its device, and reads them once."""
        inputs = moment.take(Inputs)
        if inputs is None or vars(memory).get("is_over", False):
            return None
        if not hasattr(memory, "batches"):
            memory.batches, memory.waiting, memory.slides = [], [], None
        batches: list[tuple[_Kinds, Tensor]] = memory.batches
        waiting: list[_Batch] = memory.waiting
        if moment.hook == "on_train_epoch_end":
            memory.is_over = True
            batches += _moments(waiting)
            waiting.clear()
            found = _judged(str(inputs.main), batches) if len(batches) >= _FEW else None
            batches.clear()
            return replace(found, slides=memory.slides) if found is not None else None
        known = len(batches) + len(waiting)
        if (moment.hook == "on_train_batch_end" and known) or known >= _BATCHES:
            return None
        planned = moment.trainer.num_training_batches
        if math.isfinite(planned) and moment.batch_idx % -(-planned // _BATCHES):
            return None
        rows = inputs.read_main(moment.batch)
        if rows is not None and not rows.is_complex() and len(rows) > 1:
            target = None if inputs.target is None else inputs.target.read(moment.batch)
            if memory.slides is None:
                memory.slides = lag(rows) > 0
            # Samples of one length may well come together: it spares padding.
            waiting.append(_values(rows.new_zeros(len(rows), 1) if inputs.tokens else rows, target))
            if len(waiting) == _TOGETHER or waiting[-1][0].numel() > _LARGE:
                batches += _moments(waiting)
                waiting.clear()
        return None


def _values(rows: Tensor, target: Tensor | None) -> _Batch:
    """Returns a copy of some values of each sample, and of its target if that is a single one."""
    values = sampled(rows, _VALUES).detach().to(torch.float32, copy=True)
    if target is None or not target.dim() or not target.numel() == len(target) == len(rows):
        return values, None
    return values, target.detach().flatten().clone()


def _moments(waiting: list[_Batch]) -> list[tuple[_Kinds, Tensor]]:
    """Returns of each batch its size and the kinds of its columns, then their means and variances.

    Batches of one form are taken together: their arithmetic is next to nothing.
    """
    forms: dict[Any, list[_Batch]] = {}
    for values, target in waiting:
        forms.setdefault((values.shape, target is not None and target.dtype), []).append(
            (values, target)
        )
    found = []
    for some in forms.values():
        values = torch.stack([one for one, _ in some])
        targets = [one for _, one in some if one is not None]
        kinds = [values.shape[1], values.shape[2] + 1, 0, 0]
        parts = [_both(values), _both(values.mean(2, keepdim=True))]
        if targets and targets[0].is_floating_point():
            kinds[2] = 1
            parts.append(_both(torch.stack(targets).float().unsqueeze(2)))
        elif targets:
            kinds[3] = _CLASSES
            numbers = torch.stack(targets).long().remainder(_CLASSES)
            shares = torch.zeros(len(numbers), _CLASSES, device=numbers.device)
            ones = shares.new_ones(()).expand(numbers.shape)
            shares = shares.scatter_add_(1, numbers, ones) / numbers.shape[1]
            parts.append(torch.stack([shares, shares * (1 - shares)], dim=1))
        found += [(tuple(kinds), one) for one in torch.cat(parts, dim=2).double()]
    return found


def _both(values: Tensor) -> Tensor:
    """Returns the mean and the variance of each column of each batch."""
    variance, mean = torch.var_mean(values, dim=1, correction=0)
    return torch.stack([mean, variance], dim=1)


def lag(rows: Tensor) -> int:
    """Returns how many values later the next moment is in windows that slide over a series.

    0 if they are not: if a sample is not the one before, moved along its time axis.
    """
    axes = (1, rows.dim() - 1) if rows.dim() in (2, 3) and len(rows) > 1 else ()
    for axis in axes:
        for by in range(1, min(rows.shape[axis] // 2, _LONGEST_STRIDE) + 1):
            later = rows[:-1].narrow(axis, by, rows.shape[axis] - by)
            if torch.equal(later, rows[1:].narrow(axis, 0, rows.shape[axis] - by)):
                is_innermost = rows.stride(axis) == min(rows.stride()[1:])
                return 1 if is_innermost else rows.shape[3 - axis]
    return 0


def _judged(name: str, batches: list[tuple[_Kinds, Tensor]]) -> Succession | None:
    sizes = [size for size, _ in batches]
    usual = max(set(sizes), key=sizes.count)
    chosen = [table for size, (_, table) in zip(sizes, batches, strict=True) if size == usual]
    if len(chosen) < _FEW:
        return None
    size, inputs, target, _ = usual
    tables = torch.stack(chosen).cpu()
    excess, chance = _correlation(tables[:, 0], tables[:, 1], size)
    parts = [slice(0, inputs), slice(inputs, inputs + target), slice(inputs + target, None)]
    worst = [float(excess[part].max()) if excess[part].numel() else 0.0 for part in parts]
    chances = [
        float(chance[part].min() * inputs) if excess[part].numel() else 1.0 for part in parts
    ]
    return Succession(
        name=name, batches=len(chosen), inputs=worst[0], inputs_p=min(1.0, chances[0]),
        target=worst[1], target_p=chances[1], labels=worst[2],
    )  # fmt: skip


def _correlation(means: Tensor, variances: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns intraclass correlations, and the chance of each if all batches are random draws."""
    between = size * means.var(0)
    within = variances.mean(0) * size / (size - 1)
    total = (between + (size - 1) * within).clamp_min(1e-30)
    # What varies by less than a rounding error does not vary.
    is_constant = total <= size * 1e-12 * (means**2).mean(0)
    excess = torch.where(is_constant, 0.0, (between - within) / total)
    freedom = torch.tensor((len(means) - 1) / 2, dtype=means.dtype)
    ratio = torch.where(is_constant, 1.0, between / within.clamp_min(1e-30))
    return excess, torch.special.gammaincc(freedom, (freedom * ratio).clamp_max(1e6))
