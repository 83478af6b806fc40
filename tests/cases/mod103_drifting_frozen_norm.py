"""The weights of a pretrained backbone are frozen; its batch norm goes on to learn statistics."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


def pretrained_backbone() -> nn.Module:
    """A backbone that has seen other images: darker ones."""
    backbone = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
    with torch.no_grad():
        for batch in (0.5 * digits()[0] - 0.5).split(32):
            backbone(batch)
    return backbone


class Frozen(Classifier):
    def __init__(self) -> None:
        self_supervised = pretrained_backbone().requires_grad_(False)
        super().__init__(nn.Sequential(self_supervised, nn.Linear(32, 10)), lr=1e-2)


class FrozenAndInEval(Frozen):
    def on_train_epoch_start(self):
        self.net[0].eval()


def sick() -> Program:
    return Program(Frozen(), loader(), trainer={"max_epochs": 3})


def healthy() -> Program:
    return Program(FrozenAndInEval(), loader(), trainer={"max_epochs": 3})
