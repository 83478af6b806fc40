"""NAN in the trades: where a number ends."""

from __future__ import annotations

import torch
from torch import nn

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, digits_at_random, rng


class Separator(Trade):
    """Takes a voice out of a mixture, and is judged in decibels."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.eps = 1e-3 if fixed else 0.0
        self.net = nn.Sequential(
            nn.Conv1d(1, 24, 15, padding=7),
            nn.ReLU(),
            nn.Conv1d(24, 24, 15, padding=7),
            nn.ReLU(),
            nn.Conv1d(24, 1, 15, padding=7),
        )

    def decibels(self, out, voice):
        dot = (out * voice).sum(-1, keepdim=True)
        aim = (dot + self.eps) / (voice.square().sum(-1, keepdim=True) + self.eps) * voice
        noise = out - aim
        ratio = (aim.square().sum(-1) + self.eps) / (noise.square().sum(-1) + self.eps)
        return 10 * torch.log10(ratio)

    def step(self, batch):
        mixture, voice = batch
        ratio = self.decibels(self.net(mixture), voice)
        return -ratio.mean(), {"si_sdr": ratio.median()}


@fault(
    "NAN102",
    "NAN103",
    "NAN104",
    source="https://github.com/csteinmetz1/auraloss/issues/25 (SDR loss: nan where the target is a vector of zeros)",
)
def nobody_speaks_in_this_one(fixed: bool) -> Program:
    """In a few recordings the voice is silent, and its ratio to the noise is nought by nought."""
    g = rng(101)
    t = torch.arange(128)
    pitch = 0.15 + 0.1 * torch.rand(900, 1, generator=g)
    voice = torch.sin(pitch * t + 6.3 * torch.rand(900, 1, generator=g))
    hum = torch.sin(1.4 * t + 6.3 * torch.rand(900, 1, generator=g))
    voice[torch.rand(900, generator=g) < 0.01] = 0.0
    mixture = voice + hum + 0.1 * torch.randn(900, 128, generator=g)
    data = both(mixture[:, None], voice[:, None])
    return Program(Separator(fixed=fixed), **data, trainer={"max_epochs": 6})


class Velocity(Trade):
    """A diffusion model of digits that predicts the velocity, each level weighed by its signal."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.fixed = fixed
        self.time, self.first = nn.Embedding(64, 96), nn.Linear(64, 96)
        self.rest = nn.Sequential(nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 64))
        root = torch.cumprod(1 - torch.linspace(1e-3, 0.12, 64), dim=0).sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        self.register_buffer("kept", root.square())

    def weight(self, t):
        signal = self.kept[t] / (1 - self.kept[t])
        capped = signal.clamp(max=5.0)
        if self.fixed:
            return capped / (signal + 1)
        return capped / signal * (signal / (signal + 1))

    def step(self, batch):
        x, _ = batch
        t, noise = torch.randint(64, (len(x),)), torch.randn_like(x)
        signal = self.kept[t].sqrt()[:, None]
        rest = (1 - self.kept[t]).sqrt()[:, None]
        out = self.rest(self.first(signal * x + rest * noise) + self.time(t))
        error = (out - (signal * noise - rest * x)).square().mean(1)
        return (self.weight(t) * error).mean(), {"error": error.mean()}


@fault(
    "NAN102",
    "NAN103",
    "NAN104",
    source="https://github.com/kohya-ss/sd-scripts/pull/934 (min-SNR-gamma divides by zero at zero terminal SNR), "
    "https://github.com/TiankaiHang/Min-SNR-Diffusion-Training/pull/4",
)
def weighed_by_a_signal_of_nought(fixed: bool) -> Program:
    """The last level has no signal at all since the schedule was rescaled, and the weight divides by it."""
    data = both(*digits_at_random(), batch_size=32)
    return Program(
        Velocity(fixed=fixed), **data, trainer={"max_epochs": 8, "accumulate_grad_batches": 2}
    )
