"""Schedules that do not do what they were made for."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..core.measurements.schedules import Schedule, Schedules

_FALL = "loss mse mae rmse nll ppl perplexity error err wer cer fid"
_RISE = (
    "acc accuracy acc1 acc5 top1 top5 f1 auc auroc iou miou dice bleu rouge recall precision psnr"
)
_SHORT = 50  # optimizer steps; a run of fewer is a trial
_CONFUSED = 4  # epochs were taken for steps, or steps for epochs, if they differ by this factor
_EARLY = 5  # epochs
_FEW = 3  # epochs that tell a pace
_TWICE = 1.9, 3.5  # times as often as Lightning steps it, a scheduler is stepped by others, too
_NOTHING = 1e-3  # of a learning rate
_CONVERGED = 0.9  # of the loss
_MANY = 50  # epochs, of which one more or less is no matter
_FALLEN = 0.1  # of its peak: from there, a learning rate may climb back
_CLIMBED = 0.5  # to so much of it, when the run ends
_CYCLES = ("CyclicLR", "CosineAnnealingWarmRestarts")
_RAISED = 20.0  # times: the tenfold rate of Lightning's own example may be meant


class Misuse(NamedTuple):
    """What is wrong with a schedule, and how to mend it."""

    seen: str
    fix: str


def misuse(schedule: Schedule, run: Schedules, learned: float = 0.0) -> Misuse | None:
    """Returns what is wrong with a schedule, in a run that has taken off a share of the loss."""
    if schedule.monitor is not None:
        hasty = _hasty(schedule, run) if learned < _CONVERGED else None
        twice = None if run.shortened else _stepped_twice(schedule)
        return _wrong_mode(schedule) or _impatient(schedule, run) or hasty or twice
    if schedule.unmet:
        return _never_met(schedule)
    if schedule.interval == "hand":
        return _never_stepped(schedule, run)
    if run.shortened or run.steps < _SHORT or math.isinf(run.steps):
        return None
    return (
        _stepped_twice(schedule)
        or _held_back(schedule, run)
        or _wrong_interval(schedule, run)
        or _wrong_length(schedule, run)
        or _idle_start(schedule, run)
        or _endless_warm_up(schedule)
        or _early_end(schedule)
        or _climbs_again(schedule)
    )


def misuse_by_hand(run: Schedules, learned: float = 0.0) -> Iterator[tuple[str, Misuse]]:
    """Yields what code beside the schedulers does to learning rates, with who does it."""
    if run.averaging > _RAISED:
        yield (
            "StochasticWeightAveraging",
            Misuse(
                f"the weights are averaged at {run.averaging:,.0f} times the largest learning rate "
                "of the run",
                "Set swa_lrs to the rate that the run ends with, or somewhat above",
            ),
        )
    if run.shortened or run.steps < _SHORT or math.isinf(run.steps) or learned >= _CONVERGED:
        return
    for optimizer, share in run.to_come.items():
        if 0 < share < _NOTHING and 2 * run.done <= run.steps:
            yield (
                optimizer,
                Misuse(
                    f"lowered by hand until nothing is left: at this rate, the steps after "
                    f"{run.done:,} of {run.steps:,.0f} amount to {share:.2%} of those before",
                    "Count epochs or steps rather than calls of a hook, or use a scheduler",
                ),
            )


def thrown_away(run: Schedules) -> Iterator[tuple[str, Misuse]]:
    """Yields the optimizers whose scheduler is gone, and what to do about it."""
    is_told = run.epoch > 0 and not run.shortened and run.steps >= _SHORT
    for optimizer, name in run.dropped.items() if is_told else ():
        told = f"a scheduler was made for it, `{name}`, and is gone: nothing returns or keeps it"
        yield optimizer, Misuse(told, "Return [optimizer], [scheduler]")


def _wrong_mode(schedule: Schedule) -> Misuse | None:
    words = set(re.split(r"[^a-z0-9]+", str(schedule.monitor).lower()))
    falls, rises = not words.isdisjoint(_FALL.split()), not words.isdisjoint(_RISE.split())
    is_negated = not words.isdisjoint(("neg", "negative", "minus"))
    if falls == rises or is_negated or falls == (schedule.mode == "min"):
        return None
    return Misuse(
        f"mode={schedule.mode!r} on {schedule.monitor!r}: the rate falls while the metric improves",
        f'Set mode="{"min" if falls else "max"}"',
    )


def _impatient(schedule: Schedule, run: Schedules) -> Misuse | None:
    is_of_validation = str(schedule.monitor).lower().startswith("val")
    looks = run.validates / schedule.frequency  # at one and the same value
    if schedule.interval != "step" or not is_of_validation or looks < _CONFUSED:
        return None
    return Misuse(
        f"asked {looks:.0f} times between validations, which alone change {schedule.monitor!r}",
        'Set interval="epoch"',
    )


def _hasty(schedule: Schedule, run: Schedules) -> Misuse | None:
    """A plateau is no such thing before all data were seen: the noise of batches is cut away."""
    epoch = run.batches / run.accumulation
    patience = math.inf if schedule.patience is None else schedule.patience * schedule.frequency
    is_early = 2 * run.done <= run.steps and run.epoch <= _EARLY
    if schedule.interval != "step" or not patience < epoch < math.inf or run.shortened:
        return None
    if not is_early or schedule.left > _NOTHING:
        return None
    return Misuse(
        f"{schedule.left:.0e} of the learning rate is left after {run.done:,} of {run.steps:,.0f} "
        f"steps: {schedule.patience} batches that are no better than the best one are no plateau",
        'Set interval="epoch", and monitor="val_loss"',
    )


def _never_met(schedule: Schedule) -> Misuse:
    told = ", ".join(f"{one:g}" for one in schedule.unmet)
    units = "calls" if schedule.interval == "hand" else f"{schedule.interval}s"
    return Misuse(
        f"the milestones {told} are no whole numbers: no count of {units} is ever equal to one, "
        "and the learning rate does not fall there",
        f"Give milestones in {units}, such as int(0.5 * planned)",
    )


def _never_stepped(schedule: Schedule, run: Schedules) -> Misuse | None:
    is_late = run.over or run.done >= run.steps / 3
    is_for_steps = run.over and run.steps >= _SHORT and _agree(_length(schedule), run.steps)
    if schedule.taken or not schedule.is_still:  # by a step of another name, or a part of one
        return None
    if not is_late or (run.epoch < 2 and not is_for_steps):  # noqa: PLR2004
        return None
    return Misuse(
        f"not stepped once in {run.epoch} epoch{'s' * (run.epoch > 1)} of manual optimization",
        "Call self.lr_schedulers().step() in training_step or on_train_epoch_end",
    )


def _stepped_twice(schedule: Schedule) -> Misuse | None:
    """Who steps an epoch's scheduler in each batch, or counts samples, has another pace in mind."""
    if not schedule.asked >= (_FEW if schedule.interval == "epoch" else _SHORT / 2):
        return None
    if not _TWICE[0] <= schedule.taken / schedule.asked <= _TWICE[1]:
        return None
    return Misuse(
        f"stepped {schedule.taken:,} times in {schedule.asked:,.0f} {schedule.interval}s: "
        "Lightning steps it, and so does code of yours",
        "Do not call step() of a scheduler that configure_optimizers returns",
    )


