"""The figures of the report: each takes the story, and has nothing to show if that lacks it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from .drawing import (
    BLUE,
    ERROR,
    GREEN,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SEVERITIES,
    WIDE,
    Drawing,
    as_pictures,
    drawing,
    plain_logs,
    plain_numbers,
    power_of_ten,
    shortened,
    step_axis,
)
from .story import Curve, Story, number

_MANY = 150  # points; more are shown as a trend before a band
_FEW = 20  # likewise; fewer are shown each
_DECADE = 20.0  # a quantity that ranges over more than that is drawn on a logarithmic axis
_PROBES = 8
_DRAWN = ("nndebug/learning_rate/best_multiple",)  # vitals that another figure shows
_SHOWN = ("loss", "train_loss", "train/loss", "train_loss_epoch")  # and metrics
_ROW = 0.13  # inches that a row of text needs


@dataclass(frozen=True)
class Picture:
    """A figure with its words.

    Attributes:
        title: What it shows.
        caption: How to read it.
        drawn: The figure, or other markup in its place.
        narrow: The same for a phone, where it is too wide for one.
    """

    title: str
    caption: str
    drawn: Drawing | str
    narrow: Drawing | None = None

    @property
    def svg(self) -> str:
        """The figure as markup."""
        return self.drawn if isinstance(self.drawn, str) else self.drawn.svg

    @property
    def pixels(self) -> Any:
        """The figure as a picture, if it was drawn as one."""
        return None if isinstance(self.drawn, str) else self.drawn.pixels


def timeline(story: Story) -> Picture | None:
    """The loss, with each finding pinned to the step in which it began."""
    curve = story.curves.get("loss")
    if curve is None or not curve.steps:
        return None
    wide = _timeline(story, curve, width=WIDE, height=3.4)
    narrow = _timeline(story, curve, height=3.2)
    numbered = " The numbers are those of the findings." if story.findings else ""
    return Picture("The loss", f"As the module computes it, every step.{numbered}", wide, narrow)


def inside(story: Story) -> Iterator[Picture]:
    """Everything else that the record can show, in the order in which one would ask for it."""
    for draw in _FIGURES:
        for picture in draw(story):
            if picture is not None:
                yield picture


def pictures(story: Story) -> dict[str, Any]:
    """Returns the main figures as pixels, by title: without the numbers that are logged anyway.

    Args:
        story: The run's record, read.
    """
    with as_pictures():
        drawn = [timeline(story), *(one for draw in _MAIN for one in draw(story))]
    return {one.title: one.pixels for one in drawn if one is not None and one.pixels is not None}


def _timeline(story: Story, curve: Curve, *, height: float, **size: float) -> Drawing:
    with drawing(height=height, **size) as one:
        axes = one.axes
        steps, means = np.array(curve.steps), np.array(curve.means)
        low, high = np.array(curve.low), np.array(curve.high)
        trend = _trend(means)
        if trend is None:
            if (low < high).any():
                axes.fill_between(steps, low, high, color=BLUE, alpha=0.2, linewidth=0)
            marker = "o" if len(steps) < 3 else None  # noqa: PLR2004 -- no line to be seen
            axes.plot(steps, means, color=BLUE, label="training loss", marker=marker, ms=3)
        else:
            axes.fill_between(steps, low, high, color=BLUE, alpha=0.18, linewidth=0)
            axes.plot(steps, means, color=BLUE, alpha=0.35, linewidth=0.6)
            axes.plot(steps, trend, color=BLUE, label="training loss, smoothed")
        shown = [*means[np.isfinite(means)]]
        for name, points in _validation_losses(story).items():
            axes.plot(*zip(*points, strict=True), "o-", color=ORANGE, ms=3, label=name)
            shown += [value for _, value in points if math.isfinite(value)]
        bad = steps[~np.isfinite(means)]
        if len(bad):
            axes.plot(
                bad, np.full(len(bad), 0.985), "x", color=ERROR, ms=4, label="NaN or infinite",
                transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
        if shown and min(shown) > 0 and max(shown) > _DECADE * min(shown):
            plain_logs(axes)
            floor = np.nanmin(means if trend is None else trend) / 30
            axes.set_ylim(bottom=max(axes.get_ylim()[0], floor))
        step_axis(axes, label="optimizer step")
        axes.set_ylabel("loss")
        end = max(story.step, steps[-1], 1)
        axes.set_xlim(min(0, steps[0]), end + 0.03 * end)  # room for half a badge
        one.legend(below=True)
        _pin(axes, story)
    return one


def _pin(axes: Any, story: Story) -> None:
    """Puts the number of each finding above the step in which it began, none over another."""
    # Findings have their causes first, and may have begun in another order.
    groups = sorted(enumerate(story.groups(), 1), key=lambda one: one[1][0]["step"])
    if not groups:
        return
    width = axes.figure.get_figwidth()
    apart = 0.22 / (width - 0.7)  # of the axis: the width of a badge
    low, high = axes.get_xlim()
    ideal = [(group[0]["step"] - low) / ((high - low) or 1) for _, group in groups]
    places = _spread(ideal, apart)
    for (index, group), at, place in zip(groups, ideal, places, strict=True):
        colour = SEVERITIES[group[0]["severity"]]
        line = {"color": colour, "transform": axes.transAxes, "clip_on": False, "linewidth": 0.9}
        axes.plot([at, at], [0, 1], linestyle=(0, (3, 2)), **line)
        axes.plot([at, place], [1, 1.05], **line)
        axes.text(
            place, 1.09, str(index), transform=axes.transAxes, ha="center", va="center",
            color=PAPER, fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.22", "facecolor": colour, "edgecolor": "none"},
        )  # fmt: skip


def _spread(ideal: Sequence[float], apart: float) -> list[float]:
    """Moves ascending places as little as it takes for them to be so far apart, within 0 and 1."""
    places = list(ideal)
    for _ in range(200):
        moved = False
        for i in range(len(places) - 1):
            lack = apart - (places[i + 1] - places[i])
            if lack > 1e-6:  # noqa: PLR2004 -- nothing to be seen
                places[i] -= lack / 2
                places[i + 1] += lack / 2
                moved = True
        left, right = min(places), max(places)
        shift = -left if left < 0 else min(0.0, 1 - right) if right - left < 1 else 0.0
        places = [one + shift for one in places]
        if not moved:
            break
    return places


def _rates(story: Story) -> Iterator[Picture | None]:
    """The learning rate, and the best one along each step that was probed."""
    curve = story.curves.get("learning rate")
    if curve is None:
        return
    probes = story.snapshots.get("StepProbe", [])
    best = [
        (step, number(look["rate"]) * multiple)
        for step, look in probes
        if (multiple := _best(look["curve"]))
    ]
    with drawing() as one:
        one.axes.plot(curve.steps, curve.means, color=BLUE, label="in use", drawstyle="steps-post")
        if best:
            one.axes.plot(
                *zip(*best, strict=True), "o", color=ORANGE, ms=4, alpha=0.9,
                label="best for the next batch",
            )  # fmt: skip
        values = [value for value in [*curve.means, *(rate for _, rate in best)] if value > 0]
        if values and max(values) > 3 * min(values):
            plain_logs(one.axes)
            one.axes.set_ylim(bottom=max(one.axes.get_ylim()[0], max(curve.means) / 1e4))
        step_axis(one.axes)
        one.axes.set_ylabel("learning rate")
        one.legend()
    yield Picture(
        "Learning rate",
        "Dots: the rate at which the same step would have lowered the loss of the next batch most."
        if best
        else "The largest of the parameter groups.",
        one,
    )


def _along(story: Story) -> Iterator[Picture | None]:
    """The loss along the step that was made, shorter and longer, at several times."""
    probes = story.snapshots.get("StepProbe", [])
    probes = [probes[i] for i in _some(len(probes), _PROBES)]
    if not probes:
        return
    best = []
    with drawing() as one:
        shades = np.linspace(0.15, 0.9, len(probes))
        colormap = colormaps["viridis"]
        for (step, look), shade in zip(probes, shades, strict=True):
            points = sorted((float(k), number(v)) for k, v in look["curve"].items())
            start = next((loss for k, loss in points if k == 0), math.nan)
            shown = [(k, loss / start) for k, loss in points if k > 0]
            if start > 0 and shown:
                best += [loss for _, loss in shown if loss >= 0]
                one.axes.plot(
                    *zip(*shown, strict=True),
                    "o-",
                    ms=2.5,
                    color=colormap(shade),
                    label=f"step {step:,}",
                )
        one.axes.axhline(1, color=MUTED, linewidth=0.8)
        one.axes.axvline(1, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
        one.axes.set_xscale("log")
        one.axes.xaxis.set_major_formatter(power_of_ten())
        one.axes.set_xlabel("multiple of the step that was made")
        one.axes.set_ylabel("loss, relative to no step")
        deepest = min(best, default=1.0)
        one.axes.set_ylim(deepest - 0.1 * (1 - deepest) - 0.01, 1 + max(1 - deepest, 0.05))
        one.legend()
    yield Picture(
        "The loss along the step",
        "Loss of the next batch, had the step been shorter or longer. "
        "Healthy: the dashed line, at the step as it was, is near the lowest point or left of it.",
        one,
    )


# How to draw what is known by layer: title, unit, colours over powers of ten or not, caption.
_LAYERS = {
    "gradient norm": ("Gradients", True, "Norm of the gradient before clipping."),
    "weight norm": ("Weights", True, "Norm of the weights."),
    "update ratio": ("Updates", True, "Size of an update, relative to the weights."),
    "activation scale": ("Activations", True, "Standard deviation of what a layer answers."),
    "idle units": ("Idle units", False, "Share of the units that no sample has woken."),
}


def _layers(story: Story) -> Iterator[Picture | None]:
    """One heat map for each quantity that is known by layer over time."""
    for quantity, looks in story.layers().items():
        title, logarithmic, caption = _LAYERS.get(quantity, (quantity.capitalize(), False, ""))
        yield _heat_map(f"{title}, layer by layer", quantity, looks, caption, logarithmic)


def _heat_map(
    title: str,
    quantity: str,
    looks: list[tuple[int, dict[str, float]]],
    caption: str,
    logarithmic: bool,
) -> Picture | None:
    names = list(dict.fromkeys(name for _, values in looks for name in values))
    steps = sorted({step for step, _ in looks})
    table = np.full((len(names), len(steps)), np.nan)
    for step, values in looks:
        for name, value in values.items():
            table[names.index(name), steps.index(step)] = value
    for column in range(1, table.shape[1]):  # optimizers that take turns are seen in turns
        gap = np.isnan(table[:, column])
        table[gap, column] = table[gap, column - 1]
    finite = table[np.isfinite(table) & ((table > 0) | (not logarithmic))]
    if not len(finite):
        return None
    floor = max(finite.min(), finite.max() * 1e-8)
    norm = LogNorm(floor, max(finite.max(), floor * 10)) if logarithmic else Normalize(0, 1)
    if logarithmic:
        table = np.where(np.isfinite(table), np.clip(table, floor, None), np.nan)
    height = min(max(1.6, 0.75 + _ROW * 1.25 * len(names)), 5.0)
    with drawing(height=height) as one:
        edges = [*steps, max(story_end(steps), steps[-1] + 1)]
        rows = np.arange(len(names) + 1)
        mesh = one.axes.pcolormesh(edges, rows, table, norm=norm, cmap="viridis", rasterized=True)
        one.axes.invert_yaxis()
        one.axes.grid(visible=False)
        if steps[-1] > 50:  # noqa: PLR2004 -- the looks come ever more rarely
            one.axes.set_xscale("symlog", linthresh=20, linscale=0.7)
            one.axes.set_xticks([at for at in _TICKS if at <= edges[-1]])
            one.axes.set_xlabel("step")
            one.axes.xaxis.set_major_formatter(power_of_ten())
        else:
            step_axis(one.axes)
        every = math.ceil(len(names) * _ROW / (height - 0.75))
        ticks = range(0, len(names), every)
        labels = [shortened(names[i]) for i in ticks]
        one.axes.set_yticks([i + 0.5 for i in ticks], labels)
        one.axes.tick_params(length=0, axis="y")
        bar = one.figure.colorbar(mesh, ax=one.axes, pad=0.02, aspect=30)
        bar.set_label(quantity, color=MUTED)
        bar.outline.set_visible(False)
        if logarithmic:
            plain_numbers(bar.ax.yaxis)
            bar.ax.tick_params(which="minor", length=0)
    first = " The first layers are at the top." if len(names) > 1 else ""
    return Picture(title, caption + first, one)


_TICKS = (0, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


def story_end(steps: Sequence[int]) -> int:
    """Returns where the last look of a heat map ends: it is as wide as the one before."""
    return 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1


def _labels_by_batch(story: Story) -> Iterator[Picture | None]:
    """The labels of the first batches: well shuffled, all columns look alike."""
    looks = story.snapshots.get("Labels", [])
    first = [one for index, one in enumerate(looks) if one[0] - looks[0][0] <= index + 1]
    if len(first) < 2 or len(first[0][1]["counts"]) < 2:  # noqa: PLR2004
        return
    table = _side_by_side(look["counts"] for _, look in first)
    share = table / np.maximum(table.sum(0), 1)
    with drawing() as one:
        image = one.axes.imshow(
            share, aspect="auto", origin="lower", vmin=0, interpolation="nearest",
            extent=(-0.5, len(first) - 0.5, -0.5, len(table) - 0.5), cmap="viridis",
        )  # fmt: skip
        one.axes.grid(visible=False)
        step_axis(one.axes, label="training batch")
        one.axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        one.axes.set_ylabel("class")
        bar = one.figure.colorbar(image, ax=one.axes, pad=0.02, aspect=30)
        bar.set_label("share of the batch", color=MUTED)
        bar.outline.set_visible(False)
    yield Picture(
        "Labels, batch by batch",
        "The first batches. Well shuffled, all columns look much alike.",
        one,
    )


def _labels_by_epoch(story: Story) -> Iterator[Picture | None]:
    """How often each class was shown, in training and validation."""
    looks = [look for _, look in story.snapshots.get("ClassCounts", [])]
    classes = len(looks[-1]["train"]) if looks else 0  # the first looks may not know how many
    if not 2 <= classes <= 100:  # noqa: PLR2004
        return
    train = _side_by_side(look["train"] for look in looks)[:classes].sum(1)
    if not train.sum():
        return
    shown = [look["validation"] for look in looks if sum(look["validation"][:classes])]
    validation = _side_by_side([shown[-1], train])[:classes, 0] if shown else None
    with drawing(height=2.4) as one:
        places = np.arange(len(train))
        width = 0.8 if validation is None else 0.4
        shift = 0 if validation is None else width / 2
        bars = {"color": BLUE, "label": "training"}
        one.axes.bar(places - shift, 100 * train / train.sum(), width, **bars)
        if validation is not None:
            share = 100 * validation / validation.sum()
            one.axes.bar(places + shift, share, width, color=ORANGE, label="validation")
        step_axis(one.axes, label="class")
        one.axes.set_ylabel("share of the samples, %")
        one.axes.grid(visible=False, axis="x")
        one.legend()
    yield Picture("Labels, class by class", "How often each class was shown.", one)


def _side_by_side(looks: Iterable[Sequence[float]]) -> np.ndarray[Any, Any]:
    """Returns a column for each look; a class that one does not know of, it has not seen."""
    return np.array([*zip_longest(*looks, fillvalue=0)], dtype=float)


def _histograms(story: Story) -> Iterator[Picture | None]:
    """Weights and biases at the start, on the way, and at the end."""
    looks = story.snapshots.get("Weights", [])
    for name in ("weights", "biases"):
        known = [(step, look[name]) for step, look in looks if name in look]
        if not known:
            continue
        last = known[-1][0]
        middle = min(known, key=lambda one: abs(one[0] - last / 2))
        stages = dict((known[0], middle, known[-1]))
        with drawing(height=2.4) as one:
            for (step, values), colour in zip(stages.items(), (MUTED, ORANGE, BLUE), strict=False):
                counts = np.array(values["counts"], dtype=float)
                low, high = number(values["low"]), number(values["high"])
                edges = np.linspace(low, high, len(counts) + 1)
                density = counts / counts.sum() / (edges[1] - edges[0])
                one.axes.stairs(density, edges, color=colour, label=f"step {step:,}", linewidth=1.3)
            least = max(1e-2, 0.01 * float(density.max()))
            one.axes.set_yscale("symlog", linthresh=10 ** math.ceil(math.log10(least)))
            one.axes.yaxis.set_major_formatter(power_of_ten())
            one.axes.set_xlabel("value")
            one.axes.set_ylabel("density")
            one.legend()
        what = "Weights" if name == "weights" else "Biases and norms"
        yield Picture(f"{what}, start to end", "All layers together.", one)


def _first_batch(story: Story) -> Iterator[Picture | None]:
    """The first batch: its images, the range of every tensor, and what the first layers got."""
    look = next((look for _, look in story.snapshots.get("FirstBatch", [])), None)
    if look is None:
        return
    images = _images(look["images"]) if look.get("images") else ""
    given = next((look for _, look in story.snapshots.get("FirstLayers", [])), None)
    layers = [] if given is None else given["tensors"]
    rows = "".join(map(_row, [*look["tensors"], *layers]))
    table = f'<div class="scroll"><table class="plain">{rows}</table></div>'
    caption = "As the module gets it."
    if layers:
        caption = "As the module gets it, and then what its first layers are given."
    if images:
        caption += " Grey values are scaled to the range of these images."
    yield Picture("The first batch", caption, images + table)


def _saliency(story: Story) -> Iterator[Picture | None]:
    """Which pixels the loss hangs on, as late in the run as it was looked at."""
    looks = story.snapshots.get("Saliency", [])
    if not looks:
        return
    step, look = looks[-1]
    yield Picture(
        "What the loss hangs on",
        f"Images of step {step:,}, and below each of them the gradient of the loss by its pixels: "
        "none is dark, the largest of the image is bright.",
        _images(look["images"], look["maps"]),
    )


def _row(one: dict[str, Any]) -> str:
    kind = f" <small>{escape(one['of'])}</small>" if "of" in one else ""
    shape = escape(f"{one['type']} {one['shape']}")
    shown = one.get("rows", [])
    lines = shown if shown and isinstance(shown[0], list) else [shown]
    values = "<br>".join(" ".join(map(_cell, line)) for line in lines)
    return (
        f"<tr><th>{escape(one['where'])}{kind}</th><td>{shape}</td><td>{_range(one)}</td>"
        f"<td>{values}</td></tr>"
    )


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{number(value):.3g}"


def _vitals(story: Story) -> Iterator[Picture | None]:
    """Whatever else was logged as a number over time."""
    for key, points in story.vitals.items():
        known = [(step, value) for step, value in _fresh(points) if math.isfinite(value)]
        if key in _DRAWN or len(known) < 3:  # noqa: PLR2004 -- nothing to be seen
            continue
        symptom, _, name = key.removeprefix("nndebug/").replace("_", " ").partition("/")
        with drawing(height=2.2) as one:
            line = {"color": PURPLE, "label": name, "marker": "o" if len(known) < _FEW else None}
            one.axes.plot(*zip(*known, strict=True), ms=3, **line)
            values = [value for _, value in known]
            if min(values) > 0 and max(values) > _DECADE * min(values):
                plain_logs(one.axes)
            step_axis(one.axes)
            one.axes.set_ylabel(name)
            one.legend()
        what = f"{story.about.get(key, '')} Logged as {key}.".strip()
        yield Picture(f"{symptom.capitalize()}: {name}", what, one)


def _fresh(points: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """Leaves out what only repeats the last number, of a quantity that is seldom measured."""
    last = None
    for step, value in points:
        if value != last:
            yield step, value
        last = value


def _metrics(story: Story) -> Iterator[Picture | None]:
    """The user's own metrics after each validation."""
    losses = _validation_losses(story)
    for name, points in list(story.metrics().items())[:_PROBES]:
        known = [(step, value) for step, value in points if math.isfinite(value)]
        if name in losses or name in _SHOWN or len(known) < 2 or name.startswith("nndebug/"):  # noqa: PLR2004
            continue
        with drawing(height=2.2) as one:
            one.axes.plot(*zip(*known, strict=True), "o-", color=GREEN, ms=3, label=name)
            step_axis(one.axes)
            one.axes.set_ylabel(shortened(name))
            one.legend()
        yield Picture(shortened(name, 40), "Your own metric, after each validation.", one)


