"""Half precision, and inputs that nobody scaled down."""

from __future__ import annotations

from lightning.pytorch.plugins.precision import MixedPrecision
from program import Program, digits
from torch import amp, nn

from cases._parts import Classifier, loader


class HalfPrecision(Classifier):
    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10))
        )


def program(factor: float) -> Program:
    x, y = digits()
    precision = MixedPrecision("16-mixed", "cpu", amp.GradScaler("cpu", init_scale=64.0))
    return Program(
        HalfPrecision(), loader(x * factor, y), trainer={"max_steps": 120, "plugins": [precision]}
    )


def sick() -> Program:
    return program(factor=28_000)


def healthy() -> Program:
    return program(factor=1)
