"""How well LRN101 and LRN102 tell a learning rate that is too high or too low, measured.

    python benchmarks/learning_rate.py --quick      # a small part of the grid, under three minutes
    python benchmarks/learning_rate.py              # all of it; stop it and go on whenever you like

Every task is trained by every optimizer at learning rates from hopeless to absurd, in half decades,
in plain PyTorch; probes and rules are those of the product. What a learning rate was worth is known
afterwards, from the loss that it reached: with p = (start - end) / (start - best end of all rates),
a rate is good from p = 0.9 on, and too low or too high below 0.5. Runs take 300 steps, some of
them 100 and 1,000. They are kept in ``results/learning_rate*.jsonl``; tables and figure are written
to ``results/learning_rate.md`` and ``results/learning_rate.png``.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import logging
import math
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_nndebug import LearningRateDetector
from lightning_nndebug.core.measurements.divergence import Divergence
from lightning_nndebug.core.measurements.schedules import Schedules
from lightning_nndebug.core.measurements.step_probe import (
    StepProbe,
    growth,
    is_due,
    scrambled,
    search,
)

RESULTS = Path(__file__).parent / "results"
STEPS = 300
Seen = StepProbe | Divergence


class Task(NamedTuple):
    """Something to train: a net, and a loss of the net on a random batch."""

    net: Callable[[], nn.Module]
    batch: Callable[[torch.Generator, int], tuple[Tensor, ...]]
    loss: Callable[[nn.Module, tuple[Tensor, ...]], Tensor]
    size: int = 64
    held_out: bool = True


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(data.target)


@functools.cache
def table(name: str) -> tuple[Tensor, Tensor]:
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6), torch.tensor(y, dtype=torch.float32)[:, None]


@functools.cache
def characters() -> tuple[Tensor, int]:
    from sklearn import datasets

    names = ("digits", "wine", "iris", "breast_cancer", "diabetes", "linnerud")
    prose = "\n".join(getattr(datasets, f"load_{name}")().DESCR for name in names).lower()
    alphabet = sorted(set(prose))
    return torch.tensor([alphabet.index(c) for c in prose]), len(alphabet)


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(widths):
        layers += [nn.Linear(i, o), activation()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = mlp(width, 4 * width, width, activation=nn.GELU)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Reads an image row by row."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, width), nn.Parameter(0.02 * torch.randn(8, width))
        self.blocks = Block(width)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))


class Recurrent(nn.Module):
    """Reads an image row by row."""

    def __init__(self, kind: type[nn.RNNBase], dropout: float = 0.0) -> None:
        super().__init__()
        self.rnn, self.drop, self.head = (
            kind(8, 48, batch_first=True),
            nn.Dropout(dropout),
            nn.Linear(48, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.rnn(x.view(-1, 8, 8))[0][:, -1]))


class Characters(nn.Module):
    """A small causal transformer."""

    def __init__(self, width: int = 48, length: int = 32) -> None:
        super().__init__()
        size = characters()[1]
        self.embed, self.place = nn.Embedding(size, width), nn.Embedding(length, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.place.weight, std=0.02)
        self.blocks = nn.ModuleList([Block(width)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))
        self.register_buffer("mask", torch.full((length, length), -math.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x) + self.place.weight
        for block in self.blocks:
            y = block(y, self.mask)
        return self.head(y)


class Residual(nn.Module):
    """A residual convolutional net with group norm."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(4, width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.view(-1, 1, 8, 8))
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x.mean((2, 3)))


class Vae(nn.Module):
    """Bernoulli pixels, Gaussian code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp(64, 64, 16), mlp(8, 64, 64)

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.encode(x).chunk(2, -1)
        y = self.decode(mean + torch.randn_like(mean) * (0.5 * spread).exp())
        pixels = F.binary_cross_entropy_with_logits(y, (x > 0).float(), reduction="none").sum(-1)
        return (pixels + 0.5 * (mean**2 + spread.exp() - spread - 1).sum(-1)).mean()


class Factors(nn.Module):
    """Matrix factorization: rows and columns of the images as users and items."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(1797, 8), nn.Embedding(64, 8)
        nn.init.normal_(self.rows.weight, std=0.3)
        nn.init.normal_(self.columns.weight, std=0.3)

    def forward(self, ij: Tensor) -> Tensor:
        return (self.rows(ij[:, 0]) * self.columns(ij[:, 1])).sum(-1)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def draw(
    data: Callable[[], tuple[Tensor, ...]],
) -> Callable[[torch.Generator, int], tuple[Tensor, ...]]:
    def batch(generator: torch.Generator, size: int) -> tuple[Tensor, ...]:
        tensors = data()
        index = torch.randint(len(tensors[0]), (size,), generator=generator)
        return tuple(one[index] for one in tensors)

    return batch


def text(generator: torch.Generator, size: int) -> tuple[Tensor, ...]:
    ids = characters()[0]
    start = torch.randint(len(ids) - 33, (size, 1), generator=generator)
    rows = ids[start + torch.arange(33)]
    return rows[:, :-1], rows[:, 1:]


