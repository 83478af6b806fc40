"""The statistics of the gradient rules, on the healthy zoo and on nets that are sick.

Prints, for each net, the worst value that lasts as long as the rule asks for, and the limit that
lies between the healthy and the sick ones. A seed stands for a quarter of the zoo, too::

    python benchmarks/thresholds/gradient_flow.py [seed] [part of a name ...]
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from cases import grd105_always_clipped
from healthy import all_programs
from program import Program, digits, fit, seed

from lightning_nndebug import Detector, Evidence, GradientDetector, Severity, rule
from lightning_nndebug.core.measurements.flow import GradientFlow
from lightning_nndebug.core.measurements.gradients import Gradients
from lightning_nndebug.core.measurements.losses import Loss
from lightning_nndebug.gradients import _FLOWS, _LOOKS, _squeeze

STEPS = 110


class Watch(Detector):
    """Keeps what it sees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.judge = GradientDetector()
        self.squeezes: list[float] = []
        self.flows: list[GradientFlow] = []

    @rule("BEN101", severity=Severity.INFO)
    def looks(self, gradients: Gradients, loss: Loss) -> Iterator[Evidence]:
        """Looks at gradients."""
        if gradients.loss is loss and math.isfinite(gradients.total):
            self.judge._remember(gradients)
            self.squeezes.append(_squeeze(gradients) or 1.0)
        yield from ()

    @rule("BEN102", severity=Severity.INFO)
    def looks_at_flow(self, flow: GradientFlow) -> Iterator[Evidence]:
        """Looks at the flow."""
        self.flows.append(flow)
        yield from ()

    def row(self) -> tuple[float, ...]:
        """Returns excess, growth, decades, signal and squeeze: each at its worst for long enough."""
        excess = [[one["excess"] for one in history] for history in self.judge.histories.values()]
        flows = self.flows[sum(flow.age < 95 for flow in self.flows) - 2 :]
        varied = [flow for flow in flows if (flow.signal_before or 0.0) > 0.05]
        return (
            max((lasting(values, _LOOKS) for values in excess), default=-math.inf),
            lasting([flow.growth or 0.0 for flow in self.flows], _FLOWS),
            -lasting([-(flow.decades or 0.0) for flow in flows], _FLOWS),
            1 / lasting([1 / (flow.signal or 1.0) for flow in varied] or [1.0], _FLOWS),
            lasting(self.squeezes, _LOOKS),
        )


def lasting(values: list[float], looks: int) -> float:
    """Returns the highest value that so many looks in a row have reached."""
    windows = [values[i : i + looks] for i in range(max(1, len(values) - looks + 1))]
    return max((min(window) for window in windows if window), default=1e-9)


class Learner(pl.LightningModule):
    """Classifies digits."""

    def __init__(self, net: nn.Module, *, sgd: bool = False) -> None:
        super().__init__()
        self.net, self.sgd = net, sgd

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        if self.sgd:
            return torch.optim.SGD(self.parameters(), lr=0.05)
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def mlp(depth: int, activation: type[nn.Module], std: float | None = None) -> nn.Sequential:
    """A plain net; weights of this standard deviation, or as torch initializes them."""
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(64, 64), activation()]
    for layer in layers[::2] if std else ():
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, nn.Linear(64, 10))


class Recurrent(nn.Module):
    """Reads the rows of a digit, then blank ones, and tells by the last state."""

    def __init__(self, kind: type[nn.RNNBase], length: int, gain: float | None = None) -> None:
        super().__init__()
        self.rnn, self.head, self.blank = (
            kind(8, 32, batch_first=True),
            nn.Linear(32, 10),
            length - 8,
        )
        if gain:
            nn.init.orthogonal_(self.rnn.weight_hh_l0, gain)

    def forward(self, x):
        return self.head(self.rnn(F.pad(x.view(-1, 8, 8), (0, 0, 0, self.blank)))[0][:, -1])


SICK: dict[str, Callable[[], pl.LightningModule]] = {
    "tanh RNN gain 3, 24 steps": lambda: Learner(Recurrent(nn.RNN, 24, gain=3.0)),
    "tanh RNN gain 3, 60 steps": lambda: Learner(Recurrent(nn.RNN, 60, gain=3.0)),
    "12 ReLU layers, weights 3x": lambda: Learner(mlp(12, nn.ReLU, std=3 * math.sqrt(2 / 64))),
    "20 linear layers, gain 2": lambda: Learner(mlp(20, nn.Identity, std=2 / 8)),
    "8 sigmoid layers": lambda: Learner(mlp(8, nn.Sigmoid)),
    "12 sigmoid layers": lambda: Learner(mlp(12, nn.Sigmoid)),
    "6 sigmoid layers, SGD": lambda: Learner(mlp(6, nn.Sigmoid), sgd=True),
    "10 ReLU layers, weights 0.01": lambda: Learner(mlp(10, nn.ReLU, std=0.01)),
    "12 ReLU layers, SGD": lambda: Learner(mlp(12, nn.ReLU), sgd=True),
    "tanh RNN, 200 steps": lambda: Learner(Recurrent(nn.RNN, 200)),
    "GRU, 60 steps": lambda: Learner(Recurrent(nn.GRU, 60)),
}


def sick_programs() -> dict[str, Callable[[], Program]]:
    """The sick nets, on digits."""

    def on_digits(module: Callable[[], pl.LightningModule]) -> Callable[[], Program]:
        data = DataLoader(TensorDataset(*digits()), batch_size=64, shuffle=True)
        return lambda: Program(module(), data)

    programs = {name: on_digits(module) for name, module in SICK.items()}
    return {**programs, "clipped to 1, targets of 1000": grd105_always_clipped.sick}


def main(value: int, parts: list[str]) -> None:
    """Prints the table."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    limits = GradientDetector()
    worst: dict[str, list[tuple[float, ...]]] = {"healthy": [], "sick": []}
    print(f"{'':40}  excess  growth decades  signal squeeze")
    zoo = {**all_programs()}
    quarter = {name: zoo[name] for name in (list(zoo) if parts else list(zoo)[value % 4 :: 4])}
    for kind, programs in (("healthy", quarter), ("sick", sick_programs())):
        for name, program in programs.items():
            if parts and not any(part in name for part in parts):
                continue
            seed(value)
            watch = Watch()
            try:
                fit(program(), watch, max_steps=STEPS, max_epochs=-1, limit_val_batches=0)
            except Exception as error:  # needs its validation
                print(f"{kind:8}{name:32}  {type(error).__name__}")
                continue
            row = watch.row()
            worst[kind].append(row)
            print(f"{kind:8}{name:32}" + "".join(f"{number:8.2g}" for number in row), flush=True)
    edge = (max, max, min, min, max)
    for kind, rows in worst.items():
        if rows:
            numbers = [
                pick(column) for pick, column in zip(edge, zip(*rows, strict=True), strict=True)
            ]
            print(f"worst of the {kind:27}" + "".join(f"{number:8.2g}" for number in numbers))
    numbers = (
        limits.exploding_decades, limits.growing_decades, -limits.vanishing_decades,
        limits.varying_share, limits.clipping_factor,
    )  # fmt: skip
    print(f"{'limit':40}" + "".join(f"{number:8.2g}" for number in numbers))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 0, sys.argv[2:])
