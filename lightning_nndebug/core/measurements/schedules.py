"""Learning rates: the ones in use, and the ones that the schedulers have in mind."""

from __future__ import annotations

import ast
import contextlib
import copy
import gc
import inspect
import math
import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, ReduceLROnPlateau

from ..trainer import optimizer_index
from . import Cadence, Measurement, Moment

_FAR = 1_000_000  # calls
_HORIZON = 10_000  # calls of a scheduler that are tried out; some 5 us each
_LENGTHS = {
    "OneCycleLR": "total_steps",
    "CosineAnnealingLR": "T_max",
    "PolynomialLR": "total_iters",
}


@dataclass(frozen=True)
class Schedule:
    """One scheduler, and where it leads in a run that goes as planned.

    Attributes:
        name: Its class.
        optimizer: The optimizer, as ``optimizer_name`` calls it.
        interval: ``"step"`` or ``"epoch"``; ``"hand"`` where only the user's code steps it.
        frequency: It is stepped at every so many of those.
        monitor: The metric that it follows, or None.
        mode: Whether that metric is meant to fall (``"min"``) or to rise (``"max"``).
        patience: How many looks at it the rate stays, if none is better than the best; or None.
        left: The share that it has left of the learning rate; 1 if another one may have done so.
        planned: How many calls of its ``step`` the run leaves time for; inf if nobody knows.
        taken: How many calls there were so far,
        asked: and how many Lightning has asked for; nan where that is left to the user's code.
        is_still: Whether the learning rate is what it was when the run began.
        length: The number of calls after which it has done what it was made for, if it has one.
        factors: The largest learning rate after 0, 1, 2, ... calls from now, relative to its peak.
            They reach beyond the end of the run, and are empty for what cannot be foretold.
        summit: After how many calls a warm-up that is longer than all of those reaches its peak.
        unmet: Milestones that are no whole numbers, which no count of calls ever equals.
    """

    name: str
    optimizer: str
    interval: str
    frequency: int = 1
    monitor: str | None = None
    mode: str = "min"
    patience: int | None = None
    left: float = 1.0
    planned: float = math.inf
    taken: int = 0
    asked: float = math.nan
    is_still: bool = True
    length: int | None = None
    factors: tuple[float, ...] = ()
    summit: int | None = None
    unmet: tuple[float, ...] = ()


