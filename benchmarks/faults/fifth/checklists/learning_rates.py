"""LRN, out of the checklists: the learning rate, and the schedule of it."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from ... import AUTOTRAINER, KARPATHY, fault
from ..._parts import Program
from ._parts import (
    CS231N,
    LIGHTNING,
    PLAYBOOK,
    TOBIN,
    Learner,
    dice,
    explained,
    feed,
    flats,
    garments,
    movements,
    small_cnn,
    standardized,
)


class Residual(nn.Module):
    """A block with a way around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        return x + self.inner(self.norm(x))


class Rents(pl.LightningModule):
    """A residual net for tables."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(5, 48), Residual(48), Residual(48), nn.Linear(48, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.smooth_l1_loss(self.net(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        out = self.net(x)
        self.log_dict({"val_loss": F.smooth_l1_loss(out, y), "val_r2": explained(out, y)})

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


@fault(
    "LRN101",
    "LOS104",
    "LOS108",
    "GRD101",
    "UPD103",
    "LRN105",
    source=CS231N + "; " + TOBIN + "; " + AUTOTRAINER + " (oscillating loss)",
)
def residual_net_at_the_rate_of_adadelta(fixed: bool) -> Program:
    """Adadelta is replaced by AdamW, and the rate of one is not: the loss leaps up and comes halfway down."""
    x, y = flats(2400)
    train, val = feed(standardized(x), standardized(y), size=48)
    return Program(Rents(lr=2e-3 if fixed else 1.0), train, val, {"max_epochs": 6})


class Ratings(pl.LightningModule):
    """The factors of users and films, and their biases."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(60, 8), nn.Embedding(50, 8)
        self.bias, self.other = nn.Embedding(60, 1), nn.Embedding(50, 1)
        for e in (self.users, self.films, self.bias, self.other):
            nn.init.normal_(e.weight, std=0.1)
        self.lr = lr

    def forward(self, user, film):
        fit = (self.users(user) * self.films(film)).sum(1)
        return fit + self.bias(user).squeeze(1) + self.other(film).squeeze(1)

    def training_step(self, batch, batch_idx):
        user, film, stars = batch
        loss = F.mse_loss(self(user, film), stars)
        self.log("rmse", loss.sqrt())
        return loss

    def validation_step(self, batch, batch_idx):
        user, film, stars = batch
        out = self(user, film)
        self.log("val_rmse", F.mse_loss(out, stars).sqrt())
        self.log("val_r2", explained(out, stars))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=1e-5)


@fault(
    "LRN102",
    "LOS104",
    "UPD103",
    source=KARPATHY + "; " + CS231N + ": the loss barely changes, the learning rate is too low",
)
def factors_at_a_hundred_thousandth(fixed: bool) -> Program:
    """Adam goes by 1e-5 from another project: in the whole run no factor moves by a hundredth."""
    g = dice(61)
    user, film = torch.randint(60, (4800,), generator=g), torch.randint(50, (4800,), generator=g)
    tastes, kinds = torch.randn(60, 3, generator=g), torch.randn(50, 3, generator=g)
    stars = (tastes[user] * kinds[film]).sum(1) / 1.7 + torch.randn(60, generator=g)[user]
    stars = stars + torch.randn(50, generator=g)[film] + 0.4 * torch.randn(4800, generator=g)
    train, val = feed(user, film, standardized(stars), size=64)
    return Program(Ratings(lr=1e-2 if fixed else 1e-5), train, val, {"max_epochs": 6})


class Scheduled(Learner):
    """SGD, and a rate that falls by ten after every so many epochs."""

    def __init__(self, net: nn.Module, *, interval: str) -> None:
        super().__init__(net, lr=0.05)
        self.interval = interval

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)
        scheduler = {"scheduler": StepLR(optimizer, step_size=5), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


@fault(
    "LRN104",
    "LRN103",
    "LRN102",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/4466; "
    + LIGHTNING
    + "optimization.html (interval: epoch or step)",
)
def every_fifth_batch_a_tenth(fixed: bool) -> Program:
    """StepLR(5) is meant in epochs and stepped by batches: after twenty of them the rate is gone."""
    net = nn.Sequential(
        nn.Conv1d(3, 24, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(3),
        nn.Conv1d(24, 48, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(48, 5),
    )
    train, val = feed(*movements(1800), size=40)
    module = Scheduled(net, interval="epoch" if fixed else "step")
    return Program(module, train, val, {"max_epochs": 7})


class SteppedTwice(Learner):
    """A cosine to the end of training, as many notebooks write it."""

    def __init__(self, *, fixed: bool, total: int) -> None:
        super().__init__(small_cnn(6, width=12), lr=3e-3)
        self.fixed, self.total = fixed, total

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if not self.fixed:
            self.lr_schedulers().step()
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        scheduler = {"scheduler": CosineAnnealingLR(optimizer, self.total), "interval": "step"}
        return [optimizer], [scheduler]


@fault(
    "LRN104",
    "LRN103",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/12284; " + PLAYBOOK,
)
def stepped_by_hand_and_by_lightning(fixed: bool) -> Program:
    """lr_schedulers().step() is called in the step, and by Lightning too: the cosine rises again."""
    train, val = feed(*garments(2000), size=40)
    module = SteppedTwice(fixed=fixed, total=240)
    return Program(module, train, val, {"max_epochs": 6})
