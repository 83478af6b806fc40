"""The command line: what it lists, explains and says of a typo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_nndebug import RULES
from lightning_nndebug.cli import app

run = CliRunner().invoke


def test_rules_lists_every_rule_as_json() -> None:
    """One object a rule, with its code, severity and title."""
    rows = json.loads(run(app, ["rules", "--json"]).stdout)
    assert {one["code"] for one in rows} >= set(RULES)
    assert all(one["title"] and one["detector"].endswith("Detector") for one in rows)


def test_rules_prints_a_table() -> None:
    """Every code is in it."""
    text = run(app, ["rules"]).stdout
    assert all(code in text for code in RULES)


@pytest.mark.parametrize("code", ["NAN102", "nan102", "non-finite-forward"])
def test_explain_takes_a_code_or_a_name(code: str) -> None:
    """The page has what one wants to know, in a fixed order."""
    text = run(app, ["explain", code]).stdout
    places = [
        text.find(heading)
        for heading in ("Why it matters", "Likely causes", "How to fix", "When it is fine")
    ]
    assert -1 not in places
    assert places == sorted(places)


def test_a_typo_gets_the_nearest_code() -> None:
    """Exit code 2, and a suggestion."""
    result = run(app, ["explain", "NAN12"])
    assert result.exit_code == 2
    assert "Did you mean NAN102?" in result.output or "Did you mean NAN" in result.output


@pytest.mark.slow
def test_the_demo_names_every_illness_and_passes_the_healthy_run(tmp_path: Path) -> None:
    """Each run's record holds what the table shows."""
    assert run(app, ["demo", "--directory", str(tmp_path)]).exit_code == 0
    codes = {
        path.parent.parent.name: [
            one["code"] for one in json.loads(path.read_text()) if one["severity"] != "info"
        ]
        for path in tmp_path.rglob("findings.json")
    }
    assert codes == {
        "healthy": [],
        "eval-mode": ["MOD101"],
        "sorted": ["CLS103"],
        "nan": ["NAN102"],
    }
