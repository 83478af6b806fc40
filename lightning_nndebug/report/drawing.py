"""Figures as SVG that takes its colours and its font from the page: in light, dark and print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator

# Colours that stand for those of the style sheet: matplotlib draws with the first, and the page
# says what it looks like.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
BLUE, ORANGE, GREEN, PURPLE = "#040404", "#050505", "#060606", "#070707"
ERROR, WARNING, INFO, PAPER = "#080808", "#090909", "#0a0a0a", "#0b0b0b"
_VARIABLES = {
    INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", ORANGE: "orange", GREEN: "green",
    PURPLE: "purple", ERROR: "error", WARNING: "warning", INFO: "info", PAPER: "paper",
}  # fmt: skip
SEVERITIES = {"error": ERROR, "warning": WARNING, "info": INFO}

WIDE, NARROW = 10.6, 4.3  # inches; the page shows a narrow figure at some 120 points an inch
_SIZE = 8.8
_STYLE: Any = {
    "axes.edgecolor": GRID, "axes.facecolor": "none", "axes.grid": True, "axes.labelcolor": MUTED,
    "axes.labelsize": _SIZE, "axes.spines.right": False, "axes.spines.top": False,
    "axes.axisbelow": True, "figure.facecolor": "none", "font.family": "sans-serif",
    "font.size": _SIZE, "grid.color": GRID, "grid.linewidth": 0.6, "legend.fontsize": _SIZE,
    "legend.frameon": False, "legend.labelcolor": INK, "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round", "savefig.facecolor": "none", "svg.fonttype": "none",
    "svg.hashsalt": "nndebug", "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelsize": _SIZE, "ytick.labelsize": _SIZE, "image.cmap": "viridis",
}  # fmt: skip


class Drawing:
    """A figure in the making, with one pair of axes; its ``svg`` is there once it is done."""

    def __init__(self, width: float, height: float) -> None:
        # Any: what matplotlib says of its types changes from version to version.
        layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03)
        self.figure: Any = Figure(figsize=(width, height), layout=layout)
        FigureCanvasSVG(self.figure)
        self.axes: Any = self.figure.add_subplot()
        self.svg = ""

    def legend(self, *, below: bool = False, **options: Any) -> None:
        """Puts the legend outside of the axes, where it can hide nothing."""
        handles, labels = self.axes.get_legend_handles_labels()
        options = {"ncols": min(len(labels), 4), "borderaxespad": 0.1, **options}
        place = "outside lower left" if below else "outside upper left"
        self.figure.legend(
            handles, labels, loc=place, handlelength=1.5, columnspacing=1.2, **options
        )


@contextmanager
def drawing(*, height: float = 2.7, width: float = NARROW) -> Iterator[Drawing]:
    """Opens a figure in the style of the page, and closes it as SVG.

    Args:
        height: In inches.
        width: In inches.
    """
    with mpl.rc_context(_STYLE):
        one = Drawing(width, height)
        yield one
        out = StringIO()
        one.figure.savefig(out, format="svg", dpi=144, metadata={"Date": None})
        one.svg = _for_the_page(out.getvalue())


def step_axis(axes: Axes, *, label: str = "step") -> None:
    """Makes the x-axis count steps, in whole numbers."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def plain_logs(axes: Axes) -> None:
    """Makes the y-axis logarithmic, with powers of ten that need no superscript."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(power_of_ten())
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def power_of_ten() -> Formatter:
    """Returns what writes 0.001 and 1,000 in full, and what is smaller or larger as 1e-05."""
    least, most = 1e-3, 1e4

    def write(value: float, _: object) -> str:
        if value <= 0:
            return "0" if value == 0 else f"{value:g}"
        return f"{value:,.4g}" if least <= value <= most else f"{value:.0e}".replace("e+", "e")

    return FuncFormatter(write)


def shortened(name: str, length: int = 22) -> str:
    """Returns a name that is short enough to stand beside a figure, its middle left out."""
    keep = (length - 1) // 2
    return name if len(name) <= length else f"{name[:keep]}…{name[-keep:]}"


def _for_the_page(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<svg ([^>]*?)height=\"[\d.]+pt\"", r"<svg \1", svg)
    svg = re.sub(r"<svg ([^>]*?)width=\"[\d.]+pt\"", r"<svg \1", svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Several figures share the page: what nobody refers to needs no name there.
    svg = re.sub(r' id="[a-zA-Z]+[a-zA-Z0-9]*_\d+"', "", svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--font)", svg)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: var(--font)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = svg.replace("<svg ", '<svg role="img" ', 1)
    return re.sub(r">\s+<", "><", svg)
