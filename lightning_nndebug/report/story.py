"""What a record tells of its run, whether that is over, was killed, or still goes on."""

from __future__ import annotations

import contextlib
import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.record import find, read


@dataclass(frozen=True)
class Curve:
    """A number over the steps, in points that may stand for several steps each.

    Attributes:
        steps: First step of each point.
        means: The mean of its steps,
        low: the least of them,
        high: and the largest.
    """

    steps: list[int] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


@dataclass
class Story:
    """A record, read.

    Attributes:
        card: The run card.
        findings: What was found, as dictionaries, in the order in which it began.
        curves: Numbers of every step, by name.
        vitals: Numbers that are logged now and then, by key, as (step, value).
        snapshots: What measurements saw, by their names, as (step, values).
        about: What a rule's page says, by its code, and what a vital is, by its key.
        step: The last step that the record knows of.
        end: The last line; None if the run was killed or still goes on.
    """

    card: dict[str, Any] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=lambda: defaultdict(Curve))
    vitals: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    snapshots: dict[str, list[tuple[int, dict[str, Any]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    about: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    end: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> Story:
        """Reads a record; of several runs in one file, the last, with what it resumed.

        Args:
            path: The record, or the directory of its run.
        """
        story = cls()
        for line in read(path):
            kind = line.pop("kind", None)
            if kind == "run":
                story = story._resumed(line) if line.get("step") else cls(card=line)
            elif kind is not None:
                story._add(kind, line)
        for _, look in story.snapshots.get("Fingerprint", []):
            story.card["data"] = f"{look['digest']} (checksum of {look['batches']} batches)"
        story.findings.sort(key=lambda one: (one["step"], -_RANKS.index(one["severity"])))
        if story.end is not None:
            story._take_conclusions(find(path).parent / "findings.json")
        return story

    @property
    def seconds(self) -> float:
        """How long the run took; 0 if that is not known."""
        return float(self.end.get("seconds", 0.0)) if self.end else 0.0

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """The findings that are more than advice."""
        return [one for one in self.findings if one["severity"] != "info"]

    @property
    def lead(self) -> dict[str, Any] | None:
        """The finding to read first: what began first and follows from nothing else."""
        causes = [one for one in self.alarms if not one.get("caused_by")]
        return next(iter(causes or self.alarms), None)

    @property
    def ending(self) -> str:
        """How the run ended, in a few words."""
        if self.end is None:
            return "killed, or still running"
        exception = self.end.get("exception") or ""
        if exception.startswith("TrainingHalted"):
            return "halted by nndebug"
        return f"ended by {exception.splitlines()[0][:120]}" if exception else "finished"

    def groups(self) -> list[list[dict[str, Any]]]:
        """The findings by code, each with all its places, in the order in which they began."""
        by_code: dict[str, list[dict[str, Any]]] = {}
        for one in self.findings:
            by_code.setdefault(one["code"], []).append(one)
        return list(by_code.values())

    def layers(self) -> dict[str, list[tuple[int, dict[str, float]]]]:
        """Every quantity that some measurement has seen by layer, over time."""
        found: dict[str, list[tuple[int, dict[str, float]]]] = defaultdict(list)
        for looks in self.snapshots.values():
            for step, look in looks:
                for quantity, values in look.get("layers", {}).items():
                    numbers = {name: number(one) for name, one in values.items()}
                    found[quantity].append((step, numbers))
        return found

    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """The user's own metrics, after each validation."""
        found: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for step, look in self.snapshots.get("Validation", []):
            for name, value in look["metrics"].items():
                found[name].append((step, number(value)))
        return found

    def _take_conclusions(self, file: Path) -> None:
        """Takes the findings as they stood at the end: by then it is known what led to what."""
        with contextlib.suppress(OSError, json.JSONDecodeError):
            self.findings = json.loads(file.read_text(encoding="utf-8"))

    def _resumed(self, card: dict[str, Any]) -> Story:
        """Goes on where a checkpoint was: what came after it did not happen."""
        self.card, self.end = card, None
        return self

    def _add(self, kind: str, line: dict[str, Any]) -> None:
        self.step = max(self.step, line.get("to", line.get("step", 0)))
        if kind == "end":
            self.end = line
        elif kind == "finding":
            others = [one for one in self.findings if _place(one) != _place(line)]
            self.findings = [*others, line]  # the last word on it
        elif kind == "about":
            self.about[line["of"]] = line["text"]
        elif kind == "snapshot":
            self.snapshots[line.pop("of")].append((line.pop("step"), line))
        elif kind == "vitals":
            step = line.pop("step")
            for name, value in line.items():
                self.vitals[name].append((step, number(value)))
        elif kind == "curve":
            step, _ = line.pop("step"), line.pop("to", None)
            low, high = line.pop("low", {}), line.pop("high", {})
            for name, value in line.items():
                curve = self.curves[name]
                curve.steps.append(step)
                curve.means.append(number(value))
                curve.low.append(number(low.get(name, value)))
                curve.high.append(number(high.get(name, value)))


_RANKS = ("info", "warning", "error")


def number(value: Any) -> float:
    """Returns a number of a record, where NaN and infinity are written as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _place(finding: dict[str, Any]) -> tuple[str, str]:
    return finding["code"], finding["where"]
