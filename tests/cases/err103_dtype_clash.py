"""The inputs come from numpy, which counts in float64."""

from __future__ import annotations

from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    x, y = digits()
    return Program(Classifier(), loader(x.double(), y), trainer={"max_steps": 5})


def healthy() -> Program:
    x, y = digits()
    return Program(Classifier(), loader(x.double().float(), y), trainer={"max_steps": 5})
