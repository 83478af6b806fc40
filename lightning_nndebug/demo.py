"""``nndebug demo``: handwritten digits, four trainings, three of them sick."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from .core.findings import Finding, TrainingHalted
from .suite import NNDebug

_EPOCHS = 4
_BATCH = 32


@dataclass(frozen=True)
class _Run:
    title: str
    story: str
    module: Callable[[], pl.LightningModule]
    shuffle: bool = True
    blank: int | None = None  # index of an image that the scanner has lost


class Digits(pl.LightningModule):
    """Classifies 8 x 8 digits with a small convolutional net."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _backbone()
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        accuracy = (self(x).argmax(1) == y).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class FromPretrained(Digits):
    """The backbone comes from a library that returns it ready for inference: in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _backbone().eval()


class PerImage(Digits):
    """Standardizes every image by itself: 0 / 0 if it is blank, as one of the scans is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        axes = (1, 2, 3)
        return super().forward((x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True))


def _backbone() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 32), nn.ReLU(),
    )  # fmt: skip


_RUNS = {
    "healthy": _Run("Healthy", "a small convolutional net on shuffled digits", Digits),
    "eval-mode": _Run(
        "Left in eval mode",
        "the same net, its backbone as a library handed it over",
        FromPretrained,
    ),
    "sorted": _Run("Sorted by class", "the same net, nobody shuffles", Digits, shuffle=False),
    "nan": _Run(
        "A NaN on the way",
        "a blank scan, and each image standardized by itself",
        PerImage,
        blank=700,
    ),
}


def main(directory: Path) -> None:
    """Runs the demo.

    Args:
        directory: Gets one folder per run, each with the run's record and report.

    Raises:
        SystemExit: If scikit-learn, which ships the digits, is not installed.
    """
    console = Console(stderr=True)
    if importlib.util.find_spec("sklearn") is None:
        raise SystemExit(
            "The demo trains on scikit-learn's digits: pip install 'lightning-nndebug[demo]'"
        )
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    outcomes: list[tuple[_Run, int, list[Finding]]] = []
    for number, (name, run) in enumerate(_RUNS.items(), 1):
        console.rule(f"[bold]{number}/{len(_RUNS)} {run.title}[/]: {run.story}", align="left")
        folder = directory / name
        shutil.rmtree(folder / "nndebug", ignore_errors=True)
        outcomes.append((run, *_train(run, folder)))
        console.print()
    console.print(_table(outcomes))
    reports = directory / "*" / "nndebug" / "report.html"
    console.print(f"\nPictures of each run  [bold]{reports}[/]", highlight=False, soft_wrap=True)
    console.print("More on a finding     [bold]nndebug explain CODE[/]", highlight=False)


def _train(run: _Run, folder: Path) -> tuple[int, list[Finding]]:
    pl.seed_everything(0, verbose=False)
    suite = NNDebug(halt_on="warning", report=True)
    train, val = _batches(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on workers and log intervals, not on the run's health
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=_EPOCHS, callbacks=[suite],
            default_root_dir=folder, logger=False, enable_checkpointing=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        with contextlib.suppress(TrainingHalted):  # the findings are in the suite
            trainer.fit(run.module(), train, val)
    return trainer.global_step, suite.findings


def _batches(run: _Run) -> tuple[DataLoader[Any], DataLoader[Any]]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(data.target)
    if run.blank is not None:
        x[run.blank] = -1
    train, val = slice(0, 1440), slice(1440, None)
    order = torch.arange(1440) if run.shuffle else y[train].argsort(stable=True)
    return (
        DataLoader(TensorDataset(x[train][order], y[train][order]), _BATCH, shuffle=run.shuffle),
        DataLoader(TensorDataset(x[val], y[val]), 128),
    )


def _table(outcomes: list[tuple[_Run, int, list[Finding]]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in ("run", "steps", "found"):
        table.add_column(column, justify="right" if column == "steps" else "left")
    for run, steps, findings in outcomes:
        codes = "\n".join(f"{one.code} {one.name}" for one in findings if one.severity != "info")
        style = "red" if codes else "green"
        table.add_row(run.title, str(steps), f"[{style}]{codes or 'nothing'}[/]")
    return table
