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
    name = lead["name"].replace("-", " ").capitalize()
    since = f"from step {lead['step']:,} on" if lead["step"] else "from the start"
    return f"{name}, {since}.", lead["means"]


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
    meaning = f"<p class='means'>{_prose(means)}{place}</p>" if means else ""
    started = str(story.card.get("started", "")).replace("T", " ")[:16]
    return (
        f'<header class="{state}"><p class="kicker"><b>{escape(str(story.card.get("module", "")))}'
        f"</b><span>{escape(started)}</span></p><h1>{escape(sentence)}</h1>{meaning}"
        f'<p class="facts">{escape(" · ".join(facts))}</p></header>'
    )


def _findings(story: Story) -> str:
    groups = story.groups()
    items = "".join(_finding(index, group) for index, group in enumerate(groups, 1))
    return _section("Findings", items, "findings") if groups else ""


def _finding(index: int, group: list[dict[str, Any]]) -> str:
    first = group[0]
    rows = "".join(
        f"<dt>{name}</dt><dd>{text}</dd>"
        for name, text in (
            ("measured", _prose(first["message"])),
            ("likely", _bullets(first["causes"])),
            ("try", _bullets(first["fixes"])),
            ("also at", _places(group[1:])),
            ("follows from", escape(str(first.get("caused_by") or ""))),
            ("more", f"<code>nndebug explain {escape(first['code'])}</code>"),
        )
        if text
    )
    rank = f" · rank {first['rank']}" if first.get("rank") else ""
    return (
        f'<article class="{first["severity"]}"><h3><span class="badge">{index}</span>'
        f"{escape(first['name'].replace('-', ' ').capitalize())} <small>{escape(first['code'])}"
        f"</small></h3><p class='where'>{escape(first['severity'])} · step {first['step']:,}{rank}"
        f" · <code>{escape(first['where'])}</code></p><p>{_prose(first['means'])}</p>"
        f"<dl>{rows}</dl></article>"
    )


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
    if picture.narrow:
        narrow = picture.narrow.replace("<svg ", f'<svg aria-label="{label}" ', 1)
        svg = f'<div class="desktop">{svg}</div><div class="phone">{narrow}</div>'
    caption = f"<p>{escape(picture.caption)}</p>" if picture.caption else ""
    return (
        f'<figure class="{kind}"><figcaption><h3>{escape(picture.title)}</h3>{caption}'
        f"</figcaption>{svg}</figure>"
    )


def _run_card(card: Mapping[str, Any]) -> str:
    rows = []
    for name, value in card.items():
        if isinstance(value, dict):
            rows += [(key, one) for key, one in value.items()]
        elif name != "step":
            rows.append((name.replace("_", " "), value))
    cells = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(_value(value))}</dd></div>"
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
