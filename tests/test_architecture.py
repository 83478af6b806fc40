"""The house keeps its walls: core knows no symptom, and the symptoms know only core."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lightning_nndebug

ROOT = Path(lightning_nndebug.__file__).parent
# The rooms where everything may meet.
HALLS = {"__init__", "__main__", "public", "suite", "cli", "script", "zero_code", "demo", "testing"}


def room(path: Path) -> str:
    """``core/session.py`` -> ``core``, ``gradients.py`` -> ``gradients``."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Returns the rooms of this package that a module imports, wherever in it."""
    rooms = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [one.name for one in node.names]
            rooms |= {(*base, *name.split("."))[0] for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "lightning_nndebug"
        ):
            rooms.add(".".join(node.module.split(".")[1:2]) or "__init__")
    return rooms


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    """core: core. A symptom: core and itself. The report: core."""
    here = room(path)
    if here in HALLS:
        return
    allowed = {"core", here}
    if path == ROOT / "core" / "repro.py":
        allowed.add("__init__")  # a script of the user's, in effect: it runs the public detector
    assert imported(path) <= allowed


def test_lightning_is_imported_in_one_place() -> None:
    """Two namespaces hold the same classes; only core/trainer.py chooses between them."""
    importers = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [one.name for one in node.names]
        )
        if not getattr(node, "level", 0)
        and name.split(".")[0] in {"lightning", "pytorch_lightning"}
    }
    assert importers <= {"core/trainer.py", "demo.py"}


def test_there_is_no_room_for_odds_and_ends() -> None:
    """A line of code knows its room."""
    assert not [
        path for path in ROOT.rglob("*.py") if path.stem in {"utils", "helpers", "misc", "common"}
    ]


def test_the_public_names_are_complete() -> None:
    """Every detector of the suite can be imported from the package."""
    from lightning_nndebug.suite import DETECTORS

    assert all(getattr(lightning_nndebug, one.__name__) is one for one in DETECTORS)
