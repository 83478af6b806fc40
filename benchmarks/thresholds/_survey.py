"""Statistics on healthy and on sick nets, at the start, in the middle and at the end of short runs."""

from __future__ import annotations

import logging
import math
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from healthy import all_programs
from program import Program, fit, seed

import lightning_nndebug
from lightning_nndebug import Detector

STEPS, SEEDS = 110, 3
MOMENTS = {"start": range(11), "middle": range(11, 51), "end": range(51, STEPS + 1)}
RESULTS = Path(__file__).parents[1] / "results"
# One of each kind of net in the healthy zoo.
HEALTHY = (
    "actor_critic", "autoencoder", "batch_norm_cnn", "bidirectional_gru", "byol", "clip",
    "coordinate_net", "ctc", "deep_and_narrow", "deep_plain_selu", "deep_q_learning",
    "deep_residual_mlp", "deep_sets", "diffusion", "digits_mlp", "dilated_convolutions",
    "entity_embeddings", "fixup", "fourier_operator", "gan", "gated_memory", "group_norm_cnn",
    "layer_scale", "lenet_with_sigmoids", "lora", "masked_language_model", "mixture_density",
    "mixture_of_experts", "neural_ode", "node_classification", "normalizing_flow",
    "physics_informed", "post_ln_transformer", "resnet_zero_gamma", "shared_block",
    "sparse_autoencoder", "stateful_gru", "tied_language_model", "unet_ignore_index",
    "unnormed_residuals", "vae", "vision_transformer", "vq_vae", "wgan_gp",
)  # fmt: skip

Programs = Mapping[str, Callable[[], Program]]
Places = Mapping[str, float]


@dataclass(frozen=True)
class Column:
    """A statistic.

    Args:
        name: What it is called.
        rule: The code of its rule.
        limit: The limit of its rule.
        sick_is: Whether sick nets have large or small values.
        scale: Of the axis; a count is not drawn.
    """

    name: str
    rule: str
    limit: float
    sick_is: str = "large"
    scale: str = "log"

    def worst(self, values: Sequence[float]) -> float:
        return (max if self.sick_is == "large" else min)(values)

    def best(self, values: Sequence[float]) -> float:
        return (min if self.sick_is == "large" else max)(values)

    def is_beyond(self, value: float) -> bool:
        return value > self.limit if self.sick_is == "large" else value < self.limit


