"""The data are sorted by class and were split in order: the nines are in validation only."""

from __future__ import annotations

from program import Program, digits
from sklearn.model_selection import train_test_split

from cases._parts import Classifier, loader


def run(*parts) -> Program:
    x_train, x_val, y_train, y_val = parts
    train, val = loader(x_train, y_train), loader(x_val, y_val, shuffle=False)
    return Program(Classifier(), train, val, trainer={"max_epochs": 2})


def sick() -> Program:
    x, y = digits()
    order = y.argsort()
    return run(*train_test_split(x[order], y[order], test_size=0.1, shuffle=False))


def healthy() -> Program:
    x, y = digits()
    order = y.argsort()
    return run(*train_test_split(x[order], y[order], test_size=0.1, stratify=y[order]))
