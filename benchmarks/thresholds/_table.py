"""A table of statistics on healthy and on sick nets, and a figure of their distributions."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from healthy import all_programs
from program import Program, fit, seed

from lightning_nndebug import Detector

STEPS = 110
RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Column:
    """A statistic.

    Args:
        name: What it is called.
        limit: The limit of its rule.
        sick_is: Whether sick nets have large or small values.
    """

    name: str
    limit: float
    sick_is: str = "large"


def run(
    columns: Sequence[Column],
    watch: Callable[[], Detector],
    sick: Mapping[str, Mapping[str, Callable[[], Program]]],
    arguments: Sequence[str],
) -> dict[str, dict[str, list[float]]]:
    """Prints a row for each program; returns the values of each column, healthy and sick.

    Args:
        columns: The statistics, in the order of the rows.
        watch: Makes a detector that has a method ``row``.
        sick: For each column, the programs that are sick in this way.
        arguments: A seed, which stands for a quarter of the zoo too, and parts of the names of
            healthy programs to take instead.
    """
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    value, parts = int(arguments[0]) if arguments else 0, arguments[1:]
    zoo = all_programs()
    names = list(zoo) if parts else list(zoo)[value % 4 :: 4]
    seen: dict[str, dict[str, list[float]]] = {
        one.name: {"healthy": [], "sick": []} for one in columns
    }
    print(f"{'':48}" + "".join(f"{one.name:>10}" for one in columns))
    jobs = [("healthy", name, zoo[name], [one.name for one in columns]) for name in names]
    jobs += [("sick", name, one, [key]) for key in sick for name, one in sick[key].items()]
    for kind, name, program, keys in jobs:
        if kind == "healthy" and parts and not any(part in name for part in parts):
            continue
        seed(value)
        detector = watch()
        try:
            fit(program(), detector, max_steps=STEPS, limit_val_batches=0)
        except Exception as error:  # needs its validation
            print(f"{kind:8}{name:40}  {type(error).__name__}")
            continue
        row = dict(zip([one.name for one in columns], detector.row(), strict=True))
        for key in keys:
            if not math.isnan(row[key]):
                seen[key][kind].append(row[key])
        print(
            f"{kind:8}{name:40}" + "".join(f"{number:10.2g}" for number in row.values()), flush=True
        )
    for kind in ("healthy", "sick"):
        edges = (_edge(one, kind, seen[one.name][kind]) for one in columns)
        print(f"{'nearest of the ' + kind:48}" + "".join(f"{edge:10.2g}" for edge in edges))
    print(f"{'limit':48}" + "".join(f"{one.limit:10.2g}" for one in columns))
    return seen


def draw(
    name: str, columns: Sequence[Column], seen: Mapping[str, Mapping[str, list[float]]]
) -> None:
    """Draws the distributions as points, healthy above sick, with the limit between them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(len(columns), 1, figsize=(7, 1.5 * len(columns)), layout="constrained")
    for axis, column in zip(axes, columns, strict=True):
        for height, (kind, color) in enumerate((("sick", "tab:red"), ("healthy", "tab:green"))):
            values = [max(one, 1e-4) for one in seen[column.name][kind]]
            axis.plot(values, [height] * len(values), "|", color=color, markersize=14)
        axis.axvline(column.limit, color="black", linestyle="--", linewidth=1)
        axis.set_yticks([0, 1], ["sick", "healthy"])
        axis.set_ylim(-0.6, 1.6)
        axis.set_xscale("log")
        axis.set_title(f"{column.name}, limit {column.limit:g}", fontsize=9, loc="left")
    RESULTS.mkdir(exist_ok=True)
    plt.savefig(RESULTS / f"{name}.png", dpi=80)


def _edge(column: Column, kind: str, values: Sequence[float]) -> float:
    """Returns the value that is nearest to the limit, on its own side."""
    pick = max if (kind == "healthy") == (column.sick_is == "large") else min
    return pick(values, default=math.nan)
