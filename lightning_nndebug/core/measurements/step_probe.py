"""A line search along the step that the optimizer has just made, judged on the next batch."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..foreign import changed, is_consumable, picture
from ..listening import ListeningMode
from ..sandbox import Sandbox, Snapshot, find_generators
from ..trainer import accumulation, gradient_scale, is_stepping
from . import Measurement, Moment
from .losses import Loss
from .schedules import Schedules, learning_rate, optimizer_name

log = logging.getLogger("lightning_nndebug")

FIRST = (0, 1, 2, 3, 4, 10, 20, 30, 40, 50, 60, 80, 100)
EVERY = 250
MULTIPLES = (0.0, 0.3, 1.0, 10.0, 100.0)
FARTHEST, NEAREST = 1e8, 1e-6
_RISE = (
    0.05  # a loss that rises by more than this share asks for shorter steps, not for longer ones
)
_PROOFS = 2  # so many steps run again must come to their own loss, and then it is taken as it is
_PATIENCE = 2  # failures: a first step may set up what the next ones only use
_BUDGET = 0.01  # of the run's time, after the first probes
_APART = 10.0  # groups whose rates differ by this factor are looked at one by one
_DRAWS = {"multinomial", "bernoulli", "normal"}
_WHOLE = {"SingleDeviceStrategy", "DDPStrategy"}  # where each process has all of the parameters


@dataclass(frozen=True)
class StepProbe(Measurement):
    """The loss along the last optimizer step, shorter and longer than it was.

    The step is the one that really happened: momentum, clipping, decay and schedule are in it.
    Losses are means over all processes, and each pair is compared under the same random numbers.

    Attributes:
        optimizer: The optimizer's name.
        step: Optimizer steps before this one.
        rate: Its learning rate, the largest of the groups.
        share: That rate as a share of its peak in the whole run: below 1 in warm-up and decay.
        curve: The loss of the *next* batch after k times the step, for each multiple k tried.
        own: The loss of the step's own batch before and after the step.
        predicted: By how much the gradient promised that loss to fall.
        losses: The training losses since the last probe, this step's included.
        stride: The length of the step, relative to that of the weights before it.
        groups: If the step raised the loss, and groups have very different rates: for each, its
            name, its rate, and the loss of the next batch had this group alone made its step.
        scrambled: The loss of the next batch with the entries of every weight in another order, in
            the first probe only. A net that knows nothing yet is as good as that; others are not.
        growth: How many times as long as the first step those are that come when the optimizer's
            moments have filled up.
        silent: The share of the parameters, each counted as one, whose gradient is exactly zero.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_before_optimizer_step",
        "on_train_batch_end",
    )
    noted: ClassVar[tuple[str, ...]] = hooks[2:]
    needs: ClassVar[tuple[type[Measurement], ...]] = (Loss, Schedules)

    optimizer: str
    step: int
    rate: float
    share: float
    curve: dict[float, float]
    own: tuple[float, float]
    predicted: float
    losses: tuple[float, ...] = field(default=(), repr=False)
    stride: float = 0.0
    groups: tuple[tuple[str, float, float], ...] = ()
    scrambled: float | None = None
    growth: float = 1.0
    silent: float = 0.0

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> StepProbe | None:
        """Follows a step from its batch to the next one, and returns the probe there."""
        if not hasattr(memory, "probing"):
            _begin(moment, memory)
        if not memory.probing:
            return None
        if moment.hook == "on_train_batch_end":
            _note(moment, memory)
        if not memory.is_due and not (
            moment.hook == "on_train_batch_start" and is_due(moment.step)
        ):
            return None  # as in nearly every step
        began = time.perf_counter()
        probe = None
        if moment.hook == "on_train_batch_start":
            if memory.is_due and _have_all_stepped(moment.trainer, memory):
                probe = _search(moment, memory)
            cls.release(memory)
            memory.is_due = memory.probing and _is_worth_it(moment, memory)
            if memory.is_due:
                memory.picture = picture(moment.module)
                memory.snapshot = Snapshot.take(moment.module, moment.batch, memory.generators)
        elif memory.snapshot is not None:
            then = _keep if moment.hook == "on_before_optimizer_step" else _compare
            then(moment, memory)
        memory.spent += time.perf_counter() - began
        return probe

    @classmethod
    def note(cls, moment: Moment, memory: SimpleNamespace) -> int:
        """Wakes all when the next step is to be probed."""
        if memory.is_due:  # the walk was to begin with this batch
            cls.release(memory)
            memory.is_due = False
        is_next = memory.probing and is_due(moment.step + 1)
        if not is_next or not is_stepping(moment.trainer):
            return 0
        return 2 * int(moment.trainer.accumulate_grad_batches)  # until it has met the next batch

    def snapshot(self) -> dict[str, Any]:
        """The rate, and the loss along the step."""
        curve = {f"{multiple:g}": loss for multiple, loss in sorted(self.curve.items())}
        return {"optimizer": self.optimizer, "rate": self.rate, "curve": curve}

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Lets go of the batch, the weights and the gradients."""
        memory.snapshot = memory.picture = memory.step = None


def is_due(step: int) -> bool:
    """Returns whether a step is probed: 9 of the first 50, then 4 soon after, then 4 of 1000."""
    return step in FIRST or (step > FIRST[-1] and step % EVERY == 0)


def search(loss_at: Callable[[float], float]) -> dict[float, float]:
    """Evaluates the loss at the usual multiples of a step.

    It goes on to larger ones while the loss still falls, and to smaller ones while it rises. The
    largest of the usual ones is left out where the loss has risen before it.
    """
    *usual, farthest = MULTIPLES
    curve = {multiple: loss_at(multiple) for multiple in usual}
    nearest = usual[1]
    if curve[usual[-1]] <= curve[0.0] + _RISE * abs(curve[0.0]):
        curve[farthest] = loss_at(farthest)
        while farthest < FARTHEST and curve[farthest] < _least(curve, below=farthest):
            farthest *= 10
            curve[farthest] = loss_at(farthest)
    while nearest > NEAREST and not curve[nearest] <= curve[0.0] + _RISE * abs(curve[0.0]):
        nearest /= 10
        curve[nearest] = loss_at(nearest)
    return curve


def scrambled(weight: Tensor) -> Tensor:
    """Returns a weight with its entries in another order: another one of the same distribution."""
    return weight.flatten().flip(0).roll(weight.numel() // 3).view_as(weight)


def growth(group: Mapping[str, Any]) -> float:
    """Returns how the steps of a parameter group grow once its moments have filled up.

    Momentum adds up 1 / (1 - momentum) of them. RMSprop divides the first gradient by a small part
    of itself, and Adagrad all that follow by more and more; Adam corrects for the beginning.
    """
    if "dampening" in group:  # SGD
        return float(1.0 / (1.0 - min(group["momentum"], 0.99)))
    if "centered" in group:  # RMSprop
        return math.sqrt(max(1.0 - group["alpha"], 1e-4))
    return 0.1 if "lr_decay" in group else 1.0


def _least(curve: dict[float, float], below: float) -> float:
    losses = [loss for multiple, loss in curve.items() if multiple < below and math.isfinite(loss)]
    return min(losses, default=-math.inf)


class _Failed(Exception):
    """A step cannot be run again."""


class _Draws(ListeningMode):
    """Hears from which probabilities a step draws.

    If these are the net's own answers, other weights see other data: their losses are not to be
    compared.
    """

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _DRAWS and args and isinstance(args[0], Tensor):
            self.given.append(args[0].detach().clone())
        return func(*args, **(kwargs or {}))

    def differ_from(self, other: _Draws) -> bool:
        pairs = zip(self.given, other.given, strict=False)
        return len(self.given) != len(other.given) or any(
            one.shape != another.shape or not bool((one == another).all()) for one, another in pairs
        )


@dataclass
class _Step:
    """A step under the probe.

    Attributes:
        growth: How many times as long later steps are than the first.
        groups: Name, rate and parameters of each group.
        parameters: All parameters that have a gradient.
        before: Their values before the step.
        gradients: Their gradients, until they are not needed any more.
        numbers: The step's largest entry, its stride, what it promised, the share of parameters
            without a slope, and the two losses of its own batch.
        failure: Why it cannot be probed.
    """

    optimizer: str
    step: int
    share: float
    growth: float
    groups: list[tuple[str, float, list[Tensor]]]
    parameters: list[Tensor]
    before: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    numbers: tuple[float, ...] = (math.nan,) * 6
    failure: str = ""

    @property
    def rate(self) -> float:
        return max(rate for _, rate, _ in self.groups)

    def go(self, multiple: float, only: Sequence[Tensor] | None = None) -> None:
        """Moves the weights (or a part of them) along the step; exact at 0 and at 1."""
        if multiple == 1.0 and only is None:  # here we are: nothing need be written, nor put back
            return
        chosen = {id(p) for p in (self.parameters if only is None else only)}
        for inside, weight in ((True, 1.0 - multiple), (False, 1.0)):
            pairs = [
                (now, then)
                for now, then in zip(self.parameters, self.before, strict=True)
                if (id(now) in chosen) is inside
            ]
            if pairs:
                torch._foreach_lerp_([now for now, _ in pairs], [then for _, then in pairs], weight)

    def scramble(self) -> None:
        """Puts the entries of every weight in another order."""
        for now, then in zip(self.parameters, self.before, strict=True):
            now.copy_(scrambled(then))


def _begin(moment: Moment, memory: SimpleNamespace) -> None:
    trainer, module = moment.trainer, moment.module
    strategies = {kind.__name__ for kind in type(trainer.strategy).__mro__}
    draws = "dataloader_iter" in inspect.signature(module.training_step).parameters
    memory.probing = len(trainer.optimizers) == 1 and bool(strategies & _WHOLE) and not draws
    memory.generators = find_generators(module) if memory.probing else []
    memory.losses, memory.last, memory.failures = deque(maxlen=1000), None, 0
    memory.needs_graph, memory.is_first = False, True
    memory.proofs = 0.0
    memory.spent, memory.since = 0.0, None
    memory.is_due = False
    StepProbe.release(memory)


def _is_worth_it(moment: Moment, memory: SimpleNamespace) -> bool:
    """Whether the step at hand is due, can be run again, and is within the budget."""
    if not is_due(moment.step) or not is_stepping(moment.trainer) or is_consumable(moment.batch):
        return False
    if moment.step <= EVERY or moment.trainer.world_size > 1:  # no two clocks agree
        return True
    if memory.since is None:
        memory.since, memory.spent = time.perf_counter(), 0.0
    return bool(memory.spent <= _BUDGET * (time.perf_counter() - memory.since))


def _note(moment: Moment, memory: SimpleNamespace) -> None:
    loss = moment.take(Loss)
    if loss is not None and loss is not memory.last:
        memory.last = loss
        for one in (*loss.before, loss):
            memory.losses += one.values


def _keep(moment: Moment, memory: SimpleNamespace) -> None:
    """Copies the weights and the gradients, before the step (the first of its batch) is made."""
    if memory.step is not None:
        if not moment.module.automatic_optimization:  # else it is a closure that LBFGS evaluates
            memory.step.failure = "several optimizer steps on one batch"
        return
    step = _new_step(moment)
    if not step.parameters:
        return
    memory.step = step
    try:
        _afford(step.parameters)
        scale = gradient_scale(moment.trainer, moment.optimizer)
        step.before = [p.detach().clone() for p in step.parameters]
        step.gradients = [p.grad.detach() / scale for p in step.parameters if p.grad is not None]
    except Exception as error:
        step.failure = f"{type(error).__name__}: {error}"


def _new_step(moment: Moment) -> _Step:
    optimizer = moment.optimizer
    name = optimizer_name(moment.trainer, optimizer)
    run = moment.take(Schedules)
    peaks = list(run.peaks[0]) if run is not None and run.peaks else []
    groups, shares = [], []
    for number, group in enumerate(optimizer.param_groups):
        rate = learning_rate(group) or 0.0
        peak = peaks[number] if number < len(peaks) else rate
        if peak > 0:
            shares.append(min(rate / peak, 1.0))
        moving = [p for p in group["params"] if p.grad is not None and p.numel()]
        groups.append((f"{name}.param_groups[{number}]", rate, moving))
    parameters = [p for _, _, moving in groups for p in moving]
    later = growth(optimizer.param_groups[0])
    return _Step(name, moment.step, max(shares, default=1.0), later, groups, parameters)


def _compare(moment: Moment, memory: SimpleNamespace) -> None:
    """Runs the batch again, from before the step and from after it."""
    snapshot, step = memory.snapshot, memory.step
    memory.snapshot = None
    if step is None or step.failure:
        return
    try:
        if foreign := changed(memory.picture, picture(moment.module)):
            step.failure = f"they change {foreign}, which cannot be put back"
            return
        sizes, slopes, norms, steep = [], [], [], []
        for now, then, slope in zip(step.parameters, step.before, step.gradients, strict=True):
            way = (now.detach() - then).flatten().float()
            sizes.append(torch.linalg.vector_norm(way, math.inf))
            slopes.append(torch.dot(slope.flatten().float(), way))
            norms.append(
                torch.stack([torch.linalg.vector_norm(one.float()) for one in (way, then)])
            )
            steep.append(slope.any())
        moved, whole = torch.stack(norms).norm(dim=0)
        length, rise, stride, silent = torch.stack(
            [
                torch.stack(sizes).max(),
                torch.stack(slopes).sum(),
                moved / whole.clamp_min(1e-30),
                1 - torch.stack(steep).float().mean(),
            ]
        ).tolist()
        step.gradients.clear()
        before = after = math.nan
        if length:
            now, then = _Draws(), _Draws()
            with Sandbox(moment.trainer, moment.module, snapshot, memory.generators) as sandbox:
                before = recorded = _recorded(moment)
                if memory.proofs < _PROOFS:
                    with now:
                        before = _loss(moment, memory, sandbox, lambda: step.go(0.0))
                    memory.proofs = memory.proofs + 1 if before == recorded else -math.inf
                with then:
                    after = _loss(moment, memory, sandbox, lambda: step.go(1.0))
            if then.given:
                memory.proofs = -math.inf
            if now.differ_from(then):
                step.failure = "they draw from what the net answers, as a policy its actions"
        step.numbers = (length, stride, -rise, silent, before, after)
    except Exception as error:
        step.failure = f"{type(error).__name__}: {error}"


def _recorded(moment: Moment) -> float:
    """Returns the loss that the step itself had; NaN if that is not known.

    Nor may one process run the step more often than another.
    """
    loss = moment.outputs.get("loss") if isinstance(moment.outputs, Mapping) else None
    is_known = moment.module.automatic_optimization and moment.trainer.world_size == 1
    if not is_known or not isinstance(loss, Tensor):
        return math.nan
    return float(loss.detach().float().mean()) * accumulation(moment.trainer)


def _search(moment: Moment, memory: SimpleNamespace) -> StepProbe | None:
    """Walks along the step and looks at the batch that has come.

    All processes walk together: whatever one of them meets, it goes on taking part in the means.
    """
    step: _Step = memory.step

    def mean(numbers: Sequence[float]) -> list[float]:
        means, failed = _mean(moment.trainer, numbers, failed=bool(step.failure))
        if failed:
            raise _Failed(step.failure or "another process could not")
        return means

    def loss_after(move: Callable[[], None]) -> float:
        loss = math.nan
        try:
            loss = _loss(moment, memory, sandbox, move)
        except Exception as error:
            step.failure = f"{type(error).__name__}: {error}"
        return mean([loss])[0]

    groups: list[tuple[str, float, float]] = []
    try:
        length, stride, predicted, silent, before, after = mean(step.numbers)
        if not length or not math.isfinite(length):  # skipped by a GradScaler, or beyond all bounds
            return None
        with Sandbox(moment.trainer, moment.module, None, memory.generators) as sandbox:
            curve = search(lambda multiple: loss_after(lambda: step.go(multiple)))
            if _are_apart(step) and not curve[1.0] <= curve[0.0]:
                groups = [
                    (name, rate, loss_after(lambda only=only: step.go(1.0, only)))  # type: ignore[misc]
                    for name, rate, only in step.groups
                    if only
                ]
            is_first, memory.is_first = memory.is_first, False
            other = loss_after(step.scramble) if is_first else None
    except _Failed as failed:
        memory.failures += 1
        memory.probing = memory.failures < _PATIENCE
        if not memory.probing:
            log.info("nndebug: steps are not probed, for they cannot be run again: %s", failed)
        return None
    losses = tuple(memory.losses)
    memory.losses.clear()
    return StepProbe(
        optimizer=step.optimizer,
        step=step.step,
        rate=step.rate,
        share=step.share,
        curve=curve,
        own=(before, after),
        predicted=predicted,
        losses=losses,
        stride=stride,
        groups=tuple(groups),
        scrambled=other,
        growth=step.growth,
        silent=silent,
    )


def _are_apart(step: _Step) -> bool:
    rates = [rate for _, rate, moving in step.groups if moving and rate]
    return len(rates) > 1 and max(rates) >= _APART * min(rates)


def _loss(
    moment: Moment, memory: SimpleNamespace, sandbox: Sandbox, move: Callable[[], None]
) -> float:
    """Returns the loss of the batch at hand after the weights were moved."""

    def run() -> Any:
        sandbox.rewind()
        move()
        return sandbox.training_step(moment.batch, moment.batch_idx, grad=memory.needs_graph)

    try:
        replay = run()
    except Exception:
        if memory.needs_graph:
            raise
        memory.needs_graph = True  # as a gradient penalty does
        replay = run()
    if replay.loss is None or len(replay.losses) != 1:
        raise _Failed("it has no single loss")
    return float(replay.loss.detach().float().mean())


def _have_all_stepped(trainer: Any, memory: SimpleNamespace) -> bool:
    """Tells whether there is a step to walk along, in each process: they do not always all step."""
    _, failed = _mean(trainer, [], failed=memory.step is None)
    return not failed


def _mean(trainer: Any, numbers: Sequence[float], *, failed: bool) -> tuple[list[float], bool]:
    """Returns the means over all processes, and whether any of them failed."""
    if trainer.world_size == 1:
        return list(numbers), failed
    mine = torch.tensor([*numbers, float(failed)], device=trainer.strategy.root_device)
    *means, failures = trainer.strategy.reduce(mine, reduce_op="mean").tolist()
    return means, failures > 0


def _afford(parameters: Sequence[Tensor]) -> None:
    """Raises if the copies would not fit: weights and gradients here, weights in the sandbox."""
    for device in {p.device for p in parameters if p.is_cuda}:
        needed = 3 * sum(p.nbytes for p in parameters if p.device == device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if needed > 0.8 * (torch.cuda.mem_get_info(device)[0] + unused):
            raise MemoryError(f"three copies of the weights ({needed / 2**30:.1f} GiB) do not fit")
