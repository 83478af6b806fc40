"""Whether the processes of a DDP run still hold the same parameters."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..trainer import is_stepping, plain_name
from . import Measurement, Moment
from .schedules import optimizer_name
from .weights import entries, is_dense

_EVERY = 1000  # steps, at most, between two looks
_APART = 50  # steps, at least, between a look and one at the end of an epoch
_ENTRIES = 32  # of each parameter are compared

Kind = Literal["synced", "hidden", "added", "unfrozen"]


@dataclass(frozen=True)
class Replica:
    """One parameter that an optimizer holds, in all processes.

    Attributes:
        name: The parameter; where the module does not know it, its number in the optimizer.
        spread: Root mean square of the differences between the processes, relative to the entries.
        rounding: The smallest relative change that its type can hold.
        kind: What DDP does for it. ``"synced"``: it averages its gradients. It does not where the
            parameter is ``"hidden"`` from the module, was ``"added"`` after DDP had been set up,
            or was frozen then and ``"unfrozen"`` later.
    """

    name: str
    spread: float
    rounding: float = 6e-8
    kind: Kind = "synced"


@dataclass(frozen=True)
class Replicas(Measurement):
    """Some entries of each parameter that is trained, compared over all processes.

    The looks are after steps 1, 2, 4, 8 and so on, after every thousandth, and at the end of epochs
    that are not short: there all ranks meet, whatever they have seen. Buffers may differ, and so
    may what no optimizer holds, such as an average, or what DDP was told to ignore.

    Attributes:
        replicas: One for each parameter.
        processes: How many have been compared.
        steps: How many steps there were so far.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_start",
        "on_train_batch_end",
        "on_train_epoch_end",
    )

    replicas: tuple[Replica, ...]
    processes: int
    steps: int

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Replicas | None:
        """Meets the other ranks at fixed steps."""
        trainer = moment.trainer
        if moment.hook == "on_train_start":
            memory.is_replicated = _is_replicated(trainer)
            memory.steps = memory.last = 0
            memory.trainable = {id(p) for p in moment.module.parameters() if p.requires_grad}
        if not memory.is_replicated or moment.hook == "on_train_start":
            return None
        if moment.hook == "on_train_batch_end":
            if not is_stepping(trainer):
                return None
            memory.steps += 1
            steps = memory.steps
            is_due = not (steps & (steps - 1)) or steps % _EVERY == 0
        else:
            is_due = memory.steps - memory.last >= _APART
        if not is_due:
            return None
        memory.last = memory.steps
        held = _held(moment, memory.trainable)
        if not held or not _is_common(trainer, held):
            return None
        return cls(tuple(_compared(trainer, held)), trainer.world_size, memory.steps)


@dataclass(frozen=True)
class _Held:
    name: str
    kind: Kind
    p: nn.Parameter


def _is_replicated(trainer: Any) -> bool:
    """Tells whether DDP is to keep all processes alike, which local SGD does only now and then."""
    model = trainer.strategy.model
    return (
        trainer.world_size > 1
        and isinstance(model, DistributedDataParallel)
        and dist.get_world_size(model.process_group) == trainer.world_size
        and getattr(trainer.strategy, "_model_averager", None) is None
    )


def _held(moment: Moment, trainable: set[int]) -> list[_Held]:
    """Lists what the optimizers train, in their order."""
    ddp = moment.trainer.strategy.model
    names = {id(p): name for name, p in moment.module.named_parameters()}
    wrapped = {id(p) for p in getattr(ddp, "_module_parameters", ddp.parameters())}
    held: dict[int, _Held] = {}
    for optimizer in moment.trainer.optimizers:
        ours = [p for group in optimizer.param_groups for p in group["params"]]
        for number, p in enumerate(ours):
            name = names.get(id(p))
            is_ignored = name is not None and name in ddp.parameters_to_ignore
            if id(p) in held or is_ignored or not (p.requires_grad and is_dense(p)):
                continue
            kind: Kind = "synced" if id(p) in trainable else "unfrozen"
            if name is None:
                own = optimizer_name(moment.trainer, optimizer)
                name, kind = f"{own}.params[{number}]", "hidden"
            elif id(p) not in wrapped:
                kind = "added"
            held[id(p)] = _Held(plain_name(name), kind, p)
    return list(held.values())


def _is_common(trainer: Any, held: list[_Held]) -> bool:
    """Tells whether all ranks hold the same: some divide the state of an optimizer among them."""
    mark = zlib.crc32(" ".join(f"{one.name} {tuple(one.p.shape)}" for one in held).encode())
    both = torch.tensor([mark, -mark], dtype=torch.int64, device=trainer.strategy.root_device)
    most, less = trainer.strategy.reduce(both, reduce_op="max").tolist()
    return bool(most == -less)


def _compared(trainer: Any, held: list[_Held]) -> list[Replica]:
    rows = [_some(one.p).to(trainer.strategy.root_device) for one in held]
    sizes = [len(row) for row in rows]
    mine = torch.cat(rows).nan_to_num(0.0, 0.0, 0.0)
    most, less = trainer.strategy.reduce(torch.cat([mine, -mine]), reduce_op="max").chunk(2)
    larger = torch.maximum(most.abs(), less.abs())
    spreads, scales = (
        torch.stack([row.square().mean().sqrt() for row in torch.split(one, sizes)])
        for one in (most + less, larger)
    )
    pairs = torch.stack([spreads, scales], dim=1).tolist()
    return [
        Replica(
            name=one.name,
            spread=spread / scale if scale else 0.0,
            rounding=torch.finfo(one.p.dtype).eps / 2,
            kind=one.kind,
        )
        for one, (spread, scale) in zip(held, pairs, strict=True)
    ]


def _some(p: Tensor) -> Tensor:
    row = entries(p)
    return row[:: max(1, len(row) // _ENTRIES)]
