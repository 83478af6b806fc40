"""The statistics of the output rules, on the healthy zoo and on nets that are sick.

Prints, for each net, how much its predictions vary between samples (the largest of five looks in
a row, from step 30 on, at its smallest), and which share of the variance of its targets it cannot
reach. A seed stands for a quarter of the zoo, too::

    python benchmarks/thresholds/outputs.py [seed] [part of a name ...]
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from _table import Column, draw, run
from cases import out101_collapsed_predictions
from cases._parts import Classifier, loader
from program import Program, digits
from torch import nn
from torch.nn import functional as F

from lightning_nndebug import Detector, Evidence, OutputDetector, Severity, rule
from lightning_nndebug.core.measurements.activations import Activations
from lightning_nndebug.core.measurements.predictions import Predictions
from lightning_nndebug.outputs import _AGE, _LOOKS, _spreads

LIMITS = OutputDetector()
COLUMNS = (
    Column("spread", LIMITS.least_spread, sick_is="small"),
    Column("beyond", LIMITS.unreachable_share),
)


class Watch(Detector):
    """Keeps what it sees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.spreads: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.beyond: list[float] = []

    @rule("BEN801", severity=Severity.INFO)
    def look(self, predictions: Predictions, activations: Activations) -> Iterator[Evidence]:
        """Looks."""
        self.beyond += [one.beyond for one in predictions.pairs]
        for where, spread, _ in _spreads(predictions, activations, LIMITS.unreachable_share):
            self.spreads[where].append((predictions.step, spread))
        yield from ()

    def row(self) -> tuple[float, ...]:
        """Returns the spread and what is beyond reach."""
        lasting = [
            max(spread for _, spread in looks[end - _LOOKS : end])
            for looks in self.spreads.values()
            for end in range(_LOOKS, len(looks) + 1)
            if looks[end - 1][0] >= _AGE
        ]
        return min(lasting, default=math.nan), max(self.beyond, default=math.nan)


class Regression(Classifier):
    def loss(self, x, y):
        return F.mse_loss(self(x), y)


def ending(
    last: nn.Module, targets: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[], Program]:
    """A regression with this last layer and these targets."""
    x, y = digits()
    goal = targets(y.float()[:, None])
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), last)
    return lambda: Program(Regression(net), loader(x, goal))


def classifier(*tail: nn.Module, lr: float = 1e-3) -> Callable[[], Program]:
    """A classifier that ends like this."""
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *tail)
    return lambda: Program(Classifier(net, lr), loader())


def dead() -> Program:
    """All hidden units are dead."""
    program = classifier(nn.Linear(64, 10))()
    nn.init.constant_(program.module.net[0].bias, -20.0)
    return program


def standard(y: torch.Tensor) -> torch.Tensor:
    return (y - y.mean()) / y.std()


SICK = {
    "spread": {
        "averaged over samples": out101_collapsed_predictions.sick,
        "dead units": dead,
        "layer norm over one feature": classifier(
            nn.Linear(64, 1), nn.LayerNorm(1), nn.Linear(1, 10)
        ),
        "ReLU at the end, lr 1": classifier(nn.Linear(64, 10), nn.ReLU(), lr=1.0),
    },
    "beyond": {
        "tanh, 0..9": ending(nn.Tanh(), lambda y: y),
        "tanh, standardized": ending(nn.Tanh(), standard),
        "sigmoid, standardized": ending(nn.Sigmoid(), standard),
        "ReLU, standardized": ending(nn.ReLU(), standard),
        "sigmoid, -1 and 1": ending(nn.Sigmoid(), lambda y: (y > 4).float() * 2 - 1),
        "softmax, 0..9": ending(nn.Softmax(dim=0), lambda y: y),
    },
}

if __name__ == "__main__":
    draw("outputs", COLUMNS, run(COLUMNS, Watch, SICK, sys.argv[1:]))
