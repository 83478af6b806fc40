"""The run card: what one must know of a run to tell it from another, or to run it again."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from .trainer import step_axis

_LONGEST = 200  # characters of a value, and entries of a table
_PATIENCE = 2.0  # seconds that git may take, on a disk far away


def run_card(trainer: Any) -> dict[str, Any]:
    """Describes a run at its start, in plain builtins."""
    module = trainer.lightning_module
    # A lazy layer has no size before its first forward.
    parameters = [one for one in module.parameters() if not is_lazy(one)]
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "step": step_axis(trainer),
        "command": " ".join(sys.argv)[:_LONGEST],
        "module": type(module).__name__,
        "parameters": sum(one.numel() for one in parameters),
        "trainable": sum(one.numel() for one in parameters if one.requires_grad),
        "optimizers": [type(one).__name__ for one in trainer.optimizers],
        "strategy": type(trainer.strategy).__name__,
        "precision": str(trainer.precision),
        "world_size": trainer.world_size,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "device": _device(trainer.strategy.root_device),
        "host": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "seed": os.environ.get("PL_GLOBAL_SEED") or f"{torch.initial_seed()} (torch)",
        "git": _git(),
        "configuration": dict(_configuration(trainer)),
        "versions": dict(_versions()),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _configuration(trainer: Any) -> Iterator[tuple[str, Any]]:
    for number, optimizer in enumerate(trainer.optimizers):
        prefix = "optimizer" if len(trainer.optimizers) == 1 else f"optimizer {number}"
        for name, value in optimizer.defaults.items():
            if isinstance(value, (int, float, str, tuple)) and not isinstance(value, bool):
                yield f"{prefix} {name}", value
    schedulers = [type(one.scheduler).__name__ for one in trainer.lr_scheduler_configs]
    yield "schedulers", ", ".join(schedulers) or "none"
    yield "accumulate_grad_batches", trainer.accumulate_grad_batches
    yield "gradient_clip_val", trainer.gradient_clip_val
    batches = trainer.num_training_batches
    yield "batches per epoch", batches if math.isfinite(batches) else "unknown"
    loaders = getattr(getattr(trainer.fit_loop, "_combined_loader", None), "flattened", ())
    for loader in loaders:
        dataset = getattr(loader, "dataset", None)
        yield "dataset", type(dataset).__name__
        yield "samples", _length(dataset)
        yield "batch size", getattr(loader, "batch_size", None)
        yield "workers", getattr(loader, "num_workers", None)
        yield "sampler", type(getattr(loader, "sampler", None)).__name__
    # Read from where Lightning keeps them: asking for `hparams` itself would make an empty set.
    hparams = getattr(trainer.lightning_module, "_hparams", None) or {}
    for name, value in list(hparams.items())[:_LONGEST]:
        yield f"hparams {name}", str(value)[:_LONGEST]


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except Exception:  # whatever a user's own dataset raises
        return None


def _versions() -> Iterator[tuple[str, str]]:
    for name in ("lightning", "pytorch-lightning", "lightning-nndebug", "numpy"):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _device(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return f"{device} ({name})" if name else str(device)


def _git() -> str | None:
    """Returns the commit of the working directory, marked if something is not committed."""
    if not any((one / ".git").exists() for one in (Path.cwd(), *Path.cwd().parents)):
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        run = subprocess.run(  # noqa: S603 -- nothing of the user's goes into the command
            command, capture_output=True, text=True, timeout=_PATIENCE, check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