@functools.cache
def mislabelled() -> tuple[Tensor, Tensor]:
    x, y = digits()
    order = torch.arange(len(y))
    wrong = order * 2654435761 % 1000 < 300
    return x, torch.where(wrong, (y + 1 + order % 9) % 10, y)


def cells(generator: torch.Generator, size: int) -> tuple[Tensor, ...]:
    x = digits()[0]
    ij = torch.stack([torch.randint(n, (size,), generator=generator) for n in x.shape], 1)
    return ij, x[ij[:, 0], ij[:, 1]]


def views(generator: torch.Generator, size: int) -> tuple[Tensor, ...]:
    (x,) = draw(lambda: digits()[:1])(generator, size)
    return tuple(x + 0.5 * torch.randn(x.shape, generator=generator) for _ in range(2))


def entropy(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return F.cross_entropy(net(batch[0]).flatten(0, -2), batch[1].flatten())


def squares(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return F.mse_loss(net(batch[0]), batch[-1])


def binary(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return F.binary_cross_entropy_with_logits(net(batch[0]), batch[1])


def contrast(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    a, b = (F.normalize(net(one), dim=-1) for one in batch)
    return F.cross_entropy(5 * a @ b.T, torch.arange(len(a)))


def itself(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return net(batch[0])


def raw_diabetes() -> tuple[Tensor, Tensor]:
    return table("diabetes")


def diabetes() -> tuple[Tensor, Tensor]:
    x, y = table("diabetes")
    return x, (y - y.mean()) / y.std()


TASKS = {
    # used to choose the rule
    "mlp": Task(lambda: mlp(64, 128, 128, 10), draw(digits), entropy, held_out=False),
    "convolutional": Task(convolutional, draw(digits), entropy, held_out=False),
    "transformer": Task(Transformer, draw(digits), entropy, held_out=False),
    "lstm": Task(lambda: Recurrent(nn.LSTM), draw(digits), entropy, held_out=False),
    "linear": Task(lambda: nn.Linear(64, 10), draw(digits), entropy, held_out=False),
    "regression": Task(
        lambda: mlp(10, 64, 64, 1, activation=nn.Tanh), draw(diabetes), squares, held_out=False
    ),
    "characters": Task(Characters, text, entropy, 8, held_out=False),
    # not used to choose the rule
    "raw_targets": Task(
        lambda: mlp(10, 64, 64, 1, activation=nn.Tanh), draw(raw_diabetes), squares
    ),
    "wrong_labels": Task(lambda: mlp(64, 128, 128, 10), draw(mislabelled), entropy),
    "tiny_batch": Task(lambda: mlp(64, 128, 128, 10), draw(digits), entropy, 4),
    "autoencoder": Task(
        lambda: mlp(64, 48, 8, 48, 64, activation=nn.SiLU), draw(lambda: digits()[:1]), squares
    ),
    "gru_dropout": Task(lambda: Recurrent(nn.GRU, 0.3), draw(digits), entropy),
    "residual": Task(Residual, draw(digits), entropy),
    "factorization": Task(Factors, cells, squares, 256),
    "binary": Task(lambda: mlp(30, 32, 32, 1), draw(lambda: table("breast_cancer")), binary, 32),
    "vae": Task(Vae, draw(lambda: digits()[:1]), itself),
    "contrastive": Task(lambda: mlp(64, 64, 32), views, contrast),
}

OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "nesterov": lambda p, lr: torch.optim.SGD(
        p, lr, momentum=0.9, nesterov=True, weight_decay=1e-4
    ),
    "adam": torch.optim.Adam,
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.05),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
LENGTHS = (100, 1000)  # steps of the runs that are shorter and longer than the others
MIXED = ("mlp", "transformer", "regression", "wrong_labels", "autoencoder", "gru_dropout")
QUICK = ("mlp", "linear", "regression", "raw_targets", "wrong_labels", "autoencoder", "binary")
RATES = {name: [10 ** (e / 2) for e in range(-12, 6)] for name in ("sgd", "momentum", "nesterov")}
RATES |= {name: [10 ** (e / 2) for e in range(-14, 4)] for name in OPTIMIZERS if name not in RATES}


class Run(NamedTuple):
    """One training run: what the probes saw (and its end, if it overflowed), and what came of it."""

    task: str
    optimizer: str
    rate: float
    start: float
    end: float
    probes: list[Seen]
    steps: int = STEPS


def train(
    task: Task,
    make: Callable[[Any, float], torch.optim.Optimizer],
    rate: float,
    *,
    seed: int = 0,
    factor: Callable[[int], float] = lambda _: 1.0,
    parts: int = 1,
    precision: torch.dtype | None = None,
    net: nn.Module | None = None,
    steps: int = STEPS,
) -> tuple[float, float, list[Seen]]:
    """Trains, and probes as the measurement of the product does.

    Args:
        task: What to train.
        make: Makes the optimizer, of parameters and a learning rate.
        rate: The learning rate.
        seed: For weights and batches.
        factor: The schedule: the learning rate's factor at a step.
        parts: Batches that are accumulated for a step.
        precision: Of autocast, if any.
        net: A net to go on with, instead of a new one.
        steps: The length of the run.

    Returns:
        The loss on fixed batches before and after training, and the probes; after them, how the
        loss went before it was not finite any more.
    """
    torch.manual_seed(seed)
    net, generator = net or task.net(), torch.Generator().manual_seed(seed + 1)
    parameters = list(net.parameters())
    optimizer = make(parameters, rate)
    exam = [task.batch(torch.Generator().manual_seed(99 + i), 256) for i in range(2)]
    top = max(factor(step) for step in range(steps))

    def compute(batch: tuple[Tensor, ...]) -> Tensor:
        with torch.autocast("cpu", precision, enabled=precision is not None):
            return task.loss(net, batch)

    @torch.no_grad()
    def look(batch: tuple[Tensor, ...]) -> float:
        with torch.random.fork_rng(devices=[]):
            return float(compute(batch))

    start = statistics.fmean(map(look, exam))
    probes: list[Seen] = []
    losses: list[float] = []
    latest: deque[float] = deque(maxlen=50)
    batches = [task.batch(generator, task.size) for _ in range(parts)]
    for step in range(steps):
        fresh = [task.batch(generator, task.size) for _ in range(parts)]
        for group in optimizer.param_groups:
            group["lr"] = factor(step) * rate
        gradients: list[Tensor] = []
        seen: list[float] = []

        def closure(batches: Any = batches, gradients: Any = gradients, seen: Any = seen) -> Tensor:
            optimizer.zero_grad()
            total = sum(compute(batch) / parts for batch in batches)
            total.backward()
            if not seen:
                gradients += [
                    torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters
                ]
            seen.append(total.item())
            return total

        before = [p.detach().clone() for p in parameters]
        optimizer.step(closure)
        losses.append(seen[0])
        if not math.isfinite(seen[0]):
            return start, math.inf, [*probes, Divergence(tuple(latest), seen[0], step)]
        latest.append(seen[0])
        after = [p.detach().clone() for p in parameters]
        moved = torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)])
        largest = float(moved.abs().max())
        if is_due(step) and largest and math.isfinite(largest):

            @torch.no_grad()
            def loss_at(
                multiple: float, batch: Any = fresh[0], after: Any = after, before: Any = before
            ) -> float:
                torch._foreach_copy_(parameters, after)
                torch._foreach_lerp_(parameters, before, 1.0 - multiple)
                return look(batch)

            other = None
            if not probes:
                with torch.no_grad():
                    for p, then in zip(parameters, before, strict=True):
                        p.copy_(scrambled(then))
                other = look(fresh[0])
            own = (loss_at(0.0, batches[-1]), loss_at(1.0, batches[-1]))
            curve = search(loss_at)
            slope = float(torch.cat([one.flatten() for one in gradients]) @ moved)
            whole = float(torch.cat([one.flatten() for one in before]).norm())
            now = factor(step)
            probes.append(
                StepProbe(
                    "",
                    step,
                    now * rate,
                    now / top,
                    curve,
                    own,
                    -slope,
                    tuple(losses[-20:]),
                    float(moved.norm()) / whole,
                    scrambled=other,
                    growth=growth(optimizer.param_groups[0]),
                )
            )
            losses = []
            with torch.no_grad():
                torch._foreach_copy_(parameters, after)
        batches = fresh
    end = statistics.fmean(map(look, exam))
    return start, end if math.isfinite(end) else math.inf, probes


class Verdict(NamedTuple):
    """What the rules say of a run."""

    answer: str  # "low", "high", "slow" (too low, as an INFO) or "none"
    step: int = 0
    rate: float = math.nan  # the one that they propose


def judge(probes: Iterable[Seen], steps: int = STEPS, **options: Any) -> Verdict:
    """Asks the rules at every probe, as the engine does, until one of them warns."""
    detector, verdict = LearningRateDetector(**options), Verdict("none")
    for probe in probes:
        # Epochs of a tenth of the run; how many are over matters to what is told early.
        run = Schedules(steps=steps, epochs=10, epoch=10 * probe.step // steps)
        asked = [("high", detector.learning_rate_too_high(probe, run))]
        if isinstance(probe, StepProbe):
            asked.append(("low", detector.learning_rate_too_low(probe, run)))
        for answer, found in asked:
            for evidence in found:
                if evidence.severity is None:
                    return Verdict(answer, probe.step, evidence.limit)
                if verdict.answer == "none":
                    verdict = Verdict("slow", probe.step, evidence.limit)
    return verdict


# -- the grid


def grid(*, quick: bool, steps: int = STEPS) -> Iterator[tuple[str, str, float]]:
    if steps != STEPS:
        for task, optimizer in itertools.product(MIXED, ("sgd", "momentum", "adam", "rmsprop")):
            for rate in RATES[optimizer][::2]:
                yield task, optimizer, rate
        return
    for task, optimizer in itertools.product(QUICK if quick else TASKS, OPTIMIZERS):
        if not quick or optimizer in ("momentum", "adam"):
            for rate in RATES[optimizer][:: 2 if quick else 1]:
                yield task, optimizer, rate


def load(path: Path) -> dict[tuple[str, str, float], Run]:
    runs = {}
    for row in path.read_text().splitlines() if path.exists() else ():
        values = json.loads(row)
        run = Run(**{**values, "probes": restored(values["probes"])})
        runs[run[:3]] = run
    return runs


def collect(path: Path, *, quick: bool = False, steps: int = STEPS) -> list[Run]:
    """Does the runs that are still missing, and writes each down as soon as it is done."""
    runs = load(path)
    wanted = list(grid(quick=quick, steps=steps))
    began, done = time.perf_counter(), 0
    for task, optimizer, rate in wanted:
        known = runs.get((task, optimizer, rate))
        if known and (math.isfinite(known.end) or isinstance(known.probes[-1], Divergence)):
            continue
        # One seed for the tasks to choose on, another for those that are held out.
        start, end, probes = train(
            TASKS[task], OPTIMIZERS[optimizer], rate, seed=int(TASKS[task].held_out), steps=steps
        )
        run = runs[task, optimizer, rate] = Run(task, optimizer, rate, start, end, probes, steps)
        with path.open("a") as file:
            rows = [
                {**asdict(one), "losses": [float(f"{x:.4g}") for x in one.losses]} for one in probes
            ]
            file.write(json.dumps({**run._asdict(), "probes": rows}) + "\n")
        done += 1
        if done % 50 == 0:
            print(
                f"{done} runs in {time.perf_counter() - began:.0f} s, {task} {optimizer}",
                flush=True,
            )
    return [runs[key] for key in wanted]


# -- what became of them

TRUTHS = ("low", "lowish", "good", "highish", "high")


def truths(runs: Iterable[Run]) -> dict[tuple[str, str, float], str]:
    """Says of each learning rate what it was worth, beside the others of its task and optimizer."""
    families = defaultdict(list)
    for run in runs:
        families[run.task, run.optimizer].append(run)
    found = {}
    for family in families.values():
        best = min(family, key=lambda run: run.end)
        start = statistics.median(run.start for run in family)
        for run in family:
            share = (start - run.end) / (start - best.end)
            side = "low" if run.rate < best.rate else "high"
            found[run[:3]] = "good" if share >= 0.9 else f"{side}ish" if share >= 0.5 else side
    return found


def confusion(runs: Iterable[Run], truth: dict[Any, str], verdicts: dict[Any, Verdict]) -> str:
    counts = Counter((truth[run[:3]], verdicts[run[:3]].answer) for run in runs)
    lines = [
        "| the rate is | runs | LRN102 too low | slow (INFO) | silent | LRN101 too high |",
        "|---|---|---|---|---|---|",
    ]
    for name in TRUTHS:
        row = [counts[name, answer] for answer in ("low", "slow", "none", "high")]
        shown = [f"{one} ({one / sum(row):.1%})" if sum(row) else "0" for one in row]
        lines.append(f"| {name} | {sum(row)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def by_optimizer(runs: list[Run], truth: dict[Any, str], verdicts: dict[Any, Verdict]) -> str:
    lines = [
        "| optimizer | too low, found | too high, found | alarms on good |",
        "|---|---|---|---|",
    ]
    for name in OPTIMIZERS:
        mine = [run[:3] for run in runs if run.optimizer == name]

        def share(what: str, *answers: str, mine: Any = mine) -> str:
            some = [verdicts[key].answer for key in mine if truth[key] == what]
            return f"{sum(one in answers for one in some)}/{len(some)}"

        lines.append(
            f"| {name} | {share('low', 'low')} | {share('high', 'high')} | {share('good', 'low', 'high')} |"
        )
    return "\n".join(lines)


def by_option(runs: list[Run], truth: dict[Any, str], option: str, values: set[float]) -> str:
    """What an option trades: runs that get a little way are found, or left in peace."""
    lines = [
        f"| {option} | too low, found | of those below 1/10 of the way | alarms on lowish | on good |",
        "|---|---|---|---|---|",
    ]
    worths = worth(runs)
    hopeless = {run[:3] for run in runs if worths(run[:2], run.rate) < 0.1}
    default = getattr(LearningRateDetector(), option)
    for value in sorted(values | {default}):
        found = {run[:3] for run in runs if judge(run.probes, **{option: value}).answer == "low"}
        low, lowish, good = (
            {key for key, what in truth.items() if what == name}
            for name in ("low", "lowish", "good")
        )
        cells = [f"{len(found & some)}/{len(some)}" for some in (low, low & hopeless, lowish, good)]
        name = f"**{value}**" if value == default else str(value)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def worth(runs: Iterable[Run]) -> Callable[[tuple[str, str], float], float]:
    """Returns how far any rate gets, of what the best gets to: between those that were tried."""
    families: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        families[run.task, run.optimizer].append(run)
    shares: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for key, family in families.items():
        start, best = statistics.median(one.start for one in family), min(r.end for r in family)
        shares[key] = sorted(
            (math.log(one.rate), max((start - one.end) / (start - best), -1.0)) for one in family
        )

    def share(key: tuple[str, str], rate: float) -> float:
        known = shares[key]
        at = min(max(math.log(rate), known[0][0]), known[-1][0])
        (left, low), (right, high) = next(
            pair for pair in itertools.pairwise(known) if at <= pair[1][0]
        )
        return low + (high - low) * (at - left) / (right - left)

    return share


def usefulness(runs: list[Run], verdicts: dict[Any, Verdict]) -> str:
    """How far the learning rates get that the findings propose."""
    share = worth(runs)
    lines = [
        "| finding | proposed | gets to 80% of the way | to 50% | at present, the median | then |",
        "|---|---|---|---|---|---|",
    ]
    for answer, name in (("low", "LRN102"), ("slow", "LRN102, as INFO"), ("high", "LRN101")):
        some = [run for run in runs if verdicts[run[:3]].answer == answer]
        now = [share(run[:2], run.rate) for run in some]
        then = [share(run[:2], verdicts[run[:3]].rate) for run in some]
        if some:
            good, fair = (sum(one >= limit for one in then) for limit in (0.8, 0.5))
            lines.append(
                f"| {name} | {len(some)} | {good} ({good / len(some):.0%}) | {fair} "
                f"({fair / len(some):.0%}) | {statistics.median(now):.0%} "
                f"| {statistics.median(then):.0%} |"
            )
    return "\n".join(lines)


def mistakes(runs: list[Run], truth: dict[Any, str], verdicts: dict[Any, Verdict]) -> str:
    lines = []
    for run in runs:
        what, verdict = truth[run[:3]], verdicts[run[:3]]
        right = {"good": ["none"], "low": ["low", "slow"]}.get(what, [what])
        if what in ("low", "good", "high") and verdict.answer not in right:
            lines.append(
                f"- {run.task}, {run.optimizer}, lr {run.rate:.1e}: {what}, found {verdict.answer}; "
                f"loss {run.start:.3g} -> {run.end:.3g}, {len(run.probes)} probes"
            )
    return "\n".join(lines) or "none"


def table_of(runs: list[Run], title: str) -> str:
    truth, verdicts = truths(runs), {run[:3]: judge(run.probes) for run in runs}
    steps = {
        answer: [one.step for one in verdicts.values() if one.answer == answer]
        for answer in ("low", "slow", "high")
    }
    when = ", ".join(
        f"{answer} at step {statistics.median(some):.0f}" for answer, some in steps.items() if some
    )
    parts = [
        f"## {title}: {len(runs)} runs",
        confusion(runs, truth, verdicts),
        f"The median verdict falls: {when}.",
        by_optimizer(runs, truth, verdicts),
        "What the options `reach` and `travel` trade:",
        by_option(runs, truth, "reach", {0.1, 0.3, 0.5}),
        by_option(runs, truth, "travel", {0.05, 0.2, 0.5}),
        "How far the proposed learning rates get, of what the best gets to:",
        usefulness(runs, verdicts),
        "All mistakes:",
        mistakes(runs, truth, verdicts),
    ]
    return "\n\n".join(parts)


# -- beyond the grid


class Control(NamedTuple):
    """A run of another kind, and what the rules should say of it."""

    name: str
    expected: str
    probes: Callable[[int], list[Seen]]  # of a seed
    steps: int = STEPS


def random_labels(generator: torch.Generator, size: int) -> tuple[Tensor, ...]:
    (x,) = draw(lambda: digits()[:1])(generator, size)
    return x, torch.randint(10, (size,), generator=generator)


def valley(generator: torch.Generator, size: int) -> tuple[Tensor, ...]:
    """Linear regression without noise, whose features differ in scale by a hundred."""
    scale = torch.logspace(-2, 0, 10)
    x = torch.randn(size, 10, generator=generator) * scale
    return x, (x / scale).sum(-1, keepdim=True)


def likelihood(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """The density of a target that is known better and better: it goes below 0."""
    mean, spread = net(batch[0]).chunk(2, -1)
    return F.gaussian_nll_loss(mean, batch[0].sum(-1, keepdim=True), spread.exp() + 1e-6)


def harder(task: Task) -> Task:
    """The same task, with a loss whose weight grows with every batch."""
    count = itertools.count()

    def batch(generator: torch.Generator, size: int) -> tuple[Tensor, ...]:
        return *task.batch(generator, size), torch.tensor(1.0 + next(count) / 100)

    return task._replace(
        batch=batch, loss=lambda net, batch: batch[-1] * task.loss(net, batch[:-1])
    )


def trained(task: Task, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = task.net()
    train(task, OPTIMIZERS["adam"], 3e-3, seed=seed, net=net)
    return net


def lbfgs(parameters: Any, rate: float) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, rate, max_iter=4)


def everything(_generator: torch.Generator, _size: int) -> tuple[Tensor, ...]:
    """One batch for ever, as LBFGS wants it."""
    return tuple(one[:256] for one in digits())


def muon(parameters: Any, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Muon([p for p in parameters if p.ndim == 2], rate)


def controls() -> Iterator[Control]:
    mlp_, regression = TASKS["mlp"], TASKS["regression"]
    settings = (("sgd", 0.1), ("momentum", 0.03), ("adam", 1e-3), ("adam", 3e-3))

    def control(
        name: str, expected: str, task: Task, make: Any, rate: float, **options: Any
    ) -> Control:
        make = OPTIMIZERS.get(make, make)
        return Control(
            name,
            expected,
            lambda seed: train(task, make, rate, seed=seed, **options)[2],
            options.get("steps", STEPS),
        )

    def wavy(step: int) -> float:
        return min(1.0, (step + 1) / 60) * 0.5 * (1 + math.cos(math.pi * step / STEPS))

    kinds: dict[str, dict[str, Any]] = {
        "warm-up and cosine": {"factor": wavy},
        "accumulation of 4": {"parts": 4},
        "bfloat16 autocast": {"precision": torch.bfloat16},
        "runs of 40 steps": {"steps": 40},
    }
    for name, options in kinds.items():
        for task, (make, rate) in itertools.product((mlp_, regression), settings):
            yield control(name, "none", task, make, rate, **options)
        for task in (mlp_, regression):
            yield control(f"{name}, 1e-7", "low", task, "adam", 1e-7, **options)
            yield control(f"{name}, 30", "high", task, "adam", 30.0, **options)
    for make, rate in (("sgd", 1e-2), ("momentum", 1e-3), ("adam", 3e-4)):
        yield control("batches of one", "none", mlp_._replace(size=1), make, rate)
        yield control("batches of one", "none", regression._replace(size=1), make, rate)
    yield control("batches of one, 1e-7", "low", mlp_._replace(size=1), "adam", 1e-7)
    yield control("batches of one, 30", "high", mlp_._replace(size=1), "adam", 30.0)
    whole = mlp_._replace(batch=everything)
    for make, task, good, low, high in (
        (lbfgs, whole, 0.3, 1e-6, 1e3),
        (muon, mlp_, 0.02, 1e-7, 300.0),
    ):
        name = make.__name__
        yield control(name, "none", task, make, good)
        yield control(f"{name}, {low:g}", "low", task, make, low)
        yield control(f"{name}, {high:g}", "high", task, make, high)
    for make, rate in settings:
        yield control("random labels", "none", mlp_._replace(batch=random_labels), make, rate)
        deep = mlp_._replace(net=lambda: mlp(*[64] * 8, 10, activation=nn.Sigmoid))
        yield control("8 sigmoid layers", "none", deep, make, rate)
        yield control("a loss that grows by design", "none", harder(mlp_), make, rate)
        density = Task(lambda: mlp(64, 64, 2), draw(lambda: digits()[:1]), likelihood)
        yield control("a loss that goes below 0", "none", density, make, rate / 10)
    for rate, expected in ((1e-7, "low"), (30.0, "high")):
        name = f"a loss that goes below 0, {rate:g}"
        yield control(name, expected, density, "adam", rate)
    for rate, expected in ((1e-9, "low"), (30.0, "high")):
        yield Control(
            f"trained before, {rate:g}",
            expected,
            lambda seed, rate=rate: train(
                mlp_, OPTIMIZERS["adam"], rate, seed=seed, net=trained(mlp_, seed)
            )[2],
        )
    for rate in (1e-5, 1e-4):
        for task in (mlp_, TASKS["convolutional"], regression, TASKS["characters"]):
            for size in (64, 1):
                if size == 1 and task is TASKS["convolutional"]:
                    continue  # batch norm over a batch of one is an illness of its own
                name = f"trained before, batches of {size}"
                yield Control(
                    name,
                    "none",
                    lambda seed, task=task, rate=rate, size=size: train(
                        task._replace(size=size),
                        OPTIMIZERS["adam"],
                        rate,
                        seed=seed,
                        net=trained(task, seed),
                    )[2],
                )
    plane = Task(lambda: nn.Linear(10, 1), draw(diabetes), squares)
    for make, rate in (("sgd", 0.1), ("momentum", 0.03), ("adam", 0.03)):
        yield Control(
            "plateau at the optimum",
            "none",
            lambda seed, make=make, rate=rate: train(
                plane, OPTIMIZERS[make], rate, seed=seed, net=trained(plane, seed)
            )[2],
        )
    for rate in (0.3, 0.1, 0.03):
        yield control(
            "a narrow valley", "none", Task(lambda: nn.Linear(10, 1), valley, squares), "sgd", rate
        )


@functools.cache
def notebook(path: Path) -> dict[str, Any]:
    """What has been measured before, by the JSON of its key."""
    rows = path.read_text().splitlines() if path.exists() else ()
    return {json.dumps(key): value for key, value in map(json.loads, rows)}


def kept(key: Any, make: Callable[[], Any]) -> Any:
    """Returns what was written down under a key before; else makes it, and writes it down."""
    path = RESULTS / "learning_rate_controls.jsonl"
    known, name = notebook(path), json.dumps(key)
    if name not in known:
        row = json.dumps([key, make()])
        with path.open("a") as file:
            file.write(row + "\n")
        known[name] = json.loads(row)[1]
    return known[name]


def restored(rows: Iterable[dict[str, Any]]) -> list[Seen]:
    return [
        StepProbe(**{**one, "curve": {float(k): v for k, v in one["curve"].items()}})
        if "curve" in one
        else Divergence(**one)
        for one in rows
    ]


def beyond(seeds: Iterable[int]) -> str:
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    numbers: Counter[str] = Counter()
    for one in controls():
        numbers[one.name] += 1
        for seed in seeds:
            rows = kept(
                [one.name, numbers[one.name], seed],
                lambda one=one, seed=seed: [asdict(probe) for probe in one.probes(seed)],
            )
            counts[one.name, one.expected][judge(restored(rows), one.steps).answer] += 1
    lines = [
        "| runs of another kind | expected | runs | too low | slow | silent | too high |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, expected), row in counts.items():
        shown = " | ".join(str(row[answer]) for answer in ("low", "slow", "none", "high"))
        lines.append(f"| {name} | {expected} | {sum(row.values())} | {shown} |")
    return "\n".join(lines)


# -- large nets, and runs in the Trainer


def tower() -> nn.Module:
    """A plain convolutional net of 5.4 million parameters."""
    widths = (1, 64, 256, 512, 800)
    layers = [
        layer
        for i, o in itertools.pairwise(widths)
        for layer in (nn.Conv2d(i, o, 3, stride=1 if i == 1 else 2, padding=1), nn.ReLU())
    ]
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], 10),
    )


class Large(Transformer):
    """Seven blocks, 5.5 million parameters."""

    def __init__(self, width: int = 256) -> None:
        super().__init__(width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(7)))


def large() -> str:
    lines = [
        "| net | parameters | optimizer | lr | loss | verdict | proposed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, net in (("transformer", Large), ("convolutional", tower)):
        task, count = (
            Task(net, draw(digits), entropy, 8),
            sum(p.numel() for p in net().parameters()),
        )
        for optimizer, rates in (("momentum", (1e-6, 1e-2, 10.0)), ("adamw", (1e-8, 3e-4, 1.0))):
            for rate in rates:

                def make(task: Any = task, optimizer: Any = optimizer, rate: Any = rate) -> Any:
                    start, end, probes = train(task, OPTIMIZERS[optimizer], rate, steps=110)
                    return start, end, [asdict(one) for one in probes]

                start, end, rows = kept(["large", name, optimizer, rate], make)
                verdict = judge(restored(rows), 110)
                lines.append(
                    f"| {name} | {count / 1e6:.1f} M | {optimizer} | {rate:g} | {start:.3g} -> "
                    f"{end:.3g} | {verdict.answer} | {verdict.rate:.0e} |"
                )
    return "\n".join(lines)


def in_the_trainer() -> str:
    """Ways to train that the loop above does not know."""
    import lightning.pytorch as pl

    for name in ("lightning.pytorch", "lightning_nndebug"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    class Plain(pl.LightningModule):
        def __init__(self, kind: str, rate: float) -> None:
            super().__init__()
            self.automatic_optimization = kind == "16 samples, three at a time"
            self.kind, self.rate, self.net = kind, rate, mlp(64, 64, 10)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            if not self.automatic_optimization:
                optimizers = self.optimizers()
                optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
                for one in optimizers:
                    one.zero_grad()
                self.manual_backward(loss)
                for one in optimizers:
                    one.step()
            return loss

        def configure_optimizers(self) -> Any:
            parts = [self.net[0], self.net[2]] if "two" in self.kind else [self.net]
            return [torch.optim.Adam(one.parameters(), lr=self.rate) for one in parts]

    lines = ["| in the Trainer | expected | found |", "|---|---|---|"]
    for kind in ("manual optimization", "two optimizers by hand", "16 samples, three at a time"):
        for rate, expected in ((2e-3, "none"), (1e-7, "low"), (30.0, "high")):

            def make(kind: str = kind, rate: float = rate) -> str:
                pl.seed_everything(0, verbose=False)
                is_tiny = "16" in kind
                data = torch.utils.data.TensorDataset(
                    *(x[: 16 if is_tiny else 1797] for x in digits())
                )
                loader = torch.utils.data.DataLoader(data, 3 if is_tiny else 32, shuffle=True)
                detector = LearningRateDetector()
                silent = dict.fromkeys(
                    (
                        "logger",
                        "enable_checkpointing",
                        "enable_progress_bar",
                        "enable_model_summary",
                    ),
                    False,
                )
                pl.Trainer(max_steps=120, accelerator="cpu", callbacks=[detector], **silent).fit(
                    Plain(kind, rate), loader
                )
                return next((one.code for one in detector.findings), "none")

            found = kept(["trainer", kind, rate], make)
            answer = {"LRN101": "high", "LRN102": "low"}.get(found, found)
            lines.append(f"| {kind}, {rate:g} | {expected} | {answer} |")
    return "\n".join(lines)


# -- what is written


def draw_figure(runs: list[Run], path: Path) -> None:
    """The loss along a step, for one rate that is too low, one good, and one too high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    some = [run for run in runs if (run.task, run.optimizer) == ("mlp", "adam")]
    for wanted, color in ((1e-6, "tab:blue"), (1e-3, "tab:green"), (1e0, "tab:red")):
        run = min(some, key=lambda one: abs(math.log(one.rate / wanted)))
        late = [one for one in run.probes if one.step >= 50][:4] or run.probes[:4]
        multiples = sorted(set.intersection(*(set(one.curve) for one in late)))
        losses = [
            statistics.fmean(one.curve[k] / one.curve[0.0] for one in late) for k in multiples
        ]
        label = {"tab:blue": "too low", "tab:green": "good", "tab:red": "too high"}[color]
        axes.plot(multiples, losses, "o-", color=color, label=f"lr {run.rate:.0e}: {label}")
    axes.axvline(1, color="gray", lw=0.8, ls=":")
    axes.axhline(1, color="gray", lw=0.8, ls=":")
    axes.set(
        xscale="symlog",
        ylim=(0, 3),
        xlabel="multiple of the optimizer's step",
        ylabel="loss of the next batch, relative",
    )
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=-0.02)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def halves(runs: Iterable[Run]) -> Iterator[tuple[str, list[Run]]]:
    """The runs of the tasks that the rules were made on, and of the others."""
    titles = {False: "used to choose the rule", True: "not used to choose the rule"}
    runs = list(runs)
    for is_held_out, title in titles.items():
        if chosen := [run for run in runs if TASKS[run.task].held_out == is_held_out]:
            yield f"Tasks that were {title}", chosen


def other_lengths(*, so_far: bool) -> Iterator[str]:
    yield "## Shorter and longer runs"
    for steps in LENGTHS:
        path = RESULTS / f"learning_rate_{steps}.jsonl"
        for title, runs in halves(load(path).values() if so_far else collect(path, steps=steps)):
            verdicts = {run[:3]: judge(run.probes, run.steps) for run in runs}
            yield f"{title}, {steps:,} steps: {len(runs)} runs"
            yield confusion(runs, truths(runs), verdicts)


def report(runs: list[Run], made: str, seeds: Iterable[int], *, lengths: Iterable[str]) -> str:
    parts = ["# Learning rates: verdicts against the truth", made]
    parts += [table_of(chosen, title) for title, chosen in halves(runs)]
    parts += lengths
    parts += ["## Runs of another kind", beyond(seeds)]
    parts += ["## Large nets, batches of 8, 110 steps", large()]
    parts += ["## Ways to train that have no line of their own", in_the_trainer()]
    return "\n\n".join(parts) + "\n"


def complete(runs: list[Run]) -> list[Run]:
    """Returns the runs of those tasks of which none is missing."""
    number = sum(map(len, RATES.values()))
    tasks = {task for task in TASKS if sum(run.task == task for run in runs) == number}
    return [run for run in runs if run.task in tasks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a small part of the grid, and print only"
    )
    parser.add_argument(
        "--so-far", action="store_true", help="the tables of those tasks that have been run"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "learning_rate.jsonl"
    seeds = (0,) if options.quick or options.so_far else (0, 1, 2)
    if options.so_far:
        runs = complete(list(load(path).values()))
        missing = ", ".join(set(TASKS) - {run.task for run in runs}) or "nothing is missing"
        made = f"Made by `python benchmarks/learning_rate.py --so-far`. Not run: {missing}."
    else:
        runs = collect(path, quick=options.quick)
        made = "Made by `python benchmarks/learning_rate.py`."
    lengths = () if options.quick else other_lengths(so_far=options.so_far)
    text = report(runs, made, seeds, lengths=lengths)
    print(text)
    if not options.quick:
        (RESULTS / "learning_rate.md").write_text(text)
        draw_figure(runs, RESULTS / "learning_rate.png")


if __name__ == "__main__":
    main()