_Figures = tuple[Callable[[Story], Iterator[Picture | None]], ...]
_MAIN: _Figures = (_rates, _along, _layers, _labels_by_batch, _labels_by_epoch, _histograms)
_FIGURES: _Figures = (*_MAIN, _first_batch, _saliency, _metrics, _vitals)


def _trend(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Smoothes a long curve: the mean over the last fiftieth of its points."""
    if len(values) < _MANY:
        return None
    trend, weight, sum_ = [], 0.0, 0.0
    keep = 1 - 1 / max(5, len(values) / 50)
    for value in values:
        if math.isfinite(value):
            sum_, weight = keep * sum_ + value, keep * weight + 1
        trend.append(sum_ / weight if weight else math.nan)
    return np.array(trend)


def _validation_losses(story: Story) -> dict[str, list[tuple[int, float]]]:
    for name, points in story.metrics().items():
        if "val" in name.lower() and "loss" in name.lower():
            return {name: points}
    return {}


def _best(curve: dict[str, Any]) -> float:
    finite = {float(k): number(v) for k, v in curve.items() if math.isfinite(number(v))}
    return min(finite, key=finite.__getitem__, default=0.0)


def _some(count: int, most: int) -> list[int]:
    """Returns at most so many indices, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _images(images: dict[str, Any], maps: dict[str, Any] | None = None) -> str:
    """Returns thumbnails, each with its map below it, however narrow the page is."""
    label = "images" if maps is None else "images, and below each its map"
    rows = [_pngs(images), *([] if maps is None else [_pngs(maps, "inferno")])]
    columns = "".join(f"<span>{''.join(some)}</span>" for some in zip(*rows, strict=True))
    return f'<div class="thumbnails" role="img" aria-label="{label}">{columns}</div>'


def _pngs(images: dict[str, Any], colours: str | None = None) -> Iterator[str]:
    """Yields images as PNG, which matplotlib writes without a figure."""
    pixels = np.frombuffer(base64.b64decode(images["pixels"]), np.uint8).reshape(images["shape"])
    if colours is not None:
        pixels = colormaps[colours](pixels[..., 0])
    elif pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    for one in pixels:
        buffer = BytesIO()
        imsave(buffer, one, format="png")
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        yield f'<img alt="" src="data:image/png;base64,{data}">'


def _range(one: dict[str, Any]) -> str:
    if "low" not in one:
        return ""
    low, high, mean, std = (number(one[key]) for key in ("low", "high", "mean", "std"))
    return f"{low:.3g} to {high:.3g}, mean {mean:.3g}, std {std:.3g}"
