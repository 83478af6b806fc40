"""INP, out of the checklists: what goes into the net is not what was meant."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ... import HUMBATOVA, KARPATHY, UMLAUT, fault
from ..._parts import Program
from ._parts import (
    DUCK,
    REASONS,
    TOBIN,
    Estimator,
    Learner,
    dice,
    feed,
    flats,
    garments,
    hits,
    photographs,
    small_cnn,
    spots,
    standardized,
)


def tumour_table() -> tuple[torch.Tensor, torch.Tensor]:
    """The breast cancer table, in the units of the clinic, and which tumours are benign."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)


@fault(
    "INP103",
    "ACT102",
    "LOS104",
    "GRD102",
    source=UMLAUT + "; " + REASONS + ", no. 12: standardize the features; " + DUCK,
)
def areas_of_two_thousand_next_to_thousandths(fixed: bool) -> Program:
    """Columns of hundreds stand beside columns of thousandths, and go into sigmoids as they are."""
    x, y = tumour_table()
    net = nn.Sequential(
        nn.Linear(30, 32), nn.Sigmoid(), nn.Linear(32, 16), nn.Sigmoid(), nn.Linear(16, 2)
    )
    train, val = feed(standardized(x) if fixed else x, y, size=16)
    return Program(Learner(net, lr=5e-3), train, val, {"max_epochs": 6, "log_every_n_steps": 10})


@fault(
    "INP103",
    "LRN101",
    "LOS101",
    source=KARPATHY + "; " + DUCK + " (you forgot to normalize); " + TOBIN,
)
def photographs_from_0_to_255(fixed: bool) -> Program:
    """Patches of photographs are made floats, and stay between 0 and 255; the net has no norm."""
    x = photographs(1400).float()
    if fixed:
        x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    train, val = feed(x, torch.arange(1400) % 2, size=32)
    net = Descending(small_cnn(2, 3, norm=False), lr=0.01)
    return Program(net, train, val, {"max_epochs": 6})


class Descending(Learner):
    """The same by SGD."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Wardrobe(Dataset):
    """A dataset that counts through its files, of so many pictures each."""

    def __init__(self, pictures, labels, *, fixed: bool, to_a_file: int = 25) -> None:
        self.files = list(zip(pictures.split(to_a_file), labels.split(to_a_file), strict=True))
        self.to_a_file, self.fixed = to_a_file, fixed

    def __len__(self):
        return sum(len(labels) for _, labels in self.files)

    def __getitem__(self, i):
        file = i // self.to_a_file if self.fixed else i // len(self)
        pictures, labels = self.files[file]
        return {"image": pictures[i % self.to_a_file], "label": labels[i % self.to_a_file]}


class Sorter(pl.LightningModule):
    """Sorts garments, out of dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn(6)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch["image"]), batch["label"])
        self.log("train/loss", loss, batch_size=len(batch["label"]))
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self.net(batch["image"])
        self.log("val/loss", F.cross_entropy(logits, batch["label"]))
        self.log("val/acc", hits(logits, batch["label"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


@fault(
    "INP106",
    "INP102",
    "GEN101",
    "GEN105",
    "INP205",
    source=REASONS + ", no. 1: check your input data (feeding the same batch over and over)",
)
def always_the_first_file(fixed: bool) -> Program:
    """The number of the file is i // len(self), which is nought: an epoch is one file again and again."""
    x, y = garments(1800)
    train = DataLoader(Wardrobe(x[:1400], y[:1400], fixed=fixed), batch_size=35, shuffle=True)
    val = DataLoader(Wardrobe(x[1400:], y[1400:], fixed=True), batch_size=100)
    return Program(Sorter(), train, val, {"max_epochs": 4})


@fault(
    "INP101",
    "LOS104",
    "GEN102",
    source=REASONS + ", no. 2 (a chunk of zeros); SettingWithCopyWarning of pandas; " + HUMBATOVA,
)
def columns_filled_in_a_copy(fixed: bool) -> Program:
    """Area, rooms, and distance are written into a copy of the table: in the table they stay nought."""
    raw, rent = flats(2000)
    x = torch.zeros(2000, 5)
    clean = standardized(raw)
    wanted = torch.tensor([0, 1, 4])
    x[:, 2:4] = clean[:, 2:4]
    if fixed:
        x[:, wanted] = clean[:, wanted]
    else:
        x[:, wanted].copy_(clean[:, wanted])
    net = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    train, val = feed(x, standardized(rent), size=32)
    return Program(Estimator(net, lr=3e-3), train, val, {"max_epochs": 5})


class Cells(pl.LightningModule):
    """Segments cells, with flips for more variety."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=2, dilation=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 1, 1),
        )
        self.fixed, self.dice = fixed, dice(7)

    def training_step(self, batch, batch_idx):
        image, mask = batch
        if torch.rand(1, generator=self.dice) < 0.5:
            image = image.flip(3)
            mask = mask.flip(3) if self.fixed else mask
        loss = F.binary_cross_entropy_with_logits(self.net(image), mask)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        image, mask = batch
        out = self.net(image)
        both, either = ((out > 0) & (mask > 0)).sum(), ((out > 0) | (mask > 0)).sum()
        self.log("val_loss", F.binary_cross_entropy_with_logits(out, mask))
        self.log("val_iou", both / either)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "INP204",
    "GEN104",
    "LOS104",
    source="https://discuss.pytorch.org/t/torchvision-transfors-how-to-perform-identical-transform-on-"
    "both-image-and-target/10606; " + REASONS + ", no. 6 and 14",
)
def image_flipped_and_its_mask_not(fixed: bool) -> Program:
    """Half of the batches are mirrored, and their masks are not: half of all cells are elsewhere."""
    train, val = feed(*spots(900), size=20)
    return Program(Cells(fixed=fixed), train, val, {"max_epochs": 5})
