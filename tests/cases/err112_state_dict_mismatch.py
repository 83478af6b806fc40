"""Pretrained weights are those of a wider net."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


class Pretrained(Classifier):
    def __init__(self, width: int) -> None:
        super().__init__(net(width))
        self.weights = net(64).state_dict()

    def on_fit_start(self) -> None:
        self.net.load_state_dict(self.weights)


def sick() -> Program:
    return Program(Pretrained(32), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Pretrained(64), loader(), trainer={"max_steps": 5})
