"""A rehearsal: what the module makes of one batch alone, before the run has begun in earnest."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..sandbox import Sandbox
from ..source import Line, nearest_line, owner_of
from ..trainer import accumulation
from ..undo import read_rng, write_rng
from . import Measurement, Moment
from .batches import tensors
from .loss_calls import LossCall, LossCalls
from .repeatable import Repeatable, is_repeatable
from .skill import REGRESSIONS, only

log = logging.getLogger("lightning_nndebug")

_RATE = 3e-3  # of our own Adam
_LEARNED = 0.1  # of the first loss: enough, and no need to go on
_GRACE = 2  # times the steps, where it is not clear
_KNOWN = (*REGRESSIONS, "cross_entropy", "nll_loss", "binary_cross_entropy",
          "binary_cross_entropy_with_logits")  # fmt: skip


@dataclass(frozen=True)
class Rehearsal(Measurement):
    """One batch, learned over and over again in a sandbox. Taken once, after the first step.

    Attributes:
        own: What is left of the loss above its floor with our own Adam, as a share of the first.
        users: The same with a copy of the user's optimizer; NaN where ours does not get on either.
        steps: How many steps it was given.
        has_floor: Whether it is known how low the loss can go.
        optimizer: The user's optimizer.
        jump: By how much the first update alone has multiplied the loss of its own batch.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Repeatable, LossCalls)
    options: ClassVar[tuple[str, ...]] = ("steps",)

    own: float
    users: float
    steps: int
    has_floor: bool
    optimizer: str
    jump: float = 1.0

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Rehearsal | None:
        """Learns the batch, if the step can be run again at all."""
        if not _is_first(moment, memory) or len(moment.trainer.optimizers) != 1:
            return None
        heard = moment.take(LossCalls)
        call = only(heard.calls) if heard is not None else None
        (optimizer,) = moment.trainer.optimizers
        with _opened(moment) as sandbox:
            parameters = [one for one in moment.module.parameters() if one.requires_grad]
            if not parameters:
                return None
            trial = _Trial(sandbox, moment, memory.steps)
            first = trial.loss()
            before = _loss(moment)
            floor = _floor(call, before)
            bottom = floor if floor is not None else 0.0
            if not math.isfinite(first) or first <= bottom + 1e-12:
                return None
            jump = (first - bottom) / (before - bottom) if before > bottom else math.nan
            own = trial.run(lambda: torch.optim.Adam(parameters, lr=_RATE), first, bottom)
            users = math.nan
            if own < 1 and (twin := _twin(optimizer)) is not None:
                users = trial.run(twin, first, bottom)
            kind = type(optimizer).__name__
            return cls(own, users, memory.steps, floor is not None, kind, jump)
        return None


@dataclass(frozen=True)
class Wrong:
    """A function whose gradient is not that of what it computes.

    Attributes:
        function: Its class.
        argument: Which of its arguments, counted from 0.
        analytic: The derivative along some direction as its backward has it.
        numeric: The same by finite differences.
    """

    function: str
    argument: int
    analytic: float
    numeric: float


@dataclass(frozen=True)
class GradientCheck(Measurement):
    """The user's own autograd functions, held against finite differences. Taken once.

    Attributes:
        checked: The functions that were tried.
        wrong: Those that are wrong. A derivative of 0, as of rounding, and an identity are no
            error: they are replaced on purpose.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Repeatable,)

    checked: tuple[str, ...]
    wrong: tuple[Wrong, ...]

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> GradientCheck | None:
        """Runs the step once more to see what the functions are given, and then these alone."""
        if not _is_first(moment, memory):
            return None
        with _opened(moment) as sandbox:
            replay = sandbox.training_step(moment.batch, moment.batch_idx)
            kinds = _functions(replay.loss)
            calls = [_arguments_of(kind, sandbox, moment) for kind in kinds]
            sandbox.rewind()
            found = [
                _checked(kind, arguments)
                for kind, arguments in zip(kinds, calls, strict=True)
                if arguments is not None
            ]
            wrong = tuple(one for one in found if one is not None)
            return cls(tuple(kind.__name__ for kind in kinds), wrong)
        return None


@dataclass(frozen=True)
class SmallerBatch(Measurement):
    """The step on a batch with two samples less. Taken once.

    Attributes:
        size: How many samples the batch has.
        smaller: How many it had here.
        error: What the step raised; empty if it did not.
        line: The user's line that it came from.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Repeatable,)

    size: int
    smaller: int
    error: str
    line: Line | None

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> SmallerBatch | None:
        """Cuts the batch, where all of its tensors have as many rows."""
        if not _is_first(moment, memory):
            return None
        leaves = [one for _, one in tensors(moment.batch)]
        size = len(leaves[0]) if leaves and leaves[0].dim() else 0
        alike = all(one.dim() and len(one) == size for one in leaves)
        if not alike or size < 6 or _keeps(moment.module, size):  # noqa: PLR2004
            return None
        cut = _cut(moment.batch, size - 2)
        if cut is None:
            return None
        error, line = "", None
        with _opened(moment) as sandbox:
            sandbox.training_step(moment.batch, moment.batch_idx)  # it can be run again at all
            sandbox.rewind()
            try:
                sandbox.training_step(cut, moment.batch_idx)
            except (RuntimeError, ValueError, IndexError, AssertionError) as raised:
                error = f"{type(raised).__name__}: {raised}".partition("\n")[0]
                frame = raised.__traceback__
                while frame is not None and frame.tb_next is not None:
                    frame = frame.tb_next
                line = nearest_line(frame.tb_frame) if frame is not None else None
            return cls(size, size - 2, error, line)
        return None


