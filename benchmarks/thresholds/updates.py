"""The statistics of the update rules on healthy and on sick nets.

How far steps move layers, by what they were and by what the usual layer moves, how much fresh
weights amplify, and how large layers get::

    python benchmarks/thresholds/updates.py

Writes ``benchmarks/results/updates.md`` and ``updates.png``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from statistics import median

import lightning.pytorch as pl
import torch
from _survey import Column, Looks, survey, write
from cases._parts import Classifier, loader
from program import Program
from torch import nn

from lightning_nndebug import Detector, Evidence, Severity, UpdateDetector, rule
from lightning_nndebug.core.measurements.updates import SampledUpdates
from lightning_nndebug.core.measurements.weights import InitialWeights
from lightning_nndebug.updates import (
    _EARLY,
    _LAYERS,
    _STEPS,
    _falls_faster,
    _growth,
    _scale,
    _usual_gradient,
)

LIMITS = UpdateDetector()
COLUMNS = (
    Column("longest step", "UPD103", LIMITS.largest_update),
    Column("usual step", "UPD103", LIMITS.usual_update),
    Column("shortest step", "UPD103", LIMITS.smallest_update, sick_is="small"),
    Column("step behind that of others", "UPD103", 1 / LIMITS.stalled_factor, sick_is="small"),
    Column("gain of fresh weights", "UPD104", LIMITS.largest_gain),
    Column("gradient of the usual layer", "UPD104", LIMITS.smallest_gradient, sick_is="small"),
    Column("growth of the usual layer", "UPD105", LIMITS.running_factor),
    Column("growth while the loss falls ever faster", "UPD105", LIMITS.running_factor / 10),
)


class Watch(Detector):
    """Keeps what it sees of the matrices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.looks = Looks()
        self.descents: dict[str, list[list[float]]] = {}

    @rule("BEN201", severity=Severity.INFO)
    def look(self, updates: SampledUpdates) -> Iterator[Evidence]:
        """Looks at updates."""
        ones = [one for one in updates.updates if one.kind == "matrix" and one.gradient]
        ones = [one for one in ones if math.isfinite(one.update) and one.weight]
        if len(ones) < _LAYERS:
            return
        usual, age = median(one.ratio for one in ones), ones[0].age
        old = [one for one in ones if one.age >= _STEPS and usual]
        seen = (
            {one.name: one.update / _scale(one) for one in ones},
            {"net": median(one.update / _scale(one) for one in ones)},
            {one.name: one.ratio for one in old},
            {one.name: one.ratio / usual for one in old},
        )
        columns = zip(COLUMNS[:4], seen, strict=True)
        self.looks.note(age, **{column.name: values for column, values in columns})
        if not age:
            self.looks.note(age, **{COLUMNS[5].name: {"net": _usual_gradient(updates.updates)}})
        if 0 < age <= _EARLY:
            self.looks.note(age, **{COLUMNS[6].name: {"net": median(map(_growth, ones))}})
        for name, loss in updates.losses.items():
            descent = self.descents.setdefault(name, [])
            descent.append([float(age), loss])
            growths = [_growth(one) for one in ones if one.optimizer == name]
            if growths and _falls_faster(descent):
                self.looks.note(age, **{COLUMNS[7].name: {name: median(growths)}})
        yield from ()

    @rule("BEN202", severity=Severity.INFO)
    def begin(self, initial: InitialWeights) -> Iterator[Evidence]:
        """Looks at the initial weights."""
        fresh = [one for one in initial.weights if one.kind == "matrix" and one.looks_random]
        gains = {one.name: one.gain for one in fresh if not one.is_normalized}
        self.looks.note(0, **{COLUMNS[4].name: gains})
        yield from ()


class Optimized(Classifier):
    """A classifier with optimizers, and weights, of one's own."""

    def __init__(
        self,
        optimizer: Callable[[nn.Sequential], torch.optim.Optimizer],
        start=None,
        *,
        only_first: bool = False,
    ):
        net = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
        for layer in net[: 1 if only_first else None : 2] if start else ():
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


class Critic(pl.LightningModule):
    """Tells points from noise by a score that nothing bounds."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.net, self.rate = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)), rate

    def training_step(self, batch, batch_idx):
        return self.net(torch.randn_like(batch[0])).mean() - self.net(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.rate)


# By the statistic that is to tell them.
NETS: dict[str, dict[str, Callable[[], pl.LightningModule]]] = {
    "longest step": {
        "first layer: lr 1": lambda: Optimized(adam(1e-3, 1.0)),
        "first layer: lr 10": lambda: Optimized(adam(1e-3, 10.0)),
    },
    "usual step": {
        "Adam, lr 0.1": lambda: Optimized(adam(0.1)),
        "Adam, lr 1": lambda: Optimized(adam(1.0)),
    },
    "shortest step": {
        "first layer: lr 1e-9": lambda: Optimized(adam(1e-3, 1e-9)),
    },
    "step behind that of others": {
        "first layer: lr 1e-8": lambda: Optimized(adam(1e-3, 1e-8)),
        "weights of the first layer: std 1e4": lambda: Optimized(
            adam(1e-3), normal(1e4), only_first=True
        ),
    },
    "gain of fresh weights": {
        "weights: std 1": lambda: Optimized(adam(1e-3), normal(1.0)),
        "weights: std 10": lambda: Optimized(adam(1e-3), normal(10.0)),
        "weights: std 1e4": lambda: Optimized(adam(1e-3), normal(1e4)),
    },
    "gradient of the usual layer": {
        "weights: std 1e-3": lambda: Optimized(adam(1e-3), normal(1e-3)),
        "weights: std 1e-4": lambda: Optimized(adam(1e-3), normal(1e-4)),
    },
    "growth of the usual layer": {
        "Adam, lr 10": lambda: Optimized(adam(10.0)),
        "SGD, lr 100": lambda: Optimized(sgd(100.0)),
    },
    "growth while the loss falls ever faster": {
        "critic without a bound, lr 0.01": lambda: Critic(1e-2),
        "critic without a bound, lr 0.03": lambda: Critic(3e-2),
    },
}
SICK = {
    key: {name: lambda one=one: Program(one(), loader()) for name, one in NETS[key].items()}
    for key in NETS
}

if __name__ == "__main__":
    BEGAN = time.perf_counter()
    RUNS = list(survey(COLUMNS, Watch, UpdateDetector, SICK))
    write("updates", "Updates", COLUMNS, RUNS, BEGAN)
