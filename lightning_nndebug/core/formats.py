"""Findings as text, as JSON, and as SARIF, which code hosts and editors read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

from .findings import Finding
from .record import plain

Format = Literal["text", "json", "sarif"]

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_LINE = re.compile(r"([\w./\\~-]+\.py):(\d+)")


def render(findings: Sequence[Finding], form: Format) -> str:
    """Returns the findings, the leading one first.

    Args:
        findings: What was found.
        form: ``"text"`` as on the console, ``"json"`` a list of ``Finding.to_dict``, ``"sarif"`` a
            log in version 2.1.0.
    """
    if form == "text":
        return "\n\n".join(map(str, findings)) or "nothing found"
    content = _sarif(findings) if form == "sarif" else [one.to_dict() for one in findings]
    return json.dumps(plain(content), indent=2, default=str)


def _sarif(findings: Sequence[Finding]) -> dict[str, Any]:
    rules = {one.code: one for one in reversed(findings)}
    codes = sorted(rules)
    driver = {
        "name": "nndebug",
        "version": version("lightning-nndebug"),
        "rules": [
            {
                "id": code,
                "name": rules[code].name,
                "shortDescription": {"text": rules[code].means},
                "help": {"text": f"nndebug explain {code}"},
                "defaultConfiguration": {"level": _LEVELS[rules[code].severity]},
            }
            for code in codes
        ],
    }
    results = [_result(one, codes.index(one.code)) for one in findings]
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "utf16CodeUnits"}
    return {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(finding: Finding, index: int) -> dict[str, Any]:
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": finding.where}]}
    if line := _LINE.search(f"{finding.where} {finding.message}"):
        location["physicalLocation"] = {
            "artifactLocation": {"uri": line[1].replace("\\", "/")},
            "region": {"startLine": int(line[2])},
        }
    fixes = "".join(f"\n- {one}" for one in finding.fixes)
    text = f"{finding.means} {finding.message}" + (f"\nTry:{fixes}" if fixes else "")
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": text},
        "locations": [location],
        "properties": {"step": finding.step, "epoch": finding.epoch, "rank": finding.rank},
    }
