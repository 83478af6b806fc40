"""The console: what a finding looks like in a terminal, however narrow."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lightning_nndebug import Finding
from lightning_nndebug.core.findings import opened
from lightning_nndebug.core.sinks import Console as Sink
from lightning_nndebug.core.sinks import painted

WORDS = "the quick brown fox jumps over the lazy dog and then it sleeps for a while"


def finding(code: str = "NAN102", **values: object) -> Finding:
    texts = {"message": WORDS, "means": WORDS, "causes": [WORDS, WORDS], "fixes": ["rest"]}
    facts = {"severity": "error", "step": 3, "epoch": 0, "where": "net", "measured": 1, "limit": 2}
    return Finding(**{"code": code, "name": "an-illness", **facts, **texts, **values})


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("call train() there", "Call train() there"),
        ("train() after eval()", "train() after eval()"),
        ("lr about 1e-04", "lr about 1e-04"),
        ("max_epochs is too small", "max_epochs is too small"),
        ("softmax, twice", "Softmax, twice"),
        ("`shuffle=True`", "`shuffle=True`"),
    ],
)
def test_entries_begin_with_a_capital_unless_they_begin_with_code(entry, expected) -> None:
    """However they were written, advice of all rules looks alike."""
    assert opened(entry) == expected


@pytest.mark.parametrize("width", [60, 80, 132])
def test_lines_fit_and_hang_under_their_key(width: int) -> None:
    """No line is wider than the terminal, nor ends much before it; no word is lost."""
    lines = [one.plain for one in painted(str(finding()), Console(width=width, file=io.StringIO()))]
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width - 10
    assert {one[:12].strip() for one in lines[1:]} == {
        "measured",
        "means",
        "likely",
        "try",
        "more",
        "",
    }
    assert " ".join(" ".join(lines).split()) == " ".join(str(finding()).split())


def test_the_summary_speaks_of_an_order_only_where_there_is_one(caplog) -> None:
    """Of one finding there is nothing to put first."""
    caplog.set_level("INFO", "lightning_nndebug")
    Sink([]).close([finding(), finding(where="head")], 5, None)
    Sink([]).close([finding(), finding("GRD101", caused_by="NAN102 net")], 5, None)
    one, several = (text.splitlines() for text in caplog.messages)
    assert one == [
        "nndebug: 2 errors in 5 steps",
        "  error   NAN102 an-illness · step 3 · net and 1 more place",
    ]
    assert several[0] == "nndebug: 2 errors in 5 steps, causes first"
    assert several[2].endswith("follows from NAN102")
