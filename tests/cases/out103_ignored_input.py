"""Noise that was to be added to the pictures takes their place."""

from __future__ import annotations

import torch
from program import Program

from cases._parts import Classifier, loader


class Augmented(Classifier):
    def forward(self, x):
        return self.net(x + 0.1 * torch.randn_like(x))


class Replaced(Classifier):
    def forward(self, x):
        return self.net(0.1 * torch.randn_like(x))


def program(module: Classifier) -> Program:
    return Program(module, loader(), trainer={"max_epochs": 2})


def sick() -> Program:
    return program(Replaced())


def healthy() -> Program:
    return program(Augmented())
