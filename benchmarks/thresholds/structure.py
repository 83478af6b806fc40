"""The statistics of the structure rules on healthy and on sick nets.

How many times larger dropout makes the variance that a batch norm gets, how many values its
statistics are worth, and how many layers follow another one with no bend between, or are never
used; and, for normal and for ReLU features, the correlation between what a norm gives in training
and what it would give with the true statistics, by the number of values behind them::

    python benchmarks/thresholds/structure.py

Writes ``benchmarks/results/structure.md`` and ``structure.png``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from _survey import Column, Looks, survey, write
from cases._parts import Classifier, loader
from program import Program, digits
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_nndebug import Detector, Evidence, Severity, StructureDetector, rule
from lightning_nndebug.core.measurements.unused import Unused
from lightning_nndebug.core.measurements.wiring import Wiring
from lightning_nndebug.structure import _inflation, _is, _is_redundant, _worth

LIMITS = StructureDetector()
COLUMNS = (
    Column("variance in training over that in validation", "STR101", LIMITS.largest_inflation),
    Column("layers right behind another one", "STR103", 0, scale="count"),
    Column("worth of a norm's batch", "STR104", LIMITS.smallest_norm_batch, sick_is="small"),
    Column("modules that nothing uses", "STR105", 0, scale="count"),
)
STEPS = 24
VALUES = (2, 3, 4, 5, 6, 8, 12, 16, 32, 64)
KINDS: dict[str, Callable[[Tensor], Tensor]] = {"normal": lambda x: x, "ReLU": torch.relu}


class Watch(Detector):
    """Keeps what it sees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.looks = Looks()

    @rule("BEN211", severity=Severity.INFO)
    def look(self, wiring: Wiring) -> Iterator[Evidence]:
        """Looks at the layers."""
        inflation, direct, worth, _ = (column.name for column in COLUMNS)
        norms = {norm.name: norm for norm in wiring.norms}
        links = wiring.links
        drops = [link for link in links if _is(link, "dropout", "batch norm")]
        drops = [link for link in drops if link.target.name in norms]
        behind = [link for link in links if _is_redundant(link) and link.is_only and link.is_plain]
        self.looks.note(0, **{
            inflation: {
                link.target.name: _inflation(link.source.rate, norms[link.target.name].offset)
                for link in drops
            },
            direct: {"net": len({link.target.name for link in behind})},
            worth: {name: _worth(norm) for name, norm in norms.items()},
        })  # fmt: skip
        yield from ()

    @rule("BEN212", severity=Severity.INFO)
    def count(self, unused: Unused) -> Iterator[Evidence]:
        """Looks at what is left over."""
        self.looks.note(0, **{COLUMNS[3].name: {"net": len(unused.modules)}})
        yield from ()


def on_digits(
    make: Callable[[], nn.Module], *, image: bool = False, size: int = 32
) -> Callable[[], Program]:
    x, y = digits(image=image)
    return lambda: Program(Classifier(make()), loader(x, y, batch_size=size))


def dense(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), *middle, nn.Linear(64, 10))


def images(*middle: nn.Module) -> nn.Sequential:
    first = nn.Conv2d(1, 16, 3, stride=2, padding=1)
    return nn.Sequential(first, *middle, nn.Flatten(), nn.LazyLinear(10))


class Functional(nn.Module):
    """Drops by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.out = nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.one(x)), 0.5, self.training)
        return self.out(self.norm(x))


class Own(nn.Linear):
    """A layer with an initialization of one's own."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)


class Looped(nn.Module):
    """Layers in a list, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


class Block(nn.Module):
    """A convolution and a norm; the activation is made and not called."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Spare(nn.Module):
    """Has a layer that is not called; or one behind a switch that is off."""

    def __init__(self, is_switched: bool = False) -> None:
        super().__init__()
        self.one, self.out, self.refines = nn.Linear(64, 64), nn.Linear(64, 10), False
        if is_switched:
            self.refine = nn.Linear(64, 64)
        else:
            self.forgotten = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        if self.refines:
            x = F.relu(self.refine(x))
        return self.out(x)


