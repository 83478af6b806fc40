"""What watching costs at scale: findings of 1,024 ranks, collectives and bytes, record and console.

    python benchmarks/scale.py --out benchmarks/results/scale.md      # about a minute on one core

The ranks are simulated, as is the long run: what each rank would tell goes through the code that
chooses who speaks, and through the real sinks. The collectives of a step are counted in a real run
of two processes.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import NNDebug
from lightning_nndebug.core.detector import RULES
from lightning_nndebug.core.findings import Finding
from lightning_nndebug.core.ranks import mark, plan
from lightning_nndebug.core.sinks import open_sinks

STEPS, RANKS = 100_000, 8
COUNTED = 200


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Count(pl.Callback):
    """Counts collectives and their bytes, in each rank's own process, and writes them at the end."""

    def __init__(self, path: str) -> None:
        self.path, self.calls, self.bytes = path, 0, 0

    def on_train_start(self, trainer, module) -> None:
        def counted(function):
            def call(tensor, *args, **kwargs):
                tensors = tensor if isinstance(tensor, list) else [tensor]
                self.calls += 1
                self.bytes += sum(one.nbytes for one in tensors if isinstance(one, torch.Tensor))
                return function(tensor, *args, **kwargs)

            return call

        for name in ("all_reduce", "all_gather", "broadcast", "broadcast_object_list"):
            setattr(dist, name, counted(getattr(dist, name)))

    def on_train_end(self, trainer, module) -> None:
        if trainer.is_global_zero:
            Path(self.path).write_text(json.dumps([self.calls, self.bytes]))


def collectives(*callbacks) -> tuple[float, float]:
    """Returns how many collectives, and bytes in them, a step of two ranks makes by Python calls.

    DDP's own reduction of gradients is none of these.
    """
    torch.manual_seed(0)
    y = torch.randint(3, (32 * COUNTED,))
    x = torch.randn(len(y), 8)
    x[torch.arange(len(y)), y] += 2.0
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/count.json"
        pl.Trainer(
            accelerator="cpu", strategy="ddp_fork", devices=2, max_steps=COUNTED, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=directory, callbacks=[Count(path), *callbacks],
        ).fit(Net(), DataLoader(TensorDataset(x, y), 16, shuffle=True))  # fmt: skip
        calls, volume = json.loads(Path(path).read_text())
    return calls / COUNTED, volume / COUNTED


def finding(code: str, where: str, rank: int, step: int) -> Finding:
    _, rule = RULES[code]
    return Finding(
        code=code, name=rule.name, severity=str(rule.severity), step=step, epoch=0, where=where,
        measured=1.0, limit=0.0, message="1.234e+02, the limit is 1.000e+01", means=rule.title,
        causes=rule.section("Likely causes"), fixes=rule.section("How to fix"), rank=rank,
    )  # fmt: skip


def merge(rows: list[list[Finding]]) -> list[Finding]:
    """Does what ``share`` does, without the processes."""
    by_mark = [{mark(one): one for one in row} for row in rows]
    speakers = plan([list(row) for row in by_mark])
    return [replace(by_mark[first][key], ranks=n) for key, (first, n) in speakers.items()]


class Heard(logging.Handler):
    """Counts the lines of the console."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0

    def emit(self, record) -> None:
        self.lines += record.getMessage().count("\n") + 1


def long_run(meetings: list[tuple[int, list[Finding]]], vitals: dict[str, float], steps: int):
    """Returns the size of the record in megabytes, and the lines of the console."""
    log = logging.getLogger("lightning_nndebug")
    heard = Heard()
    log.addHandler(heard)
    log.setLevel(logging.INFO)
    try:
        with tempfile.TemporaryDirectory() as directory:
            trainer = SimpleNamespace(
                is_global_zero=True, loggers=[], log_every_n_steps=50, optimizers=[], precision="32",
                lightning_module=Net(), strategy=SimpleNamespace(root_device="cpu"),
                world_size=RANKS, max_epochs=-1, max_steps=steps,
            )  # fmt: skip
            sinks = open_sinks(trainer, Path(directory), [], list(vitals))
            due = dict(meetings)
            for step in range(steps):
                for sink in sinks:
                    for one in due.get(step, ()):
                        sink.finding(one)
                    sink.vitals(step, vitals)
            everything = [one for _, fresh in meetings for one in fresh]
            for sink in sinks:
                sink.close(everything, steps, None)
            size = sum(one.stat().st_size for one in Path(directory).iterdir())
    finally:
        log.removeHandler(heard)
    return size / 1e6, heard.lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="a Markdown file for the tables")
    args = parser.parse_args()
    codes = [code for code, (_, rule) in RULES.items() if str(rule.severity) != "info"]
    vitals = {f"nndebug/symptom_{i}/quantity": random.random() for i in range(16)}
    lines = [
        "## Findings of many ranks",
        "",
        "| ranks | each has | told | console lines | record |",
    ]
    lines.append("|---|---|---|---|---|")
    for ranks in (64, 1024, 16384):
        cases = {
            "the same one": [[finding("NAN102", "net.3", r, 7)] for r in range(ranks)],
            "the same ten": [
                [finding(code, "net.3", r, 7) for code in codes[:10]] for r in range(ranks)
            ],
            "one of its own": [
                [finding("NAN101", f"batch of rank {r}", r, 7)] for r in range(ranks)
            ],
        }
        for name, rows in cases.items():
            told = merge(rows)
            size, console = long_run([(7, told)], vitals, 10)
            lines.append(f"| {ranks:,} | {name} | {len(told)} | {console} | {size:.2f} MB |")
            print(lines[-1], flush=True)
    lines += [
        "",
        "## Collectives of a step (Python's; DDP's reduction of gradients is not among them)",
    ]
    lines += ["", "| | per step | bytes per step and rank |", "|---|---|---|"]
    measured = {}
    for name, callbacks in {
        "no suite": [], "NNDebug()": [NNDebug()], "NNDebug(halt_on='error')": [NNDebug(halt_on="error")]
    }.items():  # fmt: skip
        measured[name] = calls, volume = collectives(*callbacks)
        lines.append(f"| {name} | {calls:.2f} | {volume:.0f} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "An all-reduce of so few bytes takes as long as its hops do, and they grow as 2 log2(n):",
    ]
    lines += [
        "",
        "| ranks | hops | all ranks together, NNDebug() | with halt_on | when all meet with a finding |",
    ]
    lines.append("|---|---|---|---|---|")
    for ranks in (64, 1024, 16384):
        kilo = [2 * ranks * measured[one][1] / 1e3 for one in list(measured)[1:]]
        hops = 2 * (ranks - 1).bit_length()
        lines.append(
            f"| {ranks:,} | {hops} | {kilo[0]:,.0f} kB a step | {kilo[1]:,.0f} kB a step "
            f"| {8 * ranks / 1e3:,.1f} kB a rank for marks, once, and a broadcast of 2 kB |"
        )
    sick = [
        (1000 * (i + 1), merge([[finding(code, f"layer.{p}", r, i) for p in range(50)] for r in range(RANKS)]))
        for i, code in enumerate(codes[:10])
    ]  # fmt: skip
    lines += ["", f"## A run of {STEPS:,} steps on {RANKS} ranks, logged every 50 steps", ""]
    lines += ["| | record | console lines |", "|---|---|---|"]
    for name, meetings in {"healthy": [], "ten rules at 50 places each": sick}.items():
        size, console = long_run(meetings, vitals, STEPS)
        lines.append(f"| {name} | {size:.2f} MB | {console} |")
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("# Scale\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
