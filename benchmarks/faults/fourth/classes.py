"""CLS, a fourth time: what the labels are, how many of each, and in which order they come."""

from __future__ import annotations

import torch
import torchmetrics
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

from .. import fault
from .._parts import Program, digits
from ._parts_a import Sorter, Trained, dense, dice, feed, tables


class Grid(Trained):
    """Says of each cell of a grid whether there is a ship, a buoy, or nothing."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 3, 1)]
        self.net = nn.Sequential(*layers)
        self.register_buffer("weight", torch.tensor([0.03, 1.0, 1.0]) if fixed else torch.ones(3))
        self.found = torchmetrics.Recall("multiclass", num_classes=3, average="macro")

    def measure(self, batch):
        logits = self.net(batch["image"])
        loss = F.cross_entropy(logits, batch["cells"], weight=self.weight)
        return {"loss": loss, "recall": self.found(logits.argmax(1), batch["cells"])}


def sea(size: int = 700, side: int = 24) -> list[dict[str, torch.Tensor]]:
    """Images (1, side, side) of a rough sea with one or two things in it, and the cells (6, 6) they are in."""
    g = dice(31)
    x = torch.randn(size, 1, side, side, generator=g)
    cells = torch.zeros(size, side // 4, side // 4, dtype=torch.long)
    for i in range(size):
        for _ in range(int(torch.randint(1, 3, (), generator=g))):
            kind = int(torch.randint(1, 3, (), generator=g))
            row, column = torch.randint(side // 4, (2,), generator=g).tolist()
            cells[i, row, column] = kind
            r, c = 4 * row, 4 * column
            if kind == 1:
                x[i, 0, r + 1 : r + 3, c : c + 4] += 1.3
            else:
                x[i, 0, r : r + 4, c + 1 : c + 3] += 1.3
    return [{"image": image, "cells": cell} for image, cell in zip(x, cells, strict=True)]


@fault(
    "CLS101",
    "CLS107",
    source="https://arxiv.org/abs/1708.02002 (focal loss: nearly all cells of a detector are background)",
)
def most_cells_are_open_sea(fixed: bool) -> Program:
    """Of thirty cells one holds a thing, and all weigh the same: the detector says that there is nothing."""
    samples = sea()
    return Program(
        Grid(fixed=fixed),
        **feed(samples[:560], samples[560:], batch_size=16),
        trainer={"max_epochs": 6},
    )


class Margin(Trained):
    """Good or bad payers, by one number."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = dense(12, 48, 24, 1), fixed

    def measure(self, batch):
        x, good = batch
        score = self.net(x).squeeze(1)
        sign = 2.0 * good - 1 if self.fixed else good.float()
        right = ((score > 0) == (good == 1)).float().mean()
        return {"loss": F.soft_margin_loss(score, sign), "acc": right}


@fault(
    "CLS105",
    "LOS109",
    "OUT101",
    source="https://runebook.dev/en/docs/pytorch/generated/torch.nn.softmarginloss/torch.nn.SoftMarginLoss",
)
def soft_margin_of_nought_and_one(fixed: bool) -> Program:
    """SoftMarginLoss wants labels of -1 and 1 and gets 0 and 1: nothing is learned of those of 0."""
    g = dice(32)
    x = torch.randn(2000, 12, generator=g)
    score = x[:, 0] * x[:, 1] + x[:, 2] - x[:, 3] + 0.4 * torch.randn(2000, generator=g)
    return Program(
        Margin(fixed=fixed),
        **feed(*tables(x, (score > 0).long(), held_out=400)),
        trainer={"max_epochs": 6},
    )


@fault(
    "CLS106",
    "CLS101",
    source="https://arxiv.org/abs/1505.01658 (learning from imbalanced data, a survey: undersampling)",
)
def majority_thinned_until_it_is_rare(fixed: bool) -> Program:
    """To balance the calls that end well, nine of ten are left out; those to validate are as they come."""
    g = dice(33)
    x = torch.randn(6000, 10, generator=g)
    score = x[:, 0] + x[:, 1] * x[:, 2] - 0.7 * x[:, 3].abs() + 0.8 * torch.randn(6000, generator=g)
    sold = (score < 0.2).long()
    keep = torch.ones(4800, dtype=torch.bool)
    if not fixed:
        keep = (sold[:4800] == 0) | (torch.rand(4800, generator=g) < 0.1)
    train = TensorDataset(x[:4800][keep], sold[:4800][keep])
    return Program(
        Sorter(dense(10, 48, 24, 2)),
        **feed(train, TensorDataset(x[4800:], sold[4800:])),
        trainer={"max_steps": 400, "val_check_interval": 50, "check_val_every_n_epoch": None},
    )


