"""CLS: the labels are not what they were meant to be."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ... import fault
from ._parts import Coursework, Program, digits, drawings, served, split


class FromKeras(pl.LightningModule):
    """A net that was ported from Keras, and with it labels that are one-hot."""

    def __init__(self, *, place: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.1), nn.Linear(96, 10))
        self.criterion = nn.CrossEntropyLoss()
        self.which = 1 if place else 0

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        labels = torch.max(y, 1)[self.which].long()
        loss = self.criterion(self(x), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", self.criterion(logits, torch.max(y, 1)[self.which].long()))
        self.log("val_acc", (logits.argmax(1) == y.argmax(1)).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault(
    "CLS104",
    "CLS105",
    "CLS102",
    "OUT101",
    "CLS101",
    source="https://github.com/pytorch/pytorch/issues/1258 (one-hot targets, to be made indices for "
    "CrossEntropyLoss)",
)
def largest_value_taken_for_its_place(fixed: bool) -> Program:
    """torch.max(one_hot, 1)[0] is the largest value and not its place: every label is a one."""
    x, y = digits(1797)
    data = served(x, F.one_hot(y, 10).float())
    return Program(FromKeras(place=fixed), **data, trainer={"max_epochs": 6})


class CarMasks(Coursework):
    """A small convolutional net that cuts things out."""

    metric = "iou"

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.middle = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)
        )
        self.up = nn.Conv2d(48, 1, 3, padding=1)

    def forward(self, x):
        skip = self.down(x)
        return self.up(torch.cat([skip, self.middle(skip)], dim=1))

    def loss_and_metric(self, batch):
        image, mask = batch
        logits = self(image)
        found, there = logits > 0, mask > 0
        iou = (found & there).sum() / (found | there).sum().clamp(min=1)
        return F.binary_cross_entropy_with_logits(logits, mask), iou


@fault(
    "CLS105",
    "LOS109",
    "OUT102",
    source="https://github.com/milesial/Pytorch-UNet/issues/78 (the mask is 0 and 255, and the loss "
    "negative)",
)
def masks_as_the_png_has_them(fixed: bool) -> Program:
    """Masks are 0 and 255, as they lie in the file, and go into BCEWithLogitsLoss: it falls below zero for ever."""
    image, _, mask = drawings(800)
    train, val = split(image, mask if fixed else mask * 255)
    return Program(
        CarMasks(),
        DataLoader(train, batch_size=16, shuffle=True),
        DataLoader(val, batch_size=32),
        trainer={"max_epochs": 6},
    )
