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
class NewNorms(Measurement):
    """The norms that no batch has gone into when the run begins.

    Attributes:
        weights: Their weights, by name.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_start",)
    lasting: ClassVar[bool] = True

    weights: dict[str, list[Tensor]]

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> NewNorms:
        """Copies them: a few numbers for each channel."""
        modules = moment.module.named_modules()
        return cls({name: _weights(one) for name, one in modules if _is_blank(one)})


@dataclass(frozen=True)
class BlankNorms(Measurement):
    """The norms that validate by a mean of 0 and a variance of 1, though their weights move.

    Those that an optimizer holds are left out: they are in eval mode while they train. So are those
    whose weights stay: a random target is to be random, and others have their statistics in them.

    Attributes:
        off: For each, how far what it gets is from these: by how many standard deviations the mean,
            and by how much the standard deviation; the root mean square of both over the channels.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_validation_batch_end",)
    prepares: ClassVar[str | None] = "on_validation_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=4, every=500)
    needs: ClassVar[tuple[type[Measurement], ...]] = (NewNorms,)

    off: dict[str, float]

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Hooks the norms without statistics."""
        memory.stack, memory.found = ExitStack(), {}
        groups = [group for one in moment.trainer.optimizers for group in one.param_groups]
        trained = {id(p) for group in groups for p in group["params"] if p.requires_grad}
        new = moment.take(NewNorms)
        first = new.weights if new is not None else {}
        blank = [
            (name, one)
            for name, one in moment.module.named_modules()
            if name in first and not one.training and _is_blank(one)
            if trained.isdisjoint(map(id, one.parameters())) and _have_moved(one, first[name])
        ]
        if blank:
            memory.stack.enter_context(eagerly(moment.module))
        for name, one in blank:
            look = functools.partial(_look, plain_name(name), memory.found)
            memory.stack.callback(one.register_forward_pre_hook(look).remove)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> BlankNorms:
        """Reads what came to the norms."""
        names, rows = list(memory.found), list(memory.found.values())
        read = torch.stack([one.to(rows[0].device) for one in rows]).tolist() if rows else []
        return cls({name: off for name, (off, is_new) in zip(names, read, strict=True) if is_new})

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks."""
        if hasattr(memory, "stack"):
            memory.stack.close()


def _is_blank(module: nn.Module) -> bool:
    # Whoever has copied a net into another framework's may have lost the count, not the statistics.
    return is_norm(module) and not bool(module.num_batches_tracked)


def _weights(norm: nn.Module) -> list[Tensor]:
    return [one.detach().clone() for one in norm.parameters(recurse=False)]


def _have_moved(norm: nn.Module, first: list[Tensor]) -> bool:
    return any(map(_differ, _weights(norm), first))


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and not torch.equal(one.to(other.device), other)


def _look(name: str, found: dict[str, Tensor], norm: Any, args: tuple[Any, ...]) -> None:
    """Compares what a norm gets with the statistics that it begins with."""
    x = args[0] if args else None
    if running() or norm.training or not isinstance(x, Tensor) or x.dim() < 2 or len(x) < 2:  # noqa: PLR2004
        return
    values = x.detach().float().transpose(0, 1).flatten(1)
    is_new = (norm.running_mean == 0).all() & (norm.running_var == 1).all()
    off = torch.hypot(values.mean(1), values.std(1) - 1).square().mean().sqrt()
    found.setdefault(name, torch.stack([off, is_new.float()]))
