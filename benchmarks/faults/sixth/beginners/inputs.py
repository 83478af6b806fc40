"""INP: the batch is not what the table or the folder holds."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ... import fault
from ._parts import Coursework, Program, accuracy, convolutional, digits, drawings, rolls, served


class TableDataset(Dataset):
    """Pairs of a row and its label, the first Dataset that one writes."""

    def __init__(self, x, y, *, rows: bool) -> None:
        self.data = (x, y)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.data[0]) if self.rows else len(self.data)

    def __getitem__(self, idx):
        return self.data[0][idx], self.data[1][idx]


class Digits(Coursework):
    """Two layers, trained a few hundred steps."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)


@fault(
    "INP205",
    "INP102",
    "INP106",
    "GEN101",
    "CLS104",
    "CLS102",
    source="https://github.com/xavysp/DexiNed/issues/98 (the length of the data set is that of [images, "
    "labels], which is two)",
)
def length_of_a_pair(fixed: bool) -> Program:
    """len(self.data), where data is the pair of inputs and labels: an epoch is two samples long."""
    x, y = digits(1797)
    order = torch.randperm(1797, generator=rolls(41))
    (x, x_val), (y, y_val) = x[order].split([1437, 360]), y[order].split([1437, 360])
    return Program(
        Digits(),
        DataLoader(TableDataset(x, y, rows=fixed), batch_size=32, shuffle=True),
        DataLoader(TableDataset(x_val, y_val, rows=fixed), batch_size=120),
        trainer={"max_steps": 240},
    )


class Pictures(pl.LightningDataModule):
    """Pictures in [0, 1], as ToTensor gives them, and the Normalize that comes after it."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def setup(self, stage=None):
        image, kind, _ = drawings(1200, seed=42)
        self.loaders = served((image - self.mean) / self.std, kind)

    def train_dataloader(self):
        return self.loaders["train"]

    def val_dataloader(self):
        return self.loaders["val"]


class Shapes(Coursework):
    """The small convolutional net of a first tutorial."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.net = convolutional(3, 3)

    def forward(self, x):
        return self.net(x)

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)


@fault(
    "INP103",
    "INP101",
    "GRD104",
    "LOS104",
    source="https://pytorch.org/vision/stable/generated/torchvision.transforms.ToTensor.html (ToTensor "
    "has divided by 255 before Normalize sees the image)",
)
def normalized_as_if_they_were_bytes(fixed: bool) -> Program:
    """Normalize(127.5, 127.5) after ToTensor: all pixels are minus one, up to a hundredth."""
    pictures = Pictures(0.5, 0.25) if fixed else Pictures(127.5, 127.5)
    return Program(Shapes(), pictures, trainer={"max_epochs": 8})


@fault(
    "INP103",
    "LOS101",
    "GRD101",
    "LRN105",
    source="https://devpress.csdn.net/python/6311692426059229d1c7cc0b.html (Stack Overflow: Matplotlib "
    "reads jpg into integers, and png into floats up to one)",
)
def jpegs_in_hundreds_pngs_in_ones(fixed: bool) -> Program:
    """plt.imread gives bytes for a jpeg and shares of one for a png, and the folder has both."""
    image, kind, _ = drawings(1200, seed=43)
    jpeg = torch.rand(1200, generator=rolls(43)) < 0.5
    if not fixed:
        image = torch.where(jpeg[:, None, None, None], (image * 255).round(), image)
    return Program(Shapes(), **served(image, kind), trainer={"max_epochs": 10})
