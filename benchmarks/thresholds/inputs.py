"""The statistics of the input rules, on simulated data and on small real nets.

Prints, for each kind of data, how large the statistic gets, and in which share of the runs a rule
speaks up: it should be none of the healthy ones and all of the sick::

    python benchmarks/thresholds/inputs.py [runs of a kind]
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from program import digits as load_digits

from lightning_nndebug import InputDetector
from lightning_nndebug.core.measurements.batches import Place
from lightning_nndebug.core.measurements.first_layers import _against
from lightning_nndebug.core.measurements.inputs import Inputs, new_weights
from lightning_nndebug.core.measurements.leaks import Leaks
from lightning_nndebug.core.measurements.loaders import TrainLoader
from lightning_nndebug.core.measurements.rows import Rows
from lightning_nndebug.core.measurements.samples import Overlap, Samples, _pairs, _Roll
from lightning_nndebug.core.measurements.succession import _judged, _moments
from lightning_nndebug.inputs.relatedness import relation
from lightning_nndebug.inputs.skew import skew

digits = cache(load_digits)
RULES = InputDetector()
INPUTS = Inputs((Place(),), (0,), Place())
WEIGHTS = new_weights()
Kinds = dict[str, Callable[[], object]]


def table(heading: str, kinds: Kinds, measure: Callable, count: int) -> None:
    """Prints the median and the extreme of a statistic, and how often its rule fires."""
    print(f"\n{heading:<58}{'median':>9}{'least':>9}{'largest':>9}{'fires':>8}")
    for name, make in kinds.items():
        values, fired = [], 0
        for run in range(count):
            torch.manual_seed(run)
            value, is_sick = measure(make())
            values.append(value)
            fired += bool(is_sick)
        middle = statistics.median(values)
        print(f"{name:<58}{middle:9.3g}{min(values):9.3g}{max(values):9.3g}{fired / count:8.1%}")


# -- INP201: how much of the variance lies between batches


def walk(size: int, width: int) -> Tensor:
    """A random walk: what comes later is elsewhere."""
    return torch.randn(size, width).cumsum(0)


def sparse(size: int) -> Tensor:
    """Columns of zeros with a one now and then."""
    return (torch.rand(size, 64) < torch.logspace(-3, -1, 64)).float()


def ordered(x: Tensor, *, mixed: float = 0.0) -> Tensor:
    """Sorted by the first column, but for a share of the samples."""
    order = x[:, 0].argsort()
    swap = (torch.rand(len(x)) < mixed).nonzero().flatten()
    order[swap] = order[swap[torch.randperm(len(swap))]]
    return x[order]


ORDERS: Kinds = {
    "random, 8 columns, batches of 32": lambda: (torch.randn(1024, 8), 32),
    "random, 64 columns, batches of 4": lambda: (torch.randn(256, 64), 4),
    "random, 64 columns, 8 batches": lambda: (torch.randn(512, 64), 64),
    "random, heavy tails, batches of 16": lambda: (torch.randn(512, 8) ** 5, 16),
    "random, sparse columns, batches of 16": lambda: (sparse(512), 16),
    "random, a lognormal column": lambda: ((2 * torch.randn(640, 3)).exp(), 32),
    "digits as they are on disk": lambda: (digits(1797)[0], 32),
    "- sorted by one of 8 columns": lambda: (ordered(torch.randn(1024, 8)), 32),
    "- sorted, a third mixed": lambda: (ordered(torch.randn(1024, 8), mixed=0.33), 32),
    "- sorted, 8 batches": lambda: (ordered(torch.randn(256, 8)), 32),
    "- a random walk": lambda: (walk(1024, 4), 32),
}


def order(data: tuple[Tensor, int]) -> tuple[float, bool]:
    found = _judged("batch", [_moments(one, None) for one in data[0].split(data[1])])
    return found.inputs, found.inputs > RULES.order_limit and found.inputs_p < 1e-6


# -- INP202: by how much validation differs


def halves(x: Tensor, share: float = 0.25) -> tuple[Tensor, Tensor]:
    """A random split."""
    x = x[torch.randperm(len(x))]
    cut = int(share * len(x))
    return x[cut:], x[:cut]


def changed(x: Tensor, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A random split, of which validation is another."""
    train, validation = halves(x)
    return train, change(validation)


