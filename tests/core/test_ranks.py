"""What ranks tell each other, without any processes."""

from __future__ import annotations

from lightning_nndebug.core.findings import Finding
from lightning_nndebug.core.ranks import AT_ONCE, mark, plan


def finding(where: str = "net", **values) -> Finding:
    return Finding("TST101", "test", "error", 7, 0, where, 1.0, 0.0, "", "", [], [], **values)


def test_what_a_thousand_ranks_see_is_told_by_the_first() -> None:
    """With how many have seen it."""
    row = [mark(finding())]
    assert plan([[0]] * 24 + [row] * 1000) == {row[0]: (24, 1000)}


def test_a_meeting_hands_over_no_more_than_so_many() -> None:
    """The lowest ranks are heard first."""
    told = plan([[rank + 1] for rank in range(1024)])
    assert list(told.values()) == [(rank, 1) for rank in range(AT_ONCE)]


def test_a_mark_stands_for_rule_and_place_alone() -> None:
    """Ranks may have measured different numbers."""
    assert mark(finding(rank=3)) == mark(finding(rank=5))
    assert mark(finding("a")) != mark(finding("b"))


def test_a_finding_says_how_many_ranks_saw_it() -> None:
    """One rank alone is named, and rank 0 alone is nothing special."""
    assert "rank" not in str(finding())
    assert "· rank 3 ·" in str(finding(rank=3))
    assert "· rank 0 and 1,023 more ·" in str(finding(ranks=1024))