@dataclass(frozen=True)
class Schedules(Measurement):
    """What the run is planned to be, and the schedulers in it.

    Attributes:
        steps: Optimizer steps from the beginning to the end of the run; inf if nobody knows.
        epochs: Likewise, epochs.
        done: Optimizer steps so far.
        epoch: Epochs that are over.
        over: Whether training has ended.
        batches: Batches of an epoch.
        validates: Batches from one validation to the next.
        accumulation: Batches to an optimizer step.
        world_size: Processes that share the data.
        peaks: For each optimizer, the largest learning rate that each group had or will have.
        shortened: Whether the Trainer was told to do less than the program says, for debugging.
        schedules: One for each scheduler that Lightning knows of.
        averaging: How many times the largest rate of the run the rate is, at which the callback
            ``StochasticWeightAveraging`` averages; 0 without it.
        to_come: Where Lightning steps no scheduler, by optimizer: the steps to come with the rate
            of now, as a share of those so far with theirs.
        dropped: Optimizers for which a scheduler was made that nothing refers to any more, and
            that ``configure_optimizers`` gives a name which it never reads: optimizer to name.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_start", "on_train_epoch_end", "on_train_end")
    lasting: ClassVar[bool] = True

    steps: float
    epochs: float
    done: int = 0
    epoch: int = 0
    over: bool = False
    batches: float = math.inf
    validates: float = math.inf
    accumulation: int = 1
    world_size: int = 1
    peaks: tuple[tuple[float, ...], ...] = ()
    shortened: bool = False
    schedules: tuple[Schedule, ...] = ()
    averaging: float = 0.0
    to_come: Mapping[str, float] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Schedules:
        """Tries the schedulers out once, on copies; later looks only count their calls."""
        trainer = moment.trainer
        if not hasattr(memory, "plan"):
            memory.plan, memory.spent = _plan(trainer, moment.module), {}
            memory.first = moment.step, trainer.current_epoch
            memory.still, memory.is_still = list(map(_highest, trainer.optimizers)), True
            memory.dropped = _dropped(trainer, moment.module)
        plan: _Plan = memory.plan
        # At the end of an epoch, Lightning steps after the hooks; but for what follows a metric.
        over = trainer.current_epoch - memory.first[1]
        ended = over + (moment.hook == "on_train_epoch_end")
        steps = moment.step - memory.first[0]
        memory.is_still &= list(map(_highest, trainer.optimizers)) == memory.still
        configs = trainer.lr_scheduler_configs
        now = [_calls(config.scheduler) for config in configs]
        return cls(
            steps=plan.steps,
            epochs=plan.epochs,
            done=moment.step,
            epoch=trainer.current_epoch + (moment.hook == "on_train_epoch_end"),
            over=moment.hook == "on_train_end",
            batches=trainer.num_training_batches,
            accumulation=trainer.accumulate_grad_batches,
            world_size=trainer.world_size,
            validates=float(getattr(trainer, "val_check_batch", None) or math.inf),
            peaks=plan.peaks,
            shortened=_is_shortened(trainer),
            schedules=tuple(
                replace(
                    one,
                    taken=taken - before,
                    asked=_asked(one, steps, over if one.monitor is None else ended),
                    is_still=memory.is_still,
                    left=_left(config.scheduler, rate),
                )
                for one, config, taken, before, rate in zip(
                    plan.schedules, configs, now, plan.began, plan.rates, strict=False
                )
            ),
            averaging=_averaging(trainer, plan.peaks),
            to_come=_to_come(moment, plan.steps, memory.spent),
            dropped=memory.dropped,
        )


@dataclass(frozen=True)
class Group:
    """A parameter group at one step.

    Attributes:
        name: The optimizer, and the group's number if there are several.
        rate: Its learning rate.
        peak: The largest learning rate that it had or will have, as far as can be foretold.
        trained: How many of its parameters have a gradient.
        moved: Whether its weights have changed since the first look; asked only if the peak is 0.
    """

    name: str
    rate: float
    peak: float
    trained: int
    moved: bool = True


@dataclass(frozen=True)
class LearningRates(Measurement):
    """The learning rates with which an optimizer is about to step.

    Attributes:
        groups: Its parameter groups that have a learning rate.
        step: Optimizer steps so far.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step",)
    cadence: ClassVar[Cadence] = Cadence(every=10)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Schedules,)

    groups: tuple[Group, ...]
    step: int

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> LearningRates:
        """Reads the groups; of those with rate 0 it remembers a few weights, to see them move."""
        seen: dict[str, list[torch.Tensor]] = memory.__dict__.setdefault("seen", {})
        optimizer = moment.optimizer
        name, alone = optimizer_name(moment.trainer, optimizer), len(optimizer.param_groups) == 1
        plan = moment.take(Schedules)
        index = optimizer_index(moment.trainer, optimizer)
        peaks = plan.peaks[index] if plan is not None and index < len(plan.peaks) else ()
        groups = []
        for number, group in enumerate(optimizer.param_groups):
            rate = learning_rate(group)
            if rate is None:
                continue
            place = name if alone else f"{name}.param_groups[{number}]"
            peak = max(rate, peaks[number] if number < len(peaks) else rate)
            trained = [p for p in group["params"] if p.grad is not None]
            moved = peak > 0 or _have_moved(trained, seen, place)
            groups.append(Group(place, rate, peak, len(trained), moved))
        return cls(tuple(groups), moment.step)


def _have_moved(
    weights: Sequence[torch.Tensor], seen: dict[str, list[torch.Tensor]], place: str
) -> bool:
    now = [p.detach().reshape(-1)[:16].clone() for p in weights[:8]]
    then = seen.setdefault(place, now)
    is_first = then is now  # nothing to compare with yet
    return is_first or len(then) != len(now) or not all(map(torch.equal, then, now))


