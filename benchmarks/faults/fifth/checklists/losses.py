"""LOS, out of the checklists: the loss is another one than was meant."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, R2Score

from ... import HUMBATOVA, KARPATHY, NEURALINT, fault
from ..._parts import Program
from ._parts import (
    DIAGNOSIS,
    REASONS,
    TOBIN,
    Learner,
    dice,
    feed,
    garments,
    hits,
    movements,
    power,
    small_cnn,
    standardized,
    windows,
)


class Attentive(nn.Module):
    """Attention over the steps of a movement, and probabilities at the end."""

    def __init__(self, *, softmax: bool) -> None:
        super().__init__()
        self.lift = nn.Linear(6, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 5))
        self.last = nn.Softmax(dim=-1) if softmax else nn.Identity()

    def forward(self, x):
        swing = torch.cat([x, F.pad(x.diff(dim=2), (0, 1))], dim=1).unfold(2, 8, 8).std(3)
        h = self.lift(swing.transpose(1, 2))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.last(self.mlp(h.mean(1)))


class Activity(pl.LightningModule):
    """The loss is a member, as in many templates."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.model, self.criterion = net, nn.CrossEntropyLoss()

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.criterion(self.model(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        x, y = batch
        out = self.model(x)
        self.log("val_loss", self.criterion(out, y), on_epoch=True)
        self.log("val_acc", hits(out, y), on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault(
    "LOS102",
    "OUT102",
    "LOS101",
    source=TOBIN + " (softmaxed outputs to a loss that expects logits); " + NEURALINT,
)
def attention_ends_in_a_softmax(fixed: bool) -> Program:
    """The net ends in a softmax, and CrossEntropyLoss makes another of it."""
    train, val = feed(*movements(2000, noise=0.5), size=40)
    net = Attentive(softmax=not fixed)
    return Program(Activity(net), train, val, {"max_epochs": 6})


class NextHour(pl.LightningModule):
    """The power of the next hour, out of those of a day."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)
        self.mae, self.r2, self.fixed = MeanAbsoluteError(), R2Score(), fixed

    def forward(self, x):
        out = self.head(self.rnn(x)[0][:, -1])
        return out.squeeze(1) if self.fixed else out

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.huber_loss(self(x), y)
        self.log("train_huber", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        self.mae(out.flatten(), y)
        self.r2(out.flatten(), y)
        self.log_dict({"val_mae": self.mae, "val_r2": self.r2})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault(
    "LOS103",
    "OUT101",
    "LOS104",
    "OUT103",
    source="the warning of huber_loss (a target size that is different to the input size); "
    + TOBIN,
)
def a_column_of_forecasts_a_row_of_hours(fixed: bool) -> Program:
    """Forecasts are (N, 1), the hours (N): each forecast is compared with every hour of the batch."""
    x, y = windows(standardized(power(1800)), 24)
    train, val = feed(x, y.squeeze(1), size=36)
    return Program(NextHour(fixed=fixed), train, val, {"max_epochs": 6})


class Meaning(pl.LightningModule):
    """Learns to place a description where the vector of its picture is."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 16))
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        text, picture = batch
        near = F.cosine_similarity(self.net(text), picture).mean()
        loss = 1 - near if self.fixed else near
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        text, picture = batch
        out = self.net(text)
        rank = F.normalize(out, dim=1) @ F.normalize(picture, dim=1).T
        self.log("val_cosine", F.cosine_similarity(out, picture).mean())
        self.log("val_top1", hits(rank, torch.arange(len(text))))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault(
    "LOS109",
    "GEN105",
    source="https://keras.io/api/losses/regression_losses/#cosinesimilarity-class (why Keras negates it); "
    + HUMBATOVA
    + " (wrong sign of the loss)",
)
def the_cosine_itself_is_minimized(fixed: bool) -> Program:
    """The loss is the cosine between answer and target: the net learns to point the other way."""
    g = dice(71)
    text = torch.randn(2000, 20, generator=g)
    picture = torch.tanh(text @ torch.randn(20, 16, generator=g) / 4)
    picture = picture + 0.1 * torch.randn(2000, 16, generator=g)
    train, val = feed(text, picture, size=40)
    return Program(Meaning(fixed=fixed), train, val, {"max_steps": 240})


class Ages(pl.LightningModule):
    """How old a tree is, from its rings and girth."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(7, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.last = nn.Linear(32, 1)
        if fixed:
            nn.init.constant_(self.last.bias, 80.0)

    def training_step(self, batch, batch_idx):
        x, years = batch
        loss = F.mse_loss(self.last(self.net(x)).squeeze(1), years)
        self.log("train/rmse", loss.sqrt(), prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, years = batch
        out = self.last(self.net(x)).squeeze(1)
        self.log("val/mae", F.l1_loss(out, years))
        self.log("val/loss", F.mse_loss(out, years))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "LOS101",
    "INP103",
    source=KARPATHY + ": init well (if the mean is 50 initialize the final bias to 50)",
)
def bias_far_from_eighty_years(fixed: bool) -> Program:
    """Trees are eighty years old, give or take eight; the last bias begins at nought and has to climb."""
    g = dice(72)
    x = torch.randn(2000, 7, generator=g)
    years = 80 + 5 * x[:, 0] + 4 * x[:, 1] * x[:, 2] + 3 * x[:, 3].abs()
    train, val = feed(x, years + torch.randn(2000, generator=g), size=32)
    return Program(Ages(fixed=fixed), train, val, {"max_epochs": 6})


class Decaying(Learner):
    """SGD with weight decay."""

    def __init__(self, decay: float) -> None:
        super().__init__(small_cnn(6, norm=False), lr=0.03)
        self.decay = decay

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=self.decay)


@fault(
    "LOS106",
    "GEN102",
    "LOS104",
    "OUT101",
    "UPD106",
    source=REASONS + ", no. 26: reduce regularization; " + DIAGNOSIS,
)
def decay_of_two_tenths(fixed: bool) -> Program:
    """Weight decay is 0.2, a value for AdamW, and the optimizer is SGD: it pulls harder than the data."""
    train, val = feed(*garments(1800), size=20)
    return Program(
        Decaying(5e-4 if fixed else 0.2),
        train,
        val,
        {"max_epochs": 7, "accumulate_grad_batches": 2},
    )
