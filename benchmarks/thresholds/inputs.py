"""The statistics of the input rules, on simulated streams of data and on small real nets.

Writes ``benchmarks/results/inputs.md``: for each kind of stream, how large the statistic gets, and
in which share of the streams the rule speaks up; and what hashing and buffers cost::

    python benchmarks/thresholds/inputs.py [healthy streams of a rule]
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from _models import resnet50
from _streams import Kinds, Sheet
from program import Program, fit
from program import digits as load_digits

from lightning_nndebug import ClassBalanceDetector, Detector, InputDetector
from lightning_nndebug.core.measurements.axes import Axes
from lightning_nndebug.core.measurements.batches import Place
from lightning_nndebug.core.measurements.doubles import Doubles
from lightning_nndebug.core.measurements.features import (
    Features,
    Likeness,
    _counted,
    _standardized,
)
from lightning_nndebug.core.measurements.first_layers import (
    FirstLayer,
    FirstLayers,
    FirstNorm,
    Recurrent,
    _against,
    _completed,
    _statistics,
)
from lightning_nndebug.core.measurements.inputs import Inputs, new_weights, sampled
from lightning_nndebug.core.measurements.leaks import Leaks
from lightning_nndebug.core.measurements.learned import Learned, _pair
from lightning_nndebug.core.measurements.loaders import TrainLoader
from lightning_nndebug.core.measurements.loss_calls import LossCall
from lightning_nndebug.core.measurements.padding import Padding
from lightning_nndebug.core.measurements.processors import Processor
from lightning_nndebug.core.measurements.rows import Rows
from lightning_nndebug.core.measurements.samples import Overlap, Samples, _pairs, _Roll
from lightning_nndebug.core.measurements.succession import _judged, _moments, _values
from lightning_nndebug.inputs.relatedness import relation, relations
from lightning_nndebug.inputs.skew import skew

digits = cache(load_digits)
RULES = InputDetector()
INPUTS = Inputs((Place(),), (0,), Place())
WEIGHTS = new_weights()


# -- INP101 and INP102: the same again and again


def play(batches: list[Tensor], epochs: int = 1) -> Iterator[Samples]:
    """What is known of the samples after each batch, and at the end of each epoch."""
    roll = _Roll(INPUTS)
    for _ in range(epochs):
        for one in batches:
            roll.add(INPUTS.fingerprints(one, WEIGHTS).tolist(), None, float(one.flatten()[0]))
            yield roll.told(SimpleNamespace(hook="on_train_batch_start"))
        yield roll.told(SimpleNamespace(hook="on_train_epoch_end"))


def mostly_blank(share: float, batch: int) -> list[Tensor]:
    """Images of which most are black, as slices of a scan are."""
    is_black = torch.rand(480, 1) < share
    return list(torch.randn(480, 16).masked_fill(is_black, 0.0).split(batch))


CONSTANTS: Kinds = {
    "random, batches of 4": lambda: list(torch.randn(256, 8).split(4)),
    "sparse columns, batches of 4": lambda: list(sparse(256).split(4)),
    "three binary columns, batches of 4": lambda: list(categories(256, 2).split(4)),
    "a binary column, nine tenths 0, batches of 8": lambda: list(
        (torch.rand(480, 1) > 0.9).float().split(8)
    ),
    "six of seven images black, batches of 4": lambda: mostly_blank(6 / 7, 4),
    "nine of ten images black, batches of 16": lambda: mostly_blank(0.9, 16),
    "one-hot of 50": lambda: list(F.one_hot(torch.randint(50, (256,)), 50).float().split(8)),
    "as many batches as in five resets of an environment": lambda: (
        5 * [*[torch.zeros(16, 4)] * 5, *torch.randn(320, 4).split(16)]
    ),
    "- all zero": lambda: [torch.zeros(16, 8)] * 20,
    "- the same sample": lambda: [torch.randn(1, 8).repeat(16, 1)] * 20,
    "- another sample for each batch": lambda: [torch.randn(1, 8).repeat(16, 1) for _ in range(20)],
    "- all zero, batches of 4": lambda: [torch.zeros(4, 8)] * 50,
    "- black from the third batch on": lambda: [*torch.randn(32, 8).split(16), *[BLACK] * 20],
}
BLACK = torch.zeros(16, 8)


def constant(batches: list[Tensor]) -> tuple[float, str]:
    told = list(play(batches))
    is_sick = any(list(RULES.constant_input(one)) for one in told)
    return max(one.alike for one in told), "INP101" * is_sick


def twice(batches: list[Tensor], times: int, batch: int = 32) -> list[Tensor]:
    """What several workers give that all go through everything."""
    return [one for part in batches for one in part.split(batch) for _ in range(times)]


REPEATS: Kinds = {
    "random": lambda: list(torch.randn(640, 8).split(32)),
    "drawn with replacement, of 40 samples": lambda: list(
        torch.randn(40, 8)[torch.randint(40, (640,))].split(8)
    ),
    "three binary columns, batches of 4": lambda: list(categories(256, 2).split(4)),
    "one-hot of 4, one at a time": lambda: list(
        F.one_hot(torch.randint(4, (256,)), 4).float().split(1)
    ),
    "sparse columns, batches of 2": lambda: list(sparse(256).split(2)),
    "six of seven images black, batches of 4": lambda: mostly_blank(6 / 7, 4),
    "every third batch twice": lambda: [
        one for i, one in enumerate(torch.randn(640, 8).split(32)) for _ in range(1 + (i % 3 == 0))
    ],
    "- the same batch": lambda: [torch.randn(32, 8)] * 20,
    "- two workers, the same data": lambda: twice([torch.randn(320, 8)], 2),
    "- four workers, the same data": lambda: twice([torch.randn(160, 8)], 4),
}


def repeated(batches: list[Tensor]) -> tuple[float, str]:
    loader = TrainLoader("Stream", collates=True, is_stream=True, workers=2)
    told = list(play(batches))
    is_sick = any(list(RULES.repeated_batch(one, loader)) for one in told)
    return told[-1].same / told[-1].pairs, "INP102" * is_sick


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


def order(data: tuple[Tensor, int]) -> tuple[float, str]:
    found = _judged("batch", _moments([_values(one, None) for one in data[0].split(data[1])]))
    loader, first = TrainLoader("SequentialSampler", shuffles=False), layers(())
    is_sick = bool(list(RULES.unshuffled_training(found, loader, first)))
    return found.inputs, "INP201" * is_sick


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


def skewed(data: tuple[Tensor, Tensor]) -> tuple[float, str]:
    train, validation = data
    found = skew(train, validation, is_image=False)
    rows = Rows("batch", "", train, validation=validation)
    return found.distance, "INP202" * bool(list(RULES.train_val_skew(rows)))


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


def overlapping(data: tuple[Tensor, Tensor]) -> tuple[float, str]:
    seen = set(INPUTS.fingerprints(data[0], WEIGHTS).tolist())
    marks = [one for one in INPUTS.fingerprints(data[1], WEIGHTS).tolist() if one >= 0]
    known = sum(one in seen for one in marks)
    counts = Counter(INPUTS.fingerprints(data[0], WEIGHTS).tolist())
    repeats = _pairs(counts) + _pairs(Counter(marks))
    overlap = Overlap(len(marks), len(set(marks)), known, len(seen), repeats, 1)
    leaks = Leaks("batch", overlap, Rows("batch", "", data[0][:512]))
    is_sick = bool(list(RULES.train_val_overlap(leaks)))
    return known / len(marks), "INP203" * is_sick


STREAMS: Kinds = {
    "each sample once": lambda: [torch.randn(256, 8)] * 2,
    "a data set that draws at random": lambda: drawn(torch.randn(256, 8)),
    "a tenth of the rows twice": lambda: [torch.cat([(x := torch.randn(230, 8)), x[:26]])] * 2,
    "categories, which repeat by nature": lambda: [categories(256, 5)] * 2,
    "every row twice, to make epochs longer": lambda: [torch.randn(128, 8).repeat(2, 1)] * 2,
    "- one row in six three times": lambda: (
        [torch.cat([(x := torch.randn(192, 8)), x[:32], x[:32]])] * 2
    ),
    "- a third of the rows three times": lambda: (
        [torch.cat([(x := torch.randn(150, 8)), x[:50], x[:50]])] * 2
    ),
}


def drawn(x: Tensor) -> list[Tensor]:
    """Two epochs that are drawn with replacement."""
    return [x[torch.randint(256, (256,))] for _ in range(2)]


def copies(epochs: list[Tensor]) -> tuple[float, str]:
    roll, loader = _Roll(INPUTS), TrainLoader("RandomSampler", True, False, 256, True)
    fired, share, doubles = False, 0.0, Doubles(Rows("batch", "", epochs[0]))
    for x in epochs:
        for part in x[torch.randperm(len(x))].split(32):
            roll.add(INPUTS.fingerprints(part, WEIGHTS).tolist(), None, 0.0)
        told = roll.told(SimpleNamespace(hook="on_train_epoch_end"))
        share = 1 - told.distinct / told.seen
        fired |= bool(list(RULES.duplicate_samples(told, loader, doubles)))
    return share, "INP106" * fired


# -- INP204: what near neighbours have in common


def pairs(
    x: Tensor, y: Tensor, *, shuffled: bool = False, is_class: bool = True, net: bool = True
) -> tuple:
    mixed = torch.randperm(len(y))
    x, y = x[mixed], y[mixed]
    return x, y[torch.randperm(len(y))] if shuffled else y, is_class, net


def noisy(share: float) -> tuple:
    x, y = digits(1797)
    wrong = torch.rand(len(y)) < share
    return pairs(x, torch.where(wrong, torch.randint(10, y.shape), y))


def regression(*, shuffled: bool = False, noise: float = 1.0) -> tuple:
    x = torch.randn(1000, 6)
    y = x[:, 0] + x[:, 1] + noise * torch.randn(1000)
    return pairs(x, y, shuffled=shuffled, is_class=False)


def parity() -> tuple:
    x = torch.randint(2, (768, 8)).float() + 0.01 * torch.randn(768, 8)
    return pairs(x, x.round().sum(1).long() % 2, net=False)


def gratings(count: int) -> tuple[Tensor, Tensor]:
    """Stripes in one of four directions, wherever they begin."""
    y = torch.randint(4, (count,))
    turned = (y * torch.pi / 4)[:, None, None]
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    waves = 1.2 * (turned.cos() * row + turned.sin() * column)
    x = (waves + 6.3 * torch.rand(count, 1, 1)).sin() + torch.randn(count, 12, 12)
    return x[:, None], y


def bars(count: int) -> tuple[Tensor, Tensor]:
    """A bar that lies or stands, anywhere in a noisy image."""
    y, row, column = (torch.randint(n, (count,)) for n in (2, 10, 10))
    cells = torch.arange(16)
    high, wide = torch.where(y == 1, 6, 2), torch.where(y == 1, 2, 6)
    rows = (cells >= row[:, None]) & (cells < (row + high)[:, None])
    columns = (cells >= column[:, None]) & (cells < (column + wide)[:, None])
    return (0.4 * torch.randn(count, 16, 16) + 2 * rows[:, :, None] * columns[:, None])[:, None], y


def sentences(count: int) -> tuple[Tensor, Tensor]:
    """One word in six is of the four words of a class, the others may be any of 200."""
    y = torch.randint(4, (count,))
    own = torch.randint(4, (count, 12)) + 4 * y[:, None]
    return torch.where(torch.rand(count, 12) < 1 / 6, own, torch.randint(16, 216, (count, 12))), y


class Convolutions(nn.Module):
    """Two convolutions and a mean over all places."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(16, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


