"""The files were read folder by folder, a folder to a class, and nobody shuffles."""

from __future__ import annotations

from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    x, y = digits()
    order = y.argsort()
    train = loader(x[order], y[order], shuffle=False)
    return Program(Classifier(), train, trainer={"max_epochs": 2})


def healthy() -> Program:
    x, y = digits()
    order = y.argsort()
    train = loader(x[order], y[order], shuffle=True)
    return Program(Classifier(), train, trainer={"max_epochs": 2})
