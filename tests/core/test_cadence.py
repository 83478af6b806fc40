"""When a look is due: from its price, and in step with nothing."""

from __future__ import annotations

import pytest

from lightning_nndebug.core.measurements import EVERY_TIME, ON_REQUEST, Cadence


def looks(cadence: Cadence, occasions: int, price: float = 0.0, step: float = 0.0) -> list[int]:
    return [number for number in range(occasions) if cadence.due(number, price, step)]


@pytest.mark.parametrize("period", [2, 3, 5, 6, 10])
def test_no_optimizer_is_overlooked(period: int) -> None:
    """Looks are spread evenly over optimizers that take turns."""
    turns = [number % period for number in looks(Cadence(every=10), 3000)]
    assert all(turns.count(turn) == pytest.approx(300 / period, rel=0.2) for turn in range(period))


def test_the_first_occasions_are_taken_and_the_rest_on_average() -> None:
    """Every so many, never much earlier and never much later."""
    taken = looks(Cadence(first=3, every=10), 1003)
    assert taken[:4] == [0, 1, 2, 3]
    gaps = [b - a for a, b in zip(taken[3:], taken[4:])]  # noqa: B905, RUF007
    assert len(taken) == pytest.approx(103, abs=2)
    assert min(gaps) >= 5
    assert max(gaps) <= 13


def test_rare_looks_fall_into_the_steps_of_frequent_ones() -> None:
    """If they begin to spread at the same occasion, though not to be taken."""
    often = looks(Cadence(first=5, every=5), 1000)
    seldom = looks(Cadence(first=20, every=10, since=5), 1000)
    assert {one for one in seldom if one >= 20} < set(often)


def test_what_is_dear_is_looked_at_more_rarely() -> None:
    """A look of one step's time at a budget of 1 % comes once in a hundred steps, at first in ten."""
    taken = looks(Cadence(budget=0.01), 10_200, price=1.0, step=1.0)
    assert sum(one < 200 for one in taken) == pytest.approx(20, abs=2)
    assert sum(one >= 200 for one in taken) == pytest.approx(100, abs=2)


def test_every_time_and_on_request_are_what_they_say() -> None:
    """At all occasions, and at none."""
    assert looks(EVERY_TIME, 50) == list(range(50))
    assert looks(ON_REQUEST, 50) == []
