"""The notebooks are what their sources make, and run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

import lightning_nndebug

FOLDER = Path(lightning_nndebug.__file__).parents[1] / "notebooks"
_SILENT = r"nndebug: (nothing found|\d+ info) in"
SOURCES = sorted((FOLDER / "src").glob("*.py"))

_spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_holds_its_source_and_a_finding(path: Path) -> None:
    """Cell for cell; with a picture, and with what the suite has said."""
    book = nbformat.read(FOLDER / f"{path.stem}.ipynb", as_version=4)
    nbformat.validate(book)
    assert [one.source for one in book.cells] == [
        one.source for one in build.cells(path.read_text())
    ]
    outputs = [one for cell in book.cells for one in cell.get("outputs", ())]
    assert any("image/png" in one.get("data", {}) for one in outputs)
    text = "".join(one.get("text", "") for one in outputs)
    assert "nndebug explain" in text
    assert re.search(_SILENT, text)
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch) -> None:
    """From its first cell to its last, and the healthy run is silent."""
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    book = build.build(path)
    text = "".join(one.get("text", "") for cell in book.cells for one in cell.get("outputs", ()))
    assert re.search(_SILENT, text)
