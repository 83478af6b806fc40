"""Batch norms that validation goes through in eval mode, and that have never seen a batch."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..mode_effects import is_norm
from ..sandbox import running
from ..trainer import eagerly, plain_name
from . import Cadence, Measurement, Moment


@dataclass(frozen=True)
class BlankNorms(Measurement):
    """The norms that validate by a mean of 0 and a variance of 1, though their weights are learned.

    Those that an optimizer holds are left out: they are in eval mode while they train.

    Attributes:
        off: For each, how far what it gets is from these: by how many standard deviations the mean,
            and by how much the standard deviation; the root mean square of both over the channels.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_validation_batch_end",)
    prepares: ClassVar[str | None] = "on_validation_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=4, every=500)

    off: dict[str, float]

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Hooks the norms without statistics."""
        memory.stack, memory.found = ExitStack(), {}
        groups = [group for one in moment.trainer.optimizers for group in one.param_groups]
        trained = {id(p) for group in groups for p in group["params"] if p.requires_grad}
        blank = [
            (name, one)
            for name, one in moment.module.named_modules()
            if _is_blank(one) and trained.isdisjoint(map(id, one.parameters()))
        ]
        if blank:
            memory.stack.enter_context(eagerly(moment.module))
        for name, one in blank:
            look = functools.partial(_look, plain_name(name), memory.found)
            memory.stack.callback(one.register_forward_pre_hook(look).remove)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> BlankNorms:
        """Reads what came to them."""
        names, rows = list(memory.found), list(memory.found.values())
        read = torch.stack([one.to(rows[0].device) for one in rows]).tolist() if rows else []
        return cls(
            {name: off for name, (off, is_learned) in zip(names, read, strict=True) if is_learned}
        )

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks."""
        if hasattr(memory, "stack"):
            memory.stack.close()


def _is_blank(module: nn.Module) -> bool:
    # Whoever has copied a net into another framework's may have lost the count, not the statistics.
    return is_norm(module) and not module.training and not bool(module.num_batches_tracked)


def _look(name: str, found: dict[str, Tensor], norm: Any, args: tuple[Any, ...]) -> None:
    """Compares what a norm gets with the statistics that it begins with."""
    x = args[0] if args else None
    if running() or norm.training or not isinstance(x, Tensor) or x.dim() < 2 or len(x) < 2:  # noqa: PLR2004
        return
    values = x.detach().float().transpose(0, 1).flatten(1)
    is_new = (norm.running_mean == 0).all() & (norm.running_var == 1).all()
    # Of a net that nobody has trained, as a random target, nothing else was meant.
    is_learned = torch.zeros_like(is_new)
    for weight, start in ((norm.weight, 1.0), (norm.bias, 0.0)):
        if weight is not None:
            is_learned |= (weight != start).any()
    off = torch.hypot(values.mean(1), values.std(1) - 1).square().mean().sqrt()
    found.setdefault(name, torch.stack([off, (is_new & is_learned).float()]))
