"""A missing value that was read as NaN."""

from __future__ import annotations

from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    x, y = digits()
    x[500, 20] = float("nan")
    return Program(Classifier(), loader(x, y), trainer={"max_epochs": 1})


def healthy() -> Program:
    x, y = digits()
    x[500, 20] = float("nan")
    x = x.nan_to_num(0.0)
    return Program(Classifier(), loader(x, y), trainer={"max_epochs": 1})
