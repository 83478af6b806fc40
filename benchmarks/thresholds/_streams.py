"""How often rules speak up on simulated streams, healthy and sick, as tables in Markdown."""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch
from scipy.stats import beta

import lightning_nndebug

RESULTS = Path(__file__).parents[1] / "results"
HEALTHY = 500  # streams of each rule, at least

Kinds = Mapping[str, Callable[[], Any]]


class Sheet:
    """The tables of a detector: one of all rules, then for each rule one of its streams.

    Args:
        title: What stands above them.
        name: The file in ``benchmarks/results`` that they are written to.
    """

    def __init__(self, title: str, name: str) -> None:
        self.title, self.file = title, RESULTS / f"{name}.md"
        self.healthy = int(sys.argv[1]) if len(sys.argv) > 1 else HEALTHY
        self._rules: list[str] = []
        self._streams: list[str] = []
        self._began = time.perf_counter()
        torch.set_num_threads(1)

    def add(
        self,
        code: str,
        statistic: str,
        kinds: Kinds,
        look: Callable[[Any], tuple[float, str]],
        *,
        limit: str = "",
        sick: str | None = None,
    ) -> None:
        """Plays each kind of stream equally often to a rule.

        Args:
            code: The rule.
            statistic: What its verdict comes from.
            kinds: Makes a stream of each kind; the names of the sick ones begin with a dash.
            look: Returns the statistic of a stream, and the code of what was found in it.
            limit: The limit of the statistic.
            sick: What counts as found in the sick streams, if another rule may take over.
        """
        runs = math.ceil(self.healthy / sum(not one.startswith("- ") for one in kinds))
        streams = {"healthy": 0, "sick": 0}
        found = {"healthy": 0, "sick": 0}
        rows = []
        for name, make in kinds.items():
            values, codes = [], []
            for run in range(runs):
                torch.manual_seed(run)
                value, said = look(make())
                values.append(value)
                codes.append(said)
            group = "sick" if name.startswith("- ") else "healthy"
            fired = sum(one in (code, sick) for one in codes)
            streams[group] += runs
            found[group] += fired
            numbers = (statistics.median(values), min(values), max(values))
            rows.append(
                f"| {name.removeprefix('- ')} | {'sick' if group == 'sick' else ''} | "
                + " | ".join(f"{one:.3g}" for one in numbers)
                + f" | {fired / runs:.1%} |"
            )
            print(f"{code}  {rows[-1]}", flush=True)
        alarms = f"{found['healthy']} of {streams['healthy']}"
        power = f"{found['sick']} of {streams['sick']}" if streams["sick"] else ""
        most = _at_most(found["healthy"], streams["healthy"])
        self._rules.append(f"| {code} | {statistic} | {limit} | {alarms} | {most:.2%} | {power} |")
        self._streams += [
            f"\n## {code}: {statistic}\n",
            f"| stream ({runs} of each) | | median | least | largest | reported |",
            "|---|---|---|---|---|---|",
            *rows,
        ]

    def write(self, *more: str) -> None:
        """Writes everything, if it was not a short run; what stands in ``more`` comes at the end."""
        stamp = (
            f"{date.today()}, lightning-nndebug {lightning_nndebug.__version__}, "
            f"torch {torch.__version__}, {platform.system()} {platform.machine()}, "
            f"{os.cpu_count()} cores, one thread, {time.perf_counter() - self._began:.0f} s"
        )
        meaning = (
            "A false alarm is a finding in a healthy stream. With a confidence of 95 %, their rate "
            "is at most what the next column says.\n"
        )
        text = "\n".join(
            [
                f"# {self.title}\n",
                f"{stamp}. Written by `python benchmarks/thresholds/{self.file.stem}.py`.\n",
                meaning,
                "| rule | statistic | limit | false alarms | at most | sick ones found |",
                "|---|---|---|---|---|---|",
                *self._rules,
                *self._streams,
                *more,
                "",
            ]
        )
        if self.healthy >= HEALTHY:
            self.file.write_text(text, encoding="utf-8")
        print(text)


def _at_most(found: int, of: int) -> float:
    """Returns the upper end of the one-sided interval of Clopper and Pearson."""
    return float(beta.ppf(0.95, found + 1, of - found)) if found < of else 1.0
