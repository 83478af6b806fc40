"""Whether a language model sees the tokens that it is asked for."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..listening import ListeningMode
from ..sandbox import Sandbox
from . import Measurement, Moment
from .batches import Place
from .loss_calls import LossCall, LossCalls
from .repeatable import Repeatable, is_repeatable

log = logging.getLogger("lightning_nndebug")

_SHORTEST = 4  # tokens
_MATCH = 0.98  # of the targets are the tokens of the input
_CHANGING = 0.05  # of the tokens differ from the one before: else every order is the same
_NOISE = 1e-3  # of the deviation of the logits: more is no rounding error


@dataclass(frozen=True)
class Foresight(Measurement):
    """What a model of token sequences knows of its targets, by trying it out on a batch.

    Tokens of the second half are exchanged for others of the batch, in eval mode. Not known where
    targets are not the inputs, with several processes, and of steps that cannot be run again.

    Attributes:
        name: Where the tokens are.
        shift: By how many places the targets are ahead of the tokens: 1, or 0 if not at all.
        change: By how much that changes the outputs of the first half, relative to their deviation;
        sees: whether that is more than a rounding error.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls, Repeatable)

    name: str
    shift: int
    change: float

    @property
    def sees(self) -> bool:
        """Whether outputs depend on tokens that come after them."""
        return self.change > _NOISE

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Foresight | None:
        """Tries it out once, at the first step that may be run again."""
        heard = None if vars(memory).get("is_done") else moment.take(LossCalls)
        if heard is None:
            return None
        memory.is_done = moment.trainer.world_size > 1 or not heard.embedded
        if memory.is_done or not is_repeatable(moment):
            return None
        memory.is_done = True
        for place in sorted(heard.embedded, key=str):
            tokens = place.read(moment.batch)
            for number, call in enumerate(_classifying(heard)):
                order = None if tokens is None else _order(tokens, call)
                if tokens is not None and order is not None:
                    change = _try_out(moment, place, number, order[1])
                    return None if change is None else cls(str(place), order[0], change)
        return None


def _classifying(heard: LossCalls) -> list[LossCall]:
    return [one for one in heard.calls if one.function in ("cross_entropy", "nll_loss")]


def _order(tokens: Tensor, call: LossCall) -> tuple[int, Tensor] | None:
    """Returns how far ahead the targets are, and which positions count; None if they are others."""
    if tokens.dim() != 2 or tokens.is_floating_point() or tokens.shape[1] < _SHORTEST:  # noqa: PLR2004
        return None
    if call.target is None or not call.has_indices or call.failed or not call.classes:
        return None
    total = torch.Size(call.shape).numel() // call.classes
    length = total // len(tokens)
    if total % len(tokens) or tokens.shape[1] - length not in (0, 1):
        return None
    rows = call.target.numel() // length
    if not rows or call.target.numel() > total:
        return None
    target, given = call.target.flatten()[: rows * length].view(rows, length), tokens[:rows]
    counts = target != (-100 if call.ignored is None else call.ignored)
    changing = (given[:, 1:] != given[:, :-1]).float().mean() > _CHANGING
    for shift in (1, 0):
        end = min(length, tokens.shape[1] - shift)
        equal = (target[:, :end] == given[:, shift : shift + end])[counts[:, :end]]
        if changing and equal.numel() and equal.float().mean() > _MATCH:
            return shift, counts
    return None


def _try_out(moment: Moment, place: Place, number: int, counts: Tensor) -> float | None:
    """Returns by how much tokens of the second half change what is said of the first one."""
    tokens = place.read(moment.batch)
    if tokens is None:
        return None
    try:
        with Sandbox(moment.trainer, moment.module) as sandbox:
            before = _logits(sandbox, moment, number)
            sandbox.rewind()
            half = tokens.shape[1] // 2
            other = tokens.roll(1, 0) if len(tokens) > 1 else tokens.flip(1)
            tokens[:, half:] = other[:, half:]
            after = _logits(sandbox, moment, number)
            if before is None or after is None or before.shape != after.shape:
                return None
            return _change(before, after, counts, half)
    except Exception as error:
        log.info("nndebug: whether tokens are seen ahead of time is not known: %s", error)
        return None


def _change(before: Tensor, after: Tensor, counts: Tensor, half: int) -> float | None:
    """Compares what is said of the next token wherever that comes before the second half."""
    classes = before.shape[1]
    before, after = (one.movedim(1, -1).reshape(-1, classes).float() for one in (before, after))
    rows, length = counts.shape
    before, after = (one[: rows * length].view(rows, length, classes) for one in (before, after))
    known = counts.clone()
    known[:, half:] = False
    if not known.any():
        return None
    deviation = before[known].std().clamp_min(1e-12)
    return float(((after - before)[known].abs().amax(-1) / deviation).max())


def _logits(sandbox: Sandbox, moment: Moment, number: int) -> Tensor | None:
    for module in moment.module.modules():
        module.training = False
    with _Collector() as collector:
        sandbox.training_step(moment.batch, moment.batch_idx, grad=False)
    return collector.inputs[number] if number < len(collector.inputs) else None


class _Collector(ListeningMode):
    """Keeps what loss functions of classes are given."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # The one calls the other, but not with this mode on.
        if func in (functional.cross_entropy, functional.nll_loss):
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor):
                self.inputs.append(given.detach().clone())
        return func(*args, **kwargs)
