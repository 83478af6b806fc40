"""A net that its library returns in eval mode is fine-tuned, and stays in eval mode."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


def from_pretrained() -> nn.Module:
    net = nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10)
    )
    return net.eval()


class LeftInEval(Classifier):
    pass


class PutIntoTrain(Classifier):
    def on_fit_start(self):
        self.net.train()


def sick() -> Program:
    return Program(LeftInEval(from_pretrained()), loader(), trainer={"max_epochs": 2})


def healthy() -> Program:
    return Program(PutIntoTrain(from_pretrained()), loader(), trainer={"max_epochs": 2})