class _Plan(NamedTuple):
    steps: float
    epochs: float
    peaks: tuple[tuple[float, ...], ...]
    schedules: tuple[Schedule, ...]
    began: tuple[int, ...]
    rates: tuple[float, ...]


class _Spent(NamedTuple):
    """The rate at a step, and how much of it there was in all steps so far."""

    step: int
    rate: float
    length: float


def planned_steps(trainer: Any) -> float:
    """Returns how many optimizer steps the run has from beginning to end; inf if nobody knows.

    ``trainer.estimated_stepping_batches`` says the same, but may set up the data on the way.
    """
    limit = math.inf if trainer.max_steps in (-1, None) else trainer.max_steps
    epochs = math.inf if trainer.max_epochs in (-1, None) else max(trainer.max_epochs, 1)
    per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    return float(
        min(limit, epochs * (per_epoch if math.isinf(per_epoch) else math.ceil(per_epoch)))
    )


def learning_rate(group: dict[str, Any], key: str = "lr") -> float | None:
    """Returns the learning rate of a parameter group; None for optimizers that find their own."""
    value = group.get(key)
    return float(value) if isinstance(value, (int, float, torch.Tensor)) else None


def optimizer_name(trainer: Any, optimizer: Any) -> str:
    """Returns the class of the optimizer, and its number where another one is of the same class."""
    alike = [one for one in trainer.optimizers if type(one) is type(optimizer)]
    number = next((i for i, one in enumerate(alike) if one is optimizer), 0)
    name = type(optimizer).__name__
    return f"{name}[{number}]" if len(alike) > 1 else name


