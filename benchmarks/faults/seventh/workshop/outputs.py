"""OUT, in models of one's own: what the last layers make of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import DataLoader, Paper, Program, explained, generator, right, waves_of_time


class Forecaster(Paper):
    """Patches of the past, a transformer, and the next twelve values."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-3)
        self.embed = nn.Linear(8, 32)
        self.places = nn.Parameter(0.02 * torch.randn(6, 32))
        self.encoder = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        if fixed:
            self.head = nn.Sequential(nn.LayerNorm(192), nn.Linear(192, 12))
        else:
            self.head = nn.Sequential(nn.Linear(192, 12), nn.LayerNorm(12))

    def losses(self, batch):
        past, following = batch["past"], batch["following"]
        h = self.encoder(self.embed(past.unflatten(1, (6, 8))) + self.places)
        out = self.head(h.flatten(1))
        return F.mse_loss(out, following), {"r2": explained(out, following)}


@fault(
    "OUT102",
    "GEN102",
    "LOS109",
    source="common in code reviews (the last norm of a pre-norm transformer, behind the head)",
)
def norm_after_the_last_projection(fixed: bool) -> Program:
    """The last norm of the transformer comes behind the head: each forecast has mean 0 and deviation 1."""
    windows = waves_of_time(2600).unfold(0, 60, 1)
    rows = [{"past": w[:48], "following": w[48:]} for w in windows]
    return Program(
        Forecaster(fixed=fixed),
        DataLoader(rows[:2000], batch_size=32, shuffle=True),
        DataLoader(rows[2060:], batch_size=100),
        {"max_epochs": 9, "gradient_clip_val": 1.0},
    )


@dataclass
class Clips:
    """Clips (N, 8, 1, side, side), and which way the spot goes in each."""

    frames: torch.Tensor
    way: torch.Tensor


def collate(samples):
    """A batch of clips."""
    return Clips(*map(torch.stack, zip(*samples, strict=True)))


class Shifted(Paper):
    """Reads eight frames with a temporal shift module: where does the spot go?"""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.frame = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(300, 48), nn.ReLU(),
        )  # fmt: skip
        self.mix = nn.Sequential(nn.Linear(48, 48), nn.ReLU())
        self.head = nn.Linear(48, 4)
        self.axis = 1 if fixed else 0

    def forward(self, clip):
        h = self.frame(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])
        later, earlier, same = h.split([16, 16, 16], dim=2)
        h = torch.cat([later.roll(1, self.axis), earlier.roll(-1, self.axis), same], dim=2)
        return self.head(self.mix(h).mean(1))

    def losses(self, batch):
        logits = self(batch.frames)
        return F.cross_entropy(logits, batch.way), {"acc": right(logits, batch.way)}


@fault(
    "OUT105",
    "GEN102",
    "LOS104",
    source="https://arxiv.org/abs/1811.08383 (the temporal shift module, and an axis)",
)
def frames_shifted_into_another_clip(fixed: bool) -> Program:
    """The temporal shift goes along the batch: a clip gets features of its neighbours there, and none of another time."""
    g = generator(14)
    size, side = 1500, 10
    way = torch.arange(size) % 4
    step = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])[way]
    start = torch.randint(side, (size, 2), generator=g)
    place = (start[:, None] + torch.arange(8)[None, :, None] * step[:, None]) % side
    grid = torch.arange(side)
    hot = (grid == place[..., :1])[:, :, None, :] & (grid == place[..., 1:])[..., None]
    clips = 3 * hot.float() + 0.2 * torch.randn(size, 8, side, side, generator=g)
    clips = ((clips - clips.mean()) / clips.std())[:, :, None]
    order = torch.randperm(size, generator=g).tolist()
    rows = [(clips[i], way[i]) for i in order]
    return Program(
        Shifted(fixed=fixed),
        DataLoader(rows[:1200], batch_size=32, shuffle=True, drop_last=True, collate_fn=collate),
        DataLoader(rows[1200:], batch_size=100, collate_fn=collate),
        {"max_epochs": 10},
    )
