"""Spikes in the loss, held against its own history."""

from __future__ import annotations

import math
from typing import Any

BASELINE = 50  # losses that a spike is held against
_MEMORY = 1000  # steps after which a spike is forgotten
_FIRST = 5  # losses whose median is the one that training began with
_LASTS = 2  # steps above: one alone is a hard batch, not a state of the weights
_GLARING = 3.0  # times as far above as need be, and
_BEYOND = 1000.0  # times the loss that training began with: no batch is as hard as that
_CALM = 10  # steps between two spikes, or they are one
_DECILE = 1.2816  # standard deviations from the median of a normal distribution


def new_history() -> dict[str, Any]:
    """Returns the memory of one optimizer's losses."""
    return {
        "first": [],
        "recent": [],
        "spikes": [],
        "alone": [],
        "above": 0,
        "last": -_CALM,
        "calm": 0,
        "lasts": 0,
    }


def spikes(
    history: dict[str, Any], step: int, loss: float, *, scales: float, height: float
) -> list[int]:
    """Takes one more loss into the history; returns the spikes that count if this completes one.

    The scale is that of the noise below the median, where no spike can hide. Losses that change
    sign have none, and are not judged. A spike lasts for some steps, or is out of all proportion.
    Where more are over at once, batches are hard now and then, and two in a row are chance.
    """
    first, recent, found = history["first"], history["recent"], history["spikes"]
    if not (loss > 0 and math.isfinite(loss)):
        history["above"] = -math.inf
    if history["above"] < 0:
        return []
    if len(first) < _FIRST:
        first.append(loss)
    value = math.log(loss)
    if len(recent) == BASELINE:
        ordered = sorted(recent)
        low, median = ordered[BASELINE // 10], ordered[BASELINE // 2]
        level = math.exp(median)
        limit, start = scales * (median - low) / _DECILE, sorted(first)[_FIRST // 2]
        is_glaring = value > median + _GLARING * limit and loss > _BEYOND * start
        is_high = value > median + limit and loss - level > height * (start - level) > 0
        if is_high or is_glaring:
            if not history["above"]:
                history["calm"] = step - history["last"]
                history["lasts"] = 1 if is_glaring else _LASTS
            history["above"] += 1
            history["last"] = step
            if history["above"] == BASELINE:  # no spike, but a new level
                recent.clear()
                del found[-1:]
            if history["above"] == history["lasts"] and history["calm"] > _CALM:
                found[:] = [*_since(step, found), step]
                return list(found) if len(found) > len(_since(step, history["alone"])) else []
            return []
    if 0 < history["above"] < history["lasts"]:
        history["alone"] = [*_since(step, history["alone"]), step]
    history["above"] = 0
    recent.append(value)
    del recent[:-BASELINE]
    return []


def _since(step: int, steps: list[int]) -> list[int]:
    """Returns those that are not forgotten yet."""
    return [one for one in steps if step - one <= _MEMORY]
