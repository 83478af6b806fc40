"""The whole batch is given to the net, labels and all."""

from __future__ import annotations

from program import Program
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Whole(Classifier):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch), batch[1])


class Unpacked(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)


def sick() -> Program:
    return Program(Whole(), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Unpacked(), loader(), trainer={"max_steps": 5})
