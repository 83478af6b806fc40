"""Forty random programs run as they would without us. `benchmarks/fuzz.py` runs a thousand."""

from __future__ import annotations

import os

import pytest
from fuzzing import complaints, plan

RUNS = int(os.environ.get("NNDEBUG_FUZZ", "40"))
PARTS = 8


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_random_program_notices_us(part: int) -> None:
    """Nothing of ours fails, no bit of the run changes, and nothing is left on the module."""
    wrong = [text for n in range(part, RUNS, PARTS) for text in complaints(n)]
    assert not wrong, "\n".join(wrong)


def test_a_number_makes_the_same_program_again() -> None:
    """A complaint names the number, and the number is all one needs."""
    assert plan(7) == plan(7) != plan(8)
