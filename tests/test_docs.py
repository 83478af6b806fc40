"""What is written is true: pages are fresh, code blocks run, commands exist, links lead somewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from typer.main import get_command

import lightning_nndebug
from lightning_nndebug.cli import app
from lightning_nndebug.suite import DETECTORS, OPTIONAL

ROOT = Path(lightning_nndebug.__file__).parents[1]
PROSE = [
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(path: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(path.read_text()) if name == language]


def test_every_rule_has_a_fresh_page_and_every_page_a_rule(generate) -> None:
    """As ``python docs/generate.py`` would write them."""
    wanted = generate.pages()
    assert {path.name for path in generate.PAGES.glob("*.md")} == {path.name for path in wanted}
    stale = [path.name for path, text in wanted.items() if path.read_text() != text]
    assert not stale, "run python docs/generate.py"


def test_a_page_has_all_that_one_wants_to_know(generate) -> None:
    """Why, causes, fixes, when it is fine, the case as a diff, how to switch it off."""
    for kind in (*DETECTORS, *OPTIONAL):
        for rule in kind.rules:
            text = (generate.PAGES / f"{rule.code}.md").read_text()
            headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
            assert headings[:4] == [
                "Why it matters",
                "Likely causes",
                "How to fix",
                "When it is fine",
            ]
            assert "Use" in headings
            assert re.search(r"^```diff\n(.*\n)*[+-]", text, flags=re.MULTILINE), rule.code


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_code_blocks_run(path: Path) -> None:
    """Python runs, each page from its top to its bottom; YAML names classes and options that exist."""
    names: dict[str, object] = {"__name__": path.stem}
    module = ModuleType(path.stem.replace("-", "_"))
    vars(module).update(names, __name__=module.__name__)
    for number, body in enumerate(blocks(path, "python")):
        code = compile(body, f"{path.name}, block {number}", "exec")
        with contextlib.redirect_stdout(io.StringIO()), _importable(module):
            exec(code, vars(module))
    for body in blocks(path, "yaml"):
        for one in yaml.safe_load(body)["trainer"]["callbacks"]:
            package, _, name = one["class_path"].rpartition(".")
            getattr(importlib.import_module(package), name)(**one["init_args"])


@contextlib.contextmanager
def _importable(module: ModuleType):
    """Rules look up their annotations in the module that they are written in."""
    import sys

    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_commands_and_options_exist(path: Path) -> None:
    """Wherever ``nndebug`` is written with a command."""
    known = get_command(app).commands
    for name in re.findall(
        r"`nndebug (\w+)|^\$ nndebug (\w+)", path.read_text(), flags=re.MULTILINE
    ):
        assert (name[0] or name[1]) in known
    for name, option in re.findall(r"nndebug (\w+)[^`\n]*?(--[\w-]+)", path.read_text()):
        if name != "run" or option != "--epochs":
            assert option in str([one.opts for one in known[name].params]), option


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Files that are linked to are there."""
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    """Without a warning, and without a network."""
    sphinx = pytest.importorskip("sphinx.cmd.build")
    assert sphinx.build_main(["-W", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]) == 0
    assert (tmp_path / "rules" / "NAN102.html").is_file()
