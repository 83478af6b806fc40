"""What the predictions of a step depend on, found out by running it again with other inputs."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, SimpleNamespace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..foreign import is_consumable
from ..listening import ListeningMode
from ..sandbox import Sandbox
from ..source import Line, nearest_line, outward
from . import Measurement, Moment
from .batches import Place, tensors
from .loaders import TrainLoader
from .predictions import Pair, pair_of
from .repeatable import Repeatable, is_repeatable

log = logging.getLogger("lightning_nndebug")

L = TypeVar("L", bound=ListeningMode)

_CALL = nn.Module._call_impl.__code__
_STEPS = (19, 29)
_SAMPLES = 4  # at least
_CHANGED = 1e-4  # of the size of the predictions: batched arithmetic differs by 1e-7
_WHOLE = 1e-6  # likewise of a checksum
# What mixes samples by mistake, if it does. Products and distances are mixed on purpose.
_SUSPECTS = {
    "softmax", "log_softmax", "softmin", "gumbel_softmax", "cumsum", "cumprod",
    "view", "reshape", "view_as", "reshape_as", "unflatten",
    "lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward",
}  # fmt: skip
# What does so where chance alone has put the samples together: none has anything to do with the
# one before it, or with the spread of all. Whole images are shifted to be mixed with others.
_SHIFTS = {"roll", "flip"}
_LENGTHS = {"normalize"}
_SPREADS = {"std", "var", "std_mean", "var_mean"}  # embeddings may well be whitened
_DIVISORS = _SPREADS | {"norm", "linalg_norm", "linalg_vector_norm"}
_SCALING = {"div", "div_", "true_divide", "mul", "mul_"}


@dataclass(frozen=True)
class Mixing:
    """An operation that makes one sample's answer depend on another sample.

    Attributes:
        function: Its name, such as ``softmax``.
        line: The line of the user's code that called it.
        shape: The shape of what it was given.
        axis: The dimension of it that the samples are along.
    """

    function: str
    line: Line | None
    shape: tuple[int, ...]
    axis: int


@dataclass(frozen=True)
class Sensitivity(Measurement):
    """What the predictions depend on, in eval mode if possible, and with the same random numbers.

    Only predictions that are held against a tensor of the batch, sample by sample, are looked at:
    by one of the usual loss functions, or by a difference; and scores by which each sample is to be
    told from the others, but for what they say of the one that has changed.

    Attributes:
        inputs: The tensors of the batch that are no targets.
        ignored: Whether the predictions stay the same to the last bit when all samples are others.
        samples: How many samples there are.
        touched: How many other samples' predictions change with one sample.
        mixing: The operation that is to blame; None if none of those that do so by mistake is.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_start",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Repeatable, TrainLoader)

    inputs: tuple[str, ...]
    ignored: bool
    samples: int
    touched: int
    mixing: Mixing | None

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Sensitivity | None:
        """Looks at the steps 19 and 29; never where other processes would have to take part."""
        if not hasattr(memory, "left"):
            draws = "dataloader_iter" in inspect.signature(moment.module.training_step).parameters
            alone = moment.trainer.world_size == 1
            memory.left = list(_STEPS) if alone and not draws else []
        if not memory.left or moment.step < memory.left[0]:
            return None
        memory.left.pop(0)
        if not is_repeatable(moment) or is_consumable(moment.batch):
            return None
        try:
            with Sandbox(moment.trainer, moment.module) as sandbox:
                return _look(cls, _Runs(sandbox, moment))
        except Exception as error:
            memory.left = []
            log.info("nndebug: what the predictions depend on is not known: %s", error)
            return None


class _Runs:
    """Runs the step again, each time from the same state."""

    def __init__(self, sandbox: Sandbox, moment: Moment) -> None:
        self._sandbox, self._moment = sandbox, moment
        self._loader = moment.take(TrainLoader)
        self.leaves = tensors(moment.batch)
        # Whether with a graph, as a gradient penalty needs it; whether in eval mode, in which some
        # nets give other outputs than their training step takes.
        self._ways = [(False, True), (True, True), (False, False), (True, False)]

    def usual(self) -> list[Pair]:
        """Returns what is predicted of the batch as it is.

        Where a difference is among it, all runs have a graph from here on, which tells what is
        learned: noise minus data is a target.
        """
        pairs = self.pairs()
        if all(pair.function != "sub" for pair in pairs):
            return pairs
        self._ways = [way for way in self._ways if way[0]]
        return self.pairs()

    def pairs(self, change: Callable[[], None] | None = None) -> list[Pair]:
        """Returns what is predicted, after a change of the batch that the sandbox takes back."""
        return self._run(lambda: _Ears([one for _, one in self.leaves]), change).pairs

    def marks(self, samples: int, change: Callable[[], None] | None = None) -> list[_Marks]:
        """Returns checksums of what suspicious operations get and give."""
        loader, (_, evaluating) = self._loader, self._ways[0]
        by_chance = loader is not None and loader.shuffles is True and loader.size == samples
        is_random = evaluating and by_chance
        return self._run(lambda: _Marker(samples, is_random=is_random), change).marks

    def _run(self, listener: Callable[[], L], change: Callable[[], None] | None) -> L:
        moment = self._moment
        while True:
            grad, evaluating = self._ways[0]
            self._sandbox.rewind()
            if evaluating:
                moment.module.eval()
            if change is not None:
                change()
            mode = listener()
            try:
                with mode:
                    self._sandbox.training_step(moment.batch, moment.batch_idx, grad=grad)
            except Exception:
                if len(self._ways) == 1:
                    raise
                self._ways.pop(0)
            else:
                return mode


