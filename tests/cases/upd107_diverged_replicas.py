"""A layer is unfrozen when DDP has been set up already, and trains on each process by itself."""

from __future__ import annotations

from program import Program

from cases._parts import Classifier, loader


class Frozen(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net[0].requires_grad_(False)


class Late(Frozen):
    def on_train_start(self):
        self.net[0].requires_grad_(True)


class InTime(Frozen):
    def setup(self, stage):
        self.net[0].requires_grad_(True)


def sick() -> Program:
    options = {"max_steps": 40, "strategy": "ddp_fork", "devices": 2}
    return Program(Late(), loader(), trainer=options)


def healthy() -> Program:
    options = {"max_steps": 40, "strategy": "ddp_fork", "devices": 2}
    return Program(InTime(), loader(), trainer=options)
