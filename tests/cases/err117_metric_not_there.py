"""EarlyStopping waits for val_acc, and val_loss is what is logged."""

from __future__ import annotations

from lightning.pytorch.callbacks import EarlyStopping
from program import Program

from cases._parts import Classifier, loader, split


def program(monitor: str) -> Program:
    train, val = split()
    options = {"max_epochs": 1, "callbacks": [EarlyStopping(monitor)]}
    return Program(Classifier(), loader(*train), loader(*val, shuffle=False), options)


def sick() -> Program:
    return program("val_acc")


def healthy() -> Program:
    return program("val_loss")
