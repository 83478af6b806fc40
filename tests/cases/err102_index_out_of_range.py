"""Pixels from 0 to 16 are looked up in an embedding of 16 rows."""

from __future__ import annotations

from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


def program(rows: int) -> Program:
    x, y = digits()
    pixels = ((x + 1) * 8).long()
    net = nn.Sequential(nn.Embedding(rows, 4), nn.Flatten(), nn.Linear(256, 10))
    return Program(Classifier(net), loader(pixels, y), trainer={"max_steps": 5})


def sick() -> Program:
    return program(16)


def healthy() -> Program:
    return program(17)
