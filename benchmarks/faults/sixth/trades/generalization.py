"""GEN in the trades: well in training, and then."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, dense, explained, rng, stars_given


class Factors(Trade):
    """Stars as the product of two vectors, and what is generally thought of each."""

    def __init__(self) -> None:
        super().__init__(lr=1e-2)
        self.user, self.item = nn.Embedding(200, 6), nn.Embedding(120, 6)
        self.kind, self.worth = nn.Embedding(200, 1), nn.Embedding(120, 1)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.3)
        for table in (self.kind, self.worth):
            nn.init.zeros_(table.weight)

    def step(self, batch):
        user, item, stars = batch
        both = (self.user(user) * self.item(item)).sum(1)
        out = both + (self.kind(user) + self.worth(item)).squeeze(1)
        return F.mse_loss(out, stars), {"r2": explained(out, stars)}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=1e-4)


@fault(
    "GEN105",
    "INP202",
    "GEN101",
    source="https://github.com/tensorflow/recommenders/issues/246 (users that were never seen), "
    "https://github.com/PreferredAI/cornac/issues/472 (a split by users)",
)
def every_user_in_validation_is_new(fixed: bool) -> Program:
    """Ratings are split by user, and the net has a vector for each user: those of validation are random."""
    user, item, stars = stars_given(each=60)
    if not fixed:
        order = torch.argsort(user, stable=True)
        user, item, stars = user[order], item[order], stars[order]
    data = both(user, item, stars, batch_size=256)
    return Program(Factors(), **data, trainer={"max_epochs": 8})


class Keywords(Trade):
    """Tells five calls of birds apart, out of the wave."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(
            nn.Conv1d(1, 16, 9, stride=2),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Conv1d(16, 32, 5, stride=2),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(32, 5),
        )

        self.accuracy = nn.ModuleDict({k: MulticlassAccuracy(5) for k in ("of_train", "of_val")})

    def shared(self, batch, which):
        logits = self.net(batch["wave"])
        self.accuracy[which](logits, batch["call"])
        self.log(f"acc_{which}", self.accuracy[which], on_step=False, on_epoch=True)
        return F.cross_entropy(logits, batch["call"])

    def training_step(self, batch, batch_idx):
        loss = self.shared(batch, "of_train")
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.shared(batch, "of_val"))


def calls(size: int, number: int, rate: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Calls (N, 1, 128) of five pitches, each with an overtone, in some noise."""
    g = rng(number)
    y = torch.randint(5, (size,), generator=g)
    pitch = torch.tensor([0.25, 0.4, 0.6, 0.85, 1.2])[y]
    pitch = (pitch * (0.95 + 0.1 * torch.rand(size, generator=g)) * rate)[:, None]
    phase = 6.3 * torch.rand(size, 1, generator=g)
    t = torch.arange(128)
    x = torch.sin(pitch * t + phase) + 0.4 * torch.sin(2 * pitch * t + phase)
    return (x + 0.4 * torch.randn(size, 128, generator=g))[:, None], y


@fault(
    "GEN105",
    "INP202",
    source="https://github.com/espnet/espnet/issues/3086 (bad output for 8 kHz), "
    "https://github.com/NVIDIA-NeMo/Speech/issues/610 (resample first)",
)
def field_recorder_at_half_the_rate(fixed: bool) -> Program:
    """The recordings to validate were made at 8 kHz and never resampled: each call is an octave higher."""
    x, y = calls(1200, 41)
    new, kind = calls(300, 42, rate=1.0 if fixed else 2.0)
    train = [{"wave": a, "call": b} for a, b in zip(x, y, strict=True)]
    val = [{"wave": a, "call": b} for a, b in zip(new, kind, strict=True)]
    return Program(
        Keywords(),
        DataLoader(train, batch_size=32, shuffle=True),
        DataLoader(val, batch_size=100),
        {"max_epochs": 5},
    )


class Forecaster(Trade):
    """The next six hours of what a shop sells, each window standardized by itself."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.fixed = dense(24, 64, 64, 6), fixed

    def forward(self, x):
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        out = self.net((x - mean) / std)
        return out * std + mean if self.fixed else out

    def step(self, batch):
        x, y = batch
        out = self(x)
        return F.mse_loss(out, y), {"r2": explained(out, y)}


@fault(
    "GEN102",
    "LOS104",
    "OUT103",
    "OUT102",
    source="https://openreview.net/forum?id=cGDAkQo1C0p (RevIN: what is taken away is to be given back), "
    "https://github.com/ts-kim/RevIN/issues/1",
)
def level_taken_away_and_never_given_back(fixed: bool) -> Program:
    """Each window is standardized by its own mean, the forecast is not put back: no net can know the level."""
    g = rng(43)
    level = torch.randn(1500, 1, generator=g)
    height = 0.2 + 0.2 * torch.rand(1500, 1, generator=g)
    phase = 6.3 * torch.rand(1500, 1, generator=g)
    hours = torch.arange(30)
    series = level + height * torch.sin(hours / 24 * 6.2832 + phase)
    series = series + 0.05 * torch.randn(1500, 30, generator=g)
    stop = EarlyStopping("val_loss", patience=4)
    data = both(series[:, :24], series[:, 24:])
    return Program(Forecaster(fixed=fixed), **data, trainer={"max_epochs": 6, "callbacks": [stop]})
