"""Every sick case leads with its own code; every healthy twin is silent; cases and rules match."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from cases import CASES
from program import Program, fit, seed

from lightning_nndebug import RULES, Finding, NNDebug, Severity
from lightning_nndebug.suite import OPTIONAL


def code_of(name: str) -> str:
    """``grd102_vanishing_gradient`` -> ``GRD102``."""
    return name.partition("_")[0].upper()


def suite_for(name: str) -> NNDebug:
    """The whole suite; an optional detector is added for its own cases."""
    code = code_of(name)
    return NNDebug(detectors=[one() for one in OPTIONAL if RULES[code][0] is one])


def findings(program: Program, suite: NNDebug) -> list[Finding]:
    """What the suite has found; forked processes hand nothing back, and leave it on disk."""
    if program.trainer.get("devices", 1) == 1:
        return suite.findings
    return [Finding.from_dict(one) for one in json.loads(Path("nndebug/findings.json").read_text())]


@pytest.mark.parametrize("name", CASES)
def test_a_sick_case_leads_with_its_code(name: str) -> None:
    """The illness is named, and all else that is told, at WARNING or above, follows from it."""
    seed(0)
    program, suite, code = CASES[name].sick(), suite_for(name), code_of(name)
    with pytest.raises(Exception) if code.startswith("ERR") else nullcontext():  # noqa: PT011 -- torch's
        fit(program, suite)
    found = findings(program, suite)
    leading = {one.code for one in found if one.severity != "info" and not one.caused_by}
    is_advice = RULES[code][1].severity == Severity.INFO
    lead = getattr(CASES[name], "LEAD", code)
    assert leading == (set() if is_advice else {lead}), "\n".join(map(str, found))
    assert code in {one.code for one in found}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("value", [0, 1])
def test_a_healthy_twin_is_silent(name: str, value: int) -> None:
    """The fix that is printed cures the case."""
    seed(value)
    program, suite = CASES[name].healthy(), suite_for(name)
    fit(program, suite)
    found = findings(program, suite)
    loud = [one for one in found if one.severity != "info" or one.code == code_of(name)]
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
