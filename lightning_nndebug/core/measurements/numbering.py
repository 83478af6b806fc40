"""Whether the numbers that samples are labelled with are quantities, or names of kinds."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from . import Measurement, Moment
from .baselines import left_out
from .inputs import Inputs
from .loss_calls import LossCall, LossCalls
from .rows import Rows
from .skill import REGRESSIONS

_KINDS = (5, 50)  # four can be numbered in 24 ways, of which two are the given one
_EACH = 6  # samples of a kind
_ORDERS = 999  # other ways to number the kinds
_TOLD = 0.3  # of the kinds, at least
_ANY, _ORDERED = 0.05, 0.01  # other orders that are as good: more of names, less of quantities


@dataclass(frozen=True)
class Numbering(Measurement):
    """Kinds of samples that carry a whole number, and what this number has to do with them.

    A quantity is easier to predict from the inputs than the same kinds numbered in any other order;
    of names, one order is as good as another. It is a permutation test (Fisher 1935) of simple
    models that are left one sample out, on up to 512 samples of the first epoch. Not known of
    tokens, whose numbers mean nothing.

    Attributes:
        target: Where the numbers are.
        kinds: How many different ones there are; 0 if it cannot be said.
        skill: How much of the kinds simple models tell apart: 1 if all, 0 if nothing.
        luck: The share of other orders that are predicted as well as the given one.
        is_over: Whether the samples have been looked at, or cannot be.
    """

    hooks: ClassVar[tuple[str, ...]] = Rows.hooks
    needs: ClassVar[tuple[type[Measurement], ...]] = (Inputs, LossCalls, Rows)
    lasting: ClassVar[bool] = True

    target: str = ""
    kinds: int = 0
    skill: float = 0.0
    luck: float = 1.0
    is_over: bool = True

    @property
    def are_names(self) -> bool:
        """Whether the kinds are told apart, and are in no order."""
        return bool(self.kinds) and self.skill > _TOLD and self.luck > _ANY

    @property
    def are_quantities(self) -> bool:
        """Whether the kinds are in order."""
        return bool(self.kinds) and self.luck < _ORDERED

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Numbering | None:
        """Looks at the rows once, when they are complete, if a loss takes distances of numbers."""
        if hasattr(memory, "is_over"):
            return None
        heard, rows = moment.take(LossCalls), moment.take(Rows)
        if heard is not None and any(map(_is_of_numbers, (*heard.calls, *heard.differences))):
            memory.is_asked = True
        if rows is None and moment.hook != "on_train_epoch_end":
            inputs = moment.take(Inputs)
            if inputs is None or inputs.tokens or not hasattr(memory, "is_asked"):
                return None
            is_told, memory.is_told = hasattr(memory, "is_told"), True
            return None if is_told else cls(is_over=False)
        memory.is_over = True
        if rows is None or rows.labels is None or not hasattr(memory, "is_asked"):
            return cls()
        numbers, kinds, counts = torch.unique(rows.labels, return_inverse=True, return_counts=True)
        is_whole = bool((numbers == numbers.round()).all() and rows.train.isfinite().all())
        if not is_whole or not _KINDS[0] <= len(numbers) <= _KINDS[1] or counts.min() < _EACH:
            return cls()
        return cls(rows.target, len(numbers), *judged(rows.train, kinds, numbers))


def judged(inputs: Tensor, kinds: Tensor, numbers: Tensor) -> tuple[float, float]:
    """Returns how well kinds are told apart, and the share of other numberings as good as this one.

    Args:
        inputs: One row for each sample.
        kinds: The kind of each sample, counted from 0.
        numbers: The number of each kind.
    """
    wanted = torch.nn.functional.one_hot(kinds).double()
    wanted = wanted - wanted.mean(0)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(numbers), generator=generator) for _ in range(_ORDERS)]
    tried = torch.stack([numbers.double(), *(numbers[one].double() for one in orders)])
    spread = _squares(wanted, tried)
    skills, shares = [], []
    for trials in left_out(inputs, wanted):
        missed = min(trials, key=lambda one: float(one.square().sum()))
        skills.append(1 - float(missed.square().sum() / wanted.square().sum()))
        unexplained = _squares(missed, tried) / spread
        shares.append(float((unexplained[1:] <= unexplained[0]).double().mean()))
    return max(skills), min(shares)


def _squares(parts: Tensor, tried: Tensor) -> Tensor:
    """Returns the sum of squares over the samples, for each way to number the kinds."""
    return ((tried @ (parts.T @ parts)) * tried).sum(1)


def _is_of_numbers(call: LossCall) -> bool:
    target = call.target
    if call.function not in (*REGRESSIONS, "difference") or target is None:
        return False
    if not target.dim() or target.is_complex() or target.dtype == torch.bool:
        return False
    return target.numel() == len(target) > 0 and bool((target == target.round()).all())