def _look(cls: type[Sensitivity], runs: _Runs) -> Sensitivity | None:
    usual = runs.usual()
    found = {i: one for i, pair in enumerate(usual) if (one := _target(pair, runs.leaves))}
    samples = next((samples for _, samples in found.values()), 0)
    answers = [i for i, (_, size) in found.items() if size == samples]
    targets = {place for place, _ in found.values()}
    rows = [(place, one) for place, one in runs.leaves if one.dim() and len(one) == samples]
    # Where time has as many steps as there are samples, one cannot be told from the other.
    if samples < _SAMPLES or any(one.dim() > 2 and one.shape[1] == samples for _, one in rows):  # noqa: PLR2004
        return None
    inputs = [(place, one.detach().clone()) for place, one in rows if place not in targets]
    shown = samples // 2

    def scramble() -> None:
        for _, one in rows:
            one.copy_(_scrambled(one))

    def swap() -> None:
        for _, one in rows:
            one[shown] = one[0].clone()

    def compare(changed: list[Pair]) -> list[tuple[Tensor, Tensor]]:
        if len(changed) != len(usual):
            raise ValueError("the step takes another way with other samples")
        both = [(usual[i].prediction, changed[i].prediction) for i in answers]
        rows = [(one.reshape(samples, -1), other.reshape(samples, -1)) for one, other in both]
        for one, other in (rows[i] for i, answer in enumerate(answers) if found[answer][0] is None):
            other[:, shown] = one[:, shown]
        return rows

    ignored = all(torch.equal(*both) for both in compare(runs.pairs(scramble)))
    ignored = ignored and any(not torch.equal(_scrambled(one), one) for _, one in inputs)
    touched = {row for both in compare(runs.pairs(swap)) for row in _differing(*both)} - {shown}
    mixing: Mixing | None = None
    if touched:
        marks = zip(runs.marks(samples), runs.marks(samples, swap), strict=False)
        whitens = _SPREADS if None in targets else set()
        seen = (_mixing(*pair, shown) for pair in marks)
        mixing = next((one for one in seen if one and one.function not in whitens), None)
    return cls(tuple(str(place) for place, _ in inputs), ignored, samples, len(touched), mixing)


def _differing(one: Tensor, other: Tensor) -> list[int]:
    size = one.double().square().mean().sqrt().clamp_min(1e-30)
    rows: list[int] = ((one - other).abs().amax(1) > _CHANGED * size).nonzero().flatten().tolist()
    return rows


def _target(pair: Pair, leaves: Sequence[tuple[Place, Tensor]]) -> tuple[Place | None, int] | None:
    """Finds the tensor of the batch that holds the targets, one or more for every sample.

    There is none where each sample is to be told from the others.
    """
    prediction, target = pair.prediction, pair.target
    if not target.dim() or not prediction.dim() or len(prediction) != len(target):
        return None
    for place, one in leaves:
        if not one.dim() or not len(one) or len(target) % len(one) or one.device != target.device:
            continue
        if one.numel() == target.numel() and torch.equal(
            one.reshape(-1).to(target.dtype), target.reshape(-1)
        ):
            return place, len(one)
    order = torch.arange(len(target), device=target.device)
    are_told_apart = prediction.shape == (len(target),) * 2 and torch.equal(target, order)
    return (None, len(target)) if are_told_apart else None


