"""The statistics of the class balance rules, on simulated label streams and on small real nets.

Writes ``benchmarks/results/class_balance.md``: for each kind of stream, how large the statistic
gets, and in which share of the streams the rule speaks up::

    python benchmarks/thresholds/class_balance.py [healthy streams of a rule]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from _streams import Kinds, Sheet
from program import digits as load_digits

from lightning_nndebug import ClassBalanceDetector
from lightning_nndebug.core.measurements.class_counts import ClassCounts, _table
from lightning_nndebug.core.measurements.label_stream import _EVERY, _FIRST, _Past
from lightning_nndebug.core.measurements.labels import Target
from lightning_nndebug.core.measurements.loss_calls import LabelCalls, Listener, LossCall

digits = cache(load_digits)


def target(classes: int) -> Target:
    """Labels as the detector finds them."""
    return Target(
        "batch[1]", None, lambda batch: batch[1], classes, None, "index", False, None, False
    )


def shares(classes: int, tail: float = 1.0) -> Tensor:
    """Sizes of classes, the largest ``tail`` times the smallest."""
    return tail ** -torch.linspace(0, 1, classes)


def draw(classes: int, size: int, tail: float = 1.0) -> Tensor:
    """Labels of a data set."""
    return torch.multinomial(shares(classes, tail), size, replacement=True)


def epochs(y: Tensor, count: int, *, shuffle: bool = True) -> Tensor:
    """The labels of several epochs."""
    return torch.cat([y[torch.randperm(len(y))] if shuffle else y for _ in range(count)])


def grouped(y: Tensor, batch: int, count: int, *, mixed: float = 0.0) -> Tensor:
    """Batches of one class each in random order, of which a share of the labels is mixed."""
    out = []
    for _ in range(count):
        order = y.argsort()
        swap = (torch.rand(len(y)) < mixed).nonzero().flatten()
        order[swap] = order[swap[torch.randperm(len(swap))]]
        batches = list(order[: len(y) // batch * batch].split(batch))
        out += [y[batches[i]] for i in torch.randperm(len(batches)).tolist()]
    return torch.cat(out)


def buffered(y: Tensor, size: int, count: int) -> Tensor:
    """Sorted labels that are read through a shuffle buffer."""
    out = []
    for _ in range(count):
        ready, buffer = y.sort().values.tolist(), []
        for one in ready:
            buffer.append(one)
            if len(buffer) > size:
                out.append(buffer.pop(int(torch.randint(len(buffer), ()))))
        out += [buffer[i] for i in torch.randperm(len(buffer)).tolist()]
    return torch.tensor(out)


def drifting(classes: int, size: int, tilt: float) -> Tensor:
    """Shares that move from one end of the classes to the other, linearly in time."""
    time, slope = torch.linspace(-1, 1, size).unsqueeze(1), torch.linspace(-1, 1, classes)
    return torch.multinomial(1 + tilt * time * slope, 1).flatten()


def episodes(classes: int, chosen: int, each: int, count: int) -> Tensor:
    """Batches of equally many samples of each of a few classes."""
    return torch.cat(
        [torch.randperm(classes)[:chosen].repeat_interleave(each) for _ in range(count)]
    )


ORDERS: Kinds = {
    "shuffled, 2 classes": lambda: (epochs(draw(2, 500), 6), 32),
    "shuffled, 2 classes, 50:1": lambda: (epochs(draw(2, 1000, 50.0), 4), 32),
    "shuffled, 10 classes": lambda: (epochs(draw(10, 1000), 4), 32),
    "shuffled, 10 classes, batches of 4": lambda: (epochs(draw(10, 400), 3), 4),
    "shuffled, 100 classes, batches of 8": lambda: (epochs(draw(100, 2000), 2), 8),
    "shuffled, 1000 classes, 100:1, batches of 16": lambda: (draw(1000, 4000, 100.0), 16),
    "one sample at a time": lambda: (epochs(draw(3, 300), 2), 1),
    "three batches to an epoch": lambda: (epochs(draw(5, 90), 40), 32),
    "the same batch for ever": lambda: (epochs(draw(10, 64), 60), 64),
    "four of 50 classes, eight of each": lambda: (episodes(50, 4, 8, 100), 32),
    "two of 10 classes, sixteen of each": lambda: (episodes(10, 2, 16, 100), 32),
    "mild drift, 2 classes (25 to 75 %)": lambda: (drifting(2, 4000, 0.5), 32),
    "drift, 10 classes": lambda: (drifting(10, 4000, 0.9), 32),
    "sorted, buffer of half an epoch": lambda: (buffered(draw(10, 2000), 1000, 2), 32),
    "balanced sampler, 2 classes": lambda: (torch.randint(2, (3000,)), 16),
    "length buckets (a third by class)": lambda: (grouped(draw(4, 1000), 16, 2, mixed=0.7), 16),
    "- sorted, 10 classes": lambda: (epochs(draw(10, 1000).sort().values, 2, shuffle=False), 32),
    "- sorted, 10 classes, 50:1": lambda: (
        epochs(draw(10, 1000, 50.0).sort().values, 2, shuffle=False),
        32,
    ),
    "- sorted, 2 classes": lambda: (epochs(draw(2, 1000).sort().values, 1, shuffle=False), 32),
    "- sorted, batches as large as classes": lambda: (
        epochs(draw(10, 1000).sort().values, 4, shuffle=False),
        100,
    ),
    "- sorted, one sample at a time": lambda: (draw(3, 600).sort().values, 1),
    "- sorted, buffer of a tenth": lambda: (buffered(draw(10, 2000), 200, 1), 32),
    "- a class to a batch, 10 classes": lambda: (grouped(draw(10, 1000), 32, 2), 32),
    "- a class to a batch, 2 classes": lambda: (grouped(draw(2, 1000), 32, 2), 32),
    "- a class to a batch, 100 classes": lambda: (grouped(draw(100, 2000), 16, 2), 16),
    "- a quarter mixed": lambda: (grouped(draw(10, 1000), 32, 3, mixed=0.25), 32),
}


def watch(stream: tuple[Tensor, int]) -> tuple[float, float, str]:
    """Plays a run to the rules of order: largest purity and order once judged, and the verdict."""
    labels, batch = stream
    classes = int(labels.max()) + 1
    detector, past, pending, largest = ClassBalanceDetector(), _Past(classes), [], [0.0, 0.0]
    for one in labels.split(batch):
        pending.append(torch.bincount(one, minlength=classes).double())
        if past.steps >= _FIRST and len(pending) < _EVERY:
            continue
        past.add(torch.stack(pending))
        pending.clear()
        seen = past.judged(target(classes))
        if seen.steps >= _EVERY:
            largest = [max(largest[0], seen.purity), max(largest[1], seen.order)]
        for check in (detector.single_class_batches, detector.ordered_labels):
            if list(check(seen)):
                return seen.purity, seen.order, check._rule[0]  # type: ignore[attr-defined]
    return largest[0], largest[1], ""


def purity(stream: tuple[Tensor, int]) -> tuple[float, str]:
    value, _, code = watch(stream)
    return value, code


def order(stream: tuple[Tensor, int]) -> tuple[float, str]:
    _, value, code = watch(stream)
    return value, code


# -- CLS104 and CLS106: training against validation


def split(
    classes: int, tail: float, train: int, validation: int, change: str = ""
) -> tuple[Tensor, Tensor]:
    """How often each class is in training and in validation."""
    p, q = shares(classes, tail), shares(classes, tail)
    if change == "reversed":
        q = p.flip(0)
    elif change == "missing":
        p[int(torch.randint(classes // 2, ()))] = 0
    elif change == "halved":
        q[: classes // 3] *= 0.5
    elif change == "balanced":
        q = torch.ones(classes)
    drawn = (torch.multinomial(one, n, True) for one, n in ((p, train), (q, validation)))
    a, b = (torch.bincount(one, minlength=classes) for one in drawn)
    return a, b


SPLITS: Kinds = {
    "random, 10 classes, 800 / 200": lambda: split(10, 3.0, 800, 200),
    "random, 2 classes, 10:1, 300 / 100": lambda: split(2, 10.0, 300, 100),
    "random, 15 classes, 100:1, 500 / 150": lambda: split(15, 100.0, 500, 150),
    "random, 20 classes, 300:1, 2000 / 2000": lambda: split(20, 300.0, 2000, 2000),
    "a third of the classes halved": lambda: split(10, 3.0, 800, 200, "halved"),
    "validation balanced on purpose, 30:1": lambda: split(10, 30.0, 800, 400, "balanced"),
}
SHIFTS: Kinds = {
    **SPLITS,
    "- reversed shares, 10 classes, 5:1": lambda: split(10, 5.0, 800, 200, "reversed"),
    "- reversed shares, 2 classes, 5:1": lambda: split(2, 5.0, 300, 150, "reversed"),
}
ABSENCES: Kinds = {
    **SPLITS,
    "- a class left out, 10 classes, 3:1": lambda: split(10, 3.0, 800, 200, "missing"),
    "- a class left out, 20 classes": lambda: split(20, 1.0, 2000, 400, "missing"),
}


def counts(classes: int, train: Tensor, validation: Tensor) -> ClassCounts:
    """A look at the end of the first epoch."""
    table = torch.zeros(4, classes, dtype=torch.float64)
    return ClassCounts(
        target(classes), train.double(), validation.double(), table, table, 1, False, (), 30, 1
    )


def shifted(both: tuple[Tensor, Tensor]) -> tuple[float, str]:
    a, b = both
    found = list(ClassBalanceDetector().label_shift(counts(len(a), a, b)))
    return float((a / a.sum() - b / b.sum()).abs().sum() / 2), "CLS106" * bool(found)


def absent(both: tuple[Tensor, Tensor]) -> tuple[float, str]:
    a, b = both
    found = list(ClassBalanceDetector().missing_class(counts(len(a), a, b)))
    return int(b[a == 0].sum()), "CLS104" * bool(found)


# -- CLS105: how labels are encoded

LOGITS = torch.randn(32, 5, requires_grad=True)


def drawn(least: int, most: int) -> Tensor:
    """Labels from the least to the largest, with both of them."""
    y = torch.randint(least, most + 1, (32,))
    y[:2] = torch.tensor([least, most])
    return y


def many(y: Tensor, **options) -> object:
    return lambda: F.cross_entropy(LOGITS, y, **options)


def yes_or_no(y: Tensor, **options) -> object:
    return lambda: F.binary_cross_entropy_with_logits(LOGITS[:, 0], y, **options)


ENCODINGS: Kinds = {
    "0 to 4": lambda: many(drawn(0, 4)),
    "1 to 3 of 5": lambda: many(drawn(1, 3)),
    "-100 where unknown": lambda: many(drawn(0, 4).masked_fill(torch.rand(32) < 0.3, -100)),
    "255 is ignored": lambda: many(
        drawn(0, 4).masked_fill(torch.rand(32) < 0.3, 255), ignore_index=255
    ),
    "soft labels": lambda: many(torch.rand(32, 5).softmax(1)),
    "yes and no": lambda: yes_or_no(drawn(0, 1).float()),
    "shares of yes": lambda: yes_or_no(torch.rand(32)),
    "noisy answers": lambda: yes_or_no(drawn(0, 1) + 0.1 * torch.randn(32)),
    "-1 is masked afterwards": lambda: yes_or_no(drawn(-1, 1).float(), reduction="none"),
    "- 1 to 5": lambda: many(drawn(1, 5)),
    "- -1 where unknown": lambda: many(drawn(-1, 4)),
    "- 0 to 7, 5 outputs": lambda: many(drawn(0, 7)),
    "- 255 is not ignored": lambda: many(drawn(0, 4).masked_fill(torch.rand(32) < 0.3, 255)),
    "- -1 and 1": lambda: yes_or_no(2.0 * drawn(0, 1) - 1),
    "- 0 and 255": lambda: yes_or_no(255.0 * drawn(0, 1)),
}


def encoded(step) -> tuple[float, str]:
    y = step.__closure__[-1].cell_contents
    with Listener((LOGITS, y)) as heard, suppress(IndexError, RuntimeError, ValueError):
        step()
    calls = LabelCalls(heard.heard()[0])
    return float(y.max()), "CLS105" * bool(list(ClassBalanceDetector().invalid_label(calls)))


# -- CLS101 and CLS107: what is learned, on small nets


@dataclass(frozen=True)
class Run:
    """A small net that learns digits, of which nines are so many times rarer."""

    ratio: int = 1
    lr: float = 1e-3
    weight: float = 1.0
    passes: int = 8

    def looks(self) -> Iterator[ClassCounts]:
        """Trains, and yields what the detector gets at the end of each epoch."""
        x, y = digits(1797)
        mixed = torch.randperm(len(y))
        x, y = x[mixed], y[mixed]
        held, x, y = (x[:450], y[:450]), x[450:], y[450:]
        nines = (y == 9).nonzero().flatten()
        keep = torch.ones(len(y), dtype=torch.bool)
        keep[nines[math.ceil(len(nines) / self.ratio) :]] = False
        x, y = x[keep], y[keep]
        weight = torch.ones(10)
        weight[9] = self.weight
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer, batches = torch.optim.Adam(net.parameters(), lr=self.lr), 0
        nothing = torch.zeros(4, 10).double()
        train, seen = (torch.bincount(one, minlength=10).double() for one in (y, held[1]))
        for epoch in range(self.passes):
            for i in torch.randperm(len(y)).split(32):
                optimizer.zero_grad()
                F.cross_entropy(net(x[i]), y[i], weight=weight).backward()
                optimizer.step()
                batches += 1
            with torch.no_grad():
                logits = net(held[0])
            call = LossCall("cross_entropy", logits, held[1], tuple(logits.shape))
            table = _table(call, target(10)).double()
            yield ClassCounts(
                target(10), train, seen, nothing, table, epoch + 1, False, (), batches, epoch + 1
            )


BALANCED: Kinds = {
    f"{ratio}:1, learning rate {lr:g}": lambda ratio=ratio, lr=lr: Run(ratio, lr=lr)
    for ratio in (1, 2, 4, 6)
    for lr in (3e-4, 1e-3, 5e-3)
}
RARE: Kinds = {
    **BALANCED,
    "- 100:1, learning rate 0.001": lambda: Run(100, passes=12),
    "- 40:1, learning rate 0.0003": lambda: Run(40, lr=3e-4, passes=12),
}
NEGLECTED: Kinds = {
    **BALANCED,
    "- weight 0.001": lambda: Run(weight=1e-3, lr=3e-3, passes=12),
}


def learned(run: Run) -> tuple[float, str]:
    """The recall of the nines at the end, and the first finding."""
    return outcome(run, torch.initial_seed())


@cache
def outcome(run: Run, seed: int) -> tuple[float, str]:
    """What comes of a run with this seed, which both rules are asked about."""
    torch.manual_seed(seed)
    detector, code = ClassBalanceDetector(), ""
    for look in run.looks():
        for check in (detector.imbalanced_classes, detector.neglected_class):
            if not code and list(check(look)):
                code = check._rule[0]  # type: ignore[attr-defined]
    seen, hits = look.validation_table[:2, 9].tolist()
    return hits / seen, code


def main() -> None:
    """Writes all tables."""
    sheet = Sheet("Class balance: false alarms and power", "class_balance")
    any_order = {"sick": "CLS103", "limit": "0.25"}
    sheet.add("CLS102", "purity of the steps", ORDERS, purity, **any_order)
    sheet.add("CLS103", "likeness of steps in a row", ORDERS, order, sick="CLS102", limit="0.25")
    sheet.add("CLS104", "validation labels that training lacks", ABSENCES, absent)
    sheet.add("CLS105", "largest label", ENCODINGS, encoded)
    sheet.add("CLS106", "share of labels that would have to change", SHIFTS, shifted, limit="0.3")
    sheet.add("CLS101", "recall of the rare class", RARE, learned, limit="10:1")
    sheet.add("CLS107", "recall of the class", NEGLECTED, learned)
    sheet.write()


if __name__ == "__main__":
    main()
