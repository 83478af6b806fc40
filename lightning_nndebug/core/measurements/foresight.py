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
_ROWS = 4  # sequences, whose first tokens are compared
_MATCH = 0.98  # of the targets are the tokens of the input
_CHANGING = 0.05  # of the tokens differ from the one before: else every order is the same
_PAIRS, _SHUFFLES = 2048, 50  # of tokens in a row, and of these
_STRUCTURE = 10.0  # deviations: pairs come again more often than by chance
_NOISE = 1e-3  # of the deviation of the logits: more is no rounding error


@dataclass(frozen=True)
class Foresight(Measurement):
    """What a model of token sequences knows of its targets, by trying it out on a batch.

    Tokens of the second half are exchanged for others of the batch, in eval mode. Not known where
    targets are not the inputs, with several processes, and of steps that cannot be run again.

    Attributes:
        name: Where the tokens are.
        shift: By how many places the targets are ahead of the tokens: 1, 0 if not at all, or -1 if
            they are behind.
        change: By how much that changes the outputs of the first half, relative to their deviation.
        own: The same at the first place of the second half, which is that of a token exchanged.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls, Repeatable)

    name: str
    shift: int
    change: float
    own: float

    @property
    def leaks(self) -> bool:
        """Whether outputs depend on the tokens that they are to predict: more than by rounding.

        Who sees what comes after a token, too, is to restore the sequence; and targets that are
        the tokens may well be moved by the net, behind a token to begin with.
        """
        return self.change > _NOISE if self.shift > 0 else self.change <= _NOISE < self.own

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
                    is_text = _is_text(tokens, order[1])
                    changes = _try_out(moment, place, number, order[1])
                    if changes is None:
                        return None
                    told = _told(str(place), *order, changes, tokens)
                    return told if told.shift >= 0 or is_text else None
        return None


def _told(
    name: str, shift: int, counts: Tensor, changes: tuple[float, float, float], tokens: Tensor
) -> Foresight:
    early, last, own = changes
    if not shift and counts.shape[1] < tokens.shape[1] and early <= _NOISE < last:
        return Foresight(name, -1, early, last)  # what is said is cut at its beginning
    return Foresight(name, shift, max(early, last), own)


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
    is_behind = length == tokens.shape[1] and changing and _is_behind(target, given, counts)
    return (-1, counts) if is_behind else None


def _is_behind(target: Tensor, given: Tensor, counts: Tensor) -> bool:
    """Tells whether the targets are the tokens before, cut out of the same sequences.

    What is to be repeated after a delay begins with a blank, or goes round.
    """
    first, equal = target[:, 0], (target[:, 1:] == given[:, :-1])[counts[:, 1:]]
    is_cut = len(first) >= _ROWS and (first != first[0]).any() and (first != given[:, -1]).any()
    return bool(is_cut and equal.numel() and equal.float().mean() > _MATCH)


def _is_text(tokens: Tensor, counts: Tensor) -> bool:
    """Tells whether a token has to do with the one before: of symbols at random, any may follow."""
    given, both = tokens[: len(counts), : counts.shape[1]], counts[:, 1:] & counts[:, :-1]
    first, second = (one[both][:_PAIRS].cpu() for one in (given[:, :-1], given[:, 1:]))
    own = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(first), generator=own) for _ in range(_SHUFFLES)]
    found, *others = (
        torch.unique(torch.stack([first, one]), dim=1, return_counts=True)[1]
        .double()
        .square()
        .sum()
        for one in (second, *(second[order] for order in orders))
    )
    by_chance = torch.stack(others)
    return bool(found > by_chance.mean() + _STRUCTURE * by_chance.std().clamp_min(1))


def _try_out(
    moment: Moment, place: Place, number: int, counts: Tensor
) -> tuple[float, float, float] | None:
    """Returns by how much tokens of the second half change what is said of the first one.

    But for its last place; then what is said there, and at the first place of the second half.
    """
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
            return _changes(before, after, counts, half)
    except Exception as error:
        log.info("nndebug: whether tokens are seen ahead of time is not known: %s", error)
        return None


def _changes(
    before: Tensor, after: Tensor, counts: Tensor, half: int
) -> tuple[float, float, float] | None:
    """Compares what is said at all places before the second half, the last of them, and beyond."""
    classes = before.shape[1]
    before, after = (one.movedim(1, -1).reshape(-1, classes).float() for one in (before, after))
    rows, length = counts.shape
    before, after = (one[: rows * length].view(rows, length, classes) for one in (before, after))
    deviation = before[counts].std().clamp_min(1e-12)
    change = ((after - before).abs().amax(-1) / deviation).where(counts, 0.0).amax(0)
    if not counts[:, :half].any():
        return None
    early, last, own = change[: half - 1], change[half - 1], change[half : half + 1]
    return float(early.max()), float(last), float(own.sum())


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
