"""A program: something to fit, whole and small, as the cases and the healthy zoo describe it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch


@dataclass(frozen=True)
class Program:
    """A training run that is ready to start.

    Args:
        module: What is trained. It need not define any dataloader.
        train: Batches to train on: anything that ``Trainer.fit`` takes.
        val: Batches to validate on, or None.
        trainer: Options of the ``Trainer`` that belong to the program
            (``max_steps``, ``accumulate_grad_batches``, ``precision``, ...).
    """

    module: pl.LightningModule
    train: Any
    val: Any = None
    trainer: dict[str, Any] = field(default_factory=dict)


def fit(program: Program, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """Fits the program on the CPU, quietly, with these callbacks, and returns the Trainer."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    own = list(program.trainer.get("callbacks", []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            **{**defaults, **program.trainer, **options, "callbacks": [*own, *callbacks]}
        )
        trainer.fit(program.module, program.train, program.val)
    return trainer


def seed(value: int = 0) -> None:
    """Seeds every global random number generator."""
    pl.seed_everything(value, workers=True, verbose=False)


def digits(size: int = 1024, *, image: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns scikit-learn's handwritten digits: inputs in [-1, 1], (size, 64) or (size, 1, 8, 8), and labels 0..9."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.data[:size], dtype=torch.float32) / 8 - 1
    return (x.view(-1, 1, 8, 8) if image else x), torch.tensor(data.target[:size])
