"""The loss is made anew from its value, and has lost its way back to the net."""

from __future__ import annotations

import torch
from program import Program

from cases._parts import Classifier, loader

LEAD = "LOS107"  # which finds the cause


class Anew(Classifier):
    def training_step(self, batch, batch_idx):
        loss = self.loss(*batch)
        return torch.tensor(loss.item())


def sick() -> Program:
    return Program(Anew(), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Classifier(), loader(), trainer={"max_steps": 5})
