"""Digits are told apart, and nobody counts how many are told right."""

from __future__ import annotations

from program import Program

from cases._parts import Classifier, loader, split
from cases._scored import Scored


def sick() -> Program:
    train, val = split()
    return Program(
        Classifier(lr=1e-2), loader(*train), loader(*val, shuffle=False), {"max_epochs": 4}
    )


def healthy() -> Program:
    train, val = split()
    return Program(Scored(lr=1e-2), loader(*train), loader(*val, shuffle=False), {"max_epochs": 4})
