"""The statistics of the activation rules, on the healthy zoo and on nets that are sick.

Prints, for each net, the worst value that lasts as long as the rule asks for: the share of dead
units, the share of flat inputs (from the tenth step on), and by how many decades the scale drifts
out of bounds in each of the first eight looks. A seed stands for a quarter of the zoo, too::

    python benchmarks/thresholds/activations.py [seed] [part of a name ...]
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator

from _table import Column, draw, run
from cases._parts import Classifier, loader
from program import Program, digits
from torch import nn

from lightning_nndebug import ActivationDetector, Detector, Evidence, Severity, rule
from lightning_nndebug.activations import _chains, _drift, _hidden
from lightning_nndebug.core.measurements.activations import Activations

LIMITS = ActivationDetector()
COLUMNS = (
    Column("dead", LIMITS.dead_share),
    Column("flat", LIMITS.flat_share),
    Column("drift", LIMITS.drift_decades),
)


class Watch(Detector):
    """Keeps what it sees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.looks: list[Activations] = []

    @rule("BEN701", severity=Severity.INFO)
    def look(self, activations: Activations) -> Iterator[Evidence]:
        """Looks."""
        self.looks.append(activations)
        yield from ()

    def row(self) -> tuple[float, ...]:
        """Returns the share of dead units, that of flat inputs, and the drift."""
        dead, flat, drift = defaultdict(list), defaultdict(list), defaultdict(list)
        for look in self.looks:
            for one in _hidden(look):
                if one.idle is not None and not 16 <= one.inputs <= one.units - one.idle:
                    dead[one.where].append(one.idle / one.units)
                if one.flat is not None and look.step >= 10:
                    flat[one.where].append(one.flat)
            for chain in _chains(look.layers):
                _, last, decades = _drift(chain)
                small, large = last.std < LIMITS.smallest_std, last.std > LIMITS.largest_std
                drift[chain[0].where].append(
                    abs(decades) if (small if decades < 0 else large) else 0
                )
        return (
            max((_lasting(values, 2) for values in dead.values()), default=math.nan),
            max((min(values) for values in flat.values()), default=math.nan),
            max((min(values[:8]) for values in drift.values()), default=math.nan),
        )


def _lasting(values: list[float], looks: int) -> float:
    """Returns the highest value that so many looks in a row have reached."""
    windows = [values[i : i + looks] for i in range(max(1, len(values) - looks + 1))]
    return max(min(window) for window in windows)


def net(
    depth: int, activation: type[nn.Module], std: float | None = None, bias: float | None = None
) -> nn.Sequential:
    """A plain net with weights of this standard deviation and hidden biases of this value."""
    layers = nn.Sequential()
    for _ in range(depth - 1):
        layers.extend([nn.Linear(64, 64), activation()])
        if bias is not None:
            nn.init.constant_(layers[-2].bias, bias)
    layers.append(nn.Linear(64, 10))
    for layer in layers[::2] if std else ():
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return layers


def on_digits(
    make: Callable[[], nn.Module], lr: float = 1e-3, scale: float = 1.0
) -> Callable[[], Program]:
    """A classifier of digits, whose pixels are multiplied by this."""
    x, y = digits()
    return lambda: Program(Classifier(make(), lr), loader((x + 1) * scale if scale != 1 else x, y))


SICK = {
    "dead": {
        "ReLU, bias -10": on_digits(lambda: net(3, nn.ReLU, bias=-10.0)),
        "ReLU, bias -2": on_digits(lambda: net(3, nn.ReLU, bias=-2.0)),
        "GELU, bias -10": on_digits(lambda: net(3, nn.GELU, bias=-10.0)),
        "ReLU, lr 0.3": on_digits(lambda: net(3, nn.ReLU), lr=0.3),
        "ReLU, lr 0.1": on_digits(lambda: net(3, nn.ReLU), lr=0.1),
    },
    "flat": {
        "tanh, pixels 0..255": on_digits(lambda: net(3, nn.Tanh), scale=127.5),
        "sigmoid, pixels 0..255": on_digits(lambda: net(3, nn.Sigmoid), scale=127.5),
        "tanh, weights 1": on_digits(lambda: net(3, nn.Tanh, std=1.0)),
        "5 tanh layers, weights 1": on_digits(lambda: net(5, nn.Tanh, std=1.0)),
        "tanh, weights 3": on_digits(lambda: net(3, nn.Tanh, std=3.0)),
        "sigmoid, weights 3": on_digits(lambda: net(3, nn.Sigmoid, std=3.0)),
        "tanh, lr 0.1": on_digits(lambda: net(3, nn.Tanh), lr=0.1),
    },
    "drift": {
        "6 ReLU layers, weights 0.01": on_digits(lambda: net(6, nn.ReLU, std=0.01)),
        "10 ReLU layers, weights 0.01": on_digits(lambda: net(10, nn.ReLU, std=0.01)),
        "10 tanh layers, weights 0.01": on_digits(lambda: net(10, nn.Tanh, std=0.01)),
        "6 ReLU layers, weights 0.5": on_digits(lambda: net(6, nn.ReLU, std=0.5)),
        "10 ReLU layers, weights 0.3": on_digits(lambda: net(10, nn.ReLU, std=0.3)),
        "4 ReLU layers, weights 1": on_digits(lambda: net(4, nn.ReLU, std=1.0)),
    },
}

if __name__ == "__main__":
    draw("activations", COLUMNS, run(COLUMNS, Watch, SICK, sys.argv[1:]))
