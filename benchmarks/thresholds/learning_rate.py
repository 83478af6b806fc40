"""The statistics behind LRN101, LRN102 and LRN105, on runs that are healthy and on runs that are not.

    python benchmarks/thresholds/learning_rate.py        # a minute or two

The thresholds of the first two are held against a far larger grid in ``../learning_rate.py``.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import learning_rate as grid
import torch
from torch import nn
from torch.optim import SGD, RMSprop
from torch.optim.lr_scheduler import CyclicLR

from lightning_nndebug import LearningRateDetector
from lightning_nndebug.core.measurements.step_probe import StepProbe, scrambled
from lightning_nndebug.learning_rate.line_search import Line, at_peak, line, recent
from lightning_nndebug.learning_rate.spikes import new_history, spikes

TASKS = ("mlp", "linear", "regression", "autoencoder", "binary")


def lines(probes: Iterable[StepProbe]) -> tuple[Line | None, Line | None]:
    """Returns what the early probes say together, and what the late ones do."""
    detector, early, late = LearningRateDetector(), None, None
    for probe in probes:
        detector._remember(probe)
        if probe.step == 40:
            early = line(recent(detector.probes), detector.start["loss"])
        if probe.step == 100:
            late = line(at_peak(detector.probes), detector.start["loss"])
    return early, late


def spread(values: list[float]) -> str:
    """The least, the median and the largest."""
    if not values:
        return "-"
    return " / ".join(f"{one:.2g}" for one in (min(values), statistics.median(values), max(values)))


def line_search() -> None:
    runs = []
    for task in TASKS:
        for optimizer in ("momentum", "adam"):
            for rate in grid.RATES[optimizer][::2]:
                start, end, probes = grid.train(grid.TASKS[task], grid.OPTIMIZERS[optimizer], rate)
                runs.append(grid.Run(task, optimizer, rate, start, end, probes))
    truth = grid.truths(runs)
    rows = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for when, one in zip(("steps 0-40", "steps 50-100"), lines(run.probes), strict=True):
            if one is not None:
                row = rows[when, truth[run[:3]]]
                for name, value in (
                    ("best multiple", one.best),
                    ("gain", one.gain),
                    ("kept", one.kept),
                    ("reach", 300 * one.pace),
                    ("travel", 300 * one.stride),
                    ("progress", one.progress),
                ):
                    row[name].append(value)
    print("\n## Line search: least / median / largest\n")
    print(
        "| window | the rate is | best multiple | gain | kept | reach | travel | progress |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for when in ("steps 0-40", "steps 50-100"):
        for name in grid.TRUTHS:
            row = rows[when, name]
            shown = (
                spread(row[key])
                for key in ("best multiple", "gain", "kept", "reach", "travel", "progress")
            )
            print(f"| {when} | {name} | {' | '.join(shown)} |")
    one = LearningRateDetector()
    print(
        f"\nToo low (late): best >= {one.longer:g}, gain >= {one.gain}, reach < {one.reach}, "
        f"travel < {one.travel}, ",
        end="",
    )
    print(
        "(or twice as much, if best is ten times that), "
        f"progress <= {one.settled}. Too high: best <= 0.5, kept < {one.kept}, progress < {one.progress}."
    )


def novelty() -> None:
    """The loss of a net as a share of that with its weights scrambled."""
    print("\n## Novelty: new nets (three seeds), and the same after 300 steps\n")
    print("| task | new | trained |\n|---|---|---|")
    for name in (*TASKS, "convolutional", "lstm", "vae", "contrastive"):
        task, new, old = grid.TASKS[name], [], []
        for seed in range(3):
            torch.manual_seed(seed)
            nets = [(task.net(), new)] + ([(grid.trained(task, seed), old)] if not seed else [])
            for net, ratios in nets:
                batch = task.batch(torch.Generator().manual_seed(seed), task.size)
                with torch.no_grad():
                    loss = task.loss(net, batch).item()
                    for p in net.parameters():
                        p.copy_(scrambled(p))
                    ratios.append(loss / task.loss(net, batch).item())
        print(f"| {name} | {spread(new)} | {spread(old)} |")
    print("\nThe limit is 0.7.")


def losses_of(make, *, schedule=None, glare: float = 0.0, seed: int = 0) -> list[float]:
    """Losses of an autoencoder; every 33rd batch has one sample that is so many times as bright."""
    torch.manual_seed(seed)
    net = grid.mlp(64, 48, 16, 48, 64, activation=nn.Tanh)
    optimizer = make(net.parameters())
    schedule = schedule and schedule(optimizer)
    generator, losses = torch.Generator().manual_seed(seed), []
    for step in range(300):
        (x,) = grid.draw(lambda: grid.digits()[:1])(generator, 32)
        if glare and step % 33 == 32:
            x = torch.cat([glare * x[:1], x[1:]])
        loss = grid.squares(net, (x, x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if schedule:
            schedule.step()
    return losses


def recurring() -> None:
    def cycles(peak: float):
        return lambda o: CyclicLR(
            o, 1e-3, peak, step_size_up=2, step_size_down=28, cycle_momentum=False
        )

    runs = {
        f"sick: glaring samples, x{glare}, lr {rate}": lambda seed, rate=rate, glare=glare: (
            losses_of(lambda p: SGD(p, rate), glare=glare, seed=seed)
        )
        for glare in (20, 50, 1000)
        for rate in ((0.3, 1.0) if glare < 1000 else (1e-6,))
    }
    runs |= {
        f"sick: cycles up to {peak}": lambda seed, peak=peak: losses_of(
            lambda p: RMSprop(p, 1e-3), schedule=cycles(peak), seed=seed
        )
        for peak in (0.02, 0.05)
    }
    runs |= {f"healthy: {task}, {name} at {rate}": lambda seed, task=task, name=name, rate=rate: [
        loss for probe in grid.train(grid.TASKS[task], grid.OPTIMIZERS[name], rate, seed=seed)[2] for loss in probe.losses]
        for task in TASKS for name, rate in (("momentum", 0.03), ("adam", 3e-3))}  # fmt: skip
    print(
        "\n## Spikes in 300 steps, two seeds: at 3, 4, 6 scales, and at heights of 0.1, 0.2, 0.4\n"
    )
    print(
        "| run | 3 | 4 | 6 | 0.1 | 0.2 | 0.4 | largest / first |\n|---|---|---|---|---|---|---|---|"
    )
    for name, run in runs.items():
        sequences = [run(seed) for seed in (0, 1)]
        cells = []
        for scales, height in ((3, 0.2), (4, 0.2), (6, 0.2), (4, 0.1), (4, 0.2), (4, 0.4)):
            counts = []
            for losses in sequences:
                history = new_history()
                for step, loss in enumerate(losses):
                    spikes(history, step, loss, scales=scales, height=height)
                counts.append(len(history["spikes"]))
            cells.append("+".join(map(str, counts)))
        cells.append(spread([max(one) / statistics.median(one[:5]) for one in sequences]))
        print(f"| {name} | {' | '.join(cells)} |")
    print(
        "\nThe limit is 3, at 4 scales and a height of 0.2. A loss of a batch counts by itself if it"
    )
    print("is a thousand times the first.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    line_search()
    novelty()
    recurring()
