"""Losses that are computed as they should, and are not the ones that the task needs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

from ..core.findings import Evidence, Severity
from ..core.measurements.fits import where
from ..core.measurements.loss_calls import LossCall
from ..core.measurements.loss_inputs import LossInput, LossInputs, turn_of
from .misuse import ELEMENTWISE

Labels = dict[str, list[int]]
Ends = dict[str, list[float]]  # of targets: the least and the largest, and what Turn counts

_NUMBERED = (3, 100)  # so many classes have numbers that could be taken for quantities
_EACH = 8  # labels of each class, on average, before their distribution is judged
_EVEN = 3.0  # classes that are chosen have about the same size; counts and ranks have tails
_FILLED = 0.01  # of a turn may be missing at each of its ends
_MISSED, _OFTEN = 5, 0.05  # angles that are missed by more than half a turn, and their share
_STEEP = 1e5  # times the usual error: so much weighs one that is divided by almost nothing
_FORMS = {"squared", "absolute"}  # what a hand-written difference may be made to
_VIEWS = 64  # samples in a row that are their own partners
_FALLING = 10  # looks in a row, at each of which a loss is lower
_ACCURACY = re.compile(r"(^|[^a-z])(acc|accuracy)($|[^a-z])", re.IGNORECASE)

# What was done to a loss: in a word, in a sentence, its cause, and the fix.
_NEGATED = ("negated", "negated: it is maximized", "A minus sign too many", "Remove the minus sign")
_MINIMIZED = ("minimized", "minimized", "A minus sign is missing", "Put a minus sign before it")
_LIKE = {
    "gather": "the log-likelihood",
    "overlap": "the overlap of predictions and targets",
    "cosine_similarity": "the cosine of predictions and targets",
}  # what is to be large
_MAXIMIZED = (
    "maximized", "minimized with maximize=True", "The optimizer has maximize=True",
    "Remove maximize=True",
)  # fmt: skip

# What falls as the predictions come near to the targets.
_LOSSES = ELEMENTWISE - {"difference"} | {
    "cross_entropy", "nll_loss", "ctc_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "gaussian_nll_loss", "poisson_nll_loss",
}  # fmt: skip


def flipped(found: LossInputs) -> Iterator[Evidence]:
    """Losses on targets of the batch that the optimizer makes as large as it can."""
    calls = [one.call for one in found.inputs if _falls(one.call) or _rises(one)]
    ways = [(-1 if one.function in _LIKE else 1) * (one.factor or 0.0) for one in calls]
    turned = [one for one, way in zip(calls, ways, strict=True) if found.way * way < 0]
    right = [one for one, way in zip(calls, ways, strict=True) if found.way * way > 0]
    # One that is minimized beside it makes a game of it, unless it wants the same for the same.
    is_game = len(turned) < len(calls) and not all(_is_opposed(one, right) for one in turned)
    if is_game or any(one.place is None for one in calls):
        return
    for call in turned:
        name, (measured, told, cause, fix) = _LIKE.get(call.function, call.function), _NEGATED
        if found.way < 0:
            measured, told, cause, fix = _MAXIMIZED
        elif call.function in _LIKE:
            measured, told, cause, fix = _MINIMIZED
        at = f" at {call.line}" if call.line else ""
        yield Evidence(
            where=where(call),
            measured=measured,
            message=f"{name}{at} is {told}",
            causes=(cause,),
            fixes=(fix,),
        )


def plain_outputs(found: LossInputs, levels: list[float]) -> Iterator[Evidence]:
    """A mean of raw outputs that falls and falls: a bound elsewhere would hold it."""
    if not found.plain:
        levels.clear()
    elif levels[-1:] != [found.level]:  # a step is told twice, before its backward and at its end
        levels[:] = [*levels, found.level][-_FALLING:]
    falls = all(after < before for before, after in itertools.pairwise(levels))
    if len(levels) == _FALLING and falls and levels[-1] < 0:
        yield Evidence(
            where="loss",
            measured="no targets",
            message=f"the loss is the plain mean of what a linear layer gives, of shape "
            f"{found.plain}: no target has a part in it; it is {levels[-1]:.3g}, and has fallen at "
            f"each of {_FALLING} looks",
            causes=("The scores were taken for the loss, as the first of what the net returns",),
            fixes=("Give the net its targets by the name that it knows, or compute the loss here",),
        )


def squared_classes(found: LossInputs, seen: Labels) -> Iterator[Evidence]:
    """Numbers of classes that are taken for quantities."""
    has_accuracy = any(map(_ACCURACY.search, found.metrics))
    known = found.numbering
    for one in found.inputs:
        call, labels = one.call, one.labels
        if call.function not in ELEMENTWISE or not (labels and call.whole and known.is_over):
            continue
        is_known = known.target == str(call.place)
        are_names = is_known and known.are_names
        if not (call.is_integer or are_names) or (is_known and known.are_quantities):
            continue
        counts = seen[where(call)] = _sum(seen.get(where(call), []), labels)
        is_even = _are_classes(counts, even=_EVEN)
        if is_even or ((has_accuracy or are_names) and _are_classes(counts, even=1e9)):
            kinds = "integers, " if call.is_integer else ""
            others = (
                f" ({known.luck:.0%} of other numberings are as easy to predict)"
                if are_names
                else ""
            )
            yield Evidence(
                where=where(call),
                measured=f"{len(counts)} classes",
                message=f"the targets at {call.line} are {kinds}the numbers of {len(counts)} "
                f"classes{others}; a squared error takes class 0 and 1 for neighbours",
                fixes=(f"Give the net {len(counts)} outputs and use cross_entropy",),
                details={"counts": counts},
                # Who declares them as floating point numbers may well want to fit them.
                severity=Severity.WARNING if call.is_integer or has_accuracy else Severity.INFO,
            )


def unbounded_answers(found: LossInputs) -> Iterator[Evidence]:
    """Quantities that are taken for probabilities."""
    for one in found.inputs:
        call, target = one.call, one.target
        masked = call.options.get("reduction") == "none" or call.options.get("weight") is not None
        if not call.is_binary or masked or target is None or all(map(_is_whole, call.strange)):
            continue
        if call.lowest >= 0 and call.highest <= 1:  # CLS105 tells it
            continue
        yield Evidence(
            where=where(call),
            measured=target.highest if target.highest > 1 else target.lowest,
            limit="0 to 1",
            message=f"the targets of {call.function} at {call.line} are {target.lowest:.3g} to "
            f"{target.highest:.3g}, and should be probabilities",
            fixes=("For quantities use mse_loss or huber_loss", "Or scale them to 0 to 1"),
        )


def unwrapped_angles(
    found: LossInputs, seen: Ends, is_learned: Callable[[str], bool]
) -> Iterator[Evidence]:
    """Angles whose difference is taken to be a whole turn where they are next to each other."""
    for one in found.inputs:
        call, target, name = one.call, one.target, where(one.call)
        is_bare = call.function != "difference" or call.options.get("form") in _FORMS
        if call.function not in ELEMENTWISE or target is None or not (is_bare and call.whole):
            continue
        low, high, ends, missed = seen.get(name, [math.inf, -math.inf, 0, 0])
        if one.turn and is_learned(name):
            ends, missed = ends + one.turn.ends, missed + one.turn.missed
        low, high = min(low, target.lowest), max(high, target.highest)
        seen[name] = [low, high, ends, missed]
        if missed >= _MISSED and missed > _OFTEN * ends and turn_of(low, high, _FILLED):
            yield Evidence(
                where=name,
                measured=missed / ends,
                limit=_OFTEN,
                message=f"the targets at {call.line} fill a whole turn, from {low:.3g} to "
                f"{high:.3g}, and {missed / ends:.0%} of those near its ends are missed by more "
                f"than half of it: the loss takes 359 degrees to be far from 1",
                fixes=(
                    "Predict sine and cosine of the angle",
                    "Or wrap the difference: ``torch.atan2(d.sin(), d.cos())``",
                ),
            )


def divided_by_nothing(found: LossInputs) -> Iterator[Evidence]:
    """Errors in per cent of targets of which some are zero."""
    for one in found.inputs:
        if one.steepness > _STEEP:
            yield Evidence(
                where=where(one.call),
                measured=one.steepness,
                limit=_STEEP,
                message=f"errors are divided by their targets at {one.call.line}, and the least of "
                f"these is {one.steepness:.1g} times smaller than their mean: its error counts as "
                "much as so many others",
                causes=("The error is relative, and some targets are 0, or almost",),
                fixes=(
                    "Use ``l1_loss``, or divide the sum of errors by the sum of targets",
                    "Or predict ``log1p`` of the targets",
                ),
            )


def means_of_batches(found: LossInputs) -> Iterator[Evidence]:
    """Predictions and targets that are averaged before they are compared."""
    for call in (one.call for one in found.inputs if len(found.inputs) == 1):
        if call.averaged:
            yield Evidence(
                where=where(call),
                measured="one number of the batch",
                message=f"the mean of {call.averaged} predictions is compared with the mean of "
                f"their targets, at {call.line}: a batch may be right on average, and wrong in "
                "every row",
                causes=("The mean is taken before the difference, and not of it",),
                fixes=("Compare row by row: ``((prediction - target) ** 2).mean()``",),
            )


def turned_scores(found: LossInputs) -> Iterator[Evidence]:
    """A score that is far below that of a guess, and falls as the loss does."""
    one = found.turned
    ranks = any(each.call.function == "margin_ranking_loss" for each in found.inputs)
    if one.metric and (ranks or not _ACCURACY.search(one.metric)):
        yield Evidence(
            where=one.metric,
            measured=one.said,
            limit=one.guess,
            message=f"{one.metric!r} has come down to {one.said:.3g}, far below the {one.guess:g} "
            f"of a guess, while the loss fell: the answers are told apart well, and the wrong way "
            "round",
            causes=(
                "The two inputs of a ranking loss are exchanged, or its target has the wrong sign",
                "Loss and metric take opposite answers for the right ones",
            ),
            fixes=("Look at which of two answers the loss wants to be higher",),
        )


def same_views(found: LossInputs, alike: dict[str, int]) -> Iterator[Evidence]:
    """Samples that are to be found among others, by what is exactly equal to them.

    Beside another loss it may keep codes apart; and views that are hardly changed are the same, now
    and then.
    """
    is_all = all(one.are_views_same for one in found.inputs)
    for one in found.inputs:
        name = where(one.call)
        alike[name] = alike.get(name, 0) + one.call.shape[0] if is_all else 0
        if alike[name] >= _VIEWS:
            yield Evidence(
                where=name,
                measured="the same",
                message=f"each of the {one.call.shape[0]} samples of a batch has exactly the "
                f"scores of the partner that it is to find, at {one.call.line}: both views of it "
                "are the same, and there is nothing to be learned from them",
                causes=("One view is encoded twice, or both are drawn from the same seed",),
                fixes=("Draw each view anew, and encode both",),
            )


def accuracy_of_quantities(found: LossInputs) -> Iterator[Evidence]:
    """Quantities whose predictions are asked to be exactly equal."""
    metric = next((one for one in found.metrics if _ACCURACY.search(one)), None)
    calls = [one for one in found.inputs if one.target is not None and not one.labels]
    fitted = [one for one in calls if one.call.function in ELEMENTWISE and one.call.place]
    if metric is None or not fitted or any(one.call.tells_classes for one in found.inputs):
        return
    if len(fitted) == len(found.inputs):
        yield Evidence(
            where=metric,
            measured="an accuracy",
            message=f"{metric!r} is logged, and {fitted[0].call.line} fits quantities: they are "
            f"never exactly equal",
            fixes=("Log a mean absolute error or R2 instead",),
        )


def accuracy_that_is_none(found: LossInputs) -> Iterator[Evidence]:
    """A share of right answers that is not that of the predictions which the loss was given."""
    one = found.doubt
    if one.metric:
        yield Evidence(
            where=one.metric,
            measured=one.said,
            limit=one.right,
            message=f"{one.metric!r} is {one.said:.3g}, no better than a constant answer "
            f"({one.guess:.3g}), and of the predictions that the loss is given in validation "
            f"{one.right:.0%} are right: loss and metric disagree",
            causes=("The metric is given something else than the predictions of the loss",),
            fixes=("Look at what it compares: classes (``argmax``), not scores, along axis 1",),
        )


def _rises(one: LossInput) -> bool:
    """Whether better predictions make more of it; of overlaps, those with a mask."""
    call, labels = one.call, one.labels
    is_mask = len(labels) == 2 and all(labels)  # noqa: PLR2004
    return (
        call.is_likelihood
        or call.function == "cosine_similarity"
        or (call.function == "overlap" and is_mask)
    )


def _is_opposed(one: LossCall, right: Sequence[LossCall]) -> bool:
    """Whether an overlap is pushed from the very targets that other losses pull to."""
    is_same = any(other.whole and other.place == one.place for other in right)
    return one.function == "overlap" and one.whole and is_same


def _falls(call: LossCall) -> bool:
    """Whether a call returns less for better predictions, be it written by hand."""
    return call.function in _LOSSES or bool(call.options.get("form"))


def _are_classes(counts: Sequence[int], even: float) -> bool:
    kinds, total = len(counts), sum(counts)
    if not _NUMBERED[0] <= kinds <= _NUMBERED[1] or total < _EACH * kinds:
        return False
    return min(counts) * kinds * even >= total and max(counts) * kinds <= even * total > 0


def _sum(counts: Sequence[int], more: Sequence[int]) -> list[int]:
    size = max(len(counts), len(more))
    return [a + b for a, b in zip(_filled(counts, size), _filled(more, size), strict=True)]


def _filled(counts: Sequence[int], size: int) -> list[int]:
    return [*counts, *[0] * (size - len(counts))]


def _is_whole(number: float) -> bool:
    return number == int(number)
