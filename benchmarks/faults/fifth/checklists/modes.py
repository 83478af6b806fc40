"""MOD, out of the checklists: train and eval, and what hangs on them."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from ... import TRAINCHECK, fault
from ..._parts import Program
from ._parts import (
    LIGHTNING,
    REASONS,
    TOBIN,
    Learner,
    explained,
    feed,
    friedman,
    garments,
    hits,
    spots,
)


class Gallery(Callback):
    """Keeps what the net says of a few pictures, every twenty batches, for the report."""

    def __init__(self, pictures: torch.Tensor, *, fixed: bool) -> None:
        self.pictures, self.fixed, self.said = pictures, fixed, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx % 20:
            return
        pl_module.eval()
        with torch.no_grad():
            self.said.append(pl_module(self.pictures).argmax(1))
        if self.fixed:
            pl_module.train()


def wardrobe() -> nn.Sequential:
    """Batch norms and a dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(512, 6),
    )


@fault(
    "MOD101",
    source=TRAINCHECK + "; " + TOBIN + " (forgot to set up train mode); "
    "https://github.com/Lightning-AI/pytorch-lightning/issues/20216",
)
def gallery_turns_the_lights_out(fixed: bool) -> Program:
    """A callback asks the net in eval mode about some pictures, after the first batch, and leaves it so."""
    x, y = garments(1900)
    train, val = feed(x[20:], y[20:], size=40)
    return Program(
        Learner(wardrobe(), lr=2e-3),
        train,
        val,
        {"max_epochs": 5, "callbacks": [Gallery(x[:20], fixed=fixed)]},
    )


class Segmenter(pl.LightningModule):
    """A small U-Net with dropout in the middle."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.low = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.dropout, self.up = nn.Dropout2d(0.4), nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.out, self.fixed = nn.Conv2d(32, 1, 1), fixed

    def forward(self, x):
        if not self.fixed:
            self.train()
        skip = self.down(x)
        return self.out(torch.cat([skip, self.up(self.dropout(self.low(skip)))], dim=1))

    def training_step(self, batch, batch_idx):
        loss = F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        out, mask = self(batch[0]), batch[1]
        self.log("val_loss", F.binary_cross_entropy_with_logits(out, mask))
        both = 2 * ((out > 0) * mask).sum()
        self.log("val_dice", both / ((out > 0).sum() + mask.sum()))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "MOD102",
    source=REASONS + ", no. 27 (dropout and batch norm behave differently in test mode); " + TOBIN,
)
def forward_turns_training_on(fixed: bool) -> Program:
    """forward calls self.train(), "for the batch norm": validation drops a part of the channels too."""
    train, val = feed(*spots(800), size=16)
    return Program(Segmenter(fixed=fixed), train, val, {"max_epochs": 4})


class Predicting(pl.LightningModule):
    """A regression that looks at its own predictions after each epoch."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.05), nn.Linear(64, 1))
        self.fixed = fixed

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.log("mse", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        out = self(batch[0])
        self.log_dict({"val_mse": F.mse_loss(out, batch[1]), "val_r2": explained(out, batch[1])})

    def on_train_epoch_end(self):
        self.freeze()
        self.log("spread", self(torch.eye(10)).std())
        if self.fixed:
            self.unfreeze()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault(
    "ERR106",
    "LOS107",
    "MOD101",
    "MOD104",
    "UPD106",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/11112; "
    + LIGHTNING
    + "lightning_module.html (freeze and unfreeze)",
)
def frozen_for_a_look_and_never_thawed(fixed: bool) -> Program:
    """self.freeze() before a look at some predictions, and no unfreeze(): the second epoch has no gradient."""
    train, val = feed(*friedman(1500), size=30)
    return Program(Predicting(fixed=fixed), train, val, {"max_epochs": 6})


class Clinic(pl.LightningModule):
    """Many batch norms, in a run that is short."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16, momentum=momentum),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.BatchNorm2d(24, momentum=momentum),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.BatchNorm2d(24, momentum=momentum),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.BatchNorm2d(24, momentum=momentum),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(384, 6)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("train_acc", hits(logits, batch[1]), on_epoch=True)
        return F.cross_entropy(logits, batch[1], label_smoothing=0.05)

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", hits(logits, batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@fault(
    "MOD105",
    "GEN105",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html (what momentum means:"
    " 0.999 elsewhere is 0.001 here)",
)
def statistics_of_a_longer_run(fixed: bool) -> Program:
    """The batch norms keep 999 parts of a thousand, for a run of a million steps, and there are some hundred and fifty."""
    train, val = feed(*garments(1500), size=40)
    return Program(Clinic(0.1 if fixed else 0.001), train, val, {"max_epochs": 5})
