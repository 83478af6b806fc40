"""The statistics of the update rules, on the healthy zoo and on nets that are sick.

Prints, for each net, the worst value that lasts as long as the rule asks for, and draws the two
distributions, with the limit between them, into ``benchmarks/results/updates.png``::

    python benchmarks/thresholds/updates.py [seed] [part of a name ...]
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import matplotlib as mpl
import torch
from cases._parts import Classifier, loader
from healthy import all_programs
from program import Program, fit, seed
from torch import nn

from lightning_nndebug import Detector, Evidence, Severity, UpdateDetector, rule
from lightning_nndebug.core.measurements.updates import SampledUpdates
from lightning_nndebug.core.measurements.weights import InitialWeights
from lightning_nndebug.updates import _EARLY, _LAYERS, _LOOKS, _STEPS, _growth, _scale

RULES = UpdateDetector()
COLUMNS = {
    "longest step": RULES.largest_update,
    "usual step": RULES.usual_update,
    "shortest step": RULES.smallest_update,
    "behind others": 1 / RULES.stalled_factor,
    "gain": RULES.largest_gain,
    "growth": RULES.running_factor,
}


class Watch(Detector):
    """Keeps what it sees of the matrices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.long: dict[str, list[float]] = {}
        self.short: dict[str, list[tuple[float, float]]] = {}
        self.growths: list[float] = []
        self.strides: list[float] = []
        self.gain = 0.0

    @rule("BEN201", severity=Severity.INFO)
    def look(self, updates: SampledUpdates) -> Iterator[Evidence]:
        """Looks at updates."""
        ones = [one for one in updates.updates if one.kind == "matrix" and one.gradient]
        ones = [one for one in ones if math.isfinite(one.update) and one.weight]
        if len(ones) >= _LAYERS:
            usual = median(one.ratio for one in ones)
            self.strides.append(median(one.update / _scale(one) for one in ones))
            for one in ones:
                self.long.setdefault(one.name, []).append(one.update / _scale(one))
                if one.age >= _STEPS and usual:
                    row = one.ratio, one.ratio / usual
                    self.short.setdefault(one.name, []).append(row)
            if 0 < ones[0].age <= _EARLY:
                self.growths.append(median(map(_growth, ones)))
        yield from ()

    @rule("BEN202", severity=Severity.INFO)
    def begin(self, initial: InitialWeights) -> Iterator[Evidence]:
        """Looks at the initial weights."""
        fresh = [one for one in initial.weights if one.kind == "matrix" and one.looks_random]
        self.gain = max((one.gain for one in fresh if not one.is_normalized), default=0.0)
        yield from ()

    def row(self) -> list[float]:
        """Returns one number for each column."""
        least = [lasting([-ratio for ratio, _ in rows]) for rows in self.short.values()]
        behind = [lasting([-ratio for _, ratio in rows]) for rows in self.short.values()]
        return [
            max(map(lasting, self.long.values()), default=math.nan),
            lasting(self.strides),
            -max(least, default=math.nan),
            -max(behind, default=math.nan),
            self.gain or math.nan,
            lasting(self.growths),
        ]


def lasting(values: list[float]) -> float:
    """Returns the highest value that so many looks in a row have reached."""
    windows = [values[i : i + _LOOKS] for i in range(len(values) - _LOOKS + 1)]
    return max(map(min, windows), default=math.nan)


class Optimized(Classifier):
    """A classifier with optimizers, and weights, of one's own."""

    def __init__(self, optimizer: Callable[[nn.Sequential], torch.optim.Optimizer], start=None):
        net = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
        for layer in net[::2] if start else ():
            start(layer.weight)
        super().__init__(net)
        self.optimizer = optimizer

    def configure_optimizers(self):
        return self.optimizer(self.net)


def adam(rate: float, first: float | None = None) -> Callable[[nn.Sequential], torch.optim.Adam]:
    def make(net: nn.Sequential) -> torch.optim.Adam:
        groups = [{"params": net[0].parameters(), "lr": first or rate}]
        return torch.optim.Adam([*groups, {"params": net[1:].parameters()}], lr=rate)

    return make


def sgd(rate: float) -> Callable[[nn.Sequential], torch.optim.SGD]:
    return lambda net: torch.optim.SGD(net.parameters(), lr=rate)


def normal(std: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: nn.init.normal_(weight, std=std)


SICK: dict[str, Callable[[], Classifier]] = {
    "first layer: lr 1e-8": lambda: Optimized(adam(1e-3, 1e-8)),
    "first layer: lr 1e-9": lambda: Optimized(adam(1e-3, 1e-9)),
    "first layer: lr 1": lambda: Optimized(adam(1e-3, 1.0)),
    "first layer: lr 10": lambda: Optimized(adam(1e-3, 10.0)),
    "Adam, lr 0.1": lambda: Optimized(adam(0.1)),
    "Adam, lr 1": lambda: Optimized(adam(1.0)),
    "Adam, lr 10": lambda: Optimized(adam(10.0)),
    "SGD, lr 100": lambda: Optimized(sgd(100.0)),
    "weights: std 1": lambda: Optimized(adam(1e-3), normal(1.0)),
    "weights: std 10": lambda: Optimized(adam(1e-3), normal(10.0)),
    "weights: std 1e4": lambda: Optimized(adam(1e-3), normal(1e4)),
}


def main() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_nndebug"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    value = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    parts = sys.argv[2:] or [""]
    healthy = {
        name: build for name, build in all_programs().items() if any(one in name for one in parts)
    }
    sick = {
        name: lambda build=build: Program(build(), loader(), trainer={"max_epochs": 3})
        for name, build in SICK.items()
    }
    print(f"{'':<34}" + "".join(f"{name:>15}" for name in COLUMNS))
    print(f"{'limit':<34}" + "".join(f"{limit:>15.1e}" for limit in COLUMNS.values()))
    tables = [[run(name, build, value) for name, build in one.items()] for one in (healthy, sick)]
    draw(*tables)


def run(name: str, build: Callable[[], Program], value: int) -> list[float]:
    seed(value)
    watch = Watch()
    fit(build(), watch)
    row = watch.row()
    print(f"{name:<34}" + "".join(f"{one:>15.1e}" for one in row), flush=True)
    return row


def draw(healthy: list[list[float]], sick: list[list[float]]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(COLUMNS), figsize=(12, 2.6), layout="constrained")
    for i, (axis, (name, limit)) in enumerate(zip(axes, COLUMNS.items(), strict=True)):
        for rows, color, height in ((healthy, "tab:green", 0.0), (sick, "tab:red", 1.0)):
            found = [math.log10(row[i]) for row in rows if row[i] > 0 and math.isfinite(row[i])]
            shift = [height + 0.6 * ((j * 0.618) % 1 - 0.5) for j in range(len(found))]
            axis.scatter(found, shift, s=6, color=color, alpha=0.6)
        axis.axvline(math.log10(limit), color="black", lw=1)
        axis.set(title=name, yticks=[0, 1], yticklabels=["healthy", "sick"], xlabel="decades")
    path = Path(__file__).parents[1] / "results" / "updates.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
