"""How far the running statistics of a frozen backbone move, in standard deviations.

    python benchmarks/thresholds/norm_drift.py

Prints the statistic of MOD103 after 20, 40 and 100 steps: on the data that the backbone was trained
on, where little but noise moves them, and on other data.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch
from healthy._parts import Classifier, cnn
from program import Program, digits, fit, seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import Detector, Evidence, Severity, rule
from lightning_nndebug.core.measurements.norms import NormDrift


class Table(Detector):
    """Notes the statistic."""

    @rule("BEN103", severity=Severity.INFO)
    def note(self, drift: NormDrift) -> Iterator[Evidence]:
        """Notes the statistic."""
        rows.append(max((part.shift for part in drift.parts), default=0.0))
        yield from ()


rows: list[float] = []


def data(
    classes: range, batch_size: int = 32, scale: float = 1.0, shift: float = 0.0
) -> DataLoader:
    x, y = digits(1797, image=True)
    chosen = (y >= classes.start) & (y < classes.stop)
    return loader(scale * x[chosen] + shift, y[chosen], batch_size)


def loader(x: Tensor, y: Tensor, batch_size: int) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size, shuffle=True, drop_last=True)


def pretrained(classes: range) -> nn.Sequential:
    module = Classifier(cnn())
    fit(Program(module, data(classes), trainer={"max_epochs": 6}))
    return module.net


def flat() -> nn.Sequential:
    """One norm over vectors: the fewest samples to a statistic."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
    )
    fit(Program(Classifier(net), data(range(10)), trainer={"max_epochs": 6}))
    return net


ALL, FEW, REST = range(10), range(5), range(5, 10)
SAME = {
    "same data, batch of 64": lambda: (pretrained(ALL), data(ALL, 64)),
    "same data, batch of 32": lambda: (pretrained(ALL), data(ALL, 32)),
    "same data, batch of 8": lambda: (pretrained(ALL), data(ALL, 8)),
    "same data, vectors, batch of 32": lambda: (flat(), data(ALL, 32)),
    "same data, vectors, batch of 8": lambda: (flat(), data(ALL, 8)),
}
OTHER = {
    "other classes, batch of 32": lambda: (pretrained(FEW), data(REST, 32)),
    "other classes, batch of 8": lambda: (pretrained(FEW), data(REST, 8)),
    "contrast x 0.5": lambda: (pretrained(ALL), data(ALL, 32, scale=0.5)),
    "brightness + 0.5": lambda: (pretrained(ALL), data(ALL, 32, shift=0.5)),
    "0..1 instead of -1..1": lambda: (pretrained(ALL), data(ALL, 32, scale=0.5, shift=0.5)),
    "inverted": lambda: (pretrained(ALL), data(ALL, 32, scale=-1.0)),
}


def main() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_nndebug"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for title, programs in (("nothing to learn", SAME), ("other data", OTHER)):
        print(f"\n{title:<36}{'seed':>5}{'20':>8}{'40':>8}{'100':>8}")
        for name, build in programs.items():
            for value in range(3):
                seed(value)
                net, batches = build()
                net[:-1].requires_grad_(False)
                rows.clear()
                fit(
                    Program(Classifier(net), batches, trainer={"max_steps": 102, "max_epochs": -1}),
                    Table(),
                )
                shown = "".join(f"{rows[i]:>8.3f}" for i in (1, 2, -1))
                print(f"{name:<36}{value:>5}{shown}", flush=True)


if __name__ == "__main__":
    main()