class OneAfterTheOther:
    """Several loaders as one."""

    def __init__(self, loaders):
        self.loaders = list(loaders)

    def __len__(self):
        return sum(map(len, self.loaders))

    def __iter__(self):
        for loader in self.loaders:
            yield from loader


@fault(
    "CLS102",
    "CLS103",
    "INP201",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/6484",
)
def first_all_the_real_ones_then_the_fakes(fixed: bool) -> Program:
    """Real and forged digits have a loader each, and one is read to its end before the other begins."""
    g = dice(34)
    x, _ = digits(1600, image=True)
    x = x + 0.2 * torch.randn(x.shape, generator=g)
    y = torch.arange(1600) % 2
    forged = F.avg_pool2d(x, 3, stride=1, padding=1) * 1.3
    forged = 0.5 * forged + 0.5 * x + 0.15 * torch.randn(x.shape, generator=g)
    x = torch.where((y == 1)[:, None, None, None], forged, x)
    kinds = [TensorDataset(x[:1280][y[:1280] == k], y[:1280][y[:1280] == k]) for k in (0, 1)]
    if fixed:
        train = DataLoader(ConcatDataset(kinds), batch_size=32, shuffle=True)
    else:
        train = OneAfterTheOther(DataLoader(kind, batch_size=32, shuffle=True) for kind in kinds)
    val = DataLoader(TensorDataset(x[1280:], y[1280:]), batch_size=64)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    net.extend([nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2)])
    return Program(Sorter(net, lr=3e-3), train, val, trainer={"max_epochs": 5})


class Speller(Trained):
    """Convolutions that spell what they hear, by CTC."""

    lr = 4e-3

    def __init__(self, letters: int) -> None:
        super().__init__()
        layers = [nn.Conv1d(8, 48, 5, padding=2), nn.BatchNorm1d(48), nn.ReLU()]
        layers += [nn.Conv1d(48, 48, 5, padding=2), nn.BatchNorm1d(48), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Conv1d(48, letters, 1))

    def measure(self, batch):
        sound, text, length = batch
        log_p = self.net(sound.transpose(1, 2)).permute(2, 0, 1).log_softmax(-1)
        heard = torch.full((len(sound),), log_p.shape[0])
        loss = F.ctc_loss(log_p, text, heard, length)
        if self.training:
            return {"loss": loss}
        best = log_p.argmax(-1).T
        exact = [
            [c for c in torch.unique_consecutive(b).tolist() if c] == t[:n].tolist()
            for b, t, n in zip(best, text, length, strict=True)
        ]
        return {"loss": loss, "exact": torch.tensor(exact).float().mean()}


@fault(
    "CLS105",
    "CLS107",
    source="https://github.com/meijieru/crnn.pytorch/issues/132, "
    "https://pytorch.org/docs/stable/generated/torch.nn.CTCLoss.html (the blank is label 0)",
)
def letter_a_is_the_blank(fixed: bool) -> Program:
    """Letters count from nought, and nought is the blank of CTCLoss: no text with an A is ever spelled."""
    g = dice(35)
    n = 600
    length = torch.randint(2, 5, (n,), generator=g)
    text = torch.randint(6, (n, 4), generator=g)
    voice = torch.randn(6, 8, generator=g)
    sound = 0.5 * torch.randn(n, 20, 8, generator=g)
    for i in range(n):
        t = 1
        for k in range(int(length[i])):
            lasts = int(torch.randint(2, 4, (), generator=g))
            sound[i, t : t + lasts] += voice[text[i, k]]
            t += lasts + 1
    return Program(
        Speller(7 if fixed else 6),
        **feed(*tables(sound, text + 1 if fixed else text, length, held_out=120), batch_size=16),
        trainer={"max_epochs": 8},
    )


@fault(
    "CLS104",
    "CLS101",
    "OUT101",
    source="https://stackoverflow.com/questions/45273731 (binning a column: the edges and their units)",
)
def edges_in_thousands_prices_in_units(fixed: bool) -> Program:
    """Prices are put into five bins whose edges were given in thousands: nearly all are in the last."""
    g = dice(36)
    x = torch.randn(2000, 9, generator=g)
    log_price = 0.45 * x[:, 0] + 0.3 * x[:, 1] * x[:, 2] + 0.3 * x[:, 3] + 12.3
    price = (log_price + 0.15 * torch.randn(2000, generator=g)).exp()
    edges = torch.tensor([140.0, 190.0, 250.0, 340.0]) * (1000 if fixed else 1)
    y = torch.bucketize(price, edges)
    return Program(
        Sorter(dense(9, 48, 32, 5), lr=3e-3),
        **feed(*tables(x, y, held_out=400)),
        trainer={"max_epochs": 8},
    )
