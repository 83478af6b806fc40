"""What watching costs: time per step with the suite, with each detector, and with others, against none.

    python benchmarks/overhead.py                       # four nets, about fifteen minutes on two cores
    python benchmarks/overhead.py --nets mlp cnn --steps 200

Every round runs all contenders in turn on the same net, so that a drift of the machine hits all of
them; the table has the median over rounds of each contender's ratio to the bare run beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import lightning.pytorch as pl
import torch
from _models import SUBJECTS, Step
from torch.utils.data import DataLoader

import lightning_nndebug
from lightning_nndebug import NNDebug
from lightning_nndebug.suite import DETECTORS

WARM_UP = 5


def host_synchronizations(
    subject, callbacks: list[pl.Callback], options: dict, steps: int
) -> float:
    """Returns how often a step makes the host wait for the GPU.

    Torch warns of every such call in this mode; reading the clock's own synchronization is not one
    of them, since ``torch.cuda.synchronize`` is exempt.
    """
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            run(subject, callbacks, options, steps, "cuda", quiet=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "synchronizing CUDA operation" in str(one.message)]
    return len(waits) / (steps + WARM_UP)


class Clock(pl.Callback):
    """Notes how long each step took, data and all."""

    def __init__(self, device: str) -> None:
        self.device, self.times, self.last = device, [], 0.0

    def on_train_batch_end(self, *args) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.last:
            self.times.append(now - self.last)
        self.last = now


class HuggingFace(pl.Callback):
    """Hugging Face's DebugUnderflowOverflow, which checks every module's weights, inputs and outputs."""

    def on_train_start(self, trainer, module) -> None:
        from transformers.debug_utils import DebugUnderflowOverflow

        self.debug = DebugUnderflowOverflow(module.net)


def contenders() -> dict[str, Callable[[], tuple[list[pl.Callback], dict]]]:
    """Returns, by name, the callbacks and Trainer options of each."""
    ours = {kind.__name__: (lambda kind=kind: ([kind()], {})) for kind in DETECTORS}
    found = {
        "bare": lambda: ([], {}),
        "NNDebug": lambda: ([NNDebug()], {}),
        **ours,
        "detect_anomaly": lambda: ([], {"detect_anomaly": True}),
    }
    if importlib.util.find_spec("transformers"):
        found["DebugUnderflowOverflow"] = lambda: ([HuggingFace()], {})
    return found


def run(
    subject, callbacks: list[pl.Callback], options: dict, steps: int, device: str, *, quiet=True
) -> tuple[float, float]:
    """Returns the mean and the median seconds of a step."""
    torch.manual_seed(0)
    clock = Clock(device)
    batch = subject.batch()
    with warnings.catch_warnings() if quiet else contextlib.nullcontext():
        warnings.simplefilter("ignore" if quiet else "always")
        trainer = pl.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
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
    times = clock.times[WARM_UP - 1 :]
    return statistics.fmean(times), statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="*", default=[name.split()[0] for name in SUBJECTS])
    parser.add_argument("--only", nargs="*", help="contenders besides the bare run; all by default")
    parser.add_argument("--steps", type=int, help="steps a run; by default by the size of the net")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    args = parser.parse_args()
    steps = {"mlp": 400, "cnn": 100, "resnet50": 40, "gpt2": 25}
    header = (
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, {args.device}, torch {torch.__version__}, "
        f"lightning {pl.__version__}, lightning_nndebug {lightning_nndebug.__version__}; {args.rounds} rounds"
    )
    lines = [
        header,
        "",
        "| net | contender | ms a step (median) | median step, ratio to bare | mean step, ratio to bare |",
        "|---|---|---|---|---|",
    ]
    if args.device == "cuda":
        lines[0] = f"{header}; {torch.cuda.get_device_name()}"
        lines[2] += " host waits a step |"
        lines[3] += "---|"
    for name, subject in SUBJECTS.items():
        net = name.split()[0]
        if net not in args.nets:
            continue
        makers = contenders()
        chosen = ["bare", *(args.only or [one for one in makers if one != "bare"])]
        results: dict[str, list[tuple[float, float]]] = {one: [] for one in chosen}
        for _ in range(args.rounds):
            for one in chosen:
                results[one].append(
                    run(subject, *makers[one](), args.steps or steps[net], args.device)
                )
        for one in chosen:
            pairs = list(zip(results[one], results["bare"], strict=True))
            mean = statistics.median(a[0] / b[0] for a, b in pairs)
            median = statistics.median(a[1] / b[1] for a, b in pairs)
            ms = 1000 * statistics.median(a[1] for a, _ in pairs)
            lines.append(f"| {name} | {one} | {ms:.2f} | {median:.3f} | {mean:.3f} |")
            if args.device == "cuda":
                waits = host_synchronizations(subject, *makers[one](), args.steps or steps[net])
                lines[-1] += f" {waits:.2f} |"
            print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
