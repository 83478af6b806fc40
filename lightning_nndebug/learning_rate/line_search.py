"""What the probes of several steps say together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.measurements.step_probe import StepProbe

Record = dict[str, Any]

FEW = 20  # losses that are averaged
WINDOW = 4  # probes that are judged together; fewer are fooled by the noise of their batches
EARLY = 50  # the first steps are a time of their own: momentum and second moments fill up
ENOUGH = 40  # from here on the early probes are complete
_WARM = 0.5  # a rate below this share of its peak is warming up, or has decayed
_TEPID = 0.1  # below this one its steps say nothing of those at the peak
_EXPLODED = 1000.0
_LATEST = 3  # losses, of which one may be lower than those that lead to infinity
_FAR_OFF = 50.0
_MOST = 0.8
_HUGE = 1e30  # stands for NaN and infinity in a sum
_SURE = 2.0  # standard errors
_RISE, _SHORT = 1.05, 0.3  # times the loss before the step, and the step
_OVERSHOT, _HILL = 1.5, 5.0  # times the loss before the step, and the one before all steps


@dataclass(frozen=True)
class Line:
    """Several probes as one.

    Attributes:
        curve: For each multiple of the step, the sum of their losses as a share of that at 0.
        kept: What a step's own batch kept of what the gradient promised; the median.
        pace: The share of the loss that a step promises; the median.
        stride: The length of a step, relative to that of the weights; the median.
        progress: The share of the first loss that training has taken off so far.
    """

    curve: dict[float, float]
    kept: float
    pace: float
    stride: float
    progress: float

    @property
    def best(self) -> float:
        """The multiple at which the loss is least, of those that were tried."""
        return min(self.curve, key=self.curve.__getitem__)

    @property
    def gain(self) -> float:
        """The share of the loss that it saves."""
        return 1 - self.curve[self.best]

    @property
    def waste(self) -> float:
        """The share of the loss that the best one saves beside the step that was made."""
        return self.curve[1.0] - self.curve[self.best]

    def at(self, multiple: float) -> float:
        """The loss at a multiple; where no search went, it was going up."""
        return _value(self.curve, multiple)

    def falls_short(self, steps: float, reach: float, travel: float) -> bool:
        """Whether so many steps get the loss nowhere, and the weights neither."""
        return steps * self.pace < reach and steps * self.stride < travel


@dataclass(frozen=True)
class Trend:
    """Where the training losses themselves are going at their present speed, and two errors more.

    Attributes:
        most: What the whole run will have taken off in the end, as a share of the first loss.
        ahead: What the steps that are left will take off, as a share of the present loss.
    """

    most: float
    ahead: float


def trend(first: Sequence[float], mark: Record, last: Record, steps: float) -> Trend | None:
    """Follows the losses from the first ones to those before a mark, to the last ones, and on.

    Args:
        first: The very first losses.
        mark: What is remembered of a probe between them, beyond ``FEW`` steps, and the last one.
        last: The same, of the last probe.
        steps: The length of the run.
    """
    (start, doubt), (then, before), (now, after) = average(first), mark["mean"], last["mean"]
    lately, is_finite = last["step"] - mark["step"], math.isfinite(doubt + before + after)
    if not (min(start, now) > 0 and lately > 0 and is_finite):
        return None
    left = (steps - last["step"]) / lately
    gain = max(then - now, 0.0) * left
    error = math.hypot((1 + left) * after, left * before, doubt)
    return Trend(
        most=(start - now + gain + _SURE * error) / start,
        ahead=(gain + _SURE * error) / now,
    )


def average(losses: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of some losses, and its standard error."""
    if len(losses) < 2:  # noqa: PLR2004
        return next(iter(losses), math.nan), math.inf
    if not all(map(math.isfinite, losses)):
        return math.nan, math.inf
    return statistics.fmean(losses), statistics.stdev(losses) / math.sqrt(len(losses))


