"""MOD, in layers of one's own: what they do in training, and what later."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, digits, feed, images, mlp, right


class Norm(nn.Module):
    """A batch norm, written down from the paper."""

    def __init__(self, channels: int, *, fixed: bool) -> None:
        super().__init__()
        self.gain, self.shift = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.fixed = fixed

    def forward(self, x):
        mean, var = self.mean, self.var
        before = x
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        if self.training:
            with torch.no_grad():
                seen = before if self.fixed else x
                self.mean.lerp_(seen.mean((0, 2, 3)), 0.1)
                self.var.lerp_(seen.var((0, 2, 3)), 0.1)
        return x * self.gain[:, None, None] + self.shift[:, None, None]


class Normed(Paper):
    """Digits, by convolutions with this norm."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), Norm(16, fixed=fixed), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), Norm(32, fixed=fixed), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip

    def losses(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}


@fault(
    "MOD105",
    "GEN105",
    source="common in code reviews (x is overwritten before its statistics are kept)",
)
def statistics_of_what_is_normed_already(fixed: bool) -> Program:
    """A batch norm of one's own keeps running statistics of its result, 0 and 1, and so does nothing in eval."""
    return Program(Normed(fixed=fixed), **images(), trainer={"max_epochs": 7})


class Discrete(Paper):
    """An autoencoder whose code is twelve choices of one in eight."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3, cosine=True)
        self.encoder, self.decoder = mlp(64, 128, 96), mlp(96, 128, 64)
        self.fixed = fixed

    def losses(self, batch):
        x, _ = batch
        scores = self.encoder(x).view(-1, 12, 8)
        soft, code = scores.softmax(2), F.one_hot(scores.argmax(2), 8).float()
        if self.training:
            code = code + soft - soft.detach() if self.fixed else soft
        return F.mse_loss(self.decoder(code.flatten(1)), x), {}


@fault(
    "MOD105",
    "GEN101",
    "GEN105",
    source="https://arxiv.org/abs/1611.01144 (straight-through estimates, for what has to be discrete)",
)
def soft_codes_in_training_hard_ones_later(fixed: bool) -> Program:
    """Trained with soft choices, which hold more than one of eight, and validated with hard ones."""
    return Program(Discrete(fixed=fixed), **feed(*digits(1797)), trainer={"max_epochs": 16})
