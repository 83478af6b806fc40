"""The batch size is written out where images are flattened."""

from __future__ import annotations

from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


class Fixed(Classifier):
    def forward(self, x):
        return self.net(x.view(32, 64))


class Any(Classifier):
    def forward(self, x):
        return self.net(x.view(len(x), 64))


def sick() -> Program:
    return Program(Fixed(nn.Linear(64, 10)), loader(*digits(image=True)), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Any(nn.Linear(64, 10)), loader(*digits(image=True)), trainer={"max_steps": 5})
