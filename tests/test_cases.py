"""Every sick case leads with its own code; every healthy twin is silent; cases and rules match."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from cases import CASES
from program import fit, seed

from lightning_nndebug import RULES, NNDebug, Severity
from lightning_nndebug.suite import OPTIONAL


def code_of(name: str) -> str:
    """``grd102_vanishing_gradient`` -> ``GRD102``."""
    return name.partition("_")[0].upper()


def suite_for(name: str) -> NNDebug:
    """The whole suite; an optional detector is added for its own cases."""
    code = code_of(name)
    return NNDebug(detectors=[one() for one in OPTIONAL if RULES[code][0] is one])


@pytest.mark.parametrize("name", CASES)
def test_a_sick_case_leads_with_its_code(name: str) -> None:
    """The illness is named, and all else that is told, at WARNING or above, follows from it."""
    seed(0)
    suite, code = suite_for(name), code_of(name)
    with pytest.raises(Exception) if code.startswith("ERR") else nullcontext():  # noqa: PT011 -- torch's
        fit(CASES[name].sick(), suite)
    leading = {one.code for one in suite.findings if one.severity != "info" and not one.caused_by}
    is_advice = RULES[code][1].severity == Severity.INFO
    lead = getattr(CASES[name], "LEAD", code)
    assert leading == (set() if is_advice else {lead}), "\n".join(map(str, suite.findings))
    assert code in {one.code for one in suite.findings}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("value", [0, 1])
def test_a_healthy_twin_is_silent(name: str, value: int) -> None:
    """The fix that is printed cures the case."""
    seed(value)
    suite = suite_for(name)
    fit(CASES[name].healthy(), suite)
    loud = [one for one in suite.findings if one.severity != "info" or one.code == code_of(name)]
    assert not loud, "\n".join(map(str, loud))


def test_cases_and_rules_are_in_bijection() -> None:
    """Every rule has exactly one case, which bears its name."""
    ours = {
        code: rule
        for code, (owner, rule) in RULES.items()
        if owner.__module__.startswith("lightning_nndebug")
    }
    expected = {f"{code.lower()}_{rule.method.__name__}" for code, rule in ours.items()}
    assert set(CASES) == expected
