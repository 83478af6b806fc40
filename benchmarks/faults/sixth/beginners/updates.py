"""UPD: what becomes of a gradient."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Program, accuracy, digits, served


class ByHand(pl.LightningModule):
    """Optimized by hand, to have more than one optimizer one day."""

    def __init__(self, *, steps: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
        self.steps = steps

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.steps:
            optimizer.step()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", accuracy(logits, y))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


@fault(
    "UPD102",
    "GRD106",
    "LOS104",
    source="https://github.com/Lightning-AI/pytorch-lightning/pull/6037 (without automatic optimization "
    "you are responsible for all of it)",
)
def manual_and_without_a_step(fixed: bool) -> Program:
    """automatic_optimization is off, backward is called by hand, and step is not."""
    data = served(*digits(1797))
    return Program(ByHand(steps=fixed), **data, trainer={"max_epochs": 6})
