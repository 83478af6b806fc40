"""The command ``nndebug``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .core.findings import Finding

app = typer.Typer(
    name="nndebug", help="A linter for training runs.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,  # what a script raises under `run` looks as it does without us
)  # fmt: skip
_STYLES = {"error": "red", "warning": "yellow", "info": "cyan"}
_FOUND = 1  # the exit code of `check` if there is a finding, as that of any linter


class Form(str, Enum):
    """How findings are printed."""

    text = "text"
    json = "json"
    sarif = "sarif"


class Level(str, Enum):
    """What stops a run."""

    error = "error"
    warning = "warning"
    info = "info"


_Form = Annotated[Form, typer.Option("--format", help="How findings are printed.")]
_Select = Annotated[
    list[str] | None, typer.Option(help="Codes or prefixes of the rules to use. May be repeated.")
]
_Ignore = Annotated[
    list[str] | None, typer.Option(help="Codes or prefixes to leave out. May be repeated.")
]
_HaltOn = Annotated[
    Level | None, typer.Option(help="Stop on a finding at least this severe, with exit code 86.")
]


@app.command()
def demo(
    directory: Annotated[Path, typer.Option(help="Where records and reports go.")] = Path(
        "nndebug_demo"
    ),
) -> None:
    """Trains small nets on handwritten digits, three of them sick, and names what ails them."""
    greeting = "Four trainings on handwritten digits. Three are sick, and stop once it shows.\n"
    Console(stderr=True).print(greeting)
    from .demo import main  # Lightning takes a moment

    main(directory)


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def run(
    script: Annotated[str, typer.Argument(help="The script; with --module, a module's name.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Its own arguments.")] = None,
    *,
    module: Annotated[bool, typer.Option("--module", "-m", help="As python -m does.")] = False,
    halt_on: _HaltOn = None,
    select: _Select = None,
    ignore: _Ignore = None,
    form: _Form = Form.text,
    report: Annotated[bool, typer.Option(help="Write report.html when a run ends.")] = True,
) -> None:
    """Runs an unmodified script with the suite in every Trainer.

    The exit code is the script's own, or 86 if a finding has stopped it.
    """
    from .script import run as run_script
    from .zero_code import FOUND

    options = {"halt_on": halt_on, "select": select, "ignore": ignore, "report": report}
    quiet = form is not Form.text
    code = run_script(script, arguments or [], options, module=module, quiet=quiet)
    if quiet:
        _print(FOUND, form)
    raise typer.Exit(code)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="A run's log directory, or its record.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; next to the record if none.")
    ] = None,
    form: Annotated[
        Form | None, typer.Option("--format", help="Print the findings instead of a report.")
    ] = None,
) -> None:
    """Draws the report of a run, be it over, killed, or still going on."""
    from .core.findings import Finding
    from .core.record import find
    from .report import Story, write

    file = _or_quit(find, run_dir)
    if form is not None:
        _print([Finding.from_dict(one) for one in Story.read(file).findings], form)
        return
    target = output or file.parent / "report.html"
    write(Story.read(file), target)
    typer.echo(target)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="A run's log directory, or its record.")],
    run_b: Annotated[Path, typer.Argument(help="Another one.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Says what differs between two runs: how they were set up, fared, and fell ill."""
    from .core.record import find
    from .report import Story
    from .report.compare import differences

    stories = [Story.read(_or_quit(find, one)) for one in (run_a, run_b)]
    sections = differences(*stories)
    if as_json:
        typer.echo(json.dumps(sections, indent=2, default=str))
        return
    console = Console()
    console.print(f"[bold]A[/]  {run_a}\n[bold]B[/]  {run_b}\n", highlight=False)
    for heading, rows in sections.items():
        table = Table(title=heading, title_justify="left", title_style="bold", box=None)
        for column in ("", "A", "B"):
            table.add_column(column, overflow="fold", header_style="bold")
        for name, (a, b) in rows.items():
            table.add_row(name, str(a), str(b))
        console.print(table if rows else f"[bold]{heading}[/]: no difference")
        console.print()


@app.command()
def check(
    target: Annotated[str, typer.Argument(metavar="MODULE:FACTORY", help="Returns (module, data)")],
    *,
    steps: Annotated[int, typer.Option(min=1, help="Given to learn one batch by heart.")] = 100,
    form: _Form = Form.text,
) -> None:
    """Rehearses a training with one batch before it starts: on a copy, for CI.

    The factory takes nothing and returns a LightningModule with a dataloader or data module for
    it. The exit code is 1 if there is a warning or an error.
    """
    import lightning_nndebug

    module, data = _made(target)
    findings = lightning_nndebug.check(module, data, steps=steps)
    _print(findings, form)
    raise typer.Exit(_FOUND if any(one.severity != "info" for one in findings) else 0)


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


def _print(findings: Sequence[Finding], form: Form) -> None:
    from .core.formats import render

    typer.echo(render(findings, form.value))


def _or_quit(find: Any, path: Path) -> Path:
    try:
        return Path(find(path))
    except FileNotFoundError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _made(target: str) -> tuple[Any, Any]:
    """Calls what ``package.module:factory`` names."""
    name, _, attribute = target.partition(":")
    sys.path.insert(0, "")  # the user's modules are where the user is
    try:
        factory = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        typer.echo(f"There is no {target!r}: {error}. Expected MODULE:FACTORY.", err=True)
        raise typer.Exit(2) from None
    module, data = factory()
    return module, data