def _held_back(schedule: Schedule, run: Schedules) -> Misuse | None:
    is_idle = not schedule.taken and schedule.is_still
    if not run.over or not is_idle or not schedule.factors or not schedule.asked >= _FEW:
        return None
    return Misuse(
        f"not stepped once, though Lightning has asked for it {schedule.asked:,.0f} times",
        "Call scheduler.step() in lr_scheduler_step, or do not override it",
    )


def _wrong_interval(schedule: Schedule, run: Schedules) -> Misuse | None:
    length = _length(schedule)
    if schedule.interval == "epoch" and length >= _CONFUSED * schedule.planned:
        counts = (run.steps * a * w for a in (1, run.accumulation) for w in (1, run.world_size))
        if any(_agree(length, count) for count in counts):
            return Misuse(
                f"made for {length:,} steps, but stepped once an epoch: {schedule.planned:.0f} "
                "times",
                'Return {"scheduler": scheduler, "interval": "step"}',
            )
    is_too_often = schedule.interval == "step" and schedule.planned >= _CONFUSED * length
    if is_too_often and schedule.length is not None and abs(length - run.epochs) <= 1:
        return Misuse(
            f"made for {length} epochs, but stepped {schedule.planned:,.0f} times",
            'Return {"scheduler": scheduler, "interval": "epoch"}',
        )
    return None


