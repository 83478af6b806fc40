"""Long runs of tiny steps are not slowed down: what need not see every batch rests."""

from __future__ import annotations

import pytest

from lightning_nndebug.core.rest import Rest


def run(rest: Rest, batches: int, *, full: float, steady: float, step: float) -> list[bool]:
    """Plays batches; returns at which of them the unsteady ones rested."""
    rests = []
    for _ in range(batches):
        rests.append(rest.now)
        rest.end_batch(steady if rest.now else full, step)
    return rests


def test_what_is_cheap_beside_a_step_never_rests() -> None:
    """Half a percent of a step is its share."""
    assert not any(run(Rest(lambda: True), 5000, full=0.005, steady=0.001, step=1.0))


def test_what_is_dear_rests_as_long_as_it_takes() -> None:
    """A tenth of a step at a share of half a percent: one batch of twenty, sixteen in a row."""
    rests = run(Rest(lambda: True), 20_000, full=0.12, steady=0.02, step=1.0)
    assert not any(rests[:200])
    assert rests.count(False) / len(rests) == pytest.approx(0.05, abs=0.015)
    awake = "".join("r" if one else "a" for one in rests[200:]).split("r")
    assert {len(one) for one in awake[:-1] if one} == {16}


def test_nobody_rests_longer_than_a_quarter_of_the_run_so_far() -> None:
    """What shows late is seen in short runs, too."""
    rests = run(Rest(lambda: True), 2000, full=2.0, steady=0.0, step=1.0)
    for end in range(250, 2000, 50):
        assert not all(rests[int(0.75 * end) : end])


def test_a_pause_begins_and_ends_with_an_optimizer_step() -> None:
    """Micro-batches of one step are seen together, or not at all."""
    batch, turns = 0, []
    rest = Rest(lambda: batch % 4 == 3)
    for batch in range(2000):
        before = rest.now
        rest.end_batch(0.12, 1.0)
        if rest.now != before:
            turns.append(batch % 4)
    assert turns
    assert set(turns) == {3}
