"""no_grad around the forward, and a loss that was told to require a gradient to stop the complaint."""

from __future__ import annotations

import torch
from program import Program

from cases._parts import Classifier, loader


class WithoutGradients(Classifier):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)

    def training_step(self, batch, batch_idx):
        return self.loss(*batch).requires_grad_()


class WithGradients(Classifier):
    def forward(self, x):
        return super().forward(x)

    def training_step(self, batch, batch_idx):
        return self.loss(*batch).requires_grad_()


def sick() -> Program:
    return Program(WithoutGradients(), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(WithGradients(), loader(), trainer={"max_steps": 5})
