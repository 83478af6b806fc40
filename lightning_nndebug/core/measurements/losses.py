"""The true loss of an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch

from ..trainer import accumulation, loss_scale, optimizer_index
from . import Measurement, Moment


@dataclass(frozen=True)
class Loss(Measurement):
    """The loss as the user computed it, on this rank: not scaled, not divided by accumulation.

    Attributes:
        value: Mean over the batches that go into this optimizer step.
        values: The loss of each of them, in order.
        optimizer: Index of the optimizer whose step it is for; 0 if that cannot be known.
        step: Where it was taken, on the x-axis of the loggers.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_before_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
    )
    restless: ClassVar[bool] = True

    value: float
    values: tuple[float, ...]
    optimizer: int
    step: int

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Loss | None:
        """Collects the losses on their device, and reads them once, before the step."""
        pending: list[torch.Tensor] = memory.__dict__.setdefault("pending", [])
        if moment.hook == "on_before_backward":
            parts = accumulation(moment.trainer)
            pending.append(moment.loss.detach() if parts == 1 else moment.loss.detach() * parts)
            memory.hooked = True
            return None
        if moment.hook == "on_train_batch_end":
            if getattr(memory, "hooked", False):
                return None
            # Manual optimization with raw optimizers: no hook tells us of the backward.
            loss = moment.outputs.get("loss") if isinstance(moment.outputs, dict) else None
            if not isinstance(loss, torch.Tensor):
                return None
            pending.append(loss.detach())
        if not pending:
            return None
        scale = loss_scale(moment.trainer) if moment.hook == "on_before_optimizer_step" else 1.0
        losses = [one if one.numel() == 1 else one.float().mean() for one in pending]
        if len(losses) > 1:
            read = torch.stack([one.float().reshape(()) for one in losses]).tolist()
        else:
            read = [losses[0].item()]
        values = [one / scale for one in read]
        pending.clear()
        return cls(
            sum(values) / len(values),
            tuple(values),
            optimizer_index(moment.trainer, moment.optimizer),
            moment.step,
        )

    def curves(self) -> dict[str, float]:
        """The loss, by optimizer if there are several."""
        return {f"loss {self.optimizer}" if self.optimizer else "loss": self.value}