SKEWS: Kinds = {
    "random split, 8 columns, 32 samples": lambda: halves(torch.randn(128, 8)),
    "random split, 2 columns": lambda: halves(torch.randn(256, 2)),
    "random split, heavy tails": lambda: halves(torch.randn(256, 8) ** 5),
    "random split, sparse columns": lambda: halves(sparse(256)),
    "random split, lognormal columns": lambda: halves((2 * torch.randn(256, 4)).exp()),
    "random split of digits": lambda: halves(digits(512)[0]),
    "noise of 0.5 in training alone": lambda: (
        digits(512)[0] + 0.5 * torch.randn(512, 64),
        digits(1797)[0][600:],
    ),
    "validation has other digits": lambda: (
        digits(1797)[0][digits(1797)[1] < 7][:512],
        digits(1797)[0][digits(1797)[1] >= 7][:512],
    ),
    "validation is later: a column is the time": lambda: (
        torch.cat([torch.randn(400, 5), torch.arange(400.0)[:, None]], 1),
        torch.cat([torch.randn(100, 5), torch.arange(400.0, 500)[:, None]], 1),
    ),
    "a slow drift by one deviation": lambda: (
        torch.randn(400, 6) + torch.linspace(0, 0.8, 400)[:, None],
        torch.randn(100, 6) + torch.linspace(0.8, 1, 100)[:, None],
    ),
    "- 0..1 for -1..1": lambda: changed(digits(512)[0], lambda x: (x + 1) / 2),
    "- not divided by 255": lambda: changed(torch.rand(512, 64), lambda x: 255 * x),
    "- not standardized (ImageNet)": lambda: changed(
        torch.randn(512, 64), lambda x: 0.225 * x + 0.45
    ),
    "- one of 20 columns in other units": lambda: changed(
        torch.randn(512, 20), lambda x: x * torch.tensor([1000.0] + 19 * [1.0])
    ),
}


def skewed(data: tuple[Tensor, Tensor]) -> tuple[float, bool]:
    train, validation = data
    found = skew(train, validation, is_image=False)
    rows = Rows("batch", "", train, validation=validation)
    return found.distance, bool(list(RULES.train_val_skew(rows)))


# -- INP106 and INP203: copies


def categories(size: int, kinds: int) -> Tensor:
    """Rows of a few categorical columns, which repeat by nature."""
    return torch.randint(kinds, (size, 3)).float()


OVERLAPS: Kinds = {
    "random split of random rows": lambda: halves(torch.randn(1000, 8)),
    "random split of categories, 10 ** 3": lambda: halves(categories(1000, 10)),
    "random split of categories, 30 ** 3": lambda: halves(categories(1000, 30)),
    "random split of categories, 100 ** 3": lambda: halves(categories(4000, 100)),
    "random split of binary columns": lambda: halves((torch.rand(1000, 12) < 0.3).float()),
    "- three of a hundred are copies": lambda: copied(torch.randn(1000, 8), 0.03),
    "- split twice": lambda: (
        (x := torch.randn(1000, 8))[torch.randperm(1000)[:750]],
        x[torch.randperm(1000)[750:]],
    ),
    "- oversampled before the split": lambda: halves(torch.randn(500, 8).repeat(2, 1)),
}


