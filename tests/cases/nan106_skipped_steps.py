"""A loss so large that its gradients never fit into half precision, whatever the scale."""

from __future__ import annotations

from lightning.pytorch.plugins.precision import MixedPrecision
from program import Program
from torch import amp

from cases._parts import Classifier, loader


class SummedLoss(Classifier):
    factor = 1e9

    def loss(self, x, y):
        return super().loss(x, y) * self.factor


class MeanLoss(SummedLoss):
    factor = 1.0


def program(module: Classifier) -> Program:
    precision = MixedPrecision("16-mixed", "cpu", amp.GradScaler("cpu"))
    return Program(module, loader(), trainer={"max_steps": 120, "plugins": [precision]})


def sick() -> Program:
    return program(SummedLoss())


def healthy() -> Program:
    return program(MeanLoss())
