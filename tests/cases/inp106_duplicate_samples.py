"""A join with a table that has two rows for everybody has doubled the data."""

from __future__ import annotations

import torch
from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    x, y = digits(512)
    joined = torch.arange(512).repeat(2)
    return Program(Classifier(), loader(x[joined], y[joined]), trainer={"max_epochs": 2})


def healthy() -> Program:
    x, y = digits(512)
    joined = torch.arange(512).repeat(2)
    joined = joined.unique()
    return Program(Classifier(), loader(x[joined], y[joined]), trainer={"max_epochs": 2})
