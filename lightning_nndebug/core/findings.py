"""What a rule says, and what the user reads."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

# What is written in small letters though it looks like a word.
_CODE = ("docker", "eps", "lr", "nan", "python", "self", "torch")


class Severity(enum.IntEnum):
    """How sure we are: a smell, an illness, or a fact that the run cannot survive."""

    INFO = 0
    WARNING = 1
    ERROR = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Evidence:
    """What a rule saw at one place, beside the limit it was held against.

    Args:
        where: The place, as the user wrote it: a parameter, a module, an optimizer, a batch key.
        measured: The number, or a short fact when there is no number.
        limit: The number that it should have kept to; None for a fact.
        message: The measurement in one sentence; the default is made of ``measured`` and ``limit``.
        causes: Causes known for this very case. They take the place of the rule's general ones.
        fixes: Likewise, what to try.
        details: More of what was seen, as plain builtins, for the record and the report.
        severity: Another one than the rule's, where the evidence is weaker than usual.
    """

    where: str
    measured: float | str
    limit: float | str | None = None
    message: str = ""
    causes: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    severity: Severity | None = None

    def sentence(self) -> str:
        """Returns what was measured against which limit, in one line."""
        if self.message or self.limit is None:
            return self.message or _number(self.measured)
        return f"{_number(self.measured)}, the limit is {_number(self.limit)}"


@dataclass(frozen=True)
class Finding:
    """One rule that fired: what, when, where, on which evidence, and what to do.

    Attributes:
        code: The rule's code, such as ``GRD102``.
        name: The rule's name, such as ``vanishing-gradient``.
        severity: ``"info"``, ``"warning"`` or ``"error"``.
        step: Where it began, on the x-axis of the loggers.
        epoch: The epoch in which it began.
        where: The place.
        measured: The number or fact.
        limit: What it was held against.
        message: The measurement in one sentence.
        means: What the rule means, in one sentence.
        causes: Likely causes, the likeliest first.
        fixes: What to try, the most promising first.
        rank: The process that saw it; of several, the first.
        ranks: How many processes saw it when they met.
        details: More evidence, as plain builtins.
        caused_by: The code and place of the finding that this one follows from, if there is one.
        leads_to: The codes and places of the findings that follow from this one.
    """

    code: str
    name: str
    severity: str
    step: int
    epoch: int
    where: str
    measured: float | str
    limit: float | str | None
    message: str
    means: str
    causes: list[str]
    fixes: list[str]
    rank: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    caused_by: str | None = None
    leads_to: list[str] = field(default_factory=list)
    ranks: int = 1

    @property
    def level(self) -> Severity:
        """The severity as a number that can be compared."""
        return Severity[self.severity.upper()]

    @property
    def place(self) -> tuple[str, str]:
        """What makes the finding one of a kind in its run: the rule and the place."""
        return self.code, self.where

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Finding:
        """Returns the finding that ``to_dict`` wrote; keys of other versions are left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def __str__(self) -> str:
        rank = f" · rank {self.rank}" if self.rank or self.ranks > 1 else ""
        rank += f" and {self.ranks - 1:,} more" if self.ranks > 1 else ""
        lines = [f"{self.severity} {self.code} {self.name} · step {self.step}{rank} · {self.where}"]
        rows = {
            "measured": self.message,
            "means": self.means,
            "because": self.caused_by,
            "likely": " · ".join(self.causes),
            "try": " · ".join(self.fixes),
            "more": f"nndebug explain {self.code}",
        }
        return "\n".join(lines + [f"  {key:<9} {text}" for key, text in rows.items() if text])


def by_onset(findings: Iterable[Finding]) -> list[Finding]:
    """Returns the findings in the order in which they began, the graver first within a step."""
    return sorted(findings, key=lambda finding: (finding.step, -finding.level))


def opened(entry: str) -> str:
    """Returns an entry of a list as it is read: with a capital, unless it begins with code."""
    first = entry.partition(" ")[0].rstrip(",:;")
    is_word = first.isalpha() and first not in _CODE
    return entry[:1].upper() + entry[1:] if is_word else entry


class Misconfiguration(ValueError):
    """An option of ours does not fit the run: the one error of ours that is meant to end it."""


class TrainingHalted(RuntimeError):
    """Raised in the run, on every rank, when a finding is as grave as ``halt_on`` says.

    Attributes:
        findings: The findings that stopped the run, the leading one first.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = list(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.findings,)


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
