"""A head that was left over from an earlier version waits for its gradient, in distributed training."""

from __future__ import annotations

from program import Program
from torch import nn

from cases._parts import Classifier, loader


class LeftOver(Classifier):
    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.old_head = nn.Linear(32, 10).requires_grad_(not frozen)


def sick() -> Program:
    options = {"max_steps": 5, "strategy": "ddp", "devices": 1}
    return Program(LeftOver(frozen=False), loader(), trainer=options)


def healthy() -> Program:
    options = {"max_steps": 5, "strategy": "ddp", "devices": 1}
    return Program(LeftOver(frozen=True), loader(), trainer=options)