class Recurrence(nn.Module):
    """The last state of a recurrent net."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(216, 24), nn.GRU(24, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.rnn(self.words(x))[1][0]


def told_by_features(
    data: Callable[[int], tuple[Tensor, Tensor]],
    net: type[Convolutions | Recurrence],
    *,
    wrong: float = 0.0,
) -> Features:
    """The first 16 batches of 32 samples, while the net learns from them."""
    x, y = data(512)
    true, learner = y, net()
    y = torch.where(torch.rand(len(y)) < wrong, true[torch.randperm(len(y))], true)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    rows, tokens = [], []
    for one, labels in zip(x.split(32), y.split(32), strict=True):
        given = learner.features(one)
        rows.append(_standardized(given.detach()))
        if not one.is_floating_point():
            tokens.append(_counted(one))
        optimizer.zero_grad()
        F.cross_entropy(learner.head(given), labels).backward()
        optimizer.step()
    known = tuple(y.double().split(32))
    return Features("y", tuple(rows), tuple(tokens), known, is_class=True)


LIKENESSES: Kinds = {
    "stripes that begin anywhere": lambda: told_by_features(gratings, Convolutions),
    "bars anywhere": lambda: told_by_features(bars, Convolutions),
    "- bars, 70 % of the labels random": lambda: told_by_features(bars, Convolutions, wrong=0.7),
    "sentences": lambda: told_by_features(sentences, Recurrence),
    "- sentences, 70 % of the labels random": lambda: told_by_features(
        sentences, Recurrence, wrong=0.7
    ),
    "- stripes, labels shuffled": lambda: told_by_features(gratings, Convolutions, wrong=1.0),
    "- bars, labels shuffled": lambda: told_by_features(bars, Convolutions, wrong=1.0),
    "- sentences, labels shuffled": lambda: told_by_features(sentences, Recurrence, wrong=1.0),
}


def alike(features: Features) -> tuple[float, str]:
    """What a net makes of samples, and their words, where predictions say nothing."""
    learned, likeness = Learned(0.0, 400, "y"), Likeness(None, features)
    z = max(map(abs, relations(likeness, "y", least=200, others=64).values()))
    return z, "INP204" * bool(list(RULES.unrelated_labels(likeness, learned)))


RELATIONS: Kinds = {
    "digits": lambda: pairs(*digits(1797)),
    "digits, half of the labels random": lambda: noisy(0.5),
    "digits, 70 % of the labels random": lambda: noisy(0.7),
    "digits, 85 % of the labels random": lambda: noisy(0.85),
    "digits, before anything is learned": lambda: pairs(*digits(1797), net=False),
    "regression, a third of the variance noise": regression,
    "regression, nine tenths of the variance noise": lambda: regression(noise=4.2),
    "parity of 8 bits, never learned": parity,
    "- digits, labels shuffled": lambda: pairs(*digits(1797), shuffled=True),
    "- regression, targets shuffled": lambda: regression(shuffled=True),
}


def related(data: tuple[Tensor, Tensor, bool, bool]) -> tuple[float, str]:
    """Near neighbours among 512 samples, and a linear fit to three quarters, asked about the rest."""
    x, y, is_class, has_learned = data
    aims = F.one_hot(y).double() if is_class else y.double().unsqueeze(1)
    cut = len(y) * 3 // 4
    train, others = slice(0, cut), slice(cut, None)
    inputs = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    gram = inputs[train].mT @ inputs[train] + torch.eye(inputs.shape[1])
    guesses = inputs[others] @ torch.linalg.solve(gram, inputs[train].mT @ aims[train])
    if not has_learned:
        guesses = torch.randn_like(guesses)
    options = {"function": "cross_entropy" if is_class else "mse_loss", "shape": guesses.shape}
    call = LossCall(
        input=guesses, target=y[others] if is_class else y[others, None],
        is_integer=is_class, **options,
    )  # fmt: skip
    excess, variance, samples = _pair(call, call.target).tolist()
    learned = Learned(excess / math.sqrt(variance), int(samples), "y")
    rows = Rows("x", "y", x[:512], y[:512].double(), is_class=is_class)
    z = relation(rows.train, rows.labels, is_class=is_class)
    return abs(z), "INP204" * bool(list(RULES.unrelated_labels(Likeness(rows), learned)))


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


def layer(**options) -> FirstLayer:
    """A layer that nothing trainable comes before."""
    nothing = {"place": "", "shape": (), "origin": (), "is_reinterpreted": False, "features": 0}
    nothing |= {"low": 0.0, "high": 1.0, "means": (), "deviations": (), "is_normed": False}
    return FirstLayer(
        **{"name": "net.0", "kind": "Linear", "is_weighing": True, **nothing, **options}
    )


def layers(first: tuple[FirstLayer, ...], norm: FirstNorm | None = None, **options) -> FirstLayers:
    """A look at the first layers."""
    nothing = {"recurrent": (), "carries_state": False, "samples": 32, "looks": 1}
    return FirstLayers(first, norm, **{**nothing, **options})


def scaled(x: Tensor) -> tuple[float, str]:
    net = nn.Linear(x.shape[1], 1)
    one = _completed(layer(), _statistics(net, x).tolist(), is_normed=False)
    return max(one.sizes), "INP103" * bool(list(RULES.unscaled_input(layers((one,)))))


# -- INP104: the order of dimensions


def drawn_from(*values: int) -> int:
    return values[int(torch.randint(len(values), ()))]


def images(*, last: bool, view: bool = False, square: bool = False, moved: bool = True) -> Axes:
    """A convolution that gets images, of which the channels were last or are."""
    size, height = drawn_from(1, 8, 32), drawn_from(8, 28, 32, 224)
    colours = drawn_from(3, 4) if last and view else drawn_from(1, 3, 4)  # a single one is the same
    width = height if square else drawn_from(20, 28, 32, 96, 256)
    given = (size, colours, height, width)
    origin = (size, height, width, colours) if last else given
    one = layer(
        kind="Conv2d", place="batch[0]", shape=given if moved else origin, origin=origin,
        is_reinterpreted=view, features=colours if moved else height,
    )  # fmt: skip
    return Axes("batch[0]", layers((one,), samples=size), None)


def signals() -> Axes:
    """Sensors and time, as an image that is one pixel wide."""
    shape = (32, drawn_from(6, 9, 12, 22, 64), drawn_from(50, 100, 128, 200, 256, 1000), 1)
    one = layer(kind="Conv2d", place="batch[0]", shape=shape, origin=shape, features=shape[1])
    return Axes("batch[0]", layers((one,)), None)


def series(*, batch_first: bool, comes_first: bool) -> Axes:
    """A recurrent module, and whether samples come first in what it gets."""
    samples, time = drawn_from(8, 16, 32, 64), drawn_from(10, 12, 24, 50, 60, 100)
    shape = (samples, time, 7) if comes_first else (time, samples, 7)
    one = Recurrent("net.lstm", "LSTM", batch_first, shape)
    return Axes("batch[0]", layers((), recurrent=(one,), samples=samples), None)


def sides(*, exchanged: bool) -> Axes:
    """Images of one size in training, and of one size in validation."""
    train = (drawn_from(128, 224, 256), drawn_from(192, 320, 480))
    validation = train[::-1] if exchanged else (drawn_from(128, 224, 256), drawn_from(192, 320))
    return Axes("batch[0]", None, (train, validation))


DIMENSIONS: Kinds = {
    "images, channels first": lambda: images(last=False),
    "images, channels last and permuted": lambda: images(last=True),
    "images, channels first and viewed": lambda: images(last=False, view=True),
    "signals of several sensors": signals,
    "series, batch first": lambda: series(batch_first=True, comes_first=True),
    "series, time first": lambda: series(batch_first=False, comes_first=False),
    "validation in another size": lambda: sides(exchanged=False),
    "- images, channels last and viewed": lambda: images(last=True, view=True),
    "- square images, channels last": lambda: images(last=True, square=True, moved=False),
    "- series, batch first for time first": lambda: series(batch_first=False, comes_first=True),
    "- series, time first for batch first": lambda: series(batch_first=True, comes_first=False),
    "- validation turned by 90 degrees": lambda: sides(exchanged=True),
}


def swapped(axes: Axes) -> tuple[float, str]:
    is_sick = bool(list(RULES.swapped_axes(axes)))
    return is_sick, "INP104" * is_sick


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


def mismatched(change: Callable[[Tensor], Tensor]) -> tuple[float, str]:
    net, norm = NETS[int(torch.randint(len(NETS), ()))]
    x = change(IMAGES[torch.randperm(len(IMAGES))[:32]])
    with torch.no_grad():
        _, shift, ratio = _against(norm.running_mean, norm.running_var, net[0](x)).tolist()
    look = layers((), FirstNorm("net.1", was_fresh=False, shift=shift, ratio=ratio))
    return max(ratio, 1 / ratio), "INP105" * bool(
        list(RULES.pretrained_mismatch(look, Processor()))
    )


# -- INP205 and INP206: what is too few, and what is too much


def classes(shares: Tensor, size: int) -> dict[int, int]:
    """How many samples each class has."""
    return dict(Counter(torch.multinomial(shares, size, replacement=True).tolist()))


FEW: Kinds = {
    "10 classes, 500 samples": lambda: classes(torch.ones(10), 500),
    "2 classes, 20:1, 500 samples": lambda: classes(torch.tensor([20.0, 1.0]), 500),
    "100 classes, 3000 samples": lambda: classes(torch.ones(100), 3000),
    "every sample a class of its own": lambda: classes(torch.ones(10_000), 300),
    "- 10 classes, 20 samples": lambda: classes(torch.ones(10), 20),
    "- 10 classes, one of which has been filtered": lambda: {**classes(torch.ones(9), 450), 9: 2},
}


def few(sizes: dict[int, int]) -> tuple[float, str]:
    total = sum(sizes.values())
    told = Samples("x", 32, 20, is_whole=True, seen=total, distinct=total, class_sizes=sizes)
    return min(sizes.values()), "INP205" * bool(list(RULES.too_few_samples(told)))


def lengths(*, batch: int = 32, to: int | None = None, median: float = 60.0) -> list[float]:
    """Shares of padding of four batches of texts, padded to the longest or to a fixed length."""
    return [
        1 - float((one := _texts(batch, median)).sum() / len(one) / (to or one.max()))
        for _ in range(4)
    ]


def _texts(batch: int, median: float) -> Tensor:
    return (median * (0.5 * torch.randn(batch)).exp()).round().clamp(1, 512)


PADDED: Kinds = {
    "padded to the longest of 8": lambda: lengths(batch=8),
    "padded to 128": lambda: lengths(to=128, median=90),
    "lengths from a fifth of the longest up, evenly": lambda: [
        1 - float(0.2 + 0.8 * torch.rand(32).mean()) for _ in range(4)
    ],
    "- padded to 512": lambda: lengths(to=512),
}


def padded(shares: list[float]) -> tuple[float, str]:
    looks = [bool(list(RULES.mostly_padding(Padding("mask", one)))) for one in shares]
    return min(shares), "INP206" * all(looks)


# -- what hashing and buffers cost

BATCH, SIDE, STEPS = 256, 224, 320  # by then, more samples have come than fingerprints are kept


class Images(IterableDataset):
    """Batches of images in one buffer, of which a few thousand values are new in each."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images = torch.randn(BATCH, 3, SIDE, SIDE)
        new = sampled(images)  # a view
        for _ in range(STEPS):
            new[:, ::16].normal_()
            yield images, torch.randint(1000, (BATCH,))


