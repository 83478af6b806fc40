"""What watching costs: time and memory per step with the suite, with each detector, and with others, against none.

    python benchmarks/overhead.py                       # four nets, about an hour on two cores
    python benchmarks/overhead.py --nets mlp cnn --steps 200
    python benchmarks/overhead.py --warm-up 250         # what is left when all has been seen
    python benchmarks/overhead.py --growth              # how it grows: layers, width, batch, steps
    python benchmarks/overhead.py --device cuda         # host waits per step too

A few contenders and the bare run train the same net on the same batches, each in a process of its
own, and take turns of some tens of milliseconds: whatever the machine does hits all of them. The
table has the median over all steps of the ratio of the two; behind it, where that median would be
in 95 of 100 repetitions (by the order of the ratios, as for any median).
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import math
import multiprocessing
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from _models import GROWTH, SUBJECTS, Step, Subject
from _peers import hush, peers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import lightning_nndebug
from lightning_nndebug import NNDebug
from lightning_nndebug.suite import DETECTORS

STEPS = {"mlp": 1500, "cnn": 120, "resnet50": 40, "gpt2": 24}
WARM_UP = 22  # by then, the densest looks are over
TURN = 0.05  # seconds, at least
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # as malloc.h has them


@dataclass(frozen=True)
class Plan:
    """What is run: a net by its name, so many steps of it after so many others, and where."""

    net: str
    steps: int
    warm_up: int
    device: str


@dataclass(frozen=True)
class Cost:
    """What the steps of one run took.

    Attributes:
        times: Seconds of every step, without the warm-up.
        memory: The largest memory in MB: of the GPU, or of the process.
        waits: How often a step made the host wait for the GPU; 0 on a CPU.
    """

    times: list[float]
    memory: float
    waits: float


class Clock(pl.Callback):
    """Notes how long each step took, data and all, and gives the other run its turns.

    On a CPU it counts the processor time of this process, so that what else the machine does counts
    for little.
    """

    def __init__(self, device: str, turns: Connection | None = None) -> None:
        self.device, self.turns = device, turns
        self.times: list[float] = []
        self.last = self.began = 0.0

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def on_train_batch_end(self, *args) -> None:
        now = self.now()
        if self.last:
            self.times.append(now - self.last)
        self.last = now
        if self.turns and now - self.began > TURN:
            self.turns.send(None)
            self.turns.recv()
            self.last = self.began = self.now()


class Batches(Dataset):
    """New batches, as many as there are steps."""

    def __init__(self, subject: Subject, steps: int) -> None:
        self.subject, self.steps = subject, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.subject.batch()


def contenders() -> dict[str, Callable[[], tuple[list[pl.Callback], dict]]]:
    """Returns, by name, the callbacks and Trainer options of each."""
    ours = {kind.__name__: (lambda kind=kind: ([kind()], {})) for kind in DETECTORS}
    others = {name: (lambda make=make: ([make()], {})) for name, make in peers().items()}
    return {
        "bare": lambda: ([], {}),
        "empty callback": lambda: ([pl.Callback()], {}),  # what Lightning asks for any of them
        "NNDebug": lambda: ([NNDebug()], {}),
        **ours,
        "detect_anomaly": lambda: ([], {"detect_anomaly": True}),
        **others,
    }


def race(plan: Plan, chosen: list[str]) -> dict[str, Cost]:
    """Runs one net with these contenders at the same time, one of them at work at any moment.

    One that fails on this net is left out of the answer.
    """
    context = multiprocessing.get_context("fork")
    runners: dict[str, tuple[Connection, Any]] = {}
    for one in chosen:
        ours, theirs = context.Pipe()
        inherited = [ours, *(end for end, _ in runners.values())]
        args = plan, one, theirs, inherited
        job = context.Process(target=_run, args=args, daemon=True)
        job.start()
        theirs.close()
        runners[one] = ours, job
    costs: dict[str, Cost] = {}
    while runners:
        for one, (end, job) in list(runners.items()):
            end.send(None)
            answer = end.recv()
            if answer is not None:
                job.join()
                del runners[one]
                if isinstance(answer, Cost):
                    costs[one] = answer
                else:
                    print(answer, flush=True)
    return costs


def _run(plan: Plan, contender: str, turns: Connection, inherited: list[Connection]) -> None:
    for end in inherited:  # or nobody would notice that the one who gives the turns is gone
        end.close()
    turns.recv()
    try:
        turns.send(_cost(plan, contender, turns))
    except EOFError:
        return
    except Exception as error:
        turns.send(f"{contender} fails here: {type(error).__name__}: {error}"[:200])


def _cost(plan: Plan, contender: str, turns: Connection) -> Cost:
    _keep_memory()
    clock = Clock(plan.device, turns)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with hush(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fit(plan, contender, clock)
    memory, waits = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0.0
    if plan.device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
        waits = _host_waits(plan, contender)
    return Cost(clock.times[plan.warm_up - 1 :], memory, waits)


def _keep_memory() -> None:
    """Has the C library keep large blocks of memory once it has them.

    Whether it does by itself depends on what was allocated before, and a step that must ask the
    system for them anew takes up to a fifth longer: a contender that allocates much would gain.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)


