"""What watching costs: time and memory per step with the suite, with each detector, and with others, against none.

    python benchmarks/overhead.py                       # four nets, under an hour on two cores
    python benchmarks/overhead.py --nets mlp cnn --steps 200
    python benchmarks/overhead.py --growth              # how it grows: layers, width, batch, steps
    python benchmarks/overhead.py --device cuda         # host waits per step too

Every round runs all contenders in turn on the same net, each in a process of its own, so that a
drift of the machine hits all of them; the table has the median over rounds of each contender's
ratio to the bare run beside it.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import lightning.pytorch as pl
import torch
from _models import GROWTH, SUBJECTS, Step
from _peers import hush, peers
from torch.utils.data import DataLoader

import lightning_nndebug
from lightning_nndebug import NNDebug
from lightning_nndebug.suite import DETECTORS

WARM_UP = 22  # steps: by then, the densest looks are over
STEPS = {"mlp": 400, "cnn": 60, "resnet50": 24, "gpt2": 16}


@dataclass(frozen=True)
class Cost:
    """What the steps of one run took.

    Attributes:
        mean: Seconds of a step on average, without the warm-up,
        median: and of the one in the middle.
        memory: The largest memory in MB: of the GPU, or of the process.
        waits: How often a step made the host wait for the GPU; 0 on a CPU.
    """

    mean: float
    median: float
    memory: float
    waits: float


class Clock(pl.Callback):
    """Notes how long each step took, data and all.

    On a CPU it counts the processor time of this process, so that what else the machine does counts
    for little.
    """

    def __init__(self, device: str) -> None:
        self.device, self.times, self.last = device, [], 0.0

    def on_train_batch_end(self, *args) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter() if self.device == "cuda" else time.process_time()
        if self.last:
            self.times.append(now - self.last)
        self.last = now


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


def run(name: str, contender: str, steps: int, device: str) -> Cost:
    """Runs one net with one contender in a fresh process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_run, (name, contender, steps, device))


def _run(name: str, contender: str, steps: int, device: str) -> Cost:
    clock = Clock(device)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with hush(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fit(name, contender, clock, steps)
    times = clock.times[WARM_UP - 1 :]
    memory, waits = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0.0
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
        waits = _host_waits(name, contender, steps)
    return Cost(statistics.fmean(times), statistics.median(times), memory, waits)


def _fit(name: str, contender: str, clock: Clock, steps: int) -> None:
    torch.manual_seed(0)
    subject = (SUBJECTS | GROWTH)[name]
    batch = subject.batch()
    callbacks, options = contenders()[contender]()
    trainer = pl.Trainer(
        accelerator="gpu" if clock.device == "cuda" else "cpu",
        devices=1,
        max_steps=steps + WARM_UP,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir="/tmp/nndebug-overhead",
        callbacks=[*callbacks, clock],
        **options,
    )
    trainer.fit(Step(subject), DataLoader([batch] * (steps + WARM_UP), batch_size=None))


def _host_waits(name: str, contender: str, steps: int) -> float:
    """Returns how often a step makes the host wait for the GPU.

    Torch warns of every such call in this mode; reading the clock's own synchronization is not one
    of them, since ``torch.cuda.synchronize`` is exempt.
    """
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with hush(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _fit(name, contender, Clock("cuda"), steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "synchronizing CUDA operation" in str(one.message)]
    return len(waits) / (steps + WARM_UP)


def compare(
    name: str, chosen: list[str], steps: int, rounds: int, device: str
) -> dict[str, list[Cost]]:
    """Runs all contenders in turn, round by round; one that fails on this net is left out."""
    results: dict[str, list[Cost]] = {one: [] for one in chosen}
    for _ in range(rounds):
        for one in list(results):
            try:
                results[one].append(run(name, one, steps, device))
            except Exception as error:
                print(f"{one} fails here: {type(error).__name__}: {error}"[:200], flush=True)
                del results[one]
    return results


def row(name: str, contender: str, costs: list[Cost], bare: list[Cost]) -> str:
    """Returns a line of the table: medians over the rounds, ratios to the bare run of the round."""
    pairs = list(zip(costs, bare, strict=True))
    cells = [
        f"{1000 * statistics.median(a.median for a in costs):.2f}",
        f"{statistics.median(a.median / b.median for a, b in pairs):.3f}",
        f"{statistics.median(a.mean / b.mean for a, b in pairs):.3f}",
        f"{1000 * statistics.median(a.mean - b.mean for a, b in pairs):.2f}",
        f"{statistics.median(a.memory - b.memory for a, b in pairs):.0f}",
    ]
    if waits := statistics.median(a.waits for a in costs):
        cells.append(f"{waits:.2f}")
    return " | ".join([f"| {name}", contender, *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="*", default=list(STEPS))
    parser.add_argument("--growth", action="store_true", help="other nets: how the cost grows")
    parser.add_argument("--only", nargs="*", help="contenders besides the bare run; all by default")
    parser.add_argument("--steps", type=int, help="steps a run; by default by the size of the net")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    options = parser.parse_args()
    head = ["net", "contender", "ms a step (median)", "median step, ratio to bare"]
    head += ["mean step, ratio to bare", "ms added to the mean step", "MB added at the peak"]
    head += ["host waits a step"] * (options.device == "cuda")
    lines = [_stamp(options), "", f"| {' | '.join(head)} |", "|---|---|" + "--:|" * (len(head) - 2)]
    if options.growth:
        subjects = GROWTH
        chosen = ["bare", *(options.only or ["NNDebug"])]
    else:
        subjects = {n: s for n, s in SUBJECTS.items() if n.split()[0] in options.nets}
        chosen = ["bare", *(options.only or [one for one in contenders() if one != "bare"])]
    for name, subject in subjects.items():
        steps = options.steps or subject.steps or STEPS[name.split()[0]]
        results = compare(name, chosen, steps, options.rounds, options.device)
        for one, costs in results.items():
            lines.append(row(name, one, costs, results["bare"]))
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
        f"{pl.__version__}, lightning_nndebug {lightning_nndebug.__version__}; {options.rounds} rounds"
    )


if __name__ == "__main__":
    main()