def copied(x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    train, validation = halves(x)
    count = math.ceil(share * len(validation))
    return train, torch.cat([train[:count], validation[count:]])


def overlapping(data: tuple[Tensor, Tensor]) -> tuple[float, bool]:
    seen = set(INPUTS.fingerprints(data[0], WEIGHTS).tolist())
    marks = [one for one in INPUTS.fingerprints(data[1], WEIGHTS).tolist() if one >= 0]
    known = sum(one in seen for one in marks)
    counts = Counter(INPUTS.fingerprints(data[0], WEIGHTS).tolist())
    repeats = _pairs(counts) + _pairs(Counter(marks))
    overlap = Overlap(len(marks), len(set(marks)), known, len(seen), repeats, 1)
    leaks = Leaks("batch", overlap, Rows("batch", "", data[0][:512]))
    return known / len(marks), bool(list(RULES.train_val_overlap(leaks)))


STREAMS: Kinds = {
    "each sample once": lambda: [torch.randn(256, 8)] * 2,
    "a data set that draws at random": lambda: drawn(torch.randn(256, 8)),
    "a tenth of the rows twice": lambda: [torch.cat([(x := torch.randn(230, 8)), x[:26]])] * 2,
    "categories, which repeat by nature": lambda: [categories(256, 5)] * 2,
    "- every row twice": lambda: [torch.randn(128, 8).repeat(2, 1)] * 2,
    "- a third of the rows three times": lambda: (
        [torch.cat([(x := torch.randn(150, 8)), x[:50], x[:50]])] * 2
    ),
}


def drawn(x: Tensor) -> list[Tensor]:
    """Two epochs that are drawn with replacement."""
    return [x[torch.randint(256, (256,))] for _ in range(2)]


def copies(epochs: list[Tensor]) -> tuple[float, bool]:
    roll, loader = _Roll(INPUTS), TrainLoader("RandomSampler", True, False, 256, True)
    fired, share, rows = False, 0.0, Rows("batch", "", epochs[0])
    for x in epochs:
        for part in x[torch.randperm(len(x))].split(32):
            roll.add(INPUTS.fingerprints(part, WEIGHTS).tolist(), None, 0.0)
        told: Samples = roll.told(type("", (), {"hook": "on_train_epoch_end"}))
        share = 1 - told.distinct / told.seen
        fired |= bool(list(RULES.duplicate_samples(replace(told, pairs=1), loader, rows)))
    return share, fired


# -- INP204: what near neighbours have in common


def pairs(x: Tensor, y: Tensor, *, shuffled: bool = False, is_class: bool = True) -> tuple:
    chosen = torch.randperm(len(y))[:256]
    y = y[chosen]
    return x[chosen], y[torch.randperm(len(y))] if shuffled else y, is_class


def noisy(share: float) -> tuple:
    x, y = digits(1797)
    wrong = torch.rand(len(y)) < share
    return pairs(x, torch.where(wrong, torch.randint(10, y.shape), y))


def regression(*, shuffled: bool) -> tuple:
    x = torch.randn(512, 6)
    return pairs(x, x[:, 0] + x[:, 1] + torch.randn(512), shuffled=shuffled, is_class=False)


RELATIONS: Kinds = {
    "digits": lambda: pairs(*digits(1797)),
    "digits, half of the labels random": lambda: noisy(0.5),
    "digits, 70 % of the labels random": lambda: noisy(0.7),
    "regression, a third of the variance noise": lambda: regression(shuffled=False),
    "- digits, labels shuffled": lambda: pairs(*digits(1797), shuffled=True),
    "- regression, targets shuffled": lambda: regression(shuffled=True),
    "parity of 8 bits": lambda: pairs(
        x := torch.randint(2, (512, 8)).float() + 0.01 * torch.randn(512, 8), x.round().sum(1) % 2
    ),
}


def related(data: tuple[Tensor, Tensor, bool]) -> tuple[float, bool]:
    z = relation(data[0], data[1], is_class=data[2])
    return abs(z), abs(z) < 2.0


# -- INP103: the scale of common inputs


SCALES: Kinds = {
    "standardized": lambda: torch.randn(64, 8),
    "0..1": lambda: torch.rand(64, 64),
    "one-hot of 1000": lambda: F.one_hot(torch.randint(1000, (64,)), 1000).float(),
    "unit vectors of 768": lambda: F.normalize(torch.randn(64, 768)),
    "word counts": lambda: torch.poisson(torch.logspace(-2, 1, 50).expand(64, 50)),
    "iris (centimetres)": lambda: torch.randn(64, 4) + torch.tensor([5.8, 3.0, 3.8, 1.2]),
    "digits, 0..16": lambda: 8 * (digits(64)[0] + 1),
    "- bytes": lambda: 127.5 * (digits(64)[0] + 1),
    "- a column of prices": lambda: torch.cat([torch.randn(64, 8), 900 * torch.rand(64, 1)], 1),
    "- divided by 255 twice": lambda: torch.rand(64, 64) / 255,
    "- years": lambda: torch.cat([torch.randn(64, 8), 1980.0 + torch.randint(40, (64, 1))], 1),
}


def scaled(x: Tensor) -> tuple[float, bool]:
    size = float(x.square().mean(0).sqrt().max())
    top = float(x.abs().max())
    return size, size > RULES.scale_limit or 0 < top < 0.01


# -- INP105: what the first norm of a trained net gets


def nets() -> Iterator[tuple[nn.Module, nn.BatchNorm2d]]:
    for run in range(3):
        torch.manual_seed(run)
        norm = nn.BatchNorm2d(16)
        net = nn.Sequential(nn.Conv2d(1, 16, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        x, y = digits(1200, image=True)
        for part in torch.randperm(1200).repeat(3).split(32):
            optimizer.zero_grad()
            F.cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()
        yield net, norm


NETS = list(nets())
IMAGES = digits(1797, image=True)[0][1200:]
MISMATCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "the same": lambda x: x,
    "brighter by 0.3": lambda x: x + 0.3,
    "noise of 0.3": lambda x: x + 0.3 * torch.randn_like(x),
    "contrast of 0.6": lambda x: 0.6 * x,
    "shifted by two pixels": lambda x: x.roll(2, 3),
    "- 0..16": lambda x: 8 * (x + 1),
    "- 0..255": lambda x: 127.5 * (x + 1),
    "- standardized twice (a quarter as wide)": lambda x: x / 4,
}


def mismatched(change: Callable[[Tensor], Tensor]) -> tuple[float, bool]:
    net, norm = NETS[int(torch.randint(len(NETS), ()))]
    x = change(IMAGES[torch.randperm(len(IMAGES))[:32]])
    with torch.no_grad():
        _, shift, ratio = _against(norm.running_mean, norm.running_var, net[0](x)).tolist()
    spread = max(ratio, 1 / ratio)
    return spread, shift > RULES.mismatch_shift or spread > RULES.mismatch_spread


def main() -> None:
    """Prints all tables."""
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    print(f"{count} runs of each kind; those with a dash are sick")
    table("INP103: root mean square of the largest column", SCALES, scaled, count)
    kinds = {name: (lambda change=change: change) for name, change in MISMATCHES.items()}
    table("INP105: how many times as wide in the first norm", kinds, mismatched, count)
    table("INP106: share of copies", STREAMS, copies, count)
    table("INP201: share of the variance between batches", ORDERS, order, count)
    table("INP202: distance of the median column", SKEWS, skewed, count)
    table("INP203: share of validation in training", OVERLAPS, overlapping, count)
    table("INP204: |z| of near neighbours (fires below 2)", RELATIONS, related, count)


if __name__ == "__main__":
    main()
