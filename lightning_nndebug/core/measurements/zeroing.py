"""What becomes of gradients between two steps: are they zeroed, and when?"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..sandbox import running
from . import Measurement, Moment
from .gradients import held_parameters, is_sharded
from .schedules import optimizer_name

_STEPS = 6  # of each optimizer are watched, in no more than so many batches
_BATCHES = 200
_PARAMETERS, _ENTRIES = 4, 256  # of each optimizer, of each of these: what holds for them, holds


@dataclass(frozen=True)
class Zeroed:
    """One optimizer, in its first steps.

    Attributes:
        optimizer: The optimizer.
        steps: How many steps were watched: those that had a step before them and a new gradient.
        carried: In how many of them all of the new gradient was added to an old one, from before
            the last step.
        lost: In how many of them nothing was left of the new gradient when the step came.
        discarded: In how many of them the last batch began from zero, though others before it had
            left a gradient. Not known of several optimizers: they zero what is not theirs.
    """

    optimizer: str
    steps: int
    carried: int
    lost: int
    discarded: int = 0


@dataclass(frozen=True)
class Zeroing(Measurement):
    """What gradients were added to, and what was left of them, in the first steps of the run.

    Known once, when enough has been seen: a few entries of a few parameters are looked at right
    before each new gradient is added to them, and right before each step.

    Attributes:
        optimizers: Each of the optimizers that took enough steps.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_before_optimizer_step",
        "on_train_batch_end",
    )

    optimizers: tuple[Zeroed, ...]

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Zeroing | None:
        """Watches, and tells at the end of the last batch that it needs."""
        if moment.hook == "on_train_batch_start":
            memory.batches = vars(memory).get("batches", 0) + 1
            if memory.batches == 1:
                memory.books = [_Book(moment, one) for one in moment.trainer.optimizers]
            for book in vars(memory).get("books", ()):
                book.batch = memory.batches
            return None
        books: list[_Book] = vars(memory).get("books", [])
        if moment.hook == "on_before_optimizer_step":
            for book in books:
                if book.optimizer is moment.optimizer:
                    book.close_window()
            return None
        if not books or (memory.batches < _BATCHES and not all(book.is_full for book in books)):
            return None
        cls.release(memory)
        if error := next((book.error for book in books if book.error), None):
            raise error
        return cls(tuple(book.read() for book in books if book.is_full))

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks; what has been watched until then is forgotten."""
        for book in vars(memory).pop("books", []):
            book.close()


@dataclass
class _Page:
    """What happened to one parameter since the last step, on its device."""

    batch: int
    from_zero: Tensor
    arrived: Tensor
    discarded: Tensor  # whether the last batch found gone what those before it had left


class _Book:
    """The gradients of one optimizer, from step to step. Its hooks run in the user's backward."""

    def __init__(self, moment: Moment, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.error: Exception | None = None
        self.batch = 0
        self._is_alone = len(moment.trainer.optimizers) == 1
        self._name = optimizer_name(moment.trainer, optimizer)
        self._arrived: dict[int, _Page] = {}
        self._open: dict[int, _Page] = {}
        self._windows: list[list[Tensor]] = []
        self._handles: list[Any] = []
        held = held_parameters(moment.module, optimizer)
        self._parameters = [] if is_sharded(moment.trainer, held) else _a_few([p for _, p in held])
        self._before = [_entries(p).clone() for p in self._parameters]
        for index, p in enumerate(self._parameters):
            hook = functools.partial(self._arriving, index)
            self._handles.append(p.register_hook(hook))  # type: ignore[no-untyped-call]
            # A gradient that ``autograd.grad`` returns comes by as well, and is added to nothing.
            added = functools.partial(self._added, index)
            after = p.register_post_accumulate_grad_hook(added)  # type: ignore[no-untyped-call]
            self._handles.append(after)
        if not moment.module.automatic_optimization:
            # Raw optimizers call none of Lightning's hooks; those of Lightning pass a closure.
            self._handles.append(optimizer.register_step_pre_hook(self._raw_step))

    @property
    def is_full(self) -> bool:
        return len(self._windows) > _STEPS

    def close(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def read(self) -> Zeroed:
        steps = carried = lost = discarded = 0
        for window in self._windows[1:]:  # the first has no step before it
            flags = torch.stack([one.to(window[0].device) for one in window]).tolist()
            told = [rest for arrived, *rest in flags if arrived]
            steps += bool(told)
            carried += bool(told) and not any(from_zero for from_zero, _, _ in told)
            lost += bool(told) and not any(left for _, left, _ in told)
            discarded += bool(told) and self._is_alone and all(gone for _, _, gone in told)
        lost = 0 if self._is_served_otherwise() else lost
        return Zeroed(self._name, steps, carried, lost, discarded)

    def close_window(self) -> None:
        """A step is next: notes what came since the last one, and what of it is left."""
        if not self._open or self.is_full:
            return
        rows = []
        for index, page in self._open.items():
            gradient = self._parameters[index].grad
            left = _any(gradient, page.arrived)
            rows.append(torch.stack([page.arrived, page.from_zero, left, page.discarded]))
        self._windows.append(rows)
        self._open = {}

    def _arriving(self, index: int, gradient: Tensor | None) -> None:
        if gradient is None or self.is_full or running():  # compiled code may pass on None
            return
        try:
            with torch.no_grad():
                arrived = _any(gradient, gradient)
                from_zero = ~_any(self._parameters[index].grad, gradient)
                gone = torch.zeros_like(arrived)
            page = self._open.get(index)
            if page is not None:
                gone = page.arrived & from_zero if page.batch != self.batch else page.discarded
                from_zero, arrived = from_zero | page.from_zero, arrived | page.arrived
            self._arrived[index] = _Page(self.batch, from_zero, arrived, gone)
        except Exception as error:
            self.error = error

    def _added(self, index: int, _: Tensor) -> None:
        if (page := self._arrived.pop(index, None)) is not None:
            self._open[index] = page

    def _raw_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not any(callable(one) for one in (*args[1:], *kwargs.values())) and not running():
            try:
                self.close_window()
            except Exception as error:
                self.error = error

    def _is_served_otherwise(self) -> bool:
        """Whether parameters move all the same: an optimizer that steps within the backward."""
        decays = any(group.get("weight_decay") for group in self.optimizer.param_groups)
        return not decays and any(
            not torch.equal(_entries(p), before)
            for p, before in zip(self._parameters, self._before, strict=True)
        )


def _a_few(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Chooses parameters from the first to the last, small ones where there are any."""
    small = [p for p in parameters if p.dim() == 1 and p.numel()] or [
        p for p in parameters if p.numel()
    ]
    return small[:: max(1, -(-len(small) // _PARAMETERS))]


def _entries(x: Tensor) -> Tensor:
    return x.detach().reshape(-1)[:_ENTRIES]


def _any(gradient: Tensor | None, like: Tensor) -> Tensor:
    """Returns, on the device, whether a gradient has an entry that is not zero."""
    if gradient is None:
        return torch.zeros((), dtype=torch.bool, device=like.device)
    values = gradient.coalesce().values() if gradient.layout is torch.sparse_coo else gradient
    return _entries(values).any()
