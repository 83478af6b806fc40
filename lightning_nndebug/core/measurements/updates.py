"""What the optimizer really does to the weights: a sample of them before and after a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..layers import condensed
from ..trainer import gradient_scale
from . import Cadence, Measurement, Moment
from .gradients import held_parameters, is_sharded
from .losses import Loss
from .schedules import learning_rate, optimizer_name
from .weights import (
    ENTRIES,
    LAYERS,
    Kind,
    are_alike,
    entries,
    fan_in,
    has_units,
    is_dense,
    is_normalized,
    kind_of,
)

_WIDE = 4  # columns of a table or matrix, at least, are not alike by chance


@dataclass(frozen=True)
class Update:
    """One parameter in one step.

    Attributes:
        name: The parameter.
        optimizer: The optimizer that holds it.
        kind: What it is for; see ``Weight``.
        rate: The learning rate of its group; None if it has none.
        weight: Root mean square of its entries, before the step.
        update: Likewise, of what the step added.
        gradient: Likewise, of its gradient; None if there was none.
        start: What ``weight`` was at the first look.
        age: Optimizer steps since then.
        numel: How many entries it has.
        fan_in: How many inputs it sums over.
        rounding: The smallest relative change that its type can hold.
        moved: Whether any entry is not what it was at the first look, before this step.
        is_alike: Whether all units of the layer, or columns of a table, have been equal at every
            look. Of a matrix without a layer, that began as one number, units may be either.
        is_normalized: Whether a norm comes next, so that its size is no matter.
    """

    name: str
    optimizer: str
    kind: Kind
    rate: float | None
    weight: float
    update: float
    gradient: float | None
    start: float
    age: int = 0
    numel: int = 1024
    fan_in: int = 1
    rounding: float = 6e-8
    moved: bool = True
    is_alike: bool = False
    is_normalized: bool = False

    @property
    def ratio(self) -> float:
        """The relative change of the weights."""
        return self.update / self.weight if self.weight else math.inf


@dataclass(frozen=True)
class SampledUpdates(Measurement):
    """The real updates of one optimizer step, from the same few entries of each parameter.

    Not known where parameters are sharded, nor of a step that changed nothing at all, such as one
    that a GradScaler skips.

    Attributes:
        updates: One for each parameter that the optimizers of this batch hold.
        losses: By optimizer, the loss that it stepped for, where that is known.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step", "on_train_batch_end")
    prepares: ClassVar[str | None] = "on_train_batch_start"
    # A look costs half a per cent of the step of a net of real size, and more of that of a toy.
    cadence: ClassVar[Cadence] = Cadence(first=5, every=5, budget=0.1)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Loss,)

    updates: tuple[Update, ...]
    losses: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Begins a look."""
        memory.before = []

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> SampledUpdates | None:
        """Keeps the sample before each optimizer's step, and compares at the end of the batch."""
        if moment.hook == "on_before_optimizer_step":
            books = vars(memory).setdefault("books", {})
            book = books.setdefault(id(moment.optimizer), _Book())
            # An optimizer that steps twice in a batch is compared over its last step.
            memory.before = [one for one in memory.before if one is not book]
            if book.open(moment):
                memory.before.append(book)
            return None
        books = memory.before
        memory.before = []
        updates = [one for book in books for one in book.close(moment)]
        losses = {book.name: book.loss.value for book in books if book.loss is not None}
        return cls(tuple(updates), losses) if updates else None

    def snapshot(self) -> dict[str, Any]:
        """The relative change of the weights, by layer."""
        ratios = {one.name: one.ratio for one in self.updates if math.isfinite(one.ratio)}
        return {"layers": {"update ratio": condensed(ratios, median)}}

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Lets go of the samples of a step that was left half-way."""
        memory.before = []


@dataclass
class _First:
    """A parameter at the first look."""

    row: Tensor
    step: int
    kind: Kind
    fan_in: int
    is_alike: bool
    is_even: bool
    is_normalized: bool


@dataclass
class _Book:
    """The parameters of one optimizer."""

    first: dict[int, _First] = field(default_factory=dict)
    held: list[tuple[str, nn.Parameter]] = field(default_factory=list)
    rates: list[float | None] = field(default_factory=list)
    reached: list[bool] = field(default_factory=list)
    name: str = ""
    loss: Loss | None = None
    rows: Tensor | None = None
    gradients: Tensor | None = None

    def open(self, moment: Moment) -> bool:
        """Notes how the parameters are before the step."""
        self.held = [
            (name, p) for name, p in held_parameters(moment.module, moment.optimizer) if is_dense(p)
        ]
        if not self.held or is_sharded(moment.trainer, self.held):
            return False
        self.name = optimizer_name(moment.trainer, moment.optimizer)
        self.loss = moment.take(Loss)
        groups = moment.optimizer.param_groups
        rates = {id(p): learning_rate(group) for group in groups for p in group["params"]}
        self.rates = [rates[id(p)] for _, p in self.held]
        self.rows = _rows([p for _, p in self.held])
        gradients = [p.grad for _, p in self.held]
        self.reached = [one is not None for one in gradients]
        self.gradients = _rows(gradients) / gradient_scale(moment.trainer, moment.optimizer)
        self._meet(moment)
        return True

    def close(self, moment: Moment) -> list[Update]:
        """Returns what the step has done."""
        before, gradients = self.rows, self.gradients
        self.rows = self.gradients = None
        if before is None or gradients is None:
            return []
        after = _rows([p for _, p in self.held])
        firsts = [self.first[id(p)] for _, p in self.held]
        first = torch.stack([one.row for one in firsts]).to(after.device)
        sizes = torch.stack(
            [
                _size(before),
                _size(after - before),
                _size(gradients),
                _size(first),
                (before != first).any(1).float(),
            ]
        )
        rows = list(zip(*sizes.tolist(), strict=True))
        if not any(update for _, update, *_ in rows):
            return []
        for (_, p), one in zip(self.held, firsts, strict=True):
            one.is_alike = one.is_alike and (
                are_alike(_units(one.kind, p)) or (one.is_even and are_alike(p.detach().T))
            )
        return [
            Update(
                name=name,
                optimizer=self.name,
                kind=one.kind,
                rate=rate,
                weight=weight,
                update=update,
                gradient=gradient if is_reached else None,
                start=start,
                age=moment.step - one.step,
                numel=p.numel(),
                fan_in=one.fan_in,
                rounding=torch.finfo(p.dtype).eps / 2,
                moved=bool(moved),
                is_alike=one.is_alike,
                is_normalized=one.is_normalized,
            )
            for (name, p), rate, is_reached, one, (weight, update, gradient, start, moved) in zip(
                self.held, self.rates, self.reached, firsts, rows, strict=True
            )
        ]

    def _meet(self, moment: Moment) -> None:
        """Remembers those that are seen for the first time."""
        new = [(name, p) for name, p in self.held if id(p) not in self.first]
        if not new or self.rows is None:
            return
        owners = {
            id(p): (owner, name)
            for owner in moment.module.modules()
            for name, p in owner.named_parameters(recurse=False)
        }
        tree = dict(moment.module.named_modules())
        for (path, p), row in zip(self.held, self.rows, strict=True):
            if id(p) not in self.first:
                owner, name = owners[id(p)]
                self.first[id(p)] = _First(
                    row=row.clone(),
                    step=moment.step,
                    kind=(kind := kind_of(owner, name, p)),
                    fan_in=fan_in(owner, p),
                    is_normalized=is_normalized(tree, path),
                    is_even=(is_even := _is_even(owner, kind, p)),
                    is_alike=is_even
                    or ((has_units(owner, p) or _is_wide(kind, p)) and are_alike(_units(kind, p))),
                )


def _is_wide(kind: Kind, p: Tensor) -> bool:
    return kind == "embedding" and p.dim() == 2 and p.shape[1] >= _WIDE and is_dense(p)  # noqa: PLR2004


def _is_even(owner: nn.Module, kind: Kind, p: Tensor) -> bool:
    """Whether it is a matrix of the user's own, of one number that is not 0."""
    if isinstance(owner, LAYERS) or kind != "other" or p.dim() != 2 or not is_dense(p):  # noqa: PLR2004
        return False
    is_one = are_alike(p) and are_alike(p.detach().T)
    return min(p.shape) >= _WIDE and is_one and bool(p.detach()[0, 0])


def _units(kind: Kind, p: Tensor) -> Tensor:
    """Returns what units of a layer are made of, in rows: those of an embedding are its columns."""
    return p.detach().T if kind == "embedding" else p


def _rows(tensors: Sequence[Tensor | None]) -> Tensor:
    """Returns some entries of each tensor in a row, zeros for one that is not there."""
    rows = [None if one is None or not is_dense(one) else entries(one) for one in tensors]
    some = next((one for one in rows if one is not None), torch.zeros(ENTRIES))
    nothing = torch.zeros_like(some)
    return torch.stack([nothing if one is None else one.to(some.device) for one in rows])


def _size(rows: Tensor) -> Tensor:
    return rows.square().mean(1).sqrt()
