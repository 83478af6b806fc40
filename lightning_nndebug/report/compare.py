"""What differs between two runs: how they were set up, how they fared, how they fell ill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .story import Story

Rows = dict[str, tuple[Any, Any]]
_UNLIKE = ("started", "step")  # no two runs share them
_CLOSE = 0.05  # numbers that differ by less than this share are the same to a reader
_MOST = 20


def differences(a: Story, b: Story) -> dict[str, Rows]:
    """Returns, under three headings, what differs, by name.

    Args:
        a: One run.
        b: Another one.
    """
    return {
        "Run card": _unequal(_flat(a.card), _flat(b.card)),
        "Findings": {
            "first": (_lead(a), _lead(b)),
            **_unequal(_onsets(a), _onsets(b)),
        },
        "Vitals": {"end": (a.ending, b.ending), **_apart(_vitals(a), _vitals(b))},
    }


def _flat(card: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in card.items():
        if isinstance(value, dict):
            flat.update(value)
        elif name not in _UNLIKE:
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any]) -> Rows:
    names = [*a, *(name for name in b if name not in a)]
    rows = {name: (a.get(name, "-"), b.get(name, "-")) for name in names}
    return {name: pair for name, pair in rows.items() if pair[0] != pair[1]}


def _lead(story: Story) -> str:
    lead = story.lead
    if lead is None:
        return "nothing found"
    return f"{lead['code']} {lead['name']}, step {lead['step']}, {lead['where']}"


def _onsets(story: Story) -> dict[str, str]:
    return {one[0]["code"]: f"step {one[0]['step']}" for one in story.groups()}


def _vitals(story: Story) -> dict[str, float]:
    """The last of every number, and the least of the loss."""
    last: dict[str, float] = {"steps": story.step, "seconds": story.seconds}
    for name, curve in story.curves.items():
        finite = [one for one in curve.means if math.isfinite(one)]
        if name.startswith("loss") and finite:
            last[f"{name}, first"] = finite[0]
            last[f"{name}, least"] = min(finite)
        last[f"{name}, last"] = curve.means[-1]
    for name, points in [*story.metrics().items(), *story.vitals.items()]:
        last[name.removeprefix("nndebug/")] = points[-1][1]
    return last


def _apart(a: Mapping[str, float], b: Mapping[str, float]) -> Rows:
    """Returns the numbers that differ, those that differ most first after the loss."""
    rows: Rows = {}
    for name in [*a, *(name for name in b if name not in a)]:
        x, y = a.get(name, math.nan), b.get(name, math.nan)
        if not math.isclose(x, y, rel_tol=_CLOSE) and not (math.isnan(x) and math.isnan(y)):
            rows[name] = (_told(x), _told(y))
    return dict(list(rows.items())[:_MOST])


def _told(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.4g}"
