"""Training has a transform that normalizes, and validation was given none."""

from __future__ import annotations

import torch
from program import Program
from torch.utils.data import DataLoader, TensorDataset

from cases._parts import Classifier, loader, split


def normalized(x: torch.Tensor) -> torch.Tensor:
    return (x + 0.39) / 0.75


def sick() -> Program:
    (x, y), (x_val, y_val) = split()
    pixels = (x_val + 1) * 8  # as they are in the file
    val = DataLoader(TensorDataset(pixels, y_val), batch_size=64)
    return Program(Classifier(), loader(normalized(x), y), val, trainer={"max_epochs": 2})


def healthy() -> Program:
    (x, y), (x_val, y_val) = split()
    pixels = normalized(x_val)
    val = DataLoader(TensorDataset(pixels, y_val), batch_size=64)
    return Program(Classifier(), loader(normalized(x), y), val, trainer={"max_epochs": 2})
