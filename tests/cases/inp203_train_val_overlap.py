"""The samples were split at random for training, and at random again for validation."""

from __future__ import annotations

import torch
from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    x, y = digits(1797)
    train = torch.randperm(len(y))[:1347]
    val = torch.randperm(len(y))[1347:]
    return Program(
        Classifier(),
        loader(x[train], y[train]),
        loader(x[val], y[val], shuffle=False),
        trainer={"max_epochs": 2},
    )


def healthy() -> Program:
    x, y = digits(1797)
    order = torch.randperm(len(y))
    train, val = order[:1347], order[1347:]
    return Program(
        Classifier(),
        loader(x[train], y[train]),
        loader(x[val], y[val], shuffle=False),
        trainer={"max_epochs": 2},
    )