def _plan(trainer: Any, module: Any) -> _Plan:
    steps, epochs = planned_steps(trainer), _planned_epochs(trainer)
    configs = trainer.lr_scheduler_configs
    owners = Counter(id(getattr(config.scheduler, "optimizer", None)) for config in configs)
    peaks = [[_peak(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    schedules, began = [], []
    for config in configs:
        scheduler = config.scheduler
        optimizer = getattr(scheduler, "optimizer", trainer.optimizers[0])
        interval = config.interval if module.automatic_optimization else "hand"
        planned = {"step": steps, "epoch": epochs}.get(interval, math.inf) / max(
            config.frequency, 1
        )
        alone = owners[id(getattr(scheduler, "optimizer", None))] == 1
        watched = alone and isinstance(scheduler, ReduceLROnPlateau)
        began.append(_rate(scheduler) if watched else 0.0)
        rates = _try_out(scheduler, max(planned, steps), trainer, module)
        for index, one in enumerate(trainer.optimizers):
            if one is optimizer and not isinstance(scheduler, ReduceLROnPlateau):
                is_fresh = alone and _calls(scheduler) == 0
                peaks[index] = _foretold(peaks[index], rates, planned, is_fresh)
        # What is a share of 0 says nothing of the schedule.
        highest = [max(row) for row in rates] if alone and any(map(any, rates)) else []
        summit, top = _summit(scheduler, highest)
        schedules.append(
            Schedule(
                name=type(scheduler).__name__,
                optimizer=optimizer_name(trainer, optimizer),
                interval=interval,
                frequency=config.frequency,
                monitor=config.monitor if config.reduce_on_plateau else None,
                mode=getattr(scheduler, "mode", "min"),
                patience=getattr(scheduler, "patience", None),
                planned=planned,
                length=_length(scheduler),
                factors=tuple(rate / top for rate in highest),
                summit=summit,
                unmet=_unmet(scheduler),
            )
        )
    calls = tuple(_calls(config.scheduler) for config in configs)
    plans = tuple(map(tuple, peaks)), tuple(schedules)
    return _Plan(steps, epochs, *plans, calls, tuple(began))


def _rate(scheduler: Any) -> float:
    return _highest(scheduler.optimizer)


def _highest(optimizer: Any) -> float:
    return max((learning_rate(group) or 0.0 for group in optimizer.param_groups), default=0.0)


def _averaging(trainer: Any, peaks: Sequence[Sequence[float]]) -> float:
    for callback in trainer.callbacks:
        if any(kind.__name__ == "StochasticWeightAveraging" for kind in type(callback).__mro__):
            rates = getattr(callback, "_swa_lrs", None) or 0.0
            rate = max(rates) if isinstance(rates, list) else rates
            return rate / (max(map(max, filter(None, peaks)), default=0.0) or math.inf)
    return 0.0


def _to_come(moment: Moment, steps: float, spent: dict[str, _Spent]) -> dict[str, float]:
    trainer, module = moment.trainer, moment.module
    configs = trainer.lr_scheduler_configs if module.automatic_optimization else []
    stepped = [getattr(one.scheduler, "optimizer", trainer.optimizers[0]) for one in configs]
    shares = {}
    for optimizer in trainer.optimizers:
        name, rate = optimizer_name(trainer, optimizer), _highest(optimizer)
        then = spent.get(name, _Spent(moment.step, rate, 0.0))
        length = then.length + (moment.step - then.step) * (then.rate + rate) / 2
        spent[name] = _Spent(moment.step, rate, length)
        if length and not any(one is optimizer for one in stepped):
            shares[name] = rate * (steps - moment.step) / length
    return shares


def _asked(schedule: Schedule, steps: int, epochs: int) -> float:
    if schedule.interval == "step" and schedule.frequency > 1:
        return math.nan  # it counts the batches of each epoch
    times = {"step": steps, "epoch": epochs}.get(schedule.interval, math.nan)
    return times / max(schedule.frequency, 1)


def _dropped(trainer: Any, module: Any) -> dict[str, str]:
    known = [config.scheduler for config in trainer.lr_scheduler_configs]
    scheduled = {id(getattr(one, "optimizer", None)) for one in known}
    # Schedulers leave this in the groups of their optimizer; who has none gets one without groups.
    marked = [one for one in trainer.optimizers if any("initial_lr" in g for g in one.param_groups)]
    marked = [one for one in marked if id(one) not in scheduled]
    if not marked or not (name := _unread(type(module))):
        return {}
    alive = [one for one in gc.get_objects() if issubclass(type(one), LRScheduler)]
    held = {id(getattr(one, "optimizer", None)) for one in alive}
    return {optimizer_name(trainer, one): name for one in marked if id(one) not in held}


def _unread(kind: type) -> str:
    """Returns the name that configure_optimizers gives to a scheduler, and then never reads."""
    try:
        source = inspect.getsource(kind.configure_optimizers)  # type: ignore[attr-defined]
        tree = ast.parse(textwrap.dedent(source))
    except (AttributeError, OSError, TypeError, SyntaxError):
        return ""
    names = [one for one in ast.walk(tree) if isinstance(one, ast.Name)]
    read = {one.id for one in names if isinstance(one.ctx, ast.Load)}
    made = (
        ast.unparse(one.targets[0])
        for one in ast.walk(tree)
        if isinstance(one, ast.Assign) and isinstance(one.value, ast.Call) and len(one.targets) == 1
    )
    return next((one for one in made if one.isidentifier() and one not in read | {"_"}), "")


def _left(scheduler: Any, began: float) -> float:
    return _rate(scheduler) / began if began else 1.0


def _planned_epochs(trainer: Any) -> float:
    """Returns the number of epochs, which is no whole number if ``max_steps`` ends the last one."""
    epochs = math.inf if trainer.max_epochs in (-1, None) else max(trainer.max_epochs, 1)
    batches = trainer.num_training_batches
    if math.isinf(batches):
        return float(epochs)
    return float(
        min(epochs, planned_steps(trainer) / math.ceil(batches / trainer.accumulate_grad_batches))
    )


def _try_out(scheduler: Any, planned: float, trainer: Any, module: Any) -> list[list[float]]:
    """Steps a copy of the scheduler on a stand-in for the optimizer, and returns the rates it sets.

    It goes beyond the end of the run, to see what the scheduler still had in mind. Only schedulers
    whose ``step`` is torch's own are tried out: another one may do anything.
    """
    if not _is_torchs_own(scheduler):
        return []
    optimizer = scheduler.optimizer
    stand_in = _StandIn(optimizer)
    known = {id(optimizer): stand_in, id(module): module, id(trainer): trainer}
    rates = [stand_in.rates()]
    calls = int(min(2 * planned + 100, _HORIZON / len(rates[0]) ** 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            twin = copy.deepcopy(scheduler, known)
        except Exception:  # it holds what cannot be copied
            return []
        with contextlib.suppress(Exception):  # OneCycleLR raises at its end; a lambda may, too
            for _ in range(calls):
                twin.step()
                rates.append(stand_in.rates())
    return rates


def _summit(scheduler: Any, highest: list[float]) -> tuple[int | None, float]:
    """Returns where a warm-up ends that has not ended in the trial, and the largest rate of all.

    Only a ``LambdaLR`` can be asked for its rates in a distant future. One that goes on rising for
    a million calls is a range test.
    """
    top = max(highest, default=0.0) or 1.0
    if type(scheduler) is not LambdaLR or len(highest) < 2 or highest[-1] <= highest[-2]:  # noqa: PLR2004
        return None, top
    call, best = len(highest), top
    while call < _FAR:
        further = int(1.25 * call)
        try:
            pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            rate = float(max(base * function(further) for base, function in pairs))
        except Exception:  # it looks its factors up in a list
            return None, top
        if rate <= best:
            return call, best
        call, best = further, rate
    return None, top


class _StandIn:
    """What a scheduler needs of an optimizer."""

    def __init__(self, optimizer: Any) -> None:
        self.defaults = dict(optimizer.defaults)
        self.param_groups = [
            {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        self._opt_called = True

    def step(self) -> None: ...

    def rates(self) -> list[float]:
        return [learning_rate(group) or 0.0 for group in self.param_groups]


def _is_torchs_own(scheduler: Any) -> bool:
    if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
        return False
    parts = getattr(scheduler, "_schedulers", ())
    return type(scheduler).step.__module__ == LRScheduler.__module__ and all(
        map(_is_torchs_own, parts)
    )


def _foretold(
    known: Sequence[float], rates: Sequence[Sequence[float]], planned: float, is_fresh: bool
) -> list[float]:
    """Returns the largest rate of every group in the run; inf for what cannot be foretold."""
    if not rates:
        return [math.inf] * len(known)
    within = rates[: int(min(planned, len(rates))) + 1]
    ahead = [max(column) for column in zip(*within, strict=True)]
    return ahead if is_fresh else list(map(max, known, ahead))


def _peak(group: dict[str, Any]) -> float:
    """Returns the largest rate that the group itself tells of: a run that is resumed has had it."""
    known = [
        learning_rate(group),
        learning_rate(group, "initial_lr"),
        learning_rate(group, "max_lr"),
    ]
    return max((one for one in known if one is not None), default=0.0)


def _length(scheduler: Any) -> int | None:
    """Returns the number of calls that the scheduler was made for, if its class has one."""
    name = type(scheduler).__name__
    if name == "SequentialLR":
        last = _length(scheduler._schedulers[-1])
        return None if last is None else int(scheduler._milestones[-1]) + last
    value = getattr(scheduler, _LENGTHS.get(name, "-"), None)
    return int(value) if isinstance(value, (int, float)) else None


def _unmet(scheduler: Any) -> tuple[float, ...]:
    if not isinstance(scheduler, MultiStepLR):  # others compare: 2.5 lies between two calls
        return ()
    numbers = map(float, scheduler.milestones)
    return tuple(sorted(one for one in numbers if not one.is_integer()))


def _calls(scheduler: Any) -> int:
    parts = () if hasattr(scheduler, "last_epoch") else getattr(scheduler, "_schedulers", ())
    return _calls(parts[0]) if parts else int(getattr(scheduler, "last_epoch", 0) or 0)


def _is_shortened(trainer: Any) -> bool:
    limit = trainer.limit_train_batches
    return bool(trainer.fast_dev_run or trainer.overfit_batches) or limit not in (None, 1.0)