def record(probe: StepProbe) -> Record:
    """Returns what is remembered of a probe, as builtins."""
    before, after = probe.own
    kept = None
    if probe.predicted > 0:  # else momentum led uphill, as it may
        kept = max(-2.0, min(2.0, (before - after) / probe.predicted))
        kept = kept if math.isfinite(after) else -2.0
    return {
        "step": probe.step,
        "optimizer": probe.optimizer,
        "rate": probe.rate,
        "share": probe.share,
        "curve": dict(probe.curve),
        "loss": before,
        "kept": kept,
        "pace": probe.predicted / (before or math.inf),
        "stride": probe.stride,
        "level": statistics.median(probe.losses[-FEW:] or (before,)),
        "mean": average(probe.losses[-FEW:]),
        "groups": {name: [rate, loss - probe.curve[0.0]] for name, rate, loss in probe.groups},
    }


def line(records: Sequence[Record], first: float) -> Line | None:
    """Adds up the probes; None if they are too few, or if the loss has no zero to measure from."""
    if len(records) < WINDOW or first <= 0:
        return None
    total = _total(records)
    if not total[0.0]:
        return None
    return Line(
        curve={multiple: loss / total[0.0] for multiple, loss in total.items()},
        kept=statistics.median([one["kept"] for one in records if one["kept"] is not None] or [0]),
        pace=statistics.median(one["pace"] for one in records),
        stride=statistics.median(one["stride"] for one in records),
        progress=1 - records[-1]["level"] / first,
    )


def recent(records: Sequence[Record], since: float = 0, half: float = EARLY) -> Sequence[Record]:
    """Returns the probes to judge together: those of the first 50 steps, or the last four.

    Args:
        records: All probes.
        since: The step from which on steps are as long as they will be; those before do not count.
        half: Half of the run. By then the early probes of a short one are complete.
    """
    if since:
        return [one for one in records if one["step"] >= since][-WINDOW:]
    if records[-1]["step"] < EARLY:
        return records if records[-1]["step"] >= max(FEW, min(ENOUGH, half)) else []
    return [one for one in records if one["step"] >= EARLY][-WINDOW:]


def at_peak(records: Sequence[Record]) -> Sequence[Record]:
    """Returns the last probes, unless the rate is still warming up, or has decayed.

    Where too few are near the peak, as of a short cycle, those count whose rate is a tenth of it.
    """
    warm = [one for one in records if one["share"] >= _WARM]
    enough = warm if len(warm) >= WINDOW else [one for one in records if one["share"] >= _TEPID]
    last = enough[-WINDOW:]
    peaks = [one["rate"] / one["share"] for one in last]
    return [] if last and peaks[-1] > 1.05 * peaks[0] else last  # a warm-up by hand


def shortfall(records: Sequence[Record]) -> float:
    """Returns how many times as long their steps will be, or were, at the peak of the rate."""
    least = min((one["share"] for one in records), default=1.0)
    return 1.0 if least >= _WARM else 1 / least


def repeats(records: Sequence[Record]) -> bool:
    """Whether the next batch is always the same one: it says nothing of any other."""
    return all(one["loss"] == one["curve"][0.0] for one in records)


def bearable(records: Sequence[Record]) -> float:
    """Returns the multiple of a step at which the loss would have been least.

    It lies between those that were tried: where a parabola through the three best has its vertex.
    """
    total = _total(records)
    tried = sorted(multiple for multiple in total if multiple)
    here = min(range(len(tried)), key=lambda i: total[tried[i]])
    if here in (0, len(tried) - 1):
        return tried[here]
    left, middle, right = (math.log10(one) for one in tried[here - 1 : here + 2])
    # A wall of infinite loss beside the valley says no more than that it is there.
    near, least, far = (min(total[one], 2 * total[0.0]) for one in tried[here - 1 : here + 2])
    fall, rise = (least - near) / (middle - left), (far - least) / (right - middle)
    if rise <= fall:
        return tried[here]
    return float(10 ** ((left + middle) / 2 - fall * (right - left) / 2 / (rise - fall)))


