"""Somebody shuffled the images, and forgot the labels."""

from __future__ import annotations

import torch
from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    x, y = digits(1797)
    order = torch.randperm(len(y))
    x = x[order]
    train, val = loader(x[:1347], y[:1347]), loader(x[1347:], y[1347:], shuffle=False)
    return Program(Classifier(), train, val, trainer={"max_epochs": 2})


def healthy() -> Program:
    x, y = digits(1797)
    order = torch.randperm(len(y))
    x, y = x[order], y[order]
    train, val = loader(x[:1347], y[:1347]), loader(x[1347:], y[1347:], shuffle=False)
    return Program(Classifier(), train, val, trainer={"max_epochs": 2})
