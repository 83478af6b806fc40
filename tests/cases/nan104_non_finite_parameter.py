"""Adam without eps divides by a second moment of 0."""

from __future__ import annotations

import torch
from program import Program

from cases._parts import Classifier, loader


class NoEps(Classifier):
    eps = 0.0

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr, eps=self.eps)


class WithEps(NoEps):
    eps = 1e-8


def sick() -> Program:
    return Program(NoEps(), loader(), trainer={"max_epochs": 1})


def healthy() -> Program:
    return Program(WithEps(), loader(), trainer={"max_epochs": 1})