def _scrambled(x: Tensor) -> Tensor:
    """Returns other samples; of numbers, with their features in another order."""
    x = x.roll(len(x) // 2, 0)
    return x.flatten(1).flip(1).view_as(x) if x.is_floating_point() and x.dim() > 1 else x


class _Ears(ListeningMode):
    """Keeps copies of what is predicted."""

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        super().__init__()
        self._leaves = leaves
        self.pairs: list[Pair] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name, is_told = getattr(func, "__name__", ""), torch.is_grad_enabled()
        with torch.no_grad(), torch._C.DisableTorchFunction():
            pair = pair_of(name, args, kwargs, self._leaves)
            is_fixed = pair is not None and is_told and not pair.prediction.requires_grad
            if pair is not None and not (is_fixed and pair.function == "sub"):
                one, other = pair.prediction.detach().clone(), pair.target.detach().clone()
                self.pairs.append(Pair(pair.function, one, other))
        return func(*args, **kwargs)


@dataclass(frozen=True)
class _Marks:
    """Checksums of what went into an operation and came out, for every dimension of samples."""

    function: str
    line: Line | None
    shape: tuple[int, ...]
    given: dict[int, Tensor]
    result: dict[int, Tensor]


class _Marker(ListeningMode):
    """Keeps checksums of what suspicious operations get and give."""

    def __init__(self, samples: int, *, is_random: bool) -> None:
        super().__init__()
        self._samples, self._is_random = samples, is_random
        self._spreads: dict[int, tuple[str, tuple[int, ...], dict[int, Tensor]]] = {}
        self.marks: list[_Marks] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        x = args[0] if args else None
        # A row of lengths is added up, and sorted, to tell where in the batch a sequence begins.
        if not isinstance(x, Tensor) or x.dim() < 2:  # noqa: PLR2004
            return func(*args, **kwargs)
        if self._is_random and name in _DIVISORS:
            return self._noted(name, x, func(*args, **kwargs))
        spread = self._spread(name, x, args)
        if spread is None and not self._is_suspect(name):
            return func(*args, **kwargs)
        with torch.no_grad(), torch._C.DisableTorchFunction():
            name, shape, given = spread or (name, tuple(x.shape), self._sums(x))
        result = func(*args, **kwargs)
        with torch.no_grad(), torch._C.DisableTorchFunction():
            first = result[0] if isinstance(result, (tuple, list)) else result
            line = nearest_line(sys._getframe(1))
            self.marks.append(_Marks(name, line, shape, given, self._sums(first)))
        return result

    def _is_suspect(self, name: str) -> bool:
        if name in _SUSPECTS:
            return True
        shifts = name in _SHIFTS and _is_in_layer(sys._getframe(2))
        return self._is_random and (shifts or name in _LENGTHS)

    def _noted(self, name: str, x: Tensor, result: Any) -> Any:
        """Remembers a spread over the samples, by how many numbers it has."""
        spread = result[0] if isinstance(result, (tuple, list)) else result
        is_over = self._samples in x.shape and self._samples not in spread.shape
        if is_over and spread.numel() > 1:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                self._spreads[spread.numel()] = name, tuple(x.shape), self._sums(x)
        return result

    def _spread(
        self, name: str, x: Tensor, args: tuple[Any, ...]
    ) -> tuple[str, tuple[int, ...], dict[int, Tensor]] | None:
        """Returns the spread that a batch is divided by."""
        scale = args[1] if name in _SCALING and len(args) > 1 else None
        if not isinstance(scale, Tensor) or self._samples in scale.shape:
            return None
        found = self._spreads.get(scale.numel())
        return found if found is not None and found[1] == tuple(x.shape) else None

    def _sums(self, x: Tensor) -> dict[int, Tensor]:
        sums = {}
        for axis in [axis for axis, size in enumerate(x.shape) if size == self._samples]:
            rows = x.detach().movedim(axis, 0).reshape(self._samples, -1).double()
            weights = torch.arange(rows.shape[1], device=rows.device, dtype=rows.dtype).cos()
            sums[axis] = torch.stack([rows @ weights, rows.square().sum(1)])
        return sums


def _is_in_layer(frame: FrameType) -> bool:
    """Whether a module with parameters is being called: a layer, or the whole net."""
    called = (one for one in outward(frame) if one.f_code is _CALL)
    module = next((one.f_locals.get("self") for one in called), None)
    return isinstance(module, nn.Module) and any(True for _ in module.parameters())


def _mixing(usual: _Marks, changed: _Marks, shown: int) -> Mixing | None:
    """Tells whether one sample went into an operation, and came out in several."""
    if usual.function != changed.function or usual.shape != changed.shape:
        return None
    recurrent = usual.function in ("lstm", "gru", "rnn_tanh", "rnn_relu")
    attends = usual.function == "multi_head_attention_forward"
    into = [axis for axis in usual.given if _moved(usual.given, changed.given, axis) == {shown}]
    out_of = [_moved(usual.result, changed.result, axis) for axis in usual.result]
    if not into or not out_of or any(one <= {shown} for one in out_of):
        return None
    # One sequence of all samples is attended to, or read in order, on purpose.
    if (recurrent or attends) and (len(usual.shape) != 3 or usual.shape[1] == 1):  # noqa: PLR2004
        return None
    return Mixing(usual.function, usual.line, usual.shape, into[0])


def _moved(usual: dict[int, Tensor], changed: dict[int, Tensor], axis: int) -> set[int]:
    one, other = usual[axis], changed[axis]
    size = one.abs().mean(1, keepdim=True).clamp_min(1e-30)
    return set(((one - other).abs() > _WHOLE * size).any(0).nonzero().flatten().tolist())
