"""Figures as SVG that takes its colours and its font from the page: in light, dark and print."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import get_named_colors_mapping
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator

# Colours by the names that the style sheet gives them. In SVG they stay names, so that the page
# says what they look like; in pictures they are those of its light scheme.
_NAMES = (
    "ink", "muted", "grid", "blue", "orange", "green", "purple", "error", "warning", "info",
    "paper",
)  # fmt: skip
INK, MUTED, GRID, BLUE, ORANGE, GREEN, PURPLE, ERROR, WARNING, INFO, PAPER = (
    f"nndebug:{name}" for name in _NAMES
)
_STAND_INS = {name: f"#{number:02x}" + f"{number:02x}" * 2 for number, name in enumerate(_NAMES, 1)}
_AS_PICTURES: ContextVar[bool] = ContextVar("as pictures", default=False)
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
    """A figure in the making, with one pair of axes.

    Attributes:
        svg: Once it is done, as markup for the page,
        pixels: or as a picture in red, green and blue, see ``as_pictures``.
    """

    def __init__(self, width: float, height: float) -> None:
        # Any: what matplotlib says of its types changes from version to version.
        layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.06)
        self.figure: Any = Figure(figsize=(width, height), layout=layout)
        self.axes: Any = self.figure.add_subplot()
        self.svg = ""
        self.pixels: Any = None

    def legend(self, *, below: bool = False, **options: Any) -> None:
        """Puts the legend outside of the axes, where it can hide nothing."""
        handles, labels = self.axes.get_legend_handles_labels()
        options = {"ncols": min(len(labels), 4), "borderaxespad": 0.1, **options}
        place = "outside lower left" if below else "outside upper left"
        self.figure.legend(
            handles, labels, loc=place, handlelength=1.5, columnspacing=1.2, **options
        )

    def close(self) -> None:
        """Draws it."""
        if _AS_PICTURES.get():
            self.figure.set(facecolor=PAPER, dpi=144)
            canvas: Any = FigureCanvasAgg(self.figure)
            canvas.draw()
            self.pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        else:
            out = StringIO()
            self.figure.savefig(out, format="svg", dpi=144, metadata={"Date": None})
            self.svg = _for_the_page(out.getvalue())


@contextmanager
def drawing(*, height: float = 2.7, width: float = NARROW) -> Iterator[Drawing]:
    """Opens a figure in the style of the page, and draws it when it is done.

    Args:
        height: In inches.
        width: In inches.
    """
    colours = _light() if _AS_PICTURES.get() else _STAND_INS
    with _named(colours), mpl.rc_context(_STYLE):
        one = Drawing(width, height)
        yield one
        one.close()


@contextmanager
def as_pictures() -> Iterator[None]:
    """Makes pictures of all drawings inside, for those who cannot show a page."""
    token = _AS_PICTURES.set(True)
    try:
        yield
    finally:
        _AS_PICTURES.reset(token)


def step_axis(axes: Axes, *, label: str = "step") -> None:
    """Makes the x-axis count steps, in whole numbers."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def plain_logs(axes: Axes) -> None:
    """Makes the y-axis logarithmic, with numbers that need no superscript."""
    axes.set_yscale("log")
    plain_numbers(axes.yaxis)


def plain_numbers(axis: Any) -> None:
    """Labels a logarithmic axis; over less than two decades also at 2 and 5."""
    axis.set_major_formatter(power_of_ten())
    axis.set_minor_formatter(_Between())


def power_of_ten() -> Formatter:
    """Returns what writes 0.001 and 1,000 in full, and what is smaller or larger as 1e-05."""
    return FuncFormatter(lambda value, _: _plain(value))


class _Between(Formatter):
    """Labels of 2 and 5, where there is room for them."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        low, high = sorted(self.axis.get_view_interval())  # type: ignore[union-attr]
        if value <= 0 or low <= 0 or high / low > 100:  # noqa: PLR2004 -- two decades
            return ""
        leading = value / 10 ** math.floor(math.log10(value) + 1e-9)
        return _plain(value) if round(leading) in (2, 5) else ""


def _plain(value: float) -> str:
    least, most = 1e-3, 1e4
    if value <= 0:
        return "0" if value == 0 else f"{value:g}"
    return f"{value:,.4g}" if least <= value <= most else f"{value:.0e}".replace("e+", "e")


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
    for name, colour in _STAND_INS.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = svg.replace("<svg ", '<svg role="img" ', 1)
    return re.sub(r">\s+<", "><", svg)


@contextmanager
def _named(colours: Mapping[str, str]) -> Iterator[None]:
    """Lends matplotlib our names for colours."""
    known = get_named_colors_mapping()
    for name, colour in colours.items():
        known[f"nndebug:{name}"] = colour
    try:
        yield
    finally:
        for name in colours:
            del known[f"nndebug:{name}"]


@cache
def _light() -> dict[str, str]:
    """Returns the colours of the style sheet: its first scheme is the light one."""
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    first = style[: style.index("}")]
    known = dict(re.findall(r"--(\w+): (#\w{6})", first))
    return {name: known[name] for name in _NAMES}
