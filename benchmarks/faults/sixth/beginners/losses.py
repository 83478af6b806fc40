"""LOS: the loss of another notebook."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import BinaryAccuracy

from ... import fault
from ._parts import Coursework, Program, passengers, rolls, served


def penguins(size: int = 1200) -> tuple[torch.Tensor, torch.Tensor]:
    """Four measurements of penguins, standardized, and which of three species it is."""
    g = rolls(61)
    y = torch.arange(size) % 3
    bill = torch.tensor([38.8, 48.8, 47.5])[y] + 2.8 * torch.randn(size, generator=g)
    depth = torch.tensor([18.3, 18.4, 15.0])[y] + 1.1 * torch.randn(size, generator=g)
    flipper = torch.tensor([190.0, 196.0, 217.0])[y] + 6.5 * torch.randn(size, generator=g)
    mass = 20 * flipper - 300 + 300 * torch.randn(size, generator=g)
    x = torch.stack([bill, depth, flipper, mass], dim=1)
    return (x - x.mean(0)) / x.std(0), y


class Species(Coursework):
    """Which penguin it is, after a notebook about the Titanic."""

    def __init__(self, *, one_logit: bool) -> None:
        super().__init__(lr=5e-3)
        self.net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1 if one_logit else 3))
        self.one_logit = one_logit

    def forward(self, x):
        return self.net(x)

    def loss_and_metric(self, batch):
        x, y = batch
        out = self(x)
        if self.one_logit:
            out = out.squeeze(1)
            loss = F.binary_cross_entropy_with_logits(out, y.float())
            predicted = torch.round(torch.sigmoid(out)).long()
        else:
            loss, predicted = F.cross_entropy(out, y), out.argmax(dim=1)
        return loss, (predicted == y).float().mean()


@fault(
    "CLS105",
    "LOS102",
    "LOS109",
    "OUT102",
    source="https://github.com/keras-team/keras/issues/2009 (a number as the target of a loss for yes and "
    "no: it falls to minus five thousand)",
)
def one_logit_for_three_species(fixed: bool) -> Program:
    """The notebook was about a yes and a no; its single logit gets 0, 1, and 2 as targets."""
    return Program(Species(one_logit=not fixed), **served(*penguins()), trainer={"max_epochs": 8})


class Titanic(pl.LightningModule):
    """Who is saved, with a metric of torchmetrics and a rate that falls."""

    def __init__(self, loss) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 1)
        )
        self.loss = loss
        self.val_acc = BinaryAccuracy()

    def forward(self, x):
        return self.net(x).squeeze(1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y.float())
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.val_acc(logits.sigmoid(), y)
        self.log("val_loss", self.loss(logits, y.float()))
        self.log("val_acc", self.val_acc)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)]


@fault(
    "LOS102",
    "OUT105",
    "LOS101",
    source="https://github.com/pytorch/pytorch/pull/145444 (CrossEntropyLoss takes targets of the "
    "shape of its input for probabilities)",
)
def cross_entropy_along_the_batch(fixed: bool) -> Program:
    """CrossEntropyLoss complained about the type, got floats, and takes the passengers of a batch for classes."""
    loss = nn.BCEWithLogitsLoss() if fixed else nn.CrossEntropyLoss()
    return Program(Titanic(loss), **served(*passengers(seed=62)), trainer={"max_epochs": 8})
