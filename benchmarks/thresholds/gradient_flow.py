"""The statistics of the gradient rules on healthy and on sick nets.

How many decades the loss depends too steeply on some weights, by how many the gradient grows and
vanishes with depth and with time, which share of the signal varies between samples, and how many
times smaller clipping makes the updates::

    python benchmarks/thresholds/gradient_flow.py

Writes ``benchmarks/results/gradient_flow.md`` and ``gradient_flow.png``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import lightning.pytorch as pl
import torch
from _survey import Column, Looks, survey, write
from cases import grd105_always_clipped
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import Detector, Evidence, GradientDetector, Severity, rule
from lightning_nndebug.core.measurements.flow import GradientFlow
from lightning_nndebug.core.measurements.gradients import Gradients
from lightning_nndebug.core.measurements.losses import Loss
from lightning_nndebug.gradients import _squeeze

LIMITS = GradientDetector()
COLUMNS = (
    Column("steepness, in decades", "GRD101", LIMITS.exploding_decades, scale="linear"),
    Column("growth with depth, in decades", "GRD101", LIMITS.growing_decades, scale="linear"),
    Column("fading with depth, in decades", "GRD102", LIMITS.vanishing_decades, scale="linear"),
    Column(
        "fading with time, nothing learned",
        "GRD102",
        LIMITS.vanishing_decades,
        scale="linear",
    ),
    Column("share that varies", "GRD104", LIMITS.varying_share, sick_is="small"),
    Column("clipped times", "GRD105", LIMITS.clipping_factor),
)


class Watch(Detector):
    """Keeps what it sees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.judge, self.looks, self.step, self.began = GradientDetector(), Looks(), 0, 0.0

    @rule("BEN101", severity=Severity.INFO)
    def look(self, gradients: Gradients, loss: Loss) -> Iterator[Evidence]:
        """Looks at gradients."""
        self.step, self.began = loss.step, self.began or loss.value
        self.stays = loss.value > 0.95 * self.began > 0
        if gradients.loss is loss and math.isfinite(gradients.total):
            excess = self.judge._remember(gradients)[-1]["excess"]
            squeeze = _squeeze(gradients) if gradients.clip else None
            self.looks.note(
                loss.step,
                **{
                    COLUMNS[0].name: {gradients.optimizer: excess},
                    COLUMNS[5].name: {gradients.optimizer: squeeze or math.nan},
                },
            )
        yield from ()

    @rule("BEN102", severity=Severity.INFO)
    def look_at_flow(self, flow: GradientFlow) -> Iterator[Evidence]:
        """Looks at the flow."""
        fading = flow.fading.fading if flow.fading and self.stays else None
        # A signal that was never there is none that is lost.
        is_given = (flow.signal_before or 0.0) >= 5 * LIMITS.varying_share
        seen = (
            flow.growth,
            None if flow.decades is None else -flow.decades,
            None if fading is None else -fading,
            flow.signal if is_given else None,
        )
        columns = zip(COLUMNS[1:5], seen, strict=True)
        found = {column.name: {"net": one} for column, one in columns if one is not None}
        self.looks.note(flow.age, **found)
        yield from ()


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


# By the statistic that is to tell them.
NETS: dict[str, dict[str, Callable[[], pl.LightningModule]]] = {
    "steepness, in decades": {
        "tanh RNN gain 3, 24 steps": lambda: Learner(Recurrent(nn.RNN, 24, gain=3.0)),
        "tanh RNN gain 3, 60 steps": lambda: Learner(Recurrent(nn.RNN, 60, gain=3.0)),
    },
    "growth with depth, in decades": {
        "12 ReLU layers, weights 3x": lambda: Learner(mlp(12, nn.ReLU, std=3 * math.sqrt(2 / 64))),
        "20 linear layers, gain 2": lambda: Learner(mlp(20, nn.Identity, std=2 / 8)),
    },
    "fading with depth, in decades": {
        "8 sigmoid layers": lambda: Learner(mlp(8, nn.Sigmoid)),
        "12 sigmoid layers": lambda: Learner(mlp(12, nn.Sigmoid)),
        "6 sigmoid layers, SGD": lambda: Learner(mlp(6, nn.Sigmoid), sgd=True),
        "10 ReLU layers, weights 0.01": lambda: Learner(mlp(10, nn.ReLU, std=0.01)),
        "12 ReLU layers, SGD": lambda: Learner(mlp(12, nn.ReLU), sgd=True),
    },
    "fading with time, nothing learned": {
        "tanh RNN, 200 steps": lambda: Learner(Recurrent(nn.RNN, 200)),
        "GRU, 60 steps, SGD": lambda: Learner(Recurrent(nn.GRU, 60), sgd=True),
    },
    "share that varies": {
        "GRU, 60 steps": lambda: Learner(Recurrent(nn.GRU, 60)),
        "LSTM, 120 steps": lambda: Learner(Recurrent(nn.LSTM, 120)),
    },
}


def on_digits(module: Callable[[], pl.LightningModule]) -> Callable[[], Program]:
    data = DataLoader(TensorDataset(*digits()), batch_size=64, shuffle=True)
    return lambda: Program(module(), data)


SICK = {
    **{key: {name: on_digits(one) for name, one in NETS[key].items()} for key in NETS},
    "clipped times": {"clipped to 1, targets of 1000": grd105_always_clipped.sick},
}

if __name__ == "__main__":
    BEGAN = time.perf_counter()
    RUNS = list(survey(COLUMNS, Watch, GradientDetector, SICK))
    write("gradient_flow", "Gradients", COLUMNS, RUNS, BEGAN)
