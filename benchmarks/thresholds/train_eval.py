"""What share of all that was learned is lost in eval mode, on one and the same batch.

    python benchmarks/thresholds/train_eval.py

Prints the statistic of MOD105 at every look, for nets whose two modes agree and for nets whose do not.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch
from healthy._parts import Classifier, cnn, digit_loaders, mlp
from program import Program, digits, fit, seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import Detector, Evidence, Severity, rule
from lightning_nndebug.core.measurements.both_modes import BothModes
from lightning_nndebug.modes import share_lost


class Table(Detector):
    """Notes the statistic."""

    @rule("BEN105", severity=Severity.INFO)
    def note(self, both: BothModes) -> Iterator[Evidence]:
        """Notes the statistic."""
        rows.append((both.batches, both.train, both.eval, both.initial, share_lost(both)))
        yield from ()


rows: list[tuple[float, ...]] = []


class UnscaledDropout(nn.Module):
    """Dropout by hand, which forgets to divide by 1 - p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x):
        return x * (torch.rand_like(x) > self.p) if self.training else x


def net(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    return cnn(norm=norm)


def dense(
    *extra: nn.Module, width: int = 64, norm: Callable[[int], nn.Module] | None = None
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in (64, width):
        layers += [nn.Linear(i, width), *([norm(width)] if norm else []), nn.ReLU(), *extra]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def momentum(value: float | None) -> Callable[[int], nn.Module]:
    return lambda channels: nn.BatchNorm2d(channels, momentum=value)


def one_class_batches(size: int = 32) -> dict[str, DataLoader]:
    """Each batch has samples of one class: batch norm gives the class away in training."""
    x, y = digits(1024, image=True)
    order = torch.argsort(y)
    batches = torch.cat([order[: len(order) // size * size].view(-1, size)])
    batches = batches[torch.randperm(len(batches))]
    return {"train": DataLoader(TensorDataset(x, y), batch_sampler=batches.tolist())}


def two_domains() -> dict[str, DataLoader]:
    """Batches come from two domains in turn, and the running statistics fit neither."""
    x, y = digits(1024, image=True)
    batches = torch.randperm(1024).view(-1, 32)
    x[batches[::2].flatten()] = 8 * x[batches[::2].flatten()] + 40
    return {"train": DataLoader(TensorDataset(x, y), batch_sampler=batches.tolist())}


def raw_pixels() -> dict[str, DataLoader]:
    """Pixels of 0..255."""
    x, y = digits(1024, image=True)
    return {"train": DataLoader(TensorDataset((x + 1) * 127, y), 32, shuffle=True)}


def train_only(**options) -> dict[str, DataLoader]:
    return {"train": digit_loaders(**options)["train"]}


HEALTHY: dict[str, Callable[[], Program]] = {
    "batch norm": lambda: Program(Classifier(net()), **train_only()),
    "batch norm, lr 0.1": lambda: Program(Classifier(net(), lr=0.1), **train_only()),
    "batch norm, batch of 4": lambda: Program(Classifier(net()), **train_only(batch_size=4)),
    "batch norm, momentum 0.01": lambda: Program(
        Classifier(net(momentum(0.01))), **train_only(), trainer={"max_steps": 600}
    ),
    "batch norm, cumulative": lambda: Program(Classifier(net(momentum(None))), **train_only()),
    "batch norm, raw pixels": lambda: Program(Classifier(net()), **raw_pixels()),
    "dropout 0.2": lambda: Program(Classifier(dense(nn.Dropout(0.2))), **train_only(image=False)),
    "dropout 0.8": lambda: Program(
        Classifier(dense(nn.Dropout(0.8), width=256)), **train_only(image=False)
    ),
    "dropout 0.5 and batch norm": lambda: Program(
        Classifier(dense(nn.Dropout(0.5), norm=nn.BatchNorm1d)), **train_only(image=False)
    ),
    "dropout before batch norm": lambda: Program(
        Classifier(
            nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(64), nn.Linear(64, 10)
            )
        ),
        **train_only(image=False),
    ),
    "alpha dropout and SELU": lambda: Program(
        Classifier(
            nn.Sequential(nn.Linear(64, 64), nn.SELU(), nn.AlphaDropout(0.2), nn.Linear(64, 10))
        ),
        **train_only(image=False),
    ),
    "RReLU": lambda: Program(
        Classifier(mlp(64, 64, 64, 10, activation=nn.RReLU)), **train_only(image=False)
    ),
    "polished at 1e-5": lambda: Program(Classifier(polished(), lr=1e-5), **train_only()),
}

SICK: dict[str, Callable[[], Program]] = {
    "batch norm, momentum 0.001, 200 steps": lambda: Program(
        Classifier(net(momentum(0.001))), **train_only(), trainer={"max_steps": 200}
    ),
    "batch norm, momentum 0.001, raw pixels": lambda: Program(
        Classifier(net(momentum(0.001))), **raw_pixels(), trainer={"max_steps": 200}
    ),
    "batch norm, two domains in turn": lambda: Program(Classifier(net()), **two_domains()),
}

# Sick in ways that the batch at hand shows but now and then, or not at all.
HARD: dict[str, Callable[[], Program]] = {
    "batch norm, batches of one class": lambda: Program(Classifier(net()), **one_class_batches()),
    "dropout 0.8 that does not rescale": lambda: Program(
        Classifier(dense(UnscaledDropout(0.8), width=256)), **train_only(image=False)
    ),
    "dropout 0.5 that does not rescale": lambda: Program(
        Classifier(dense(UnscaledDropout(0.5), width=256)), **train_only(image=False)
    ),
    "batch norm, batch of 2": lambda: Program(
        Classifier(net(), lr=3e-2), **train_only(batch_size=2)
    ),
}


def polished() -> nn.Sequential:
    """A trained net with batch norm."""
    module = Classifier(net())
    fit(Program(module, **train_only(), trainer={"max_epochs": 6}))
    return module.net


def main() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_nndebug"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for title, programs in (
        ("modes agree", HEALTHY),
        ("modes disagree", SICK),
        ("hard to see", HARD),
    ):
        print(f"\n{title:<42}{'seed':>5}   share of the progress lost in eval mode, look by look")
        for name, build in programs.items():
            for value in range(3):
                rows.clear()
                seed(value)
                program = build()
                program.trainer.setdefault("max_steps", 300)
                program.trainer.setdefault("max_epochs", -1)
                fit(program, Table())
                print(
                    f"{name:<42}{value:>5}   "
                    + "  ".join(f"{int(b)}: {share:.2f}" for b, *_, share in rows)
                )


if __name__ == "__main__":
    main()
