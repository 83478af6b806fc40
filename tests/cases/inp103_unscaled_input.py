"""The images go into the net as they come from the file, with values from 0 to 255."""

from __future__ import annotations

from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    x, y = digits()
    images = (x + 1) * 127.5
    return Program(Classifier(), loader(images, y), trainer={"max_epochs": 2})


def healthy() -> Program:
    x, y = digits()
    images = (x + 1) * 127.5
    images = images / 127.5 - 1
    return Program(Classifier(), loader(images, y), trainer={"max_epochs": 2})
