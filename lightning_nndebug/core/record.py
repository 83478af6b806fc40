"""The record: one JSON object a line, flushed within a second, so that it survives a killed run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .findings import Finding, Severity

if TYPE_CHECKING:
    from .measurements import Measurement

FILE = "record.jsonl"

# A run of 100,000 steps must fit into 10 MB, and a short one must lose nothing.
_POINTS = 250  # of a curve in each e-fold of steps; before that, every step
_LOOKS, _GROWTH = 20, 1.08  # snapshots of a kind: all of the first, and then at each 8 % of age
_DIGITS = 6
# Points of a curve are written several at once, which costs a fifth, unless they come slowly.
_TOGETHER, _SECONDS = 16, 1.0


class Record:
    """Writes ``record.jsonl``, and ``findings.json`` at the end, into one directory.

    Every line has a ``kind``: ``run`` (the run card, first), ``about`` (what a vital or a rule is),
    ``vitals``, ``finding``, ``curve`` (the mean of some numbers from ``step`` to ``to``, with their
    extremes), ``snapshot`` (what a measurement saw in one step), ``end``. A resumed run appends its
    own ``run`` line.
    """

    def __init__(
        self, directory: Path, card: dict[str, Any], vitals: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (directory / FILE).open("a", encoding="utf-8")
        self._curve = _Curve(0)
        self._points: list[_Curve] = []
        self._looks: dict[str, tuple[int, int]] = {}
        self._began = self._written = time.perf_counter()
        self._write("run", **card)
        self._known: set[str] = set()
        for key, text in (vitals or {}).items():
            self._write("about", of=key, text=text)

    def finding(self, finding: Finding) -> None:
        """Writes a finding, and with the first of a rule what its page says."""
        if finding.code not in self._known:
            self._known.add(finding.code)
            self._write("about", of=finding.code, text=_page(finding.code))
        self._write("finding", **finding.to_dict())

    def vitals(self, step: int, vitals: dict[str, float]) -> None:
        """Writes the numbers of a step."""
        self._write("vitals", step=step, **vitals)

    def measured(self, step: int, value: Measurement) -> None:
        """Writes what a measurement has to say for the record, if it is time."""
        if curves := value.curves():
            if step - self._curve.step >= max(1, step // _POINTS):
                self._turn()
                self._curve = _Curve(step)
            self._curve.add(step, curves)
        kind = type(value).__name__
        count, last = self._looks.get(kind, (0, 0))
        if (count < _LOOKS or step >= _GROWTH * last) and (snapshot := value.snapshot()):
            self._looks[kind] = count + 1, step
            self._write("snapshot", of=kind, step=step, **_rounded(snapshot))

    def close(self, findings: list[Finding], step: int, exception: BaseException | None) -> None:
        """Writes how the run ended, and all findings in one file."""
        ending = None if exception is None else f"{type(exception).__name__}: {exception}"
        self._turn()
        seconds = round(time.perf_counter() - self._began, 3)
        self._write("end", step=step, exception=ending, seconds=seconds)
        self._file.close()
        text = json.dumps(plain([one.to_dict() for one in findings]), indent=2, default=str)
        (self.directory / "findings.json").write_text(text, encoding="utf-8")

    def _turn(self) -> None:
        """Ends a point of the curves."""
        if self._curve.values:
            self._points.append(self._curve)
        is_late = time.perf_counter() - self._written > _SECONDS
        if len(self._points) >= _TOGETHER or is_late:
            self._write()

    def _write(self, kind: str = "", **values: Any) -> None:
        """Writes a line, if there is one, after those points of the curves that wait."""
        lines = [{"kind": "curve", **_rounded(one.line())} for one in self._points]
        lines += [{"kind": kind, **values}] if kind else []
        self._points.clear()
        self._file.writelines(json.dumps(plain(one), default=str) + "\n" for one in lines)
        self._file.flush()
        self._written = time.perf_counter()


class _Curve:
    """One point of the curves: their means and extremes over some steps."""

    def __init__(self, step: int) -> None:
        self.step, self.to = step, step
        self.values: dict[str, list[float]] = {}

    def add(self, step: int, curves: dict[str, float]) -> None:
        self.to = step
        for name, value in curves.items():
            self.values.setdefault(name, []).append(value)

    def line(self) -> dict[str, Any]:
        means = {name: sum(some) / len(some) for name, some in self.values.items()}
        if self.to == self.step:
            return {"step": self.step, **means}
        low = {name: min(some) for name, some in self.values.items()}
        high = {name: max(some) for name, some in self.values.items()}
        return {"step": self.step, "to": self.to, **means, "low": low, "high": high}


def find(path: Path) -> Path:
    """Returns the record that a path means: itself, or the one of the run whose directory it is.

    Raises:
        FileNotFoundError: If there is none.
    """
    candidates = [path, path / FILE, path / "nndebug" / FILE]
    file = next((one for one in candidates if one.is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"No record at {path}: expected {FILE} there or in its nndebug folder."
        )
    return file


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a record, or of the record in a directory; a torn last line is left out.

    Raises:
        FileNotFoundError: If there is no record.
    """
    lines = []
    for line in find(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # the run was killed while it wrote
            continue
    return lines


def plain(value: Any) -> Any:
    """Returns what JSON can say: it knows neither NaN nor infinity, so they become text."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def worst(findings: list[Finding]) -> Severity | None:
    """Returns the gravest severity among the findings, or None if there are none."""
    return max((one.level for one in findings), default=None)


def _page(code: str) -> dict[str, list[str]]:
    """Returns those sections of a rule's page that no finding brings along."""
    from .detector import RULES  # which needs the session, and that the record

    rule = RULES[code][1] if code in RULES else None
    headings = ("Why it matters", "When it is fine")
    return {one: rule.section(one) for one in headings} if rule is not None else {}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
