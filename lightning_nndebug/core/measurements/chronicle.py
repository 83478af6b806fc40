"""What only the record asks for: learning rates, weights, the first batch, the user's metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..trainer import optimizer_index, plain_name
from . import Measurement, Moment
from .batches import tensors
from .fingerprint import Fingerprint
from .gradients import is_sharded
from .images import is_image, thumbnails
from .losses import Loss
from .saliency import Saliency

_ENTRIES = 1024  # of each tensor, evenly spaced: enough for a histogram
_BINS = 41
_GROWTH = math.sqrt(10)  # looks at the weights: after 0, 1, 4, 11, 32, 101, ... steps
_ROWS, _COLUMNS, _LABELS = 4, 8, 8  # of a table, and of labels, are shown
_METRICS = 50


@dataclass(frozen=True)
class Rates(Measurement):
    """The learning rate of the step that is about to be made, the largest of the groups.

    Attributes:
        optimizer: Index of the optimizer.
        value: Its learning rate.
        step: When, on the x-axis of the loggers.
        before: Those of the steps before that were only noted.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step", "on_train_end")
    noted: ClassVar[tuple[str, ...]] = hooks[:1]

    optimizer: int
    value: float
    step: int
    before: tuple[Rates, ...] = ()

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Rates | None:
        """Reads the rates; those that live on a device are left there."""
        if moment.hook in cls.noted:
            cls.note(moment, memory)
        noted: list[tuple[int, float, int]] = vars(memory).get("noted", [])
        if not noted:
            return None
        *before, last = (cls(*one) for one in noted)
        noted.clear()
        return replace(last, before=tuple(before))

    @classmethod
    def note(cls, moment: Moment, memory: SimpleNamespace) -> int:
        """Keeps them."""
        rates = [group.get("lr") for group in moment.optimizer.param_groups]
        numbers = [one for one in rates if isinstance(one, (int, float))]
        if numbers:
            index = optimizer_index(moment.trainer, moment.optimizer)
            noted = vars(memory).setdefault("noted", [])
            noted.append((index, float(max(numbers)), moment.step))
        return 0

    def curves(self) -> dict[str, float]:
        """The learning rate, by optimizer."""
        return {
            f"learning rate {self.optimizer}" if self.optimizer else "learning rate": self.value
        }


@dataclass(frozen=True)
class Histogram:
    """How often values fall into each of equal bins.

    Attributes:
        low: Lower end of the first bin.
        high: Upper end of the last.
        counts: One number a bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Weights(Measurement):
    """The distribution of weights and biases, ever more rarely as the run grows older.

    Attributes:
        weights: Of the parameters with more than one dimension.
        biases: Of the others.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step", "on_train_end")

    weights: Histogram | None
    biases: Histogram | None

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Weights | None:
        """Reads some entries of each parameter, by one copy to the host for either kind."""
        due = vars(memory).setdefault("due", moment.step)
        if moment.hook != "on_train_end" and moment.step < due:
            return None
        memory.due = moment.step + max(1, math.ceil((_GROWTH - 1) * moment.step))
        named = [(plain_name(name), one) for name, one in moment.module.named_parameters()]
        if not moment.trainer.is_global_zero or is_sharded(moment.trainer, named):
            return None
        real = [one.detach() for _, one in named if one.is_floating_point() and one.numel()]
        return cls(
            _histogram([one for one in real if one.dim() > 1]),
            _histogram([one for one in real if one.dim() <= 1]),
        )

    def snapshot(self) -> dict[str, Any]:
        """Both histograms."""
        return {
            name: {"low": one.low, "high": one.high, "counts": list(one.counts)}
            for name, one in (("weights", self.weights), ("biases", self.biases))
            if one is not None
        }


@dataclass(frozen=True)
class FirstBatch(Measurement):
    """The first batch of training: its tensors, and its images as thumbnails.

    Attributes:
        tensors: For each, where it is, its type and shape, its range if it has one, and of a list
            or table its first rows.
        images: Some images of it, as bytes in base64 with width, height and channels.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_start",)

    tensors: tuple[dict[str, Any], ...]
    images: dict[str, Any] | None

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> FirstBatch | None:
        """Looks once."""
        if hasattr(memory, "done") or not moment.trainer.is_global_zero:
            return None
        memory.done = True
        found = tensors(moment.batch)
        images = next((one for _, one in found if is_image(one)), None)
        return cls(
            tuple({"where": str(place), **_summary(one)} for place, one in found[:_METRICS]),
            None if images is None else thumbnails(images),
        )

    def snapshot(self) -> dict[str, Any]:
        """Everything."""
        return {"tensors": list(self.tensors), "images": self.images}


@dataclass(frozen=True)
class Validation(Measurement):
    """What the user's own metrics were after a validation.

    Attributes:
        metrics: Those of ``callback_metrics`` that are single numbers.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_validation_end",)

    metrics: dict[str, float]

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Validation:
        """Reads them."""
        found = list(moment.trainer.callback_metrics.items())[:_METRICS]
        single = {
            name: one for name, one in found if not isinstance(one, Tensor) or one.numel() == 1
        }
        return cls({str(name): float(one) for name, one in single.items()})

    def snapshot(self) -> dict[str, Any]:
        """All of them."""
        return {"metrics": self.metrics}


# What the record asks for beside what the detectors do.
KINDS: tuple[type[Measurement], ...] = (
    Loss, Rates, Weights, FirstBatch, Fingerprint, Saliency, Validation,
)  # fmt: skip


def _histogram(parameters: list[Tensor]) -> Histogram | None:
    if not parameters:
        return None
    device = parameters[0].device
    parts = [one.flatten()[:: max(1, one.numel() // _ENTRIES)] for one in parameters]
    values = torch.cat([one.to(device, torch.float32) for one in parts]).cpu()
    values = values[values.isfinite()]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(values, _BINS, low, high)
    return Histogram(low, high, tuple(int(one) for one in counts.tolist()))


def _summary(tensor: Tensor) -> dict[str, Any]:
    about: dict[str, Any] = {"type": str(tensor.dtype)[6:], "shape": list(tensor.shape)}
    if tensor.numel() and not tensor.is_complex() and tensor.layout is torch.strided:
        real = tensor.detach().float()
        numbers = torch.stack([real.min(), real.max(), real.mean(), real.std(correction=0)])
        about.update(zip(("low", "high", "mean", "std"), numbers.tolist(), strict=True))
        if 0 < tensor.dim() <= 2:  # noqa: PLR2004 -- labels, or a table
            shown = (slice(_ROWS), slice(_COLUMNS)) if tensor.dim() > 1 else slice(_LABELS)
            about["rows"] = tensor.detach()[shown].tolist()
    return about
