"""A weight decay of 30 pulls all weights to 0, faster than the data can push them back."""

from __future__ import annotations

import torch
from program import Program

from cases._parts import Classifier, loader


class Decayed(Classifier):
    def __init__(self, weight_decay: float) -> None:
        super().__init__(lr=3e-3)
        self.weight_decay = weight_decay

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)


def sick() -> Program:
    return Program(Decayed(weight_decay=30.0), loader(), trainer={"max_epochs": 3})


def healthy() -> Program:
    return Program(Decayed(weight_decay=1e-4), loader(), trainer={"max_epochs": 3})
