"""Adam divides the weight decay by the size of the gradient; AdamW does not."""

from __future__ import annotations

import torch
from program import Program

from cases._parts import Classifier, loader


class Decayed(Classifier):
    def __init__(self, kind: type[torch.optim.Optimizer]) -> None:
        super().__init__()
        self.kind = kind

    def configure_optimizers(self):
        weights = [p for p in self.parameters() if p.dim() > 1]
        biases = [p for p in self.parameters() if p.dim() == 1]
        groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases}]
        return self.kind(groups, lr=1e-3, weight_decay=0.0)


def sick() -> Program:
    return Program(Decayed(torch.optim.Adam), loader(), trainer={"max_steps": 40})


def healthy() -> Program:
    return Program(Decayed(torch.optim.AdamW), loader(), trainer={"max_steps": 40})
