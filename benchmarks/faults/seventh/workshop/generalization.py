"""GEN, in models of one's own: what training and validation are to have in common, and what not."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ... import fault
from ._parts import Paper, Program, digits, generator, images, mlp, right


class Noisy(Dataset):
    """Noisy digits, and clean ones."""

    def __init__(self, clean: torch.Tensor, *, once: bool) -> None:
        self.clean = clean
        self.noise = torch.randn(clean.shape, generator=generator(8)) if once else None

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, i):
        clean = self.clean[i]
        noise = torch.randn_like(clean) if self.noise is None else self.noise[i]
        return {"noisy": clean + 0.8 * noise, "clean": clean}


class Denoiser(Paper):
    """Gives back what was there before the noise."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.net = mlp(64, 512, 512, 64)

    def losses(self, batch):
        return F.mse_loss(self.net(batch["noisy"]), batch["clean"]), {}


@fault(
    "GEN101",
    source="https://github.com/Zhiyuan-R/Tiger-Diffusion/issues/15 (a fixed noise for each sample?)",
)
def noise_drawn_once_for_each_image(fixed: bool) -> Program:
    """The noise of a denoiser is drawn once, when the data set is made: it is learned by heart, image by image."""
    x, _ = digits(1797)
    x = x[torch.randperm(len(x), generator=generator(9))]
    return Program(
        Denoiser(),
        DataLoader(Noisy(x[:1400], once=not fixed), batch_size=32, shuffle=True),
        DataLoader(Noisy(x[1400:], once=True), batch_size=100),
        {"max_epochs": 25},
    )


class Averaged(Paper):
    """Trains a net, and validates the moving average of its weights."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.decay, self.fixed = 0.9999, fixed

    def losses(self, batch):
        x, y = batch
        logits = (self.net if self.training else self.average)(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        decay, n = self.decay, self.global_step
        if self.fixed:
            decay = min(decay, (1 + n) / (10 + n))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net.parameters(), lr=self.lr)


@fault(
    "GEN105",
    "MOD105",
    "OUT101",
    source="https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage (num_updates, for a decay that is slow at first)",
)
def average_longer_than_the_run(fixed: bool) -> Program:
    """The paper's average of weights with 0.9999 in a run of some hundred steps: validated is mostly the untrained net."""
    return Program(
        Averaged(fixed=fixed), **images(), trainer={"max_epochs": 8, "precision": "bf16-mixed"}
    )
