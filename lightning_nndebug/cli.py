"""The command ``nndebug``."""

from __future__ import annotations

import difflib
import inspect
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

app = typer.Typer(
    name="nndebug", help="A linter for training runs.", no_args_is_help=True, add_completion=False
)
_STYLES = {"error": "red", "warning": "yellow", "info": "cyan"}


@app.command()
def demo(
    directory: Annotated[Path, typer.Option(help="Where the records of the runs go.")] = Path(
        "nndebug_demo"
    ),
) -> None:
    """Trains small nets on handwritten digits, three of them sick, and names what ails them."""
    from .demo import main

    main(directory)


@app.command()
def rules(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Lists every rule."""
    from . import RULES

    rows = [
        {
            "code": code,
            "name": rule.name,
            "severity": str(rule.severity),
            "detector": owner.__name__,
            "title": rule.title,
        }
        for code, (owner, rule) in sorted(RULES.items())
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("code", "severity", "name", "finds"):
        table.add_column(column, no_wrap=column != "finds")
    for row in rows:
        style = _STYLES[row["severity"]]
        table.add_row(row["code"], f"[{style}]{row['severity']}[/]", row["name"], row["title"])
    Console().print(table)


@app.command()
def explain(code: Annotated[str, typer.Argument(help="A rule's code or name.")]) -> None:
    """Shows the page of a rule: why it matters, likely causes, what to try, when it is fine."""
    from . import RULES

    names = {rule.name: known for known, (_, rule) in RULES.items()}
    known = names.get(code.lower(), code.upper())
    if known not in RULES:
        nearest = difflib.get_close_matches(code.upper(), RULES, n=1) or difflib.get_close_matches(
            code.lower(), names, n=1
        )
        hint = f" Did you mean {nearest[0]}?" if nearest else " See: nndebug rules"
        typer.echo(f"There is no rule {code!r}.{hint}", err=True)
        raise typer.Exit(2)
    Console().print(Markdown(page(known)))


def page(code: str) -> str:
    """Returns the page of a rule, in Markdown.

    Args:
        code: A code that exists.
    """
    from . import RULES
    from .core.detector import SECTIONS

    owner, rule = RULES[code]
    text = inspect.getdoc(rule.method) or ""
    lines = [f"# {code} {rule.name}", "", f"*{rule.severity}, {owner.__name__}.* {rule.title}"]
    for heading in SECTIONS:
        if entries := rule.section(heading):
            bullets = [f"- {entry}" for entry in entries]
            is_list = f"{heading}:\n    - " in text
            lines += ["", f"## {heading}", "", *(bullets if is_list else entries)]
    return "\n".join(lines) + "\n"
