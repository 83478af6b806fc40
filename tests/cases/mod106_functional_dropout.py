"""Dropout as a function drops in validation too, unless it is told the mode."""

from __future__ import annotations

from program import Program
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader, unseen


class AlwaysDrops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.out(F.dropout(self.hidden(x).relu(), 0.3))


class DropsInTraining(AlwaysDrops):
    def forward(self, x):
        return self.out(F.dropout(self.hidden(x).relu(), 0.3, training=self.training))


class Validated(Classifier):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(*batch))


def sick() -> Program:
    return Program(
        Validated(AlwaysDrops()),
        loader(),
        loader(*unseen(), shuffle=False),
        trainer={"max_epochs": 2},
    )


def healthy() -> Program:
    return Program(
        Validated(DropsInTraining()),
        loader(),
        loader(*unseen(), shuffle=False),
        trainer={"max_epochs": 2},
    )
