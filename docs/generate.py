"""Writes the page of every rule: its docstring, its limits, and its case as a diff from sick to healthy.

python docs/generate.py            # writes docs/rules
python docs/generate.py --check    # says which pages are not what they would be
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "rules"
REFERENCES = ROOT / "docs" / "references.md"
CASES = ROOT / "tests" / "cases"
sys.path.insert(0, str(ROOT))

from lightning_nndebug import RULES, Detector  # noqa: E402
from lightning_nndebug.cli import page  # noqa: E402
from lightning_nndebug.core.detector import Rule  # noqa: E402
from lightning_nndebug.suite import DETECTORS, OPTIONAL  # noqa: E402

ALL = (*DETECTORS, *OPTIONAL)


def pages() -> dict[Path, str]:
    """Returns the content of every page that there should be."""
    ours = {code: found for code, found in sorted(RULES.items()) if found[0] in ALL}
    content = {PAGES / f"{code}.md": rule_page(code, *found) for code, found in ours.items()}
    content[PAGES / "index.md"] = index(ours)
    return content


def rule_page(code: str, owner: type[Detector], rule: Rule) -> str:
    """Returns the page of one rule."""
    heading, _, rest = page(code).partition("\n\n")
    _, _, body = rest.partition("\n")
    advice, _, references = body.partition("\n## References\n")
    looks = f"{rule.patience} looks in a row" if rule.patience > 1 else "one look"
    parts = [
        heading,
        rule.title,
        (
            "| severity | detector | measured | after |\n|---|---|---|---|\n"
            f"| {rule.severity} | `{owner.__name__}` | {', '.join(f'`{k.__name__}`' for k in rule.kinds)} | {looks} |"
        ),
        advice.strip(),
        limits(owner, rule),
        case(code, rule),
        (
            f'## Use\n\nSwitch it off with `NNDebug(ignore=["{code}"])`; look at nothing else with '
            f'`NNDebug(select=["{code}"])`.'
        ),
        sources(references.strip()),
    ]
    return "\n\n".join(one for one in parts if one) + "\n"


def sources(text: str) -> str:
    """Returns the references in full, if ``docs/references.md`` has them."""
    known = dict(
        re.findall(
            r"^\| (\w+) \| (.+) \|$", REFERENCES.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
    )
    found = [f"- {known[key]}" for key in re.findall(r"\w+", text) if key in known]
    rest = re.sub(r"\b(" + "|".join(known) + r")\b,? *", "", text).strip(" -,\n")
    found += [f"- {line.lstrip('- ')}" for line in rest.splitlines() if line.strip(" -,")]
    return "## References\n\n" + "\n".join(found) if found else ""


def limits(owner: type[Detector], rule: Rule) -> str:
    """Returns the options that the rule is held against, with where their defaults come from."""
    source = inspect.getsource(rule.method)
    used = [
        one for one in fields(owner) if "source" in one.metadata and f"self.{one.name}" in source
    ]
    if not used:
        return ""
    about = descriptions(owner)
    rows = [
        f"| `{one.name}` | {one.default:g} | {about.get(one.name, '')} | {one.metadata['source']} |"
        for one in used
    ]
    return (
        "## Limits\n\n| option | default | what it is | where the default comes from |\n|---|---|---|---|\n"
        + "\n".join(rows)
    )


def descriptions(owner: type[Detector]) -> dict[str, str]:
    """Returns what the docstring says of each option, in one line."""
    found: dict[str, str] = {}
    name = ""
    for line in (inspect.getdoc(owner) or "").splitlines():
        head, colon, text = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            name = head
            found[name] = text
        elif line.startswith("     ") and name:
            found[name] += f" {line.strip()}"
    return {name: text.replace("``", "`").replace("|", "\\|") for name, text in found.items()}


def case(code: str, rule: Rule) -> str:
    """Returns the case of a rule as one program with the fix applied to it."""
    path = CASES / f"{code.lower()}_{rule.method.__name__}.py"
    if not path.exists():
        return ""
    source = path.read_text(encoding="utf-8")
    sick, healthy = (program(source, name) for name in ("sick", "healthy"))
    lines = list(difflib.unified_diff(sick, healthy, n=1000, lineterm=""))[3:]
    story = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return f"## From sick to healthy\n\n{story}\n\n```diff\n" + "\n".join(lines) + "\n```"


def program(source: str, name: str) -> list[str]:
    """Returns the lines of a function of a module, after all of the module that it needs."""
    tree = ast.parse(source)
    lines = source.splitlines()
    defined = {_name(node): node for node in tree.body if _name(node)}
    needed: set[str] = set()
    pending = [name]
    while pending:
        for node in ast.walk(defined[pending.pop()]):
            if isinstance(node, ast.Name) and node.id in defined and node.id not in needed:
                needed.add(node.id)
                pending.append(node.id)
    text: list[str] = []
    for key, node in defined.items():
        if key in needed or key == name:
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            block = lines[first - 1 : node.end_lineno]
            text += [
                *([""] if text else []),
                *(one.replace(f"def {name}()", "def program()") for one in block),
            ]
    return text


def index(ours: dict[str, tuple[type[Detector], Rule]]) -> str:
    """Returns the table of all rules."""
    parts = [
        "# Rules",
        (
            "An **error** is a fact that the run cannot survive, or that is certainly wrong. A **warning** is a heuristic "
            "that has held for several looks. An **info** is advice, and no alarm."
        ),
    ]
    for kind in ALL:
        rules = [(code, rule) for code, (owner, rule) in ours.items() if owner is kind]
        rows = [
            f"| [{code}]({code}.md) | {rule.severity} | {rule.name} | {rule.title} |"
            for code, rule in rules
        ]
        parts.append(f"## {kind.__name__}\n\n{(inspect.getdoc(kind) or '').partition(chr(10))[0]}")
        parts.append("| code | severity | name | finds |\n|---|---|---|---|\n" + "\n".join(rows))
    names = "\n".join(f"{code}" for code in ours)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```")
    return "\n\n".join(parts) + "\n"


def _name(node: Any) -> str:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return ""


def main() -> None:
    wanted = pages()
    stale = [
        path
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    extra = [path for path in PAGES.glob("*.md") if path not in wanted]
    if "--check" in sys.argv:
        if stale or extra:
            sys.exit(
                "run python docs/generate.py: "
                + ", ".join(sorted(one.name for one in [*stale, *extra]))
            )
        return
    PAGES.mkdir(exist_ok=True)
    for path in extra:
        path.unlink()
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")


if __name__ == "__main__":
    main()