class WideResidual(nn.Module):
    """Zagoruyko and Komodakis 2016: dropout of 0.3 between a convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)])
        self.convolutions = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.convolutions[0](F.relu(self.norms[0](x))))
        return x + self.convolutions[1](F.relu(self.norms[1](y)))


ALIKE = {
    "dropout 0.1 of a ReLU, norm": on_digits(
        lambda: dense(nn.ReLU(), nn.Dropout(0.1), nn.BatchNorm1d(64))
    ),
    "dropout 0.2 of a ReLU, norm": on_digits(
        lambda: dense(nn.ReLU(), nn.Dropout(0.2), nn.BatchNorm1d(64))
    ),
    "wide residual blocks": on_digits(
        lambda: images(WideResidual(), WideResidual(), WideResidual()), image=True
    ),
    "norm, ReLU, dropout 0.5": on_digits(
        lambda: dense(nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.ReLU())
    ),
    "a norm with a batch of four": on_digits(lambda: dense(nn.BatchNorm1d(64), nn.ReLU()), size=4),
    "a norm with one image of 4 x 4": on_digits(
        lambda: images(nn.BatchNorm2d(16), nn.ReLU()), image=True, size=1
    ),
    "a bottleneck": on_digits(lambda: nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 10))),
    "a layer norm between": on_digits(
        lambda: dense(nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU())
    ),
}

SICK = {
    COLUMNS[0].name: {
        "dropout 0.5, norm": on_digits(
            lambda: dense(nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(64))
        ),
        "dropout 0.3 of a ReLU, norm": on_digits(
            lambda: dense(nn.ReLU(), nn.Dropout(0.3), nn.BatchNorm1d(64))
        ),
        "dropout 0.4, ReLU, norm": on_digits(
            lambda: dense(nn.Dropout(0.4), nn.ReLU(), nn.BatchNorm1d(64))
        ),
        "F.dropout 0.5, norm": on_digits(Functional),
        "dropout of channels 0.5, pooling, norm": on_digits(
            lambda: images(nn.ReLU(), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.BatchNorm2d(16)),
            image=True,
        ),
    },
    COLUMNS[1].name: {
        "three linear layers": on_digits(lambda: dense(nn.Linear(64, 64))),
        "dropout between": on_digits(lambda: dense(nn.Dropout(0.2), nn.Linear(64, 64))),
        "batch norm between": on_digits(lambda: dense(nn.BatchNorm1d(64), nn.Linear(64, 64))),
        "layers of one's own": on_digits(lambda: nn.Sequential(Own(64, 128), Own(128, 10))),
        "layers in a list": on_digits(Looped),
        "convolutions and norms": on_digits(
            lambda: nn.Sequential(Block(1, 8), Block(8, 8), nn.Flatten(), nn.Linear(512, 10)),
            image=True,
        ),
    },
    COLUMNS[2].name: {
        "a batch of two": on_digits(lambda: dense(nn.BatchNorm1d(64), nn.ReLU()), size=2),
        "a batch of three": on_digits(lambda: dense(nn.BatchNorm1d(64), nn.ReLU()), size=3),
        "one image, 2 x 2 positions": on_digits(
            lambda: images(nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.ReLU()), image=True, size=1
        ),
    },
    COLUMNS[3].name: {
        "a layer that is not called": on_digits(Spare),
        "a layer that is switched off": on_digits(lambda: Spare(is_switched=True)),
    },
}


def kept(x: Tensor) -> float:
    """Returns the correlation for batches (number, values)."""
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    pair = torch.stack([x.flatten(), normed.flatten()])
    return float(torch.corrcoef(pair)[0, 1])


def correlations() -> Iterator[str]:
    """Yields the table of what a norm keeps."""
    torch.manual_seed(0)
    yield "## What a batch norm keeps, by the number of values behind its statistics"
    yield ""
    yield "| values | " + " | ".join(map(str, VALUES)) + " |"
    yield "|---|" + "--:|" * len(VALUES)
    for name, function in KINDS.items():
        row = (f"{kept(function(torch.randn(200_000 // n, n))):.3f}" for n in VALUES)
        yield f"| correlation with the truth, {name} | {' | '.join(row)} |"


if __name__ == "__main__":
    BEGAN = time.perf_counter()
    RUNS = list(survey(COLUMNS, Watch, StructureDetector, SICK, STEPS, ALIKE))
    write("structure", "Structure", COLUMNS, RUNS, BEGAN, more=tuple(correlations()), steps=STEPS)
