"""The record: one JSON object a line, flushed line by line, so that it survives a killed run."""

from __future__ import annotations

import json
import math
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

import torch

from .findings import Finding, Severity

FILE = "record.jsonl"


class Record:
    """Writes ``record.jsonl``, and ``findings.json`` at the end, into one directory.

    Every line has a ``kind``: ``run`` (the run card, first), ``vitals``, ``finding``, ``end``. A
    resumed run appends its own ``run`` line.
    """

    def __init__(self, directory: Path, trainer: Any) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (directory / FILE).open("a", encoding="utf-8")
        self._write("run", **_run_card(trainer))

    def finding(self, finding: Finding) -> None:
        """Writes a finding."""
        self._write("finding", **finding.to_dict())

    def vitals(self, step: int, vitals: dict[str, float]) -> None:
        """Writes the numbers of a step."""
        self._write("vitals", step=step, **vitals)

    def close(self, findings: list[Finding], step: int, exception: BaseException | None) -> None:
        """Writes how the run ended, and all findings in one file."""
        ending = None if exception is None else f"{type(exception).__name__}: {exception}"
        self._write("end", step=step, exception=ending)
        self._file.close()
        text = json.dumps([one.to_dict() for one in findings], indent=2, default=str)
        (self.directory / "findings.json").write_text(text, encoding="utf-8")

    def _write(self, kind: str, **values: Any) -> None:
        self._file.write(json.dumps(_plain({"kind": kind, **values}), default=str) + "\n")
        self._file.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a record, or of the record in a directory; a torn last line is left out.

    Raises:
        FileNotFoundError: If there is no record.
    """
    candidates = [path, path / FILE, path / "nndebug" / FILE]
    file = next((one for one in candidates if one.is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"No record at {path}: expected {FILE} there or in its nndebug folder."
        )
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # the run was killed while it wrote
            continue
    return lines


def worst(findings: list[Finding]) -> Severity | None:
    """Returns the gravest severity among the findings, or None if there are none."""
    return max((one.level for one in findings), default=None)


def _plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: they are written as text."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _run_card(trainer: Any) -> dict[str, Any]:
    module = trainer.lightning_module
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "module": type(module).__name__,
        "parameters": sum(one.numel() for one in module.parameters()),
        "optimizers": [type(one).__name__ for one in trainer.optimizers],
        "strategy": type(trainer.strategy).__name__,
        "precision": str(trainer.precision),
        "world_size": trainer.world_size,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "device": str(trainer.strategy.root_device),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
