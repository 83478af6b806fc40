"""Which classes are neglected: hardly ever predicted, long after others have been learned."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor

from ..core.measurements.class_counts import ClassCounts
from ..core.measurements.labels import Target

LOOKS = 3  # looks in a row at which a class must be neglected,
SETTLED = 3  # and so many times as long as the other classes took to be learned

_LATER = 1.25  # a look comes so many times as late as the one before
_ALONE = 32  # batches that it takes to predict one class only: that is not learning
_PRIOR = 0.8  # the share of its frequency that this class must be trusted with by then
_SEEN = 5  # samples of a class, for a look to say something about it
_SAMPLES = 100  # samples of all classes, likewise
_SHOWN = 10  # samples of a class that training must have shown before it is called neglected
_PREDICTED = 0.3  # the mean probability of a class at which it is often the largest one


class Progress(TypedDict, total=False):
    """How the classes have fared so far: plain values, for the checkpoint.

    Attributes:
        look: The last look that was taken up.
        train: How many samples of training show each class.
        heard: How many labels of each class were in the steps that were heard.
        shown: The one of the two that the loss counts.
        validates: Whether there is a validation.
        pending: A table (see ``Recognition``) that waits for more.
        last: The table of the last look that was judged,
        table: with that of the look before, where a class was seen too rarely.
        looked: The batch of that look.
        learned: How many classes were not neglected then.
        began: The batch at which several classes were learned for the first time.
        since: By when the others had been learned.
        streaks: For each class: looks in a row at which it was neglected, and at which its mean
            probability did not rise either.
        absent: For each class: looks in a row at which it was hardly ever predicted.
        trust: For each class: the mean probability that its own samples were given.
    """

    look: int
    train: Tensor
    heard: Tensor
    shown: Tensor
    validates: bool
    pending: Tensor
    last: Tensor
    table: Tensor
    looked: int
    learned: int
    began: int
    since: int
    streaks: dict[int, tuple[int, int]]
    absent: dict[int, int]
    trust: dict[int, float]


def take_up(progress: Progress, counts: ClassCounts) -> None:
    """Takes up what has come since the last look; once, whichever rule comes first."""
    if progress.get("look") == counts.look:
        return
    progress["look"] = counts.look
    nothing = torch.zeros_like(counts.train_table)
    progress["train"] = counts.train + progress.get("train", nothing[0])
    progress["heard"] = counts.train_table[0] + progress.get("heard", nothing[0])
    # In a mask it is the pixel that counts in the loss, not the image that shows it; of several
    # labels at once it is the answer, no or yes.
    answers = counts.target.form == "multilabel"
    progress["shown"] = progress["heard" if counts.target.dense or answers else "train"]
    validates = bool(counts.validation.sum())
    progress["validates"] = validates or progress.get("validates", False)
    progress["pending"] = (
        counts.train_table + counts.validation_table + progress.get("pending", nothing)
    )
    if (
        progress["pending"][0].sum() >= _SAMPLES
        and (counts.is_last or counts.batches >= _LATER * progress.get("looked", 0))
        and progress["validates"] == validates
    ):
        _follow(progress, progress["pending"], counts.batches)
        progress["pending"], progress["looked"] = nothing, counts.batches


def neglected(progress: Progress, target: Target, looks: int = LOOKS, stalls: int = 0) -> list[int]:
    """Returns the classes that were neglected for so many looks, and stalled for so many."""
    return [
        c
        for c, (neglects, rests) in sorted(progress.get("streaks", {}).items())
        if neglects >= looks and rests >= stalls and _counts(progress, target, c)
    ]


def given_up(progress: Progress, target: Target) -> list[int]:
    """Returns the classes that were hardly ever predicted for many looks, rising or not."""
    return [
        c
        for c, looks in sorted(progress.get("absent", {}).items())
        if looks >= LOOKS and _counts(progress, target, c)
    ]


def told(progress: Progress, target: Target, classes: list[int], worst: int) -> str:
    """Says how the worst of these classes fares."""
    seen, hits = progress["table"][:2, worst].tolist()
    share = float(progress["shown"][worst] / progress["shown"].sum())
    name, what = f"class {worst}", "labels"
    if target.form == "multilabel":
        name, what = ("no", "yes")[worst], "answers"
    text = f"{name} is {share:.2%} of the {what}; of its last {int(seen)} samples, "
    text += f"{int(hits)} are recognized"
    more = len(classes) - 1
    return text + (f"; so it is with {more} more class{'es'[: 2 * (more > 1)]}" if more else "")


def _counts(progress: Progress, target: Target, c: int) -> bool:
    """Whether a class was shown often enough, and counts in the loss."""
    shown = progress["shown" if target.form == "multilabel" else "train"]
    return bool(shown[c] >= _SHOWN) and not target.ignores(c)


def _follow(progress: Progress, table: Tensor, batches: int) -> None:
    """Notes for how many looks in a row each class is neglected while others are learned."""
    earlier = progress.get("last", torch.zeros_like(table))
    progress["last"] = table
    progress["table"] = table + earlier * (table[0] < _SEEN)
    seen, hits, predicted, trust = progress["table"]
    shown, half = progress["shown"], 0.5
    lost = (seen >= _SEEN) & (predicted <= 0.1 * seen) & (hits <= 0.05 * seen)
    learned = (seen > 0) & ~lost
    progress["learned"] = int(learned.sum())
    alone, share = progress["learned"] == 1, float(shown[learned].sum() / shown.sum())
    sure = float(trust[learned].sum() / seen[learned].sum().clamp_min(1))
    if (
        share < half
        or hits[learned].sum() < half * seen[learned].sum()
        or (alone and sure < _PRIOR * share)
    ):
        # Nothing has been learned yet: not a matter of one class.
        progress["streaks"], progress["absent"] = {}, {}
        return
    since = progress["since"] = _ALONE if alone else progress.setdefault("began", batches)
    streaks, trusts = progress.setdefault("streaks", {}), progress.setdefault("trust", {})
    absent = progress.setdefault("absent", {})
    for c in (seen >= _SEEN).nonzero().flatten().tolist():
        now, before = float(trust[c] / seen[c]), trusts.get(c, math.inf)
        trusts[c] = now
        pace = math.log(now / before) if 0 < before < now else 0.0
        pace /= max(1, batches - progress.get("looked", 0))
        # At this pace it will be predicted before the run is twice as long. That is an excuse,
        # but not for ever: not when it takes twice as long again as we wait without one.
        comes = math.log(_PREDICTED / now) <= pace * batches if pace else False
        comes = comes and (alone or batches < 2 * SETTLED * since)
        absent[c] = absent.get(c, 0) + 1 if lost[c] and batches > since else 0
        looks, stalls = streaks.get(c, (0, 0))
        if not lost[c] or comes or batches <= since:
            streaks[c] = (0, 0)
        else:
            rises = now > 1.02 * before and now > 0.1 * shown[c] / shown.sum()
            streaks[c] = (looks + 1, 0 if rises else stalls + 1)
