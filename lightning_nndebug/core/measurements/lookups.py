"""Which rows of embeddings are looked up in training, and which in validation."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..listening import hookable
from ..sandbox import running
from ..trainer import eagerly, plain_name
from . import Cadence, Measurement, Moment

_ROWS = 2**20  # of a table, at most
_COMPARED = 2**12  # rows of a table that are compared
_LOOKS = 8  # of training, before anything is said of validation
_SIZE = 0.25  # of the rows that were trained: noise that is smaller disturbs little
_CHANCE = 3.0  # times the variance that chance gives to means and variances of columns
_FEW = 64  # lookups, and so many of as many batches at least


@dataclass(frozen=True)
class TrainedRows(Measurement):
    """The rows of each table that were looked up in the steps that were watched.

    Attributes:
        seen: For each table that is trained, whether each of its rows was looked up.
        new: Which share of the lookups of the last look were of rows that had not been seen.
        looks: How many steps were watched.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=20, every=5)
    lasting: ClassVar[bool] = True

    seen: dict[str, Tensor]
    new: dict[str, Tensor]
    looks: int

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Hooks the tables."""
        if not hasattr(memory, "seen"):
            memory.seen, memory.looks, memory.tables = {}, 0, _tables(moment.module)
        memory.new = {}
        _listen(moment, memory, memory.tables, functools.partial(_mark, memory))

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> TrainedRows:
        """Hands over what is on the device."""
        memory.looks += 1
        return cls(memory.seen, memory.new, memory.looks)

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks."""
        if hasattr(memory, "stack"):
            memory.stack.close()


@dataclass(frozen=True)
class UntrainedRows(Measurement):
    """What validation looks up in tables that are trained.

    Attributes:
        shares: For each table, which share of the lookups is of rows that training never looked up,
            as far as it was watched, and that are no smaller than those it did: rows of zeros, and
            such as differ in size as learned ones do, are no matter;
        usual: and which share of those in the last step of training that was watched.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_validation_batch_end",)
    prepares: ClassVar[str | None] = "on_validation_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=4, every=100)
    needs: ClassVar[tuple[type[Measurement], ...]] = (TrainedRows,)

    shares: dict[str, float]
    usual: dict[str, float]

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Hooks the tables, if enough of training is known."""
        memory.trained, memory.stack = moment.take(TrainedRows), ExitStack()
        memory.counts = vars(memory).get("counts", {})
        is_known = memory.trained is not None and memory.trained.looks >= _LOOKS
        if is_known and _has_seen_all(moment.trainer):
            _listen(moment, memory, _tables(moment.module), functools.partial(_count, memory))

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> UntrainedRows | None:
        """Reads the shares over all batches that were watched so far."""
        names = [name for name in memory.counts if name in memory.trained.new]
        if not names:
            return None
        rows = [torch.stack([*memory.counts[one], memory.trained.new[one]]) for one in names]
        read = torch.stack([one.to(rows[0].device) for one in rows]).tolist()
        known = {
            name: (unseen / number, usual)
            for name, (unseen, number, batches, usual) in zip(names, read, strict=True)
            if batches > 1 and number >= _FEW
        }
        return cls({k: v[0] for k, v in known.items()}, {k: v[1] for k, v in known.items()})

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks."""
        if hasattr(memory, "stack"):
            memory.stack.close()


def _tables(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(plain_name(name), one) for name, one in hookable(module) if _is_trained(one)]


def _has_seen_all(trainer: Any) -> bool:
    """Whether training has gone through all of its data: what is missing may be yet to come."""
    return bool(trainer.fit_loop.total_batch_idx + 1 >= trainer.num_training_batches)


def _listen(
    moment: Moment, memory: SimpleNamespace, tables: list[tuple[str, nn.Module]], look: Any
) -> None:
    memory.stack = ExitStack()
    if tables:
        memory.stack.enter_context(eagerly(moment.module))
    for name, one in tables:
        handle = one.register_forward_pre_hook(functools.partial(_hear, look, name))
        memory.stack.callback(handle.remove)


def _is_trained(module: nn.Module) -> bool:
    if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return False
    return module.weight.requires_grad and len(module.weight) <= _ROWS


def _hear(look: Any, name: str, table: Any, args: tuple[Any, ...]) -> None:
    index = args[0] if args else None
    if running() or not isinstance(index, Tensor) or index.is_floating_point():
        return
    rows = index.detach().reshape(-1).long()
    if len(rows):
        with torch.no_grad():
            look(name, rows.clamp(0, len(table.weight) - 1), table.weight)


def _mark(memory: SimpleNamespace, name: str, rows: Tensor, weight: Tensor) -> None:
    if name not in memory.seen:
        memory.seen[name] = torch.zeros(len(weight), dtype=torch.bool, device=rows.device)
    seen = memory.seen[name]
    if name not in memory.new:  # a table that is looked up twice has been seen by itself
        memory.new[name] = (~seen[rows]).float().mean()
    seen[rows] = True


def _count(memory: SimpleNamespace, name: str, rows: Tensor, weight: Tensor) -> None:
    seen = memory.trained.seen.get(name)
    if seen is None or len(seen) != len(weight):
        return
    unseen = (~seen[rows]).float().sum() * _are_drawn(weight.detach(), seen)
    now = torch.stack([unseen, torch.full_like(unseen, len(rows)), torch.ones_like(unseen)])
    memory.counts[name] = memory.counts[name] + now if name in memory.counts else now


def _are_drawn(weight: Tensor, seen: Tensor) -> Tensor:
    """Whether the rows that were never looked up are noise, as large as those that were.

    Numbers that are drawn at random, all from one distribution, have columns of the same mean, and
    of the same spread but for chance; learned vectors have not. Of a large table, rows are looked
    at that are spread over it: a copy of the whole may not fit beside it.
    """
    step = -(-len(weight) // _COMPARED)
    weight, seen = weight[::step], seen[::step]
    count = (~seen).sum().clamp_min(2)
    weights = (~seen)[:, None].float()
    rows = weight.float()
    mean = (rows * weights).sum(0) / count
    variance = ((rows - mean).square() * weights).sum(0) / (count - 1)
    usual = variance.mean().clamp_min(1e-30)
    off = (mean - mean.mean()).square().mean() * count / usual
    uneven = (variance / usual - 1).square().mean() * count / 2
    trained = (rows.square() * seen[:, None]).sum() / seen.sum().clamp_min(1) / rows.shape[1]
    is_large = usual > _SIZE**2 * trained
    return (is_large & (off < _CHANCE) & (uneven < _CHANCE)).float()
