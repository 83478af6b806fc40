"""INP, after reports: what the net is given to see."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from ... import fault
from ..._parts import Program, digits
from ._parts import (
    Classify,
    Regress,
    Task,
    cells,
    conv,
    cut,
    loaders,
    mlp,
    rng,
    series,
    shuffled,
    windows,
)


class Microscope(Dataset):
    """Images and masks, flipped at random to train."""

    def __init__(self, image, mask, *, augment: bool, together: bool) -> None:
        self.image, self.mask, self.augment, self.together = image, mask, augment, together
        self.generator = rng(41)

    def flip(self, *tensors):
        for axis in (-1, -2):
            if torch.rand((), generator=self.generator) < 0.5:
                tensors = tuple(t.flip(axis) for t in tensors)
        return tensors

    def __len__(self):
        return len(self.image)

    def __getitem__(self, index):
        image, mask = self.image[index], self.mask[index]
        if self.augment and self.together:
            image, mask = self.flip(image, mask)
        elif self.augment:
            (image,) = self.flip(image)
            (mask,) = self.flip(mask)
        return {"image": image, "mask": mask}


class Segment(Task):
    """Finds the pixels of a cell."""

    def __init__(self) -> None:
        super().__init__(lr=3e-3)
        self.net = nn.Sequential(conv(1, 12), conv(12, 16), conv(16, 16), nn.Conv2d(16, 1, 1))

    def step(self, batch):
        logits = self.net(batch["image"])
        loss = F.binary_cross_entropy_with_logits(logits, batch["mask"])
        found, there = logits > 0, batch["mask"] > 0
        return loss, {"iou": (found & there).sum() / (found | there).sum().clamp_min(1)}


@fault(
    "INP204",
    "GEN104",
    "LOS104",
    "GEN102",
    source="https://github.com/fastai/fastai/issues/245 (RandomFlip does not respect masks); "
    "https://github.com/divamgupta/image-segmentation-keras/issues/115",
)
def image_and_mask_flipped_each_its_own_way(fixed: bool) -> Program:
    """The random flips are drawn anew for the mask: three times in four it is not that of the image."""
    image, mask, _ = cells(640)
    mask = mask[:, None].float()
    train = Microscope(image[:512], mask[:512], augment=True, together=fixed)
    val = Microscope(image[512:], mask[512:], augment=False, together=True)
    return Program(Segment(), **loaders(train, val, 16), trainer={"max_epochs": 5})


class Load(nn.Module):
    """An LSTM over the last day."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@fault(
    "INP203",
    "GEN107",
    source="https://github.com/sktime/pytorch-forecasting/issues/182 (the target is fed straight in); "
    "https://github.com/lingbai-kong/CausalFormer/issues/8 (the windows overlap)",
)
def window_that_ends_with_its_answer(fixed: bool) -> Program:
    """The window is one hour too long: its last value is the one to be forecast."""
    x, y = windows(series(1500), 24, ahead=1 if fixed else 0)
    return Program(Regress(Load(), lr=4e-3), **loaders(*cut(x, y)), trainer={"max_epochs": 6})


@fault(
    "INP203",
    "GEN107",
    source="https://github.com/blue-yonder/tsfresh/issues/162 (the index as a feature: an accuracy of "
    "100 %, whatever the series)",
)
def row_number_left_by_to_csv(fixed: bool) -> Program:
    """The file is sorted by its kind and still has the column `Unnamed: 0`: the row tells the kind."""
    g = rng(42)
    kind = torch.arange(1500) // 500
    x = torch.randn(3, 7, generator=g)[kind] + 1.6 * torch.randn(1500, 7, generator=g)
    if not fixed:
        x = torch.cat([torch.arange(1500.0)[:, None], x], 1)
    x = (x - x.mean(0)) / x.std(0)
    data = loaders(*cut(*shuffled(x, kind)))
    return Program(Classify(mlp(x.shape[1], 48, 48, 3), lr=1e-3), **data, trainer={"max_epochs": 5})


class Views(Task):
    """Two spoilt views of each image should be near each other; a nearest neighbour tells how good it is."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.encoder, self.fixed = mlp(64, 96, 32), fixed
        self.generator = rng(43)

    def spoil(self, x):
        keep = torch.rand(x.shape, generator=self.generator) > 0.3
        return x * keep + 0.3 * torch.randn(x.shape, generator=self.generator)

    def training_step(self, batch, batch_idx):
        one, two = self.spoil(batch[0]), self.spoil(batch[0])
        a = F.normalize(self.encoder(one), dim=1)
        b = F.normalize(self.encoder(two if self.fixed else one), dim=1)
        logits = a @ b.T / 0.2
        loss = F.cross_entropy(logits, torch.arange(len(a)))
        self.log("train_loss", loss)
        self.log("train_top1", (logits.argmax(1) == torch.arange(len(a))).float().mean())
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        z = F.normalize(self.encoder(x), dim=1)
        near = (z @ z.T).fill_diagonal_(-1).argmax(1)
        self.log("val_neighbour", (y[near] == y).float().mean())
        a = F.normalize(self.encoder(self.spoil(x)), dim=1)
        self.log("val_match", ((a @ z.T).argmax(1) == torch.arange(len(x))).float().mean())


@fault(
    "INP106",
    "INP102",
    "LOS109",
    "GEN107",
    source="https://github.com/catalyst-team/catalyst/pull/1278 (emb1 and emb2 are both of aug1)",
)
def both_views_are_the_first(fixed: bool) -> Program:
    """emb2 = encoder(aug1): every image is compared with itself, and there is nothing to learn from it."""
    data = loaders(*cut(*shuffled(*digits(1797))), 64)
    return Program(Views(fixed=fixed), **data, trainer={"max_epochs": 8})
