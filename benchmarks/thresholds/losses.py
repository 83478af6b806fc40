"""The statistics behind LOS101 and LOS104 to LOS108, on nets that learn and on nets that do not.

    python benchmarks/thresholds/losses.py        # a minute or two

``first`` is the first loss over that of a guess, ``late`` the loss in the second half of the run
over that of the best constant, ``relation`` what predictions have to do with targets by then,
``best`` the least loss so far over that of the best constant, ``decay`` and ``terms`` what pulls
besides the data, and ``drowns`` the gradient of the strongest term over that of the weakest.
"""

from __future__ import annotations

import logging
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from program import Program, digits, fit, seed

from lightning_nndebug import Evidence, LossDetector, Severity
from lightning_nndebug.core.detector import Detector, rule
from lightning_nndebug.core.measurements.loss_terms import LossTerms
from lightning_nndebug.losses.progress import RELATION, excess, first_ratio, recent

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
Run = tuple[Loss, Callable[[Any], Any], Callable[[nn.Module], Any]]


class Terms(Detector):
    """Notes how hard the terms pull."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ratios: list[float] = []

    @rule("ZZZ101", severity=Severity.INFO)
    def note(self, found: LossTerms) -> Iterator[Evidence]:
        """A ratio."""
        shared = [one.shared for one in found.terms if one.where and one.shared]
        if len(shared) > 1:
            self.ratios.append(max(shared) / min(shared))
        return iter(())


class Task(pl.LightningModule):
    """A small net with any loss and any optimizer."""

    def __init__(self, loss: Loss, optimizer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 11))
        self.loss, self.optimizer = loss, optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net, *batch)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def adam(decay: float = 0.0, rate: float = 3e-3) -> Callable[[Any], Any]:
    return lambda p: torch.optim.AdamW(p, lr=rate, weight_decay=decay)


def sgd(decay: float = 0.0) -> Callable[[Any], Any]:
    return lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=decay)


def classes(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x)[:, :10], y)


def smoothed(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x)[:, :10], y, label_smoothing=0.2)


def pair(scale: float) -> Loss:
    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        out = net(x)
        return F.cross_entropy(out[:, :10], y) + scale**2 * F.mse_loss(out[:, 10], y.float())

    return loss


def penalized(weight: float) -> Loss:
    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return classes(net, x, y) + weight * sum(p.square().sum() for p in net.parameters())

    return loss


def rewarded(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return classes(net, x, y) - 0.5 * net(x).square().mean()


def large(std: float) -> Callable[[nn.Module], Any]:
    return lambda net: nn.init.normal_(net[2].weight, std=std)


def plain(net: nn.Module) -> None: ...


HEALTHY: dict[str, Run] = {
    "adam": (classes, adam(), plain),
    "adam, decay 0.1": (classes, adam(0.1), plain),
    "sgd, decay 5e-4": (classes, sgd(5e-4), plain),
    "slow": (classes, adam(rate=3e-4), plain),
    "smoothed": (smoothed, adam(), plain),
    "std 0.3": (classes, adam(), large(0.3)),
    "two terms": (pair(1.0), adam(), plain),
    "two terms, 1 : 9": (pair(0.33), adam(), plain),
    "penalty 1e-4": (penalized(1e-4), adam(), plain),
}
SICK: dict[str, Run] = {
    "std 4": (classes, adam(), large(4.0)),
    "random labels": (lambda net, x, y: F.cross_entropy(net(x.flip(0))[:, :10], y), adam(), plain),
    "two terms, 1 : 1e4": (pair(100.0), adam(), plain),
    "adamw, decay 100": (classes, adam(100.0), plain),
    "sgd, decay 3": (classes, sgd(3.0), plain),
    "penalty 10": (penalized(10.0), adam(), plain),
    "rewarded": (rewarded, adam(), plain),
}
COLUMNS = ("first", "late", "relation", "best", "decay", "terms", "drowns")


def measure(run: Run) -> dict[str, float]:
    """Trains for a hundred steps."""
    loss, optimizer, start = run
    task = Task(loss, optimizer)
    start(task.net)
    data = DataLoader(TensorDataset(*digits(1056)), batch_size=32, shuffle=True)
    detector, others = LossDetector(), Terms()
    fit(Program(task, data, trainer={"max_epochs": 3}), detector, others)
    history = next(iter(detector.histories.values()))
    looks = history["looks"]
    begun = {**history, "looks": looks[:3]}
    pulls = {name.partition("(")[0]: max(one) for name, one in detector.pulls.items()}
    nan = float("nan")
    return {
        "first": (first_ratio(begun) or (nan,))[0],
        "late": excess(history, recent(history)),
        "relation": statistics.fmean(one[RELATION] for one in recent(history)),
        "best": min(excess(history, looks[i : i + 2]) for i in range(len(looks) - 1)),
        "decay": max((one for name, one in pulls.items() if name != "loss"), default=nan),
        "terms": pulls.get("loss", nan),
        "drowns": statistics.median(others.ratios) if others.ratios else nan,
    }


def main(seeds: int = 2) -> None:
    logging.getLogger("lightning_nndebug").setLevel(logging.CRITICAL)
    sys.stdout.write(f"{'':28}" + "".join(f"{one:>10}" for one in COLUMNS) + "\n")
    for kind, runs in (("healthy", HEALTHY), ("sick", SICK)):
        for name, run in runs.items():
            rows: dict[str, list[float]] = defaultdict(list)
            for value in range(seeds):
                seed(value)
                for column, number in measure(run).items():
                    rows[column].append(number)
            cells = "".join(f"{statistics.fmean(rows[one]):>10.3g}" for one in COLUMNS)
            sys.stdout.write(f"{kind + ', ' + name:28}{cells}\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
