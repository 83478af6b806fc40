"""A schedule of so many steps is handed to Lightning as it is, which steps it once an epoch."""

from __future__ import annotations

import torch
from program import Program
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from cases._parts import Classifier, loader


class OneCycle(Classifier):
    interval: str

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]


class PerEpoch(OneCycle):
    interval = "epoch"


class PerStep(OneCycle):
    interval = "step"


def sick() -> Program:
    return Program(PerEpoch(), loader(), trainer={"max_epochs": 4})


def healthy() -> Program:
    return Program(PerStep(), loader(), trainer={"max_epochs": 4})
