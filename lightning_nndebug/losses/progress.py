"""What the fits of several steps say together: a fair start, and whether anything came of it."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.measurements.fits import Fit, Fits, constant, loss_of_constant
from ..core.measurements.loss_curve import LossCurve
from ..core.measurements.step_probe import StepProbe

History = dict[str, Any]  # of one loss: its kind, the totals of its targets, and the looks at it
Histories = dict[str, History]

TOO_LONG = "steps are too long"

STEEP = 100.0  # times the loss of a guess: more than cosines give with any temperature in use

STEP, LOSS, FLOOR, CHANCE, RELATION, PRIOR, SAMPLES = range(7)  # what is kept of a look

_MEANS = ("loss", "floor", "chance")
_FIRST, _LAST = 3, 60  # looks that are kept
_SOON, _BY_THEN = 15, 100  # steps: a tenth of the run, not fewer and not more than these
_WINDOW = 4  # probes that are judged together
_FEW = 3  # looks that are judged together, at least
_LATE = 0.75  # of a run: other findings say why, and need their time
_LEAST = 50  # steps before anything is said of progress
_LONG, _SHARE = 2000, 0.1  # of a long run, so many steps or so much of it are enough
_SLIGHTLY = 1e-3  # what predictions have to do with targets by rounding, or a single sample
_FAR = 1.5  # times the variance: what is known of the targets is not even their mean
_RELATED, _SURE = 0.01, 3.0  # related by so much, and so many standard errors: no mere chance
_FLAT = 0.3  # of the first differences between scores: training has made them alike
_GUESSED = 1.1  # times the loss of a guess
_PROMISING = 0.1  # so much less at the end of the run, if it goes on like this
_TOGETHER = 64  # samples, of which the mean is taken: the losses of single ones have long tails
_NOISES = 3.0  # times that a rise must be larger than what looks differ by anyway
# The beginning of a run, an eighth, a quarter, a half, and all of it.
_DOUBLINGS = ((0.0, 0.04), (0.1, 0.13), (0.22, 0.25), (0.46, 0.5), (0.95, 1.0))
_GOT_ON = 0.9  # of the first loss
_KEPT = 0.6  # of what the gradient promised: such a step is not too long
_SLIGHT = 1e-4  # steps that promise less than this share of the loss do no harm
_GAIN = 0.005  # of the loss: what a step of another length must save, or the length does not matter


def take_up(histories: Histories, fits: Fits) -> None:
    """Adds what was seen in a step, unless another rule has done so."""
    together: dict[str, list[Fit]] = {}
    for fit in fits.fits:  # a loss at each time step is one loss
        together.setdefault(fit.where, []).append(fit)
    for where, same in together.items():
        fit = same[0]
        totals = torch.stack([one.totals for one in same if _agree(fit, one)]).sum(0)
        known = histories.get(where)
        if known is None or known["kind"] != fit.kind or known["totals"].shape != fit.totals.shape:
            known = {"kind": fit.kind, "totals": fit.totals * 0, "looks": [], "line": str(fit.line)}
            histories[where] = {**known, "scaled": fit.scaled, "matches": fit.matches}
            known = histories[where]
        looks = known["looks"]
        if looks and looks[-1][STEP] >= fits.step:
            continue
        known["totals"] = known["totals"] + totals
        means = [statistics.fmean(getattr(one, name) for one in same) for name in _MEANS]
        if fit.kind == "quantities":
            known["origin"] = known["totals"] if len(looks) < _FIRST else known["origin"]
            means[-1] = loss_of_constant(fit.kind, known["origin"], totals)
        related = max(one.relation for one in same)
        samples = sum(one.samples for one in same)
        looks.append([fits.step, *means, related, _prior(known, totals), samples])
        if len(looks) > _FIRST + _LAST:
            del looks[_FIRST]


def baseline(history: History) -> float:
    """Returns the loss of the best constant prediction."""
    totals: Tensor = history["totals"]
    return constant(history["kind"], totals)


def excess(looks: Sequence[Sequence[float]]) -> float:
    """Returns the loss as a share of that of the best constant prediction, above the floor.

    Both are of the same samples: a few large errors, or a rare class, make all of them worse.
    """
    return _share(looks, statistics.fmean(one[PRIOR] for one in looks))


def first_ratio(history: History) -> tuple[float, float] | None:
    """Returns the loss of the first look over that of a guess, and the latter.

    None if that says nothing: a temperature makes scores large on purpose, though not beyond
    reason, a margin takes from the score of the own class alone, and the targets may be all
    the same.
    """
    looks = history["looks"]
    first, constant = looks[0], baseline(history)
    quantities = history["kind"] == "quantities"
    # Equally likely is a fair guess, too, where some classes are rare.
    guess = constant if quantities else max(first[CHANCE], constant)
    if guess <= 0:  # targets that are all the same: any loss is infinitely more
        return None
    lost = -statistics.fmean(one[RELATION] for one in looks) * constant
    more = statistics.fmean(one[LOSS] for one in looks) - guess
    if not quantities and lost > more / 2:
        return None
    steep = history["matches"] and all(one[LOSS] > STEEP * guess for one in looks)
    if not quantities and history["scaled"] and not steep:
        return None
    return (first[LOSS] - first[FLOOR]) / max(guess - first[FLOOR], 1e-9), guess


def is_soon(looks: Sequence[Sequence[float]], planned: float, times: int = 1) -> bool:
    """Whether the last look is the first one after a small part of the run, or some times that.

    By then targets are known that come in order, and are near each other at first.
    """
    soon = times * min(max(_SOON, _SHARE * planned), _BY_THEN)
    return looks[-1][STEP] >= soon > looks[-2][STEP] if len(looks) >= _FIRST else False


def recent(history: History) -> list[list[float]]:
    """Returns the looks at the second half of what has been trained so far, or none if too few."""
    looks: list[list[float]] = history["looks"]
    half = [one for one in looks if one[STEP] >= looks[-1][STEP] / 2]
    return half if len(half) >= _FEW else []


def is_late(step: int, planned: float) -> bool:
    """Whether something should have been learned by now."""
    enough = max(_LONG, _SHARE * planned) if math.isfinite(planned) else _LONG
    return step >= _LEAST and step >= min(_LATE * planned, enough)


def has_stalled(history: History, limit: float, relation: float, planned: float) -> bool:
    """Whether a loss is no better than that of a constant prediction, and not about to be.

    Args:
        history: Of the loss.
        limit: The share of the constant's loss from which on it is no better.
        relation: How much the predictions may have to do with the targets all the same.
        planned: Steps of the whole run; inf if unknown.
    """
    looks = recent(history)
    if not looks or excess(looks) < limit:
        return False
    related = statistics.fmean(one[RELATION] for one in looks) > relation
    related = related or _is_slightly_better(history)
    if (related or _is_leaving(history)) and not is_far(history):
        return False
    middle = len(looks) // 2
    before, after = excess(looks[:middle]), excess(looks[middle:])
    last = looks[-1][STEP]
    pace = (before - after) / max(1.0, (last - looks[0][STEP]) / 2)
    left = max(min(planned - last, last), last / 2)  # some runs are the first part of a longer one
    return bool(after - pace * left >= limit - _PROMISING)


def is_far(history: History) -> bool:
    """Whether quantities were predicted far worse than by their mean, in the whole second half."""
    looks = recent(history)
    is_worse = bool(looks) and min(excess([one]) for one in looks) > _FAR
    return history["kind"] == "quantities" and is_worse


def _is_slightly_better(history: History) -> bool:
    """Whether predictions beat a constant by little, and beyond doubt: the rest may be noise."""
    looks = recent(history)
    relations = [one[RELATION] for one in looks]
    error = statistics.stdev(relations) / math.sqrt(len(relations))
    related = statistics.fmean(relations) > max(_RELATED, _SURE * error)
    return related and excess(looks) < 1


def _is_leaving(history: History) -> bool:
    """Whether a net is about to leave a plateau: that shows in the relation before the loss.

    It grows geometrically there, and beyond what it was by chance. Of labels that have nothing to
    do with the inputs it goes up and down.
    """
    looks = history["looks"]
    past = [abs(one[RELATION]) for one in looks if one[STEP] < looks[-1][STEP] / 2]
    first, second, third = (one[RELATION] for one in looks[-_FEW:])
    return bool(max(0.0, first) < second < third and third > max(_SLIGHTLY, _NOISES * max(past)))


def is_turned(history: History, relation: float) -> bool:
    """Whether the samples that belong together got the lowest scores, and training made all alike.

    No net can do better that has to tell a sample from others by how little it is like itself. A
    margin takes from the own score, too, but there the loss stays far above that of a guess.
    """
    looks, late = history["looks"], recent(history)
    if not (history["matches"] and late):
        return False
    first, last = (
        statistics.fmean(one[RELATION] for one in some) for some in (looks[:_FIRST], late)
    )
    return bool(
        max(one[RELATION] for one in looks) < 0
        and first < -relation
        and last > _FLAT * first
        and 1 <= excess(late) < _GUESSED
    )


def has_diverged(history: History, rise: float) -> tuple[float, float] | None:
    """Returns the best level so far and the one now, if it is that much worse and stays so.

    Levels are means over two looks, or over as many as have 64 samples together, as shares of the
    constant's loss; of quantities that have wandered off since the start, as returns of a better
    policy do, as shares of what the constant of then loses now. The rise must be beyond what looks
    differ by anyway, and beyond any other that did not last: batches may be small, and losses
    heavy-tailed.
    """
    looks = history["looks"]
    width = max(2, math.ceil(_TOGETHER / statistics.median(one[SAMPLES] for one in looks)))
    if len(looks) <= 2 * (_FEW - 1) + width:
        return None
    constant = baseline(history)
    usual = max(constant, 1e-9) if history["kind"] == "quantities" else math.inf
    scales = [one[CHANCE] / usual for one in looks]  # 0 for all but quantities
    shares = [_share([one], constant) for one in looks]
    single = [one / max(1.0, scale) for one, scale in zip(shares, scales, strict=True)]
    levels = _pooled(single, width)
    earlier, last = levels[:-_FEW], levels[-_FEW:]
    # Where most targets are 0, some batches have hardly any others: there, it is easy to be good.
    fair = [one / (scale if scale > 0 else 1.0) for one, scale in zip(shares, scales, strict=True)]
    best = min(_pooled(fair, width)[:-_FEW])
    worst = min(last)
    falling = last[-1] < 0.9 * last[0]
    noise = statistics.median(abs(b - a) for a, b in itertools.pairwise(single))
    passed = max(
        one - max(min(earlier[: i + 1]), min(earlier[i:])) for i, one in enumerate(earlier)
    )
    beyond = best + max(_NOISES * noise, passed)
    rises = worst > max(1.0, rise * best, beyond) and not falling
    return (best, last[-1]) if rises else None


def _pooled(values: list[float], width: int) -> list[float]:
    return [statistics.fmean(values[i : i + width]) for i in range(len(values) - width + 1)]


def fall(curve: LossCurve) -> tuple[float, float]:
    """Returns where the loss is now, and how a fall below 0 grows from one doubling to the next.

    What has a floor falls ever more slowly: over twice the steps it gains no more than twice as
    much. What has none gains four times as much where weights grow by steps of one length.
    """
    parts = [curve.part(*one) for one in _DOUBLINGS]
    if not all(parts):  # too short a run
        return curve.means[-1], 0.0
    start, *levels = map(statistics.fmean, parts)
    gains = [before - after for before, after in itertools.pairwise(levels)]
    is_below = levels[-1] < -2 * abs(start) and min(gains) > 0
    growth = min(after / before for before, after in itertools.pairwise(gains)) if is_below else 0.0
    return levels[-1], growth


def step_record(probe: StepProbe) -> dict[str, Any]:
    """Returns what is remembered of a probe, as builtins."""
    before, after = probe.own
    kept = (before - after) / probe.predicted if probe.predicted > 0 else 0.0
    pace = probe.predicted / before if before > 0 else 0.0
    level = statistics.median(probe.losses[-20:] or (before,))
    return {"curve": dict(probe.curve), "kept": kept, "pace": pace, "level": level}


def has_got_on(probes: Sequence[dict[str, Any]]) -> bool:
    """Whether training has taken something off the loss since the first probe, as LRN101 has it."""
    return bool(probes[-1]["level"] < _GOT_ON * probes[0]["level"])


def verdict(probes: Sequence[dict[str, Any]]) -> str:
    """Returns what holds training up, by the last steps that were probed; nothing if unknown."""
    probes = probes[-_WINDOW:]
    if len(probes) < _FEW:
        return ""
    common = set.intersection(*(set(one["curve"]) for one in probes))
    total = {multiple: sum(one["curve"][multiple] for one in probes) for multiple in common}
    best = min(total, key=total.__getitem__)
    gain = 1 - total[best] / total[0.0] if total[0.0] > 0 else 0.0
    is_harmless = total[1.0] - total[best] < _GAIN * abs(total[0.0])
    kept = statistics.median(one["kept"] for one in probes)
    pace = statistics.median(one["pace"] for one in probes)
    if best < 1 and not (is_harmless or kept > _KEPT) and pace > _SLIGHT:  # as LRN101 has it
        return TOO_LONG
    if best > 1 and gain > _GAIN:  # as LRN102 has it, which asks for even more
        return "steps are too short"
    return "not the learning rate"


def _share(looks: Sequence[Sequence[float]], constant: float) -> float:
    floor = statistics.fmean(one[FLOOR] for one in looks)
    loss = statistics.fmean(one[LOSS] for one in looks) - floor
    return loss / max(constant - floor, 1e-9)


def _prior(known: History, new: Tensor) -> float:
    """Returns the loss of the best constant for all targets so far, on the last of them."""
    kind, totals = known["kind"], known["totals"]
    harder = loss_of_constant(kind, totals, new) - loss_of_constant(kind, totals, totals)
    return constant(kind, totals) + harder


def _agree(one: Fit, other: Fit) -> bool:
    return one.kind == other.kind and one.totals.shape == other.totals.shape
