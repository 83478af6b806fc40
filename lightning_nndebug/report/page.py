"""The page around the figures: the verdict, the findings, the run card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from .figures import Picture, inside, timeline
from .story import Story

_PLACES = 12  # of one finding; the record has all of them


def page(story: Story) -> str:
    """Returns the report as one HTML document that needs no other file."""
    module = escape(str(story.card.get("module", "A run")))
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    parts = (
        _head(story),
        _card(timeline(story), "wide"),
        _findings(story),
        _section("Inside the run", "".join(_card(one) for one in inside(story)), "grid"),
        _run_card(story.card),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{module} · nndebug</title><link rel="icon" href="data:,"><style>{style}</style>'
        f"</head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def verdict(story: Story) -> tuple[str, str]:
    """Returns what became of the run in one sentence, and what it means in another."""
    lead = story.lead
    if lead is None:
        so_far = " so far" if story.end is None else ""
        return f"Nothing found{so_far} in {_steps(story.step)}.", ""
    name = _title(lead["name"])
    since = f"from step {lead['step']:,} on" if lead["step"] else "from the start"
    return f"{name}, {since}.", lead["means"]


def _title(name: str) -> str:
    """Returns the name of a rule as it stands above a text: "Non-finite forward"."""
    return name.replace("-", " ").replace("non ", "non-").capitalize()


def _head(story: Story) -> str:
    sentence, means = verdict(story)
    lead = story.lead
    state = "healthy" if lead is None else lead["severity"]
    facts = [_steps(story.step), story.ending]
    if story.seconds:
        facts.insert(1, _duration(story.seconds))
    if "parameters" in story.card:
        facts.append(f"{story.card['parameters']:,} parameters")
    others = len(story.groups()) - (lead is not None)
    if others:
        facts.append(f"{others} more finding{'s' if others > 1 else ''}")
    place = "" if lead is None else f" <code>{escape(lead['where'])}</code>"
    headline = escape(sentence)
    if lead is not None:
        headline = f'<a href="#{escape(lead["code"])}">{headline}</a>'
    meaning = f"<p class='means'>{_prose(means)}{place}</p>" if means else ""
    started = str(story.card.get("started", "")).replace("T", " ")[:16]
    return (
        f'<header class="{state}"><p class="kicker"><b>{escape(str(story.card.get("module", "")))}'
        f"</b><span>{escape(started)}</span></p><h1>{headline}</h1>{meaning}"
        f'<p class="facts">{escape(" · ".join(facts))}</p></header>'
    )


def _findings(story: Story) -> str:
    groups = story.groups()
    items = "".join(
        _finding(index, group, story.about.get(group[0]["code"], {}))
        for index, group in enumerate(groups, 1)
    )
    return _section("Findings", items, "findings") if groups else ""


def _finding(index: int, group: list[dict[str, Any]], about: Mapping[str, list[str]]) -> str:
    first = group[0]
    rows = "".join(
        f"<dt>{name}</dt><dd>{text}</dd>"
        for name, text in (
            ("measured", _prose(first["message"])),
            ("likely", _bullets(first["causes"])),
            ("try", _bullets(first["fixes"])),
            ("also at", _places(group[1:])),
            ("follows from", _cause(first.get("caused_by"))),
        )
        if text
    )
    rank = f" · rank {first['rank']}" if first.get("rank") else ""
    return (
        f'<article id="{escape(first["code"])}" class="{first["severity"]}">'
        f'<h3><span class="badge">{index}</span>'
        f"{escape(_title(first['name']))} <small>{escape(first['code'])}"
        f"</small></h3><p class='where'>{escape(first['severity'])} · step {first['step']:,}{rank}"
        f" · <code>{escape(first['where'])}</code></p><p>{_prose(first['means'])}</p>"
        f"<dl>{rows}</dl>{_more(first['code'], about)}</article>"
    )


def _cause(place: str | None) -> str:
    """Returns what a finding follows from, with a link to it."""
    code, _, where = (place or "").partition(" ")
    return f'<a href="#{escape(code)}">{escape(code)}</a> {escape(where)}' if code else ""


def _more(code: str, about: Mapping[str, list[str]]) -> str:
    """Returns what else the page of the rule says, folded up."""
    sections = "".join(
        f"<dt>{escape(heading.lower())}</dt><dd>{_paragraphs(entries)}</dd>"
        for heading, entries in about.items()
        if entries
    )
    command = f"<code>nndebug explain {escape(code)}</code>"
    if not sections:
        return f"<p class='more'>{command}</p>"
    return (
        f"<details><summary>More on {escape(code)}</summary><dl>{sections}"
        f"<dt>in a terminal</dt><dd>{command}</dd></dl></details>"
    )


def _paragraphs(entries: list[str]) -> str:
    return _prose(entries[0]) if len(entries) == 1 else _bullets(entries)


def _places(others: list[dict[str, Any]]) -> str:
    shown = [f"<code>{escape(one['where'])}</code>" for one in others[:_PLACES]]
    more = len(others) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _bullets(entries: Iterable[str]) -> str:
    items = "".join(f"<li>{_prose(one)}</li>" for one in entries)
    return f"<ul>{items}</ul>" if items else ""


def _prose(text: str) -> str:
    """Escapes a text, and sets what stands between backticks as code."""
    parts = escape(str(text)).split("`")
    if len(parts) % 2 == 0:
        return escape(str(text))
    return "".join(f"<code>{one}</code>" if i % 2 else one for i, one in enumerate(parts))


def _card(picture: Picture | None, kind: str = "") -> str:
    if picture is None:
        return ""
    label = escape(f"{picture.title}. {picture.caption}", quote=True)
    svg = picture.svg.replace("<svg ", f'<svg aria-label="{label}" ', 1)
    if picture.narrow is not None:
        narrow = picture.narrow.svg.replace("<svg ", f'<svg aria-label="{label}" ', 1)
        svg = f'<div class="desktop">{svg}</div><div class="phone">{narrow}</div>'
    caption = f"<p>{escape(picture.caption)}</p>" if picture.caption else ""
    return (
        f'<figure class="{kind}"><figcaption><h3>{escape(picture.title)}</h3>{caption}'
        f"</figcaption>{svg}</figure>"
    )


def _run_card(card: Mapping[str, Any]) -> str:
    rows: list[tuple[str, Any]] = []
    for name, value in card.items():
        if isinstance(value, dict):
            rows += value.items()
        elif name == "started":
            rows.append((name, str(value).replace("T", " ").replace("+00:00", " UTC")))
        elif name != "step":
            rows.append((name, value))
    cells = "".join(
        f"<div><dt>{escape(str(name).replace('_', ' '))}</dt><dd>{escape(_value(value))}</dd></div>"
        for name, value in rows
        if value not in (None, "", [], -1)
    )
    return _section("Run card", f'<dl class="card">{cells}</dl>')


def _section(heading: str, content: str, kind: str = "") -> str:
    if not content:
        return ""
    return f'<section><h2>{heading}</h2><div class="{kind}">{content}</div></section>'


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _steps(step: int) -> str:
    return f"{step:,} step{'s' if step != 1 else ''}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