class _Trial:
    """Runs of the same step on the same batch, with the same random numbers."""

    def __init__(self, sandbox: Sandbox, moment: Moment, steps: int) -> None:
        self._sandbox, self._moment, self._steps = sandbox, moment, steps
        self._rng = read_rng(sandbox._generators)

    def loss(self) -> float:
        self._sandbox.rewind()
        write_rng(self._rng)
        replay = self._sandbox.training_step(self._moment.batch, self._moment.batch_idx, grad=False)
        return math.nan if replay.loss is None else float(replay.loss.float().mean())

    def run(self, make: Callable[[], Any], first: float, floor: float) -> float:
        """Returns the share of the loss above its floor that is left in the end."""
        self._sandbox.rewind()
        optimizer, left = make(), 1.0
        for step in range(_GRACE * self._steps):
            write_rng(self._rng)
            optimizer.zero_grad()
            replay = self._sandbox.training_step(self._moment.batch, self._moment.batch_idx)
            if replay.loss is None or not replay.loss.requires_grad:
                return 1.0
            left = (float(replay.loss.detach().float().mean()) - floor) / (first - floor)
            is_over = step >= self._steps and not _LEARNED < left < 3 * _LEARNED
            if not math.isfinite(left) or left < _LEARNED / 2 or is_over:
                break
            self._sandbox.backward(replay.loss, scaled=False)
            with torch.enable_grad():
                torch.nn.utils.clip_grad_norm_(
                    [one for group in optimizer.param_groups for one in group["params"]], 10.0
                )
            optimizer.step()
        return left


def _is_first(moment: Moment, memory: SimpleNamespace) -> bool:
    """Returns whether this is the time: once, in a run on one device, by automatic optimization."""
    if hasattr(memory, "taken") or moment.take(Repeatable) is None:
        return False
    memory.taken = True
    single = moment.trainer.world_size == 1 and moment.module.automatic_optimization
    return single and is_repeatable(moment)


@contextmanager
def _opened(moment: Moment) -> Iterator[Sandbox]:
    """Opens a sandbox; a step that cannot be run again there is told of, and no error of ours."""
    try:
        with Sandbox(moment.trainer, moment.module) as sandbox, torch.enable_grad():
            yield sandbox
    except Exception as error:
        log.info("nndebug: no preflight, for a step cannot be run again: %s", error)


def _loss(moment: Moment) -> float:
    """Returns the loss of the step that has just been."""
    loss = moment.outputs.get("loss") if isinstance(moment.outputs, dict) else None
    return math.nan if loss is None else float(loss.float().mean()) * accumulation(moment.trainer)


def _twin(optimizer: Any) -> Callable[[], Any] | None:
    """Returns what makes copies of the optimizer as it was at the start, on the same parameters."""
    known = {id(one): one for group in optimizer.param_groups for one in group["params"]}

    def make() -> Any:
        twin = copy.deepcopy(optimizer, dict(known))
        twin.__dict__.pop("step", None)  # the sandbox has put the original to rest
        for group in twin.param_groups:
            group["lr"] = group.get("max_lr", group.get("initial_lr", group.get("lr")))
        twin.state.clear()
        return twin

    return None if "LBFGS" in type(optimizer).__name__ else make


def _floor(call: LossCall | None, loss: float) -> float | None:
    """Returns how low the loss can go; None if it is not the value of one known function."""
    if call is None or call.target is None or call.function not in _KNOWN:
        return None
    options = {key: value for key, value in call.options.items() if value is not None}
    value = getattr(functional, call.function)(call.input.detach(), call.target, **options)
    if not torch.allclose(value.float().mean().cpu(), torch.tensor(loss), rtol=0.01):
        return None
    if call.function in REGRESSIONS or call.function == "nll_loss":
        return 0.0
    target, smoothing = call.target.detach().float(), float(options.get("label_smoothing", 0.0))
    if call.has_indices:
        number = call.classes or 2
        right, wrong = 1 - smoothing + smoothing / number, smoothing / number
        return -right * math.log(right) - (number - 1) * _xlogx(wrong)
    if call.is_binary:
        return float(functional.binary_cross_entropy(target, target).mean())
    return float(-torch.xlogy(target, target).sum(call.axis or 1).mean())


