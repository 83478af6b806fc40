"""One illness, one leading finding: the others are told as what follows from it."""

from __future__ import annotations

from typing import Any

from lightning_nndebug import RULES
from lightning_nndebug.core.causality import by_cause
from lightning_nndebug.core.findings import Finding

SUSPECTS = {"VAN101": ("SAT",), "FLA101": ("VAN101", "SAT"), "SAT101": ("FLA101",)}


def finding(code: str, step: int, where: str = "net", severity: str = "warning") -> Finding:
    facts: dict[str, Any] = {"measured": 1.0, "limit": 0.0, "message": "", "means": ""}
    return Finding(
        code=code, name=code, severity=severity, step=step, epoch=0, where=where,
        causes=[], fixes=[], **facts,
    )  # fmt: skip


def told(*findings: Finding) -> list[tuple[str, str | None]]:
    return [(one.code, one.caused_by) for one in by_cause(findings, SUSPECTS)]


def test_a_cause_leads_and_its_consequences_follow_as_a_chain() -> None:
    """Saturated, so vanishing, so nothing learned: also if the cause was seen a little later."""
    found = (finding("FLA101", 60), finding("VAN101", 30), finding("SAT101", 40))
    assert told(*found) == [
        ("SAT101", None), ("VAN101", "SAT101 net"), ("FLA101", "VAN101 net"),
    ]  # fmt: skip
    assert by_cause(found, SUSPECTS)[0].leads_to == ["VAN101 net"]


def test_what_comes_much_later_is_no_cause() -> None:
    """A hundred steps after, it cannot have been it."""
    assert told(finding("VAN101", 10), finding("SAT101", 110)) == [
        ("VAN101", None), ("SAT101", None),
    ]  # fmt: skip


def test_the_cause_at_the_same_place_counts() -> None:
    """Two layers are saturated; each has its own consequence."""
    found = [finding("SAT101", 1, "a"), finding("SAT101", 2, "b"), finding("VAN101", 3, "b")]
    assert told(*found)[-1] == ("VAN101", "SAT101 b")


def test_circles_are_cut_and_nobody_is_his_own_cause() -> None:
    """Rules that name each other: what began first leads."""
    assert told(finding("FLA101", 1), finding("SAT101", 2))[0][1] is None


def test_advice_never_leads() -> None:
    """However early it is given."""
    assert told(finding("STR102", 0, severity="info"), finding("SAT101", 90))[0][0] == "SAT101"


def test_every_suspect_is_a_rule() -> None:
    """A cause that no rule finds is a misprint."""
    for code, (owner, rule) in RULES.items():
        for cause in rule.caused_by:
            assert any(known.startswith(cause) for known in RULES), (owner, code, cause)
            assert not code.startswith(cause), (owner, code)
