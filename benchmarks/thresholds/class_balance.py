"""The statistics of the class balance rules, on simulated label streams and on small real nets.

Prints, for each kind of stream, how large purity, order and shift get, and in which share of the
runs a rule speaks up: it should be none of the healthy ones and all of the sick::

    python benchmarks/thresholds/class_balance.py [runs of a kind]
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from program import digits

from lightning_nndebug import ClassBalanceDetector
from lightning_nndebug.core.measurements.class_counts import ClassCounts, _table
from lightning_nndebug.core.measurements.label_stream import _EVERY, _FIRST, _Past
from lightning_nndebug.core.measurements.labels import Target
from lightning_nndebug.core.measurements.loss_calls import LossCall

Stream = Callable[[], tuple[Tensor, int]]


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


HEALTHY: dict[str, Stream] = {
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
}
SICK: dict[str, Stream] = {
    "sorted, 10 classes": lambda: (epochs(draw(10, 1000).sort().values, 2, shuffle=False), 32),
    "sorted, 10 classes, 50:1": lambda: (
        epochs(draw(10, 1000, 50.0).sort().values, 2, shuffle=False),
        32,
    ),
    "sorted, 2 classes": lambda: (epochs(draw(2, 1000).sort().values, 1, shuffle=False), 32),
    "sorted, batches as large as classes": lambda: (
        epochs(draw(10, 1000).sort().values, 4, shuffle=False),
        100,
    ),
    "sorted, one sample at a time": lambda: (draw(3, 600).sort().values, 1),
    "sorted, buffer of a tenth": lambda: (buffered(draw(10, 2000), 200, 1), 32),
    "a class to a batch, 10 classes": lambda: (grouped(draw(10, 1000), 32, 2), 32),
    "a class to a batch, 2 classes": lambda: (grouped(draw(2, 1000), 32, 2), 32),
    "a class to a batch, 100 classes": lambda: (grouped(draw(100, 2000), 16, 2), 16),
    "a quarter mixed": lambda: (grouped(draw(10, 1000), 32, 3, mixed=0.25), 32),
}


def watch(labels: Tensor, batch: int) -> tuple[float, float, str]:
    """Plays a run to the rules of order: largest purity and order once judged, and the verdict."""
    classes = int(labels.max()) + 1
    detector, past, pending, largest = ClassBalanceDetector(), _Past(classes), [], [0.0, 0.0]
    for one in labels.split(batch):
        pending.append(torch.bincount(one, minlength=classes).double())
        if past.steps >= _FIRST and len(pending) < _EVERY:
            continue
        past.add(torch.stack(pending))
        pending.clear()
        stream = past.judged(target(classes))
        if stream.steps >= _EVERY:
            largest = [max(largest[0], stream.purity), max(largest[1], stream.order)]
        for check in (detector.single_class_batches, detector.ordered_labels):
            if list(check(stream)):
                return stream.purity, stream.order, check._rule[0]  # type: ignore[attr-defined]
    return largest[0], largest[1], ""


def order(runs: int) -> None:
    """Prints the table of purity and order."""
    print(f"{'labels':46}{'purity':>8}{'order':>8}   findings in {runs} runs")
    for name, group in (("healthy", HEALTHY), ("sick", SICK)):
        print(name)
        for kind, make in group.items():
            torch.manual_seed(0)
            purity, steps, codes = zip(*(watch(*make()) for _ in range(runs)), strict=True)
            choose = max if name == "healthy" else min
            found = {code or "none": n for code, n in Counter(codes).items()}
            print(f"  {kind:44}{choose(purity):8.2f}{choose(steps):8.2f}   {found}", flush=True)


def counts(classes: int, train: Tensor, validation: Tensor) -> ClassCounts:
    """A look at the end of the first epoch."""
    table = torch.zeros(4, classes, dtype=torch.float64)
    return ClassCounts(
        target(classes), train.double(), validation.double(), table, table, 1, False, (), 30, 1
    )


def split(runs: int) -> None:
    """Prints the table of label shift and missing classes."""
    print(f"\n{'train / validation':46}{'shift':>8}   findings in {runs} runs")
    kinds = {
        "random split, 10 classes, 800 / 200": (10, 3.0, 800, 200, None),
        "random split, 2 classes, 10:1, 300 / 100": (2, 10.0, 300, 100, None),
        "random split, 15 classes, 100:1, 500 / 150": (15, 100.0, 500, 150, None),
        "drift, 10 classes (a third of the classes halved)": (10, 3.0, 800, 200, 0.5),
        "sick: reversed shares, 10 classes, 3:1": (10, 3.0, 800, 200, "reversed"),
        "sick: reversed shares, 2 classes, 5:1": (2, 5.0, 300, 150, "reversed"),
        "sick: a class left out, 10 classes, 3:1": (10, 3.0, 800, 200, "missing"),
    }
    for kind, (classes, tail, train, validation, change) in kinds.items():
        torch.manual_seed(0)
        found: Counter[str] = Counter()
        shifts = []
        for _ in range(runs):
            p, q = shares(classes, tail), shares(classes, tail)
            if change == "reversed":
                q = p.flip(0)
            elif change == "missing":
                p[int(torch.randint(classes // 2, ()))] = 0
            elif change is not None:
                q[: classes // 3] *= change
            a = torch.bincount(torch.multinomial(p, train, True), minlength=classes)
            b = torch.bincount(torch.multinomial(q, validation, True), minlength=classes)
            detector, look = ClassBalanceDetector(), counts(classes, a, b)
            codes = [
                check._rule[0]
                for check in (detector.missing_class, detector.label_shift)
                if list(check(look))
            ]
            found[" ".join(codes) or "none"] += 1
            shifts.append(float((a / a.sum() - b / b.sum()).abs().sum() / 2))
        print(f"  {kind:50}{statistics.median(shifts):6.2f}   {dict(found)}")


def learn(y: Tensor, x: Tensor, held: tuple[Tensor, Tensor], lr: float, passes: int, weight=None):
    """Trains a small net on digits, and yields what the detector gets at the end of each epoch."""
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer, batches = torch.optim.Adam(net.parameters(), lr=lr), 0
    for epoch in range(passes):
        for i in torch.randperm(len(y)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(net(x[i]), y[i], weight=weight).backward()
            optimizer.step()
            batches += 1
        with torch.no_grad():
            logits = net(held[0])
        call = LossCall("cross_entropy", logits, held[1], tuple(logits.shape))
        table = _table(call, target(10)).double()
        train, nothing = torch.bincount(y, minlength=10).double(), torch.zeros(4, 10).double()
        seen = torch.bincount(held[1], minlength=10).double()
        yield (
            ClassCounts(
                target(10), train, seen, nothing, table, epoch + 1, False, (), batches, epoch + 1
            ),
            table,
        )


def neglect(seeds: int) -> None:
    """Prints when a class is called neglected, and how it fares at the end of the run."""
    print(f"\n{'digits, nines so many times rarer':46}{'recall':>8}   findings in {seeds} runs")
    kinds = [
        (f"{ratio}:1, lr {lr:g}, {passes} epochs", ratio, lr, passes, 1.0)
        for ratio, passes in ((1, 12), (3, 12), (5, 12), (20, 12), (100, 12))
        for lr in (1e-4, 1e-3, 5e-3)
    ] + [("sick: weight 0.001", 1, 3e-3, 12, 1e-3)]
    for kind, ratio, lr, passes, factor in kinds:
        found: Counter[str] = Counter()
        recalls = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            x, y = digits(1797)
            mixed = torch.randperm(len(y))
            x, y = x[mixed], y[mixed]
            held, x, y = (x[:450], y[:450]), x[450:], y[450:]
            keep = (y != 9) | (torch.rand(len(y)) < 1 / ratio)
            weight = torch.ones(10)
            weight[9] = factor
            detector, code = ClassBalanceDetector(), ""
            for look in learn(y[keep], x[keep], held, lr, passes, weight):
                for check in (detector.imbalanced_classes, detector.neglected_class):
                    if not code and list(check(look)):
                        code = f"{check._rule[0]} in epoch {look.look}"
            found[code or "none"] += 1
            seen, hits = look.validation_table[:2, 9].tolist()
            recalls.append(hits / seen)
        print(f"  {kind:44}{statistics.median(recalls):8.2f}   {dict(found)}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    order(runs)
    split(5 * runs)
    neglect(3)
