"""Whether predictions for samples that are new to the net have anything to do with their labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from . import Measurement, Moment
from .loss_calls import LossCall, LossCalls, ValidationLossCalls
from .rows import coarse, is_map
from .schedules import planned_steps

_LATE = 0.9  # of the planned steps are over
_ANSWERS = 64  # to a sample, at most
_MANY = 64  # batches are added up together


@dataclass(frozen=True)
class Learned(Measurement):
    """How well the net predicts labels that it has not seen, late in the run.

    Attributes:
        z: By how many standard deviations predictions and labels go together more often than they
            would in random order: in the last validation, or else in the first epoch.
        samples: How many samples that is known of.
        worth: How many samples with a single answer tell as much: of a mask, each has several.
        target: Where the labels are.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_end",
        "on_validation_batch_end",
        "on_validation_epoch_end",
        "on_train_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls, ValidationLossCalls)

    z: float
    samples: int
    worth: float
    target: str

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Learned | None:
        """Adds up what the loss functions were given; speaks when the run is nearly over."""
        if not hasattr(memory, "train"):
            memory.train, memory.validation, memory.last, memory.target = [], [], [], ""
        if moment.hook == "on_train_batch_end":
            heard = moment.take(LossCalls)
            if heard is not None and moment.trainer.current_epoch == 0:
                memory.train = _joined(memory.train, _agreements(heard.calls, memory))
        elif moment.hook == "on_validation_batch_end":
            checked = moment.take(ValidationLossCalls)
            if checked is not None and not moment.dataloader_idx:
                found = _agreements(checked.calls, memory)
                memory.validation = _joined(memory.validation, found)
        elif moment.hook == "on_validation_epoch_end":
            memory.last, memory.validation = memory.validation or memory.last, []
        if not moment.hook.endswith(("epoch_end", "train_end")):
            return None
        is_late = moment.step >= _LATE * planned_steps(moment.trainer)
        chosen = memory.last or memory.train
        if not chosen or not (is_late or moment.hook == "on_train_end"):
            return None
        excess, variance, samples, worth = torch.stack(chosen).sum(0).tolist()
        z = excess / math.sqrt(variance) if variance > 0 else 0.0
        return cls(z, int(samples), worth, memory.target)


def _joined(known: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    """Returns what adds up to the same as both, and is short whatever the number of batches."""
    known = known + new
    return [torch.stack(known).sum(0)] if len(known) > _MANY else known


def _agreements(calls: tuple[LossCall, ...], memory: SimpleNamespace) -> list[Tensor]:
    """Returns the excess of agreement over chance in each call, its variance, samples and worth."""
    found = []
    for call in calls:
        if call.failed or call.place is None or call.target is None or call.is_weighed:
            continue  # what is weighed by a reward, say, is no answer to be hit
        pair = _pair(call, call.target)
        if pair is not None:
            memory.target = str(call.place)
            found.append(pair)
    return found


def _pair(call: LossCall, target: Tensor) -> Tensor | None:
    """Returns what classes or values that were predicted have in common with the true ones."""
    count = len(target) if target.dim() else 0
    if count < 2 or call.shape[0] != count or len(call.input) != count:  # noqa: PLR2004
        return None
    one = call.input.detach().float()
    if call.has_indices and target.numel() == count and one.dim() == 2:  # noqa: PLR2004
        predicted, true = one.argmax(1), target.flatten()
        classes = torch.arange(one.shape[1], device=one.device)
        a, b = (predicted.unsqueeze(1) == classes).float(), (true.unsqueeze(1) == classes).float()
        return _cross(a - a.mean(0), b - b.mean(0))
    are_maps = one.shape == target.shape and is_map(one)
    if are_maps:
        one, target = coarse(one), coarse(target)
    several = one.dim() == 2 and one.shape == target.shape and one.shape[1] <= _ANSWERS  # noqa: PLR2004
    if (several or one.numel() == target.numel() == count) and not call.has_indices:
        a, b = (x.reshape(count, -1) - x.reshape(count, -1).mean(0) for x in (one, target.float()))
        scale = (a.norm(dim=0) * b.norm(dim=0)).clamp_min(1e-20) / count
        found = _cross(a / scale.sqrt(), b / scale.sqrt())
        if are_maps:  # z squared, if all parts that vary were predicted without fault
            parts = (scale * count > 1e-20).sum()  # noqa: PLR2004
            found[3] = (count * parts) ** 2 / found[1].clamp_min(1e-20)
        return found
    return None


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Returns the sum of products of rows that belong together, its variance if none do, and n.

    Under a random order of one of the two, it is the squared norm of their cross product over
    ``n - 1`` (the mean is 0, since both are centred).
    """
    count = len(a)
    variance = (a.mT @ a * (b.mT @ b)).sum() / (count - 1)
    both = variance.new_full((2,), float(count))
    return torch.cat([torch.stack([(a * b).sum(), variance]), both])