@dataclass
class Looks:
    """What is seen of one run: for each statistic, its value at each place in each look."""

    values: dict[str, dict[str, list[tuple[int, float]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def note(self, step: int, **columns: Places) -> None:
        """Notes a look."""
        for name, places in columns.items():
            for place, value in places.items():
                if math.isfinite(value):
                    self.values[name][place].append((step, value))

    def worst(self, column: Column, moment: str) -> float | None:
        """Returns the worst value that lasts for a whole moment, of any place."""
        lasting = [
            column.best(inside)
            for looks in self.values[column.name].values()
            if (inside := [value for step, value in looks if step in MOMENTS[moment]])
        ]
        return column.worst(lasting) if lasting else None


@dataclass(frozen=True)
class Run:
    """One run: its statistics at each moment, and the codes that were reported."""

    name: str
    kind: str
    values: Mapping[tuple[str, str], float]
    reported: frozenset[str]


def survey(
    columns: Sequence[Column],
    watch: Callable[[], Detector],
    judge: Callable[[], Detector],
    sick: Mapping[str, Programs],
    steps: int = STEPS,
    alike: Programs | None = None,
) -> Iterator[Run]:
    """Runs the healthy nets and the sick ones.

    Args:
        columns: The statistics.
        watch: Makes a detector that has ``looks``.
        judge: Makes the detector that has the rules.
        sick: The programs that are sick, by the statistic that is to tell so.
        steps: How long each runs.
        alike: Healthy programs that look like sick ones.
    """
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    zoo = all_programs()
    jobs = [("healthy", name, zoo[name]) for name in HEALTHY]
    jobs += [("healthy", name, make) for name, make in (alike or {}).items()]
    jobs += [(column, name, make) for column in sick for name, make in sick[column].items()]
    for kind, name, make in jobs:
        for value in range(SEEDS):
            seed(value)
            watching, judging = watch(), judge()
            fit(make(), watching, judging, max_steps=steps, max_epochs=-1, limit_val_batches=0)
            values = {
                (column.name, moment): found
                for column in columns
                for moment in MOMENTS
                if (found := watching.looks.worst(column, moment)) is not None
            }
            codes = frozenset(one.code for one in judging.findings)
            print(f"{kind:40}{name:36}{value}  {' '.join(sorted(codes))}", flush=True)
            yield Run(name, kind, values, codes)


def write(
    name: str,
    title: str,
    columns: Sequence[Column],
    runs: Sequence[Run],
    began: float,
    *,
    more: Sequence[str] = (),
    steps: int = STEPS,
) -> None:
    """Writes the tables and the figure."""
    lines = [
        f"# {title}: healthy and sick nets",
        "",
        (
            f"{date.today()}, lightning-nndebug {lightning_nndebug.__version__}, torch "
            f"{torch.__version__}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
            f"one thread, {time.perf_counter() - began:.0f} s. "
            f"Written by `python benchmarks/thresholds/{name}.py`."
        ),
        "",
        (
            f"{len({run.name for run in runs if run.kind == 'healthy'})} healthy architectures and "
            f"{len({run.name for run in runs if run.kind != 'healthy'})} sick ones, {SEEDS} seeds of "
            f"each, {steps} steps. A value is the worst of any place in the net that lasts for a whole "
            f"moment: start is up to step {MOMENTS['start'][-1]}, middle up to "
            f"{MOMENTS['middle'][-1]}, end up to {STEPS}. A rule asks for more than its limit alone, "
            "such as for patience: the last two columns say how often it spoke."
        ),
        "",
        "| rule | statistic | limit | worst healthy at last | mildest sick | healthy told | sick told |",
        "|---|---|--:|--:|--:|--:|--:|",
        *(_summary(column, runs) for column in columns),
        "",
        f"![The distributions]({name}.png)",
    ]
    for column in columns:
        lines += ["", f"## {column.rule}: {column.name}", "", *_moments(column, runs)]
        lines += ["", *_sick(column, runs)]
    lines += ["", *more] if more else []
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    draw(name, columns, runs)


def draw(name: str, columns: Sequence[Column], runs: Sequence[Run]) -> None:
    """Draws a panel for each statistic: healthy and sick runs at each moment, and the limit."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = [one for one in columns if one.scale != "count"]
    across = 2 if len(columns) in (2, 4) else 3
    down = math.ceil(len(columns) / across)
    figure, axes = plt.subplots(
        down, across, figsize=(11, 2.6 * down), layout="constrained", squeeze=False, sharey=True
    )
    moments = [
        one for one in MOMENTS if any(moment == one for run in runs for _, moment in run.values)
    ]
    rows = [(kind, moment) for kind in ("sick", "healthy") for moment in reversed(moments)]
    for axis, column in zip(axes.flat, columns, strict=False):
        for height, (kind, moment) in enumerate(rows):
            values = _values(column, runs, kind, moment)
            if column.scale == "log":
                values = [max(abs(one), 1e-12) for one in values]
            shifts = [height + 0.55 * ((0.5 + 0.618 * i) % 1 - 0.5) for i in range(len(values))]
            color = "tab:green" if kind == "healthy" else "tab:red"
            axis.scatter(values, shifts, s=9, color=color, alpha=0.5, linewidths=0)
        axis.axvline(column.limit, color="black", linestyle="--", linewidth=1)
        axis.axhline(len(moments) - 0.5, color="0.8", linewidth=0.8)
        axis.set_yticks(
            range(len(rows)), [f"{kind}, {moment}" for kind, moment in rows], fontsize=8
        )
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.tick_params(axis="x", which="both", labelsize=8)
        if column.scale == "log":
            axis.set_xscale("log")
        axis.set_title(f"{column.rule}: {column.name}, limit {column.limit:g}", fontsize=9)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for axis in list(axes.flat)[len(columns) :]:
        axis.remove()
    figure.savefig(RESULTS / f"{name}.png", dpi=110)


def _values(column: Column, runs: Sequence[Run], kind: str, moment: str) -> list[float]:
    wanted = "healthy" if kind == "healthy" else column.name
    found = (run.values.get((column.name, moment)) for run in runs if run.kind == wanted)
    return [one for one in found if one is not None]


def _summary(column: Column, runs: Sequence[Run]) -> str:
    healthy = [run for run in runs if run.kind == "healthy"]
    sick = [run for run in runs if run.kind == column.name]
    by_moment = [_values(column, runs, "healthy", moment) for moment in reversed(MOMENTS)]
    worst = column.worst(next(filter(None, by_moment), [math.nan]))
    lasting = [
        column.worst(found)
        for run in sick
        if (found := [value for (name, _), value in run.values.items() if name == column.name])
    ]
    mildest = column.best(lasting or [math.nan])
    reported = [
        f"{sum(column.rule in run.reported for run in group)} of {len(group)}"
        for group in (healthy, sick)
    ]
    return (
        f"| {column.rule} | {column.name} | {column.limit:g} | {_short(worst)} | {_short(mildest)} "
        f"| {reported[0]} | {reported[1]} |"
    )


def _moments(column: Column, runs: Sequence[Run]) -> Iterator[str]:
    yield "| nets | moment | runs | median | 90 % | most extreme | beyond the limit |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    # Of the healthy ones those that are nearly sick are of interest, and the other way round.
    for kind in ("healthy", "sick"):
        for moment in MOMENTS:
            values = sorted(
                _values(column, runs, kind, moment),
                reverse=(column.sick_is == "large") == (kind == "sick"),
            )
            if not values:
                continue
            tenth, beyond = values[int(0.9 * (len(values) - 1))], sum(map(column.is_beyond, values))
            yield (
                f"| {kind} | {moment} | {len(values)} | {_short(median(values))} | {_short(tenth)} "
                f"| {_short(values[-1])} | {beyond} |"
            )


def _sick(column: Column, runs: Sequence[Run]) -> Iterator[str]:
    yield "| sick net | start | middle | end | reported |"
    yield "|---|--:|--:|--:|--:|"
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.kind == column.name:
            groups[run.name].append(run)
    for name, group in groups.items():
        cells = []
        for moment in MOMENTS:
            values = _values(column, group, "sick", moment)
            cells.append(_short(median(values) if values else math.nan))
        reported = sum(column.rule in run.reported for run in group)
        yield f"| {name} | {' | '.join(cells)} | {reported} of {len(group)} |"


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value + 0.0:.2g}"