def _xlogx(value: float) -> float:
    return value * math.log(value) if value > 0 else 0.0


def _functions(loss: Tensor | None) -> list[Any]:
    """Returns the user's own autograd functions in the graph of the loss."""
    found: dict[str, Any] = {}
    pending, seen = [loss.grad_fn] if loss is not None else [], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = getattr(node, "_forward_cls", None)
        file = getattr(getattr(getattr(kind, "forward", None), "__code__", None), "co_filename", "")
        if kind is not None and owner_of(file) == "user":
            found[kind.__qualname__] = kind
        pending += [one for one, _ in node.next_functions]
    return list(found.values())


def _arguments_of(kind: Any, sandbox: Sandbox, moment: Moment) -> tuple[Any, ...] | None:
    """Runs the step once more, and returns what the function is given first."""
    caught: list[tuple[Any, ...]] = []
    forward = kind.__dict__.get("forward")
    if not isinstance(forward, staticmethod):
        return None
    has_context = "setup_context" not in kind.__dict__  # which else is set up after the forward

    def listening(*given: Any) -> Any:
        if not caught:
            caught.append(tuple(one.detach().clone() if isinstance(one, Tensor) else one
                                for one in given[has_context:]))  # fmt: skip
        return forward.__func__(*given)

    sandbox.rewind()
    kind.forward = staticmethod(listening)
    try:
        sandbox.training_step(moment.batch, moment.batch_idx)
    finally:
        kind.forward = forward
    return caught[0] if caught else None


def _checked(kind: Any, arguments: tuple[Any, ...]) -> Wrong | None:
    """Compares derivatives along random directions, in double precision."""
    generator = torch.Generator().manual_seed(0)
    doubled = [one.double() if isinstance(one, Tensor) and one.is_floating_point() else one
               for one in arguments]  # fmt: skip

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)

    def value(index: int, moved: Tensor, weight: Tensor | None) -> Tensor:
        given = [*doubled[:index], moved, *doubled[index + 1 :]]
        output = kind.apply(*given)
        first: Tensor = output[0] if isinstance(output, tuple) else output
        return first if weight is None else (first * weight).sum()

    with suppress(RuntimeError, TypeError, NotImplementedError):  # not for double precision
        for index, one in enumerate(doubled):
            if not isinstance(one, Tensor) or not one.is_floating_point() or not one.numel():
                continue
            output = value(index, one, None)
            if output.dtype != torch.float64 or _is_same(output, one):
                continue
            trials = [_compared(value, index, one, drawn(output), drawn(one)) for _ in range(3)]
            if all(trial is not None for trial in trials) and trials[0] is not None:
                return Wrong(kind.__name__, index, *trials[0])
    return None


def _compared(
    value: Callable[[int, Tensor, Tensor | None], Tensor],
    index: int,
    one: Tensor,
    weight: Tensor,
    direction: Tensor,
) -> tuple[float, float] | None:
    """Returns the analytic and the numeric derivative, if they are at odds beyond doubt."""
    leaf = one.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(value(index, leaf, weight), leaf, allow_unused=True)
    if gradient is None:
        return None  # it says itself that it has none
    analytic = float((gradient * direction).sum())
    with torch.no_grad():
        numeric, finer = (
            float(value(index, one + step * direction, weight)
                  - value(index, one - step * direction, weight)) / (2 * step)
            for step in (1e-5, 1e-6)
        )  # fmt: skip
    scale = max(abs(analytic), abs(numeric))
    smooth = abs(numeric - finer) < 1e-3 * scale
    on_purpose = abs(numeric) < 1e-3 * abs(analytic)  # of a step function, or rounding
    if scale == 0 or not smooth or on_purpose or abs(analytic - numeric) < 1e-2 * scale:
        return None
    return analytic, numeric


def _is_same(output: Tensor, given: Tensor) -> bool:
    return output.shape == given.shape and torch.equal(output, given)


def _keeps(module: Any, size: int) -> bool:
    """Tells whether the module has a state for each sample of a batch, as stateful nets do."""
    held = (
        (*vars(one).values(), *vars(one).get("_buffers", {}).values()) for one in module.modules()
    )
    values = (value for among in held for value in among)
    flat = (one for value in values for one in (value if isinstance(value, tuple) else (value,)))
    return any(isinstance(one, Tensor) and size in one.shape for one in flat)


def _cut(batch: Any, rows: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[:rows].clone()
    if type(batch) in (list, tuple):
        parts = [_cut(one, rows) for one in batch]
        return None if any(one is None for one in parts) else type(batch)(parts)
    if type(batch) is dict:
        cut = {key: _cut(value, rows) for key, value in batch.items()}
        return None if any(one is None for one in cut.values()) else cut
    return None
