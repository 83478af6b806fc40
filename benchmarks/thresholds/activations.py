"""The statistics of the activation rules on healthy and on sick nets.

The share of dead units, that of flat inputs, and by how many decades the scale drifts out of
bounds::

    python benchmarks/thresholds/activations.py

Writes ``benchmarks/results/activations.md`` and ``activations.png``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from _survey import Column, Looks, survey, write
from cases._parts import Classifier, loader
from program import Program, digits
from torch import nn

from lightning_nndebug import ActivationDetector, Detector, Evidence, Severity, rule
from lightning_nndebug.activations import _chains, _drift, _hidden
from lightning_nndebug.core.measurements.activations import Activations

LIMITS = ActivationDetector()
COLUMNS = (
    Column("dead", "ACT101", LIMITS.dead_share, scale="linear"),
    Column("flat", "ACT102", LIMITS.flat_share, scale="linear"),
    Column("drift", "ACT103", LIMITS.drift_decades, scale="linear"),
)


class Watch(Detector):
    """Keeps what it sees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.looks = Looks()

    @rule("BEN701", severity=Severity.INFO)
    def look(self, activations: Activations) -> Iterator[Evidence]:
        """Looks."""
        hidden = _hidden(activations)
        drift = {}
        for chain in _chains(activations.layers):
            _, last, decades = _drift(chain)
            small, large = last.std < LIMITS.smallest_std, last.std > LIMITS.largest_std
            drift[chain[0].where] = abs(decades) if (small if decades < 0 else large) else 0.0
        self.looks.note(
            activations.step,
            dead={
                f"{one.where} {one.function}": one.idle / one.units
                for one in hidden
                if one.idle is not None and not 16 <= one.inputs <= one.units - one.idle
            },
            flat={
                f"{one.where} {one.function}": one.flat for one in hidden if one.flat is not None
            },
            drift=drift,
        )
        yield from ()


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


class Attention(nn.Module):
    """Attends over the rows of a digit, with scores that are multiplied by this."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.embed, self.query, self.key = (nn.Linear(n, width) for n in (8, width, width))
        self.place, self.out = nn.Parameter(torch.randn(8, width)), nn.Linear(width, 10)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.embed(x.view(-1, 8, 8)) + self.place)
        scores = self.query(x) @ self.key(x).mT * self.scale
        return self.out((x + scores.softmax(2) @ x).mean(1))


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
        "attention of width 64, times 8": on_digits(lambda: Attention(64, 8.0)),
        "attention of width 512, unscaled": on_digits(lambda: Attention(512, 1.0)),
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
    BEGAN = time.perf_counter()
    RUNS = list(survey(COLUMNS, Watch, ActivationDetector, SICK))
    write("activations", "Activations", COLUMNS, RUNS, BEGAN)