def _fit(plan: Plan, contender: str, clock: Clock) -> None:
    torch.manual_seed(0)
    subject = (SUBJECTS | GROWTH)[plan.net]
    steps = plan.warm_up + plan.steps
    callbacks, options = contenders()[contender]()
    trainer = pl.Trainer(
        accelerator="gpu" if clock.device == "cuda" else "cpu",
        devices=1,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir="/tmp/nndebug-overhead",
        callbacks=[*callbacks, clock],
        **options,
    )
    trainer.fit(Step(subject), DataLoader(Batches(subject, steps), batch_size=None))


def _host_waits(plan: Plan, contender: str) -> float:
    """Returns how often a step makes the host wait for the GPU.

    Torch warns of every such call in this mode; reading the clock's own synchronization is not one
    of them, since ``torch.cuda.synchronize`` is exempt.
    """
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with hush(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _fit(plan, contender, Clock("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "synchronizing CUDA operation" in str(one.message)]
    return len(waits) / (plan.warm_up + plan.steps)


def compare(plan: Plan, chosen: list[str], rounds: int) -> dict[str, list[tuple[Cost, Cost]]]:
    """Returns the costs of the bare run and of the contender, round by round."""
    pairs: dict[str, list[tuple[Cost, Cost]]] = {one: [] for one in chosen}
    for number in range(rounds):
        order = ["bare", *chosen]
        costs = race(plan, order[:: -1 if number % 2 else 1])
        bare = costs.pop("bare")
        for one, cost in costs.items():
            pairs[one].append((bare, cost))
    return {one: costs for one, costs in pairs.items() if costs}


def row(name: str, contender: str, pairs: list[tuple[Cost, Cost]]) -> str:
    """Returns a line of the table."""
    ratios = sorted(
        b / a for bare, ours in pairs for a, b in zip(bare.times, ours.times, strict=True)
    )
    # So many ratios lie below their true median as heads fall: n/2 +- 1.96 sqrt(n)/2.
    middle, spread = len(ratios) / 2, 0.98 * math.sqrt(len(ratios))
    low = ratios[max(0, math.floor(middle - spread))]
    high = ratios[min(len(ratios) - 1, math.ceil(middle + spread))]
    before = statistics.fmean(t for bare, _ in pairs for t in bare.times)
    after = statistics.fmean(t for _, ours in pairs for t in ours.times)
    cells = [
        f"{1000 * statistics.median(t for bare, _ in pairs for t in bare.times):.2f}",
        f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})",
        f"{after / before:.3f}",
        f"{1000 * (after - before):.2f}",
        f"{statistics.median(ours.memory - bare.memory for bare, ours in pairs):.0f}",
    ]
    if waits := statistics.median(ours.waits for _, ours in pairs):
        cells.append(f"{waits:.2f}")
    return " | ".join([f"| {name}", contender, *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="*", default=list(STEPS))
    parser.add_argument("--growth", action="store_true", help="other nets: how the cost grows")
    parser.add_argument("--only", nargs="*", help="contenders; all by default")
    parser.add_argument("--steps", type=int, help="steps a run; by default by the size of the net")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="steps before them")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--abreast", type=int, default=3, help="contenders beside one bare run")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    options = parser.parse_args()
    head = ["net", "contender", "ms of a bare step", "median step, ratio to bare"]
    head += ["mean step, ratio to bare", "ms added to the mean step", "MB added at the peak"]
    head += ["host waits a step"] * (options.device == "cuda")
    lines = [_stamp(options), "", f"| {' | '.join(head)} |", "|---|---|" + "--:|" * (len(head) - 2)]
    subjects = {n: s for n, s in SUBJECTS.items() if n.split()[0] in options.nets}
    chosen = options.only or [one for one in contenders() if one != "bare"]
    if options.growth:
        subjects, chosen = GROWTH, options.only or ["NNDebug"]
    for name, subject in subjects.items():
        steps = options.steps or subject.steps or STEPS[name.split()[0]]
        plan = Plan(name, steps, options.warm_up, options.device)
        for start in range(0, len(chosen), options.abreast):
            some = chosen[start : start + options.abreast]
            results = compare(plan, some, options.rounds)
            for one, pairs in results.items():
                lines.append(row(name, one, pairs))
                print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


def _stamp(options: argparse.Namespace) -> str:
    device = f"{torch.get_num_threads()} threads"
    if options.device == "cuda":
        with multiprocessing.get_context("fork").Pool(1) as pool:
            device = pool.apply(torch.cuda.get_device_name)
    return (
        f"{date.today()}, {platform.machine()}, {device}, torch {torch.__version__}, lightning "
        f"{pl.__version__}, lightning_nndebug {lightning_nndebug.__version__}; {options.rounds} "
        f"rounds, after {options.warm_up} steps"
    )


if __name__ == "__main__":
    main()
