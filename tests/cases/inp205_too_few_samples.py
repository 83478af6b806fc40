"""A subset of 30 images, taken while the script was being written, was left in place."""

from __future__ import annotations

from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    train = loader(*digits(30), batch_size=10)
    return Program(Classifier(), train, trainer={"max_epochs": 10})


def healthy() -> Program:
    train = loader(*digits(), batch_size=32)
    return Program(Classifier(), train, trainer={"max_epochs": 2})
