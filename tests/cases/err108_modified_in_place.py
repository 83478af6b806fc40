"""A bias is added in place to a sigmoid, whose gradient needs what it had put out."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


class InPlace(nn.Module):
    def forward(self, x):
        x = x.sigmoid()
        x += 1
        return x


class OutOfPlace(nn.Module):
    def forward(self, x):
        x = x.sigmoid()
        return x + 1


def net(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), activation, nn.Linear(32, 10))


def sick() -> Program:
    return Program(Classifier(net(InPlace())), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Classifier(net(OutOfPlace())), loader(), trainer={"max_steps": 5})