def culprit(records: Sequence[Record]) -> tuple[str, float] | None:
    """Returns name and rate of the one parameter group that does the harm, if it is one."""
    harm: dict[str, float] = {}
    for name, (_, loss) in (item for one in records for item in one["groups"].items()):
        harm[name] = harm.get(name, 0.0) + (loss if math.isfinite(loss) else _HUGE)
    worst = max(harm, key=harm.__getitem__, default=None)
    if worst is None or harm[worst] < _MOST * sum(max(one, 0.0) for one in harm.values()):
        return None
    return worst, next(one["groups"][worst][0] for one in records if worst in one["groups"])


def blows_up(probe: Record, start: float, *, passing: bool = False) -> bool:
    """Whether this very step is beyond doubt: it throws the loss far above where it began.

    Args:
        probe: The last one.
        start: The largest loss that the untrained model can be expected to have; 0 if unknown.
        passing: Whether steps will get shorter by themselves: a third of this one is judged.
    """
    now, shorter, then = (probe["curve"][multiple] for multiple in (0.0, 0.3, 1.0))
    mine = probe["loss"]
    if not (start and math.isfinite(now) and math.isfinite(mine)):
        return False
    if mine > _FAR_OFF * max(now, start):  # with the same weights: it is its batch that is odd
        return False
    reached = shorter if passing else then
    if not math.isfinite(reached):
        return _overflows(probe["curve"], start)
    if not reached < max(_FAR_OFF * now, _EXPLODED * start):
        return True
    far_off = min(now, mine) > _FAR_OFF * start and not passing
    return bool(far_off and max(now, shorter) < then and (probe["kept"] or 0.0) < _WARM)


def is_high(losses: Sequence[float], start: float) -> bool:
    """Whether the last losses are far above the first: on their way to where the numbers end."""
    return bool(start and losses) and max(losses[-_LATEST:]) > _HILL * start


def leap(losses: Sequence[float], start: float) -> bool:
    """Whether it was one batch that took the loss so high: from step to step it would have risen.

    Args:
        losses: The last ones, in order.
        start: The largest loss that the untrained model can be expected to have; 0 if unknown.
    """
    below = max((i for i, one in enumerate(losses) if one <= _HILL * start), default=len(losses))
    return any(one > _EXPLODED * max(losses[below], start) for one in losses[below + 1 :][:1])


def overshoots(probe: Record) -> bool:
    """Whether a step has made things worse, for its own batch and the next, by being too long."""
    now, shorter, then = (probe["curve"][multiple] for multiple in (0.0, 0.3, 1.0))
    return bool((probe["kept"] or 0.0) < 0 and then > max(_OVERSHOT * now, shorter))


def is_hill(peak: float, level: float, progress: float) -> bool:
    """Whether the loss went far up, and came back to where it began, or nearly so.

    Args:
        peak: The largest loss so far, in multiples of the first one.
        level: The present one.
        progress: The share of the first loss by which it would have to be lower.
    """
    return peak > _HILL and level > 1 - progress


def _overflows(curve: dict[float, float], start: float) -> bool:
    """Whether a step leads out of the numbers by its length, and not into the hole of a logarithm.

    On its way the loss is high, or a small part of the step will do, all the more if it is rising.
    """
    finite = {multiple: loss for multiple, loss in curve.items() if math.isfinite(loss)}
    end, top = max(finite), max(finite.values())
    if top > _HILL * max(curve[0.0], start):
        return True
    rises = top > _RISE * curve[0.0]
    has_no_way_back = all(multiple in finite for multiple in curve if multiple <= end)
    return has_no_way_back and end < (_SHORT if rises else _SHORT / 10)


def _total(records: Sequence[Record]) -> dict[float, float]:
    multiples = sorted({multiple for one in records for multiple in one["curve"]})
    return {
        multiple: sum(_value(one["curve"], multiple) for one in records) for multiple in multiples
    }


def _value(curve: dict[float, float], multiple: float) -> float:
    """Returns the loss at a multiple; a search that had stopped before was going up there."""
    loss = curve[max(known for known in curve if known <= multiple)]
    return loss if math.isfinite(loss) else _HUGE
