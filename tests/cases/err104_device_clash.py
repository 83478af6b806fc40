"""A constant is made on a device of its own, and nobody moves it to that of the net."""

from __future__ import annotations

import torch
from program import Program

from cases._parts import Classifier, loader


class Scaled(Classifier):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.scale = torch.ones(64, device=device)

    def forward(self, x):
        return self.net(x * self.scale)


def sick() -> Program:
    return Program(Scaled("meta"), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Scaled("cpu"), loader(), trainer={"max_steps": 5})
