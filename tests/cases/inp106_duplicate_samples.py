"""A join with a table that has one to four rows for everybody has multiplied the data."""

from __future__ import annotations

import torch
from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    x, y = digits(512)
    joined = torch.arange(512).repeat_interleave(1 + torch.arange(512) % 4)
    return Program(Classifier(), loader(x[joined], y[joined]), trainer={"max_epochs": 3})


def healthy() -> Program:
    x, y = digits(512)
    joined = torch.arange(512).repeat_interleave(1 + torch.arange(512) % 4)
    joined = joined.unique()
    return Program(Classifier(), loader(x[joined], y[joined]), trainer={"max_epochs": 3})
