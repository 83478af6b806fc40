"""A few faults of each family are found, and their fixed twins are silent.

`benchmarks/accuracy.py` judges all of them, and the healthy zoo, and writes the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from accuracy import alarms, run, verdict
from faults import all_faults, is_held_out

FAULTS = all_faults()

# One to a family, from those that may be looked at, quick ones.
GATE = [
    "adam_at_a_ten_millionth",
    "all_the_benign_first",
    "blank_image_divided_by_its_norm",
    "encoder_under_no_grad",
    "loss_told_to_require_grad",
    "plateau_that_waits_for_a_maximum",
    "samples_shown_in_eval",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", GATE)
def test_the_cause_leads(name: str) -> None:
    """The leading finding of a faulty program is one of those that a judge accepts."""
    result = run("sick", name)
    assert verdict(result) == "led", result["findings"]
    assert not result["off"], result["off"]


@pytest.mark.slow
@pytest.mark.parametrize("name", GATE)
def test_the_fixed_twin_is_silent(name: str) -> None:
    """Nothing is said of the same program without its fault."""
    result = run("fixed", name)
    assert not alarms(result), alarms(result)
    assert not result["error"], result["error"]


def test_the_gate_leaves_the_held_out_programs_alone() -> None:
    """What decides whether a change is merged must not be what it is judged by."""
    assert not any(is_held_out(name) for name in GATE)


def test_the_zoo_is_large_and_names_its_sources() -> None:
    """At least 120 faults to look at and a round that is held out, each from somewhere."""
    assert all(one.source and one.expected for one in FAULTS.values())
    held_out = sum(one.held_out for one in FAULTS.values())
    assert held_out >= 30
    assert len(FAULTS) - held_out >= 120
