"""Validation calls train(), so that it is scored with dropout and the statistics of its own batches."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader, unseen


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10)
    )


class BackToTrain(Classifier):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(*batch))
        self.train()


class LeftToLightning(Classifier):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(*batch))


def sick() -> Program:
    return Program(
        BackToTrain(net()), loader(), loader(*unseen(), shuffle=False), trainer={"max_epochs": 2}
    )


def healthy() -> Program:
    return Program(
        LeftToLightning(net()),
        loader(),
        loader(*unseen(), shuffle=False),
        trainer={"max_epochs": 2},
    )
