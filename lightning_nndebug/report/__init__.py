"""The report: one HTML file of a run, drawn from its record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .story import Story as Story


def write(story: Story, path: Path) -> None:
    """Draws the report of a run into one file that needs no other.

    Args:
        story: The run's record, read.
        path: The file.
    """
    from .page import page  # matplotlib takes a moment, and few runs need it

    path.write_text(page(story), encoding="utf-8")


def pictures(story: Story) -> dict[str, Any]:
    """Returns the main figures of a run as arrays of pixels, by title.

    Args:
        story: The run's record, read.
    """
    from .figures import pictures as draw

    return draw(story)
