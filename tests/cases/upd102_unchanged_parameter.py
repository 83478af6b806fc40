"""The pretrained encoder is loaded in every step, which undoes whatever it has learned."""

from __future__ import annotations

import copy

from program import Program
from torch import nn

from cases._parts import Classifier, loader


class Pretrained(Classifier):
    def __init__(self) -> None:
        encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        super().__init__(nn.Sequential(encoder, nn.Linear(64, 10)))
        self.checkpoint = copy.deepcopy(encoder.state_dict())

    def load(self):
        self.net[0].load_state_dict(self.checkpoint)


class EveryStep(Pretrained):
    def on_train_batch_start(self, batch, batch_idx):
        self.load()


class Once(Pretrained):
    def on_fit_start(self):
        self.load()


def sick() -> Program:
    return Program(EveryStep(), loader(), trainer={"max_epochs": 2})


def healthy() -> Program:
    return Program(Once(), loader(), trainer={"max_epochs": 2})