class Light(pl.LightningModule):
    """Sees of an image its mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1000)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0][:, :, ::32, ::32].mean((2, 3))), batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Weigh(pl.Callback):
    """Notes what each measurement holds on to, when it is most."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.most = detector, Counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if batch_idx % 10 == 9:
            for ask, memory in self.detector._session._memories.items():
                size = held(memory)
                self.most[ask.kind.__name__] = max(size, self.most[ask.kind.__name__])


def costs() -> list[str]:
    """Measures both detectors in a run with large batches of large images."""
    lines = [
        "\n## Memory\n",
        f"Most that was held, at batches of {BATCH} images of 3 x {SIDE} x {SIDE}",
    ]
    lines[-1] += (
        f" ({BATCH * 3 * SIDE**2 * 4 / 1e6:.0f} MB each), {STEPS} batches an epoch, 2 epochs.\n"
    )
    lines += ["| detector | MB | most of it |", "|---|---|---|"]
    for detector in (InputDetector(), ClassBalanceDetector()):
        weigh = Weigh(detector)
        data = DataLoader(Images(), batch_size=None)
        options = {"max_epochs": 2, "limit_val_batches": 4}
        fit(Program(Light(), data, data, trainer=options), detector, weigh)
        parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in weigh.most.most_common(4))
        lines.append(f"| {type(detector).__name__} | {weigh.most.total() / 1e6:.1f} | {parts} |")
    lines += ["\n## Time\n", "| | seconds for a batch | of the step |", "|---|---|---|"]
    few = 8
    net, images = resnet50(), torch.randn(BATCH, 3, SIDE, SIDE)

    def step() -> None:
        F.cross_entropy(net(images[:few]), torch.zeros(few, dtype=torch.long)).backward()

    whole = clocked(step, 3) * BATCH / few
    hashing = clocked(lambda: INPUTS.fingerprints(images, WEIGHTS), 10)
    lines.append(f"| forward and backward of a ResNet-50, from {few} of them | {whole:.1f} | |")
    lines.append(f"| fingerprints of all samples | {hashing:.3f} | {hashing / whole:.3%} |")
    return lines


