"""The backbone gets a hundredth of the learning rate, by an integer division."""

from __future__ import annotations

import torch
from program import Program
from torch import nn

from cases._parts import Classifier, loader


class TwoRates(Classifier):
    def __init__(self, backbone_lr: float) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
        self.backbone_lr = backbone_lr

    def configure_optimizers(self):
        backbone, _, head = self.net
        return torch.optim.SGD(
            [
                {"params": backbone.parameters(), "lr": self.backbone_lr},
                {"params": head.parameters(), "lr": 0.1},
            ]
        )


def sick() -> Program:
    return Program(TwoRates(backbone_lr=1 // 100), loader(), trainer={"max_epochs": 3})


def healthy() -> Program:
    return Program(TwoRates(backbone_lr=1 / 100), loader(), trainer={"max_epochs": 3})
