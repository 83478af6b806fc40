"""How much room a number format leaves: magnitudes of activations, steps a scaler skips."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..listening import hookable
from ..trainer import eagerly, plain_name
from . import Cadence, Measurement, Moment

_LOOKS = 8  # at a GradScaler: in the first ones it may still look for its scale


@dataclass(frozen=True)
class Magnitudes(Measurement):
    """The largest absolute value that each module put out in one training step.

    Attributes:
        modules: Paths of the modules that have no children, in execution order.
        largest: The largest absolute value of each.
        formats: The dtype of each, such as ``float16``.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step",)
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=1, every=100)

    modules: tuple[str, ...]
    largest: tuple[float, ...]
    formats: tuple[str, ...]

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Hooks every module without children for this one step."""
        memory.seen = {}
        memory.stack = ExitStack()
        memory.stack.enter_context(eagerly(moment.module))
        for name, module in hookable(moment.module):
            if name and not any(module.children()):
                watch = _Watch(plain_name(name), memory.seen)
                memory.stack.callback(module.register_forward_hook(watch).remove)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Magnitudes | None:
        """Reads all maxima in one transfer."""
        if not memory.seen:
            return None
        names, values = zip(*memory.seen.items(), strict=True)
        largest = torch.stack([one.float().cpu() for one, _ in values]).tolist()
        return cls(names, tuple(largest), tuple(str(kind)[6:] for _, kind in values))

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Takes the hooks off."""
        if stack := vars(memory).pop("stack", None):
            stack.close()
        memory.seen = {}


class _Watch:
    def __init__(self, name: str, seen: dict[str, tuple[Tensor, torch.dtype]]) -> None:
        self._name, self._seen = name, seen

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
            return
        with torch.no_grad():
            # Infinities are meant where they mask; the largest finite value is what is judged.
            largest = tensor.detach().abs().nan_to_num(0.0, posinf=0.0).amax()
        self._seen[self._name] = (largest, tensor.dtype)


@dataclass(frozen=True)
class ScalerSteps(Measurement):
    """What a GradScaler made of the updates since the last look.

    Attributes:
        scale: Its scale.
        skipped: How many updates it has skipped without a rest between the looks.
        share: The share of updates that it skips; the median of the last looks. 0 until there are
            enough of them.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    # Reading the scale makes the host wait for the device, so it is not read every step.
    cadence: ClassVar[Cadence] = Cadence(every=8, budget=1.0)

    scale: float
    skipped: int
    share: float = 0.0

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> ScalerSteps | None:
        """Counts by how many backoffs the scale has shrunk, beside what it has grown meanwhile."""
        scaler = getattr(moment.trainer, "scaler", None)
        if scaler is None:
            return None
        scale, before = float(scaler.get_scale()), getattr(memory, "scale", None)
        step, last = moment.trainer.global_step, getattr(memory, "step", 0)
        shares: list[float] = vars(memory).setdefault("shares", [])
        memory.scale, memory.step = scale, step
        skipped = 0
        if before and scale > 0 and step > last:
            growth = math.log(scaler.get_growth_factor()) / scaler.get_growth_interval()
            shrinking = (step - last) * growth - math.log(scale / before)
            skipped = round(shrinking / (growth - math.log(scaler.get_backoff_factor())))
            shares[:] = [*shares, max(0, skipped) / (step - last)][-_LOOKS:]
        without_rest = 0 < step - last <= skipped + 1
        memory.skipped = getattr(memory, "skipped", 0) + skipped if without_rest else 0
        return cls(scale, memory.skipped, median(shares) if len(shares) == _LOOKS else 0.0)