def clocked(call: Callable[[], object], times: int) -> float:
    """The least time of several calls, after one to warm up."""
    call()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took)


def held(thing: object, known: set[int] | None = None) -> int:
    """Bytes of a thing and of everything in it, other than classes, functions and modules."""
    known = set() if known is None else known
    if id(thing) in known or isinstance(thing, (type, FunctionType, ModuleType, nn.Module)):
        return 0
    known.add(id(thing))
    size = sys.getsizeof(thing)
    if isinstance(thing, Tensor):
        storage = thing.untyped_storage()
        is_new = storage.data_ptr() not in known
        known.add(storage.data_ptr())
        return size + storage.nbytes() * is_new
    if isinstance(thing, Mapping):
        return size + sum(held(one, known) for pair in thing.items() for one in pair)
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        return size + sum(held(one, known) for one in thing)
    return size + sum(held(one, known) for one in getattr(thing, "__dict__", {}).values())


def main() -> None:
    """Writes all tables."""
    sheet = Sheet("Inputs: false alarms, power and costs", "inputs")
    changes = {name: (lambda change=change: change) for name, change in MISMATCHES.items()}
    sheet.add("INP101", "batches of equal samples in a row", CONSTANTS, constant, limit="8")
    sheet.add("INP102", "share of batches equal to the one before", REPEATS, repeated, limit="0.4")
    sheet.add("INP103", "root mean square of the largest column", SCALES, scaled, limit="30")
    sheet.add("INP104", "sizes in the order of another layout", DIMENSIONS, swapped)
    sheet.add(
        "INP105", "how many times as wide in the first norm", changes, mismatched, limit="2.5"
    )
    sheet.add("INP106", "share of copies", STREAMS, copies, limit="0.2")
    sheet.add("INP201", "share of the variance between batches", ORDERS, order, limit="0.25")
    sheet.add("INP202", "distance of the median column", SKEWS, skewed, limit="0.35")
    sheet.add("INP203", "share of validation in training", OVERLAPS, overlapping, limit="0.01")
    sheet.add("INP204", "z of near neighbours", RELATIONS, related, limit="below 2.5")
    title = "z of near neighbours among the features of an untrained net, and by words"
    sheet.add("INP204", title, LIKENESSES, alike, limit="below 2.5")
    sheet.add("INP205", "samples of the smallest class", FEW, few, limit="below 5")
    sheet.add("INP206", "least share of padding in four batches", PADDED, padded, limit="0.5")
    sheet.write(*costs())


if __name__ == "__main__":
    main()
