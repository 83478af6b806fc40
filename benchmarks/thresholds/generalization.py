"""Training beside validation and beside simple models, in runs that generalize and runs that do not.

    python benchmarks/thresholds/generalization.py

Prints the statistics of GEN101, GEN102, GEN103, GEN104 and GEN107 at every look.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch
from cases._parts import loader, split
from cases._scored import Scored, noisy, wide
from program import Program, fit, seed
from torch import nn

from lightning_nndebug import Detector, Evidence, Severity, rule
from lightning_nndebug.core.measurements.baselines import Baselines
from lightning_nndebug.core.measurements.loss_curve import LossCurve
from lightning_nndebug.core.measurements.scores import Scores
from lightning_nndebug.core.measurements.skill import Skill
from lightning_nndebug.generalization import GeneralizationDetector, _by_heart, _turn, hidden

SEEDS = (0, 1)


class Table(Detector):
    """Notes the statistics."""

    @rule("BEN102", severity=Severity.INFO)
    def notes_baselines(self, baselines: Baselines) -> Iterator[Evidence]:
        """Notes the error of the net less that of the better simple model."""
        rows["behind"].append(baselines.net - min(baselines.linear, baselines.kernel))
        yield from ()

    @rule("BEN103", severity=Severity.INFO)
    def notes_curve(self, curve: LossCurve) -> Iterator[Evidence]:
        """Notes what the last fifth has gained."""
        rows["still_falling"].append(curve.gain(0.2)[0])
        yield from ()

    @rule("BEN104", severity=Severity.INFO)
    def notes_skill(self, skill: Skill) -> Iterator[Evidence]:
        """Notes what does not show in training."""
        rows["hidden"].append(hidden(skill.looks[-1]))
        yield from ()

    @rule("BEN101", severity=Severity.INFO)
    def notes_scores(self, scores: Scores) -> Iterator[Evidence]:
        """Notes how much worse than its best the validation loss is."""
        turn = _turn(scores, "val_loss", "min")
        rows["rise"].append(0.0 if turn is None else (turn[2] - turn[1]) / turn[1])
        rows["gap"].append(_by_heart(scores.looks))
        yield from ()


rows: dict[str, list[float]] = {}


class Noisy(Scored):
    """Adds noise to the inputs in training."""

    def __init__(self, sigma: float, **options) -> None:
        super().__init__(**options)
        self.sigma = sigma

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(x + self.sigma * torch.randn_like(x), y)


def digits(
    module: Callable[[], nn.Module], epochs: int = 8, size: int = 1347, noise: float = 0.0
) -> Callable[[], Program]:
    def program() -> Program:
        (x, y), val = split()
        train = loader(x[:size], noisy(y[:size], noise))
        return Program(module(), train, loader(*val, shuffle=False), {"max_epochs": epochs})

    return program


def bottleneck(units: int, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    return nn.Sequential(nn.Linear(64, units), activation(), nn.Linear(units, 10))


def decayed(decay: float) -> nn.Module:
    class Decayed(Scored):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=decay)

    return Decayed(wide())


PROGRAMS: dict[str, Callable[[], Program]] = {
    **{
        f"dropout {p}, lr {lr}": digits(lambda p=p, lr=lr: Scored(wide(dropout=p), lr=lr))
        for p in (0.1, 0.5, 0.7, 0.8, 0.9, 0.95)
        for lr in (1e-3, 5e-3)
    },
    "dropout 0.5, small data": digits(lambda: Scored(wide(dropout=0.5)), 24, 256),
    **{f"input noise {s}": digits(lambda s=s: Noisy(s)) for s in (0.1, 0.5, 1.0, 2.0)},
    **{
        f"{units} hidden units": digits(lambda units=units: Scored(bottleneck(units), lr=1e-2))
        for units in (1, 2, 3, 4, 8, 32)
    },
    **{f"weight decay {d}": digits(lambda d=d: decayed(d)) for d in (1e-3, 1e-2, 0.1, 0.3)},
    "logistic regression": digits(lambda: Scored(nn.Linear(64, 10), lr=1e-2)),
    **{
        f"{size} samples, {noise:.0%} noise, lr {lr}": digits(
            lambda lr=lr: Scored(wide(), lr=lr), 3000 // (size // 32) // 10, size, noise
        )
        for size in (128, 512, 1344)
        for noise in (0.0, 0.2, 0.6)
        for lr in (1e-3, 1e-2)
    },
    **{f"{epochs} epochs": digits(Scored, epochs) for epochs in (1, 2, 4, 16)},
}


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning_nndebug").setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    for name, program in PROGRAMS.items():
        for value in SEEDS:
            rows.update({key: [] for key in ("hidden", "behind", "rise", "gap", "still_falling")})
            seed(value)
            detector = GeneralizationDetector()
            fit(program(), detector, Table())
            shown = {key: " ".join(f"{one:.2f}" for one in found) for key, found in rows.items()}
            hidden_, rise = shown["hidden"][-44:], f"{rows['rise'][-1] if rows['rise'] else 0:.2f}"
            print(
                f"{name:36} {value}  hidden {hidden_:44} behind {shown['behind'][-14:]:14} "
                f"rise {rise} gap {shown['gap'][-5:]} gain {shown['still_falling'][-4:]}  "
                f"{' '.join(one.code for one in detector.findings)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
