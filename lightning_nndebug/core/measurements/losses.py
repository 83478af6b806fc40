"""The true loss of an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import ClassVar

import torch

from ..trainer import accumulation, loss_scale, optimizer_index
from . import Measurement, Moment

_MOST = 256  # steps that wait to be read


@dataclass(frozen=True)
class Loss(Measurement):
    """The loss as the user computed it, on this rank: not scaled, not divided by accumulation.

    Attributes:
        value: Mean over the batches that go into this optimizer step.
        values: The loss of each of them, in order.
        optimizer: Index of the optimizer whose step it is for; 0 if that cannot be known.
        step: Where it was taken, on the x-axis of the loggers.
        before: The losses of those steps before that were only noted.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_before_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_validation_start",
        "on_train_end",
    )
    noted: ClassVar[tuple[str, ...]] = hooks[:3]

    value: float
    values: tuple[float, ...]
    optimizer: int
    step: int
    before: tuple[Loss, ...] = field(default=(), repr=False)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Loss | None:
        """Collects the losses on their device, and reads them once, before the step."""
        if moment.hook in cls.noted:
            cls.note(moment, memory)
        if moment.hook == "on_before_backward" or not hasattr(memory, "pending"):
            return None
        losses = _read(memory)
        memory.known.clear()
        if not losses:
            return None
        *before, last = losses
        return replace(last, before=tuple(before))

    @classmethod
    def note(cls, moment: Moment, memory: SimpleNamespace) -> int:
        """Collects them, and puts those of one step together."""
        if not hasattr(memory, "pending"):
            memory.pending, memory.waiting, memory.known, memory.hooked = [], [], [], False
        pending: list[_Kept] = memory.pending
        if moment.hook == "on_before_backward":
            pending.append((_kept(moment.loss), accumulation(moment.trainer)))
            memory.hooked = True
            return 0
        if moment.hook == "on_train_batch_end":
            if memory.hooked:
                return 0
            # Manual optimization with raw optimizers: no hook tells us of the backward.
            loss = moment.outputs.get("loss") if isinstance(moment.outputs, dict) else None
            if not isinstance(loss, torch.Tensor):
                return 0
            pending.append((_kept(loss), 1))
        if not pending:
            return 0
        scale = loss_scale(moment.trainer) if moment.hook == "on_before_optimizer_step" else 1.0
        index = optimizer_index(moment.trainer, moment.optimizer)
        memory.waiting.append((tuple(pending), scale, index, moment.step))
        pending.clear()
        if len(memory.waiting) >= _MOST:
            _read(memory)
        return 0

    def curves(self) -> dict[str, float]:
        """The loss, by optimizer if there are several."""
        return {f"loss {self.optimizer}" if self.optimizer else "loss": self.value}


_Kept = tuple[float | torch.Tensor, int]  # a loss, and by what to multiply it


def _kept(loss: torch.Tensor) -> float | torch.Tensor:
    """Returns a number, or a copy for later: to read from another device makes the host wait."""
    loss = loss.detach() if loss.numel() == 1 else loss.detach().float().mean()
    return loss.item() if loss.device.type == "cpu" else loss.clone()


def _read(memory: SimpleNamespace) -> list[Loss]:
    """Reads all that waits, by one copy to the host, and returns all that is known."""
    kept = [loss for pending, *_ in memory.waiting for loss, _ in pending]
    copies = [one.float().reshape(()) for one in kept if isinstance(one, torch.Tensor)]
    numbers = iter(torch.stack(copies).tolist() if copies else ())
    for pending, scale, index, step in memory.waiting:
        values = tuple(
            (next(numbers) if isinstance(loss, torch.Tensor) else loss) * parts / scale
            for loss, parts in pending
        )
        memory.known.append(Loss(sum(values) / len(values), values, index, step))
    memory.waiting.clear()
    return list(memory.known)
