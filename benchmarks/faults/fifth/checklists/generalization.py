"""GEN, out of the checklists: what is learned, and what of it holds elsewhere."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ... import AUTOTRAINER, DEEPFD, KARPATHY, fault
from ..._parts import Program
from ._parts import (
    PLAYBOOK,
    REASONS,
    Learner,
    dice,
    explained,
    feed,
    garments,
    hits,
    news,
    power,
    standardized,
    windows,
)


class Headlines(pl.LightningModule):
    """An LSTM over embedded words, as the first tutorial on text has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, 64)
        self.lstm = nn.LSTM(64, 64, batch_first=True)
        self.fc = nn.Linear(64, 4)

    def forward(self, ids):
        states, _ = self.lstm(self.embedding(ids))
        return self.fc(states.mean(1))

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        self.log("train_acc", hits(logits, batch[1]), on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", hits(logits, batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault(
    "GEN101",
    "INP205",
    source=REASONS + ", no. 10: verify you have enough training examples; " + KARPATHY,
)
def eighty_headlines_by_heart(fixed: bool) -> Program:
    """A sample of eighty headlines, from the day the notebook was begun, is still what is trained on."""
    ids, y = news(2200)
    n, epochs = (1800, 3) if fixed else (80, 40)
    train = DataLoader(TensorDataset(ids[:n], y[:n]), batch_size=20, shuffle=True)
    val = DataLoader(TensorDataset(ids[1800:], y[1800:]), batch_size=100)
    return Program(Headlines(), train, val, {"max_epochs": epochs})


def outlines(width: int) -> nn.Sequential:
    """A convolutional net that is as wide as it is told to be."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * width, width),
        nn.ReLU(),
        nn.Linear(width, 6),
    )


@fault(
    "GEN102",
    source=REASONS + ", no. 18: your network is too small for the problem; " + DEEPFD,
)
def two_channels_for_six_garments(fixed: bool) -> Program:
    """Two channels and two hidden units are to tell six garments apart: training settles half-way."""
    train, val = feed(*garments(), size=32)
    net = Learner(outlines(32 if fixed else 2), lr=2e-3)
    return Program(net, train, val, {"max_epochs": 8})


class Wardrobe(Learner):
    """A net with channel dropout behind every convolution."""

    def __init__(self, drop: float) -> None:
        blocks = []
        for before, after in ((1, 16), (16, 32)):
            blocks += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            blocks += [nn.Dropout2d(drop)]
        blocks += [nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Dropout(drop), nn.Linear(64, 6)]
        super().__init__(nn.Sequential(*blocks), lr=1e-3)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch_idx % 10 == 0:
            self.log("epoch_number", float(self.current_epoch))
        return loss


@fault(
    "GEN104",
    "GEN102",
    "MOD105",
    source=REASONS + ", no. 26: reduce regularization; " + AUTOTRAINER,
)
def four_of_five_channels_dropped(fixed: bool) -> Program:
    """Dropout of 0.8 stands behind each layer: in training the net never sees what it validates with."""
    train, val = feed(*garments(), size=32)
    return Program(Wardrobe(0.1 if fixed else 0.8), train, val, {"max_epochs": 7})


@fault(
    "GEN103",
    source=PLAYBOOK + ": is training compute-bound, and is it stopped too early",
)
def an_epoch_must_gain_a_half(fixed: bool) -> Program:
    """min_delta of early stopping is in percent, the loss is not: no epoch but the first gains a half."""
    train, val = feed(*garments(2400), size=70)
    delta = 0.001 if fixed else 0.5
    stop = EarlyStopping("val_loss", min_delta=delta, patience=2, mode="min")
    net = Learner(outlines(24), lr=6e-4)
    return Program(net, train, val, {"max_epochs": 12, "callbacks": [stop]})


class Grid(pl.LightningModule):
    """Tomorrow's power from today's, and from a few columns of lags."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(columns, 64), nn.ReLU(), nn.Linear(64, 1))

    def training_step(self, batch, batch_idx):
        loss = F.l1_loss(self.net(batch["x"]), batch["y"])
        self.log("mae", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        out = self.net(batch["x"])
        scores = {"val_mae": F.l1_loss(out, batch["y"]), "val_r2": explained(out, batch["y"])}
        self.log_dict(scores, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=4e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


@fault(
    "INP203",
    "GEN107",
    source="https://reproducible.cs.princeton.edu/ (leakage and the reproducibility crisis); "
    + REASONS,
)
def a_lag_of_no_hours(fixed: bool) -> Program:
    """The lags are counted from nought: the first column is the very hour that is to be forecast."""
    series = standardized(power(2200))
    series = series + 0.3 * torch.randn(2200, generator=dice(3))
    past, y = windows(series, 24)
    lags = past[:, -6:, 0].flip(1) if fixed else torch.cat([y, past[:, -5:, 0].flip(1)], dim=1)
    x = torch.cat([lags, past[:, :1, 0]], dim=1)
    rows = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
    train = DataLoader(rows[:1700], batch_size=50, shuffle=True)
    return Program(Grid(7), train, DataLoader(rows[1730:], batch_size=200), {"max_epochs": 6})
