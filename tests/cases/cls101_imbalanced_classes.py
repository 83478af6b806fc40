"""One of fifty samples is of the class that matters, and the loss weighs all alike."""

from __future__ import annotations

import torch
from program import Program
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


def patients(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten measured values of each patient, a little different in the few who are ill."""
    y = (torch.arange(size) % 50 == 0).long()
    return torch.randn(size, 10) + 0.5 * y.unsqueeze(1), y


class Diagnosis(Classifier):
    def __init__(self, weight: torch.Tensor | None = None) -> None:
        super().__init__(nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2)), lr=3e-3)
        self.weight = weight

    def loss(self, x, y):
        return F.cross_entropy(self(x), y, weight=self.weight)


def sick() -> Program:
    train, val = loader(*patients(1400), batch_size=40), loader(*patients(600), shuffle=False)
    return Program(Diagnosis(), train, val, trainer={"max_epochs": 3})


def healthy() -> Program:
    train, val = loader(*patients(1400), batch_size=40), loader(*patients(600), shuffle=False)
    return Program(Diagnosis(torch.tensor([1.0, 49.0])), train, val, trainer={"max_epochs": 3})
