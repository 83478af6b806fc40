"""ERR in the trades: what stops at once."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, dense, digits_at_random, hit, rng


class Season(pl.LightningDataModule):
    """Parcels of land, with or without their codes put in order."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed

    def setup(self, stage):
        g = rng(31)
        kind = torch.randint(5, (1000,), generator=g)
        month = torch.arange(12) / 12 * 2 * math.pi
        season = torch.stack([torch.sin(month + 1.2 * k) * (1 + k / 4) for k in range(5)])
        x = season[kind][:, None] * torch.tensor([1.0, -0.5, 0.8, 0.3])[:, None]
        x = x + 0.5 * torch.randn(1000, 4, 12, generator=g)
        code = torch.tensor([10, 20, 30, 40, 50])[kind]
        self.loaders = both(x, kind if self.fixed else code)

    def train_dataloader(self):
        return self.loaders["train"]

    def val_dataloader(self):
        return self.loaders["val"]


class Parcels(Trade):
    """What grows on a parcel, out of its reflectance over the year."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(4, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(32, 5),
        )

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": hit(logits, y)}


@fault(
    "ERR102",
    "CLS105",
    source="https://github.com/NumericalEarth/NumericalEarth.jl/pull/464 (the codes of WorldCover: 10, 20, 30, ...), "
    "https://github.com/milesial/Pytorch-UNet/issues/291 (Target 192 is out of bounds)",
)
def codes_of_the_map_as_classes(fixed: bool) -> Program:
    """The labels are the codes of the land cover map, 10 to 50, for a net of five classes."""
    return Program(Parcels(), Season(fixed=fixed), trainer={"max_epochs": 10})


class Diffuser(Trade):
    """Predicts the noise in a noisy digit, given how much there is."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.fixed = fixed
        self.time = nn.Embedding(50, 32)
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.rest = nn.Sequential(
            nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 1, 3, padding=1)
        )
        kept = torch.cumprod(1 - torch.linspace(1e-3, 0.12, 50), dim=0)
        self.register_buffer("kept", kept)

    def q_sample(self, x, t, noise):
        kept = self.kept[t].view(-1, 1, 1, 1) if self.fixed else self.kept[t]
        return kept.sqrt() * x + (1 - kept).sqrt() * noise

    def step(self, batch):
        x, _ = batch
        t, noise = torch.randint(50, (len(x),)), torch.randn_like(x)
        h = self.first(self.q_sample(x, t, noise)) + self.time(t)[:, :, None, None]
        return F.mse_loss(self.rest(h), noise), {}


@fault(
    "ERR101",
    source="https://github.com/IrisRainbowNeko/HCP-Diffusion/pull/82, "
    "https://github.com/jolibrain/joliGEN/pull/527 (schedules of shape (batch,) meet images)",
)
def levels_of_noise_in_a_row(fixed: bool) -> Program:
    """alphas_cumprod[t] is (N,), the images are (N, 1, 8, 8), and nobody made one fit the other."""
    data = both(*digits_at_random(image=True), batch_size=32)
    return Program(Diffuser(fixed=fixed), **data, trainer={"max_epochs": 4})


class Pendulum(Trade):
    """A damped oscillation that solves its equation."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.net, self.fixed = dense(1, 32, 32, 1, act=nn.Tanh), fixed

    def forward(self, t):
        return 1 + t**2 * self.net(t)

    def residual(self, t):
        t = t.clone().requires_grad_()
        u = self(t)
        first = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), t, create_graph=True)[0]
        return (second + 0.4 * first + 4 * u).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.residual(batch[0])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        with torch.set_grad_enabled(self.fixed):
            self.log("val_loss", self.residual(batch[0]).detach())


@fault(
    "ERR106",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/15765, "
    "https://github.com/Lightning-AI/pytorch-lightning/issues/4487 (derivatives in validation_step)",
)
def slopes_wanted_in_validation(fixed: bool) -> Program:
    """The residual of an equation is validated, too, where there are no gradients to take it from."""
    g = rng(33)
    sets = [TensorDataset(2 * torch.rand(n, 1, generator=g)) for n in (2048, 256)]
    return Program(
        Pendulum(fixed=fixed),
        DataLoader(sets[0], batch_size=64, shuffle=True),
        DataLoader(sets[1], batch_size=256),
        {"max_epochs": 5, "inference_mode": False},
    )