def _wrong_length(schedule: Schedule, run: Schedules) -> Misuse | None:
    if schedule.interval != "step":
        return None
    length, planned = _length(schedule), schedule.planned
    reasons = {
        run.accumulation: "accumulate_grad_batches",
        run.world_size: "devices",
        run.accumulation * run.world_size: "accumulate_grad_batches and devices",
    }
    for factor, reason in reasons.items():
        if factor > 1 and _agree(length, factor * planned):
            return Misuse(
                f"made for {length:,} steps, {factor} times the {planned:,.0f} of this run: "
                f"{reason} was not counted",
                "Take the length from self.trainer.estimated_stepping_batches",
            )
    return None


def _idle_start(schedule: Schedule, run: Schedules) -> Misuse | None:
    """A factor that counts epochs from 0 is 0 for all of the first one.

    One of several optimizers may be held back.
    """
    first, *later = schedule.factors[:2] or (1.0,)
    is_idle = schedule.interval == "epoch" and not first and any(later)
    if not is_idle or schedule.planned > _MANY or len(run.peaks) > 1:
        return None
    return Misuse(
        "the learning rate is 0 for the whole first epoch: nothing is learned in it",
        'Count from 1, as in (epoch + 1) / warm_up, or set interval="step"',
    )


def _endless_warm_up(schedule: Schedule) -> Misuse | None:
    factors, planned = schedule.factors, schedule.planned
    if len(factors) <= planned + 1:
        return None
    end = factors[int(planned)]
    peak = schedule.summit or factors.index(max(factors))
    # One that rises for ever is no warm-up but a range test.
    if end >= 0.5 or end < max(factors[: int(planned) + 1]) or peak == len(factors) - 1:  # noqa: PLR2004
        return None
    return Misuse(
        f"the warm-up takes {peak:,} {schedule.interval}s and the run {planned:,.0f}: the learning "
        f"rate gets no higher than {end:.0%} of its peak",
        'Shorten the warm-up, or set interval="step"'
        if schedule.interval == "epoch"
        else "Shorten the warm-up",
    )


def _early_end(schedule: Schedule) -> Misuse | None:
    if len(schedule.factors) <= schedule.planned:  # too long to be tried out to its end
        return None
    within = schedule.factors[: int(schedule.planned) + 1]
    for limit, share in ((0.0, 0.2), (1e-4, 0.6)):
        last = max((i for i, one in enumerate(within) if one > limit), default=0)
        rest = len(within) - 1 - last
        if rest > max(share * len(within), 2):
            return Misuse(
                f"the learning rate is {f'below {limit:g} of its peak' if limit else '0'} for the "
                f"last {rest:,} of {len(within) - 1:,} {schedule.interval}s",
                "Stretch the schedule over the whole run"
                + (', or set interval="epoch"' if schedule.interval == "step" else ""),
            )
    return None


def _climbs_again(schedule: Schedule) -> Misuse | None:
    """A cosine goes on beyond its end, uphill; a second valley may be meant, and so may jumps."""
    if schedule.name in _CYCLES or len(schedule.factors) <= schedule.planned:
        return None
    within = schedule.factors[: int(schedule.planned) + 1]
    changes = [now - then for then, now in itertools.pairwise(within)]
    ways = [rises for rises, _ in itertools.groupby(one > 0 for one in changes if one)]
    ways = ways[1:] if ways[:1] == [True] else ways  # a warm-up
    if ways[:2] != [False, True] or True in ways[2:] or max(changes) > _CLIMBED:
        return None
    top = next(i for i, one in enumerate(changes) if one < 0)
    low = min(range(top, len(within)), key=within.__getitem__)
    if within[low] > _FALLEN * within[top] or within[-1] < _CLIMBED * max(within):
        return None
    return Misuse(
        f"made for {low:,} {schedule.interval}s of {len(within) - 1:,}: from there the learning "
        f"rate climbs again, and the run ends with {within[-1] / max(within):.0%} of its peak",
        "Stretch the schedule over the whole run",
    )


def _length(schedule: Schedule) -> float:
    """Returns after how many calls the schedule is over; inf if it has no end."""
    if schedule.length is not None:
        return schedule.length
    pairs = enumerate(itertools.pairwise(schedule.factors), start=1)
    ends = (i for i, (then, now) in pairs if 0 < then < 0.1 and now <= 1e-3 * then)  # noqa: PLR2004
    return next(ends, math.inf)


def _agree(length: float, count: float) -> bool:
    return abs(length / count - 1) <= 0.15  # noqa: PLR2004
