"""UPD in the trades: where weights begin, and where they go."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, dense, explained, rng


class Sine(nn.Module):
    """A linear layer and a sine, as in SIREN."""

    def __init__(self, before: int, after: int, *, first: bool, fixed: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after)
        if fixed:
            bound = 1 / before if first else (6 / before) ** 0.5 / 15
            nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x):
        return torch.sin(15 * self.linear(x))


class Field(Trade):
    """A height map as a function of two coordinates."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-3)
        self.net = nn.Sequential(
            Sine(2, 64, first=True, fixed=fixed),
            Sine(64, 64, first=False, fixed=fixed),
            Sine(64, 64, first=False, fixed=fixed),
            nn.Linear(64, 1),
        )

    def step(self, batch):
        place, height = batch
        out = self.net(place).squeeze(1)
        return F.mse_loss(out, height), {"r2": explained(out, height)}


@fault(
    "UPD104",
    "GEN101",
    "GEN105",
    "LOS104",
    source="https://arxiv.org/abs/2006.09661 (SIREN: without its initialization it does not converge), "
    "https://github.com/lucidrains/siren-pytorch/issues/1",
)
def sines_without_their_initialization(fixed: bool) -> Program:
    """Sines of a high frequency begin with the weights of a ReLU net: between its points the map is noise."""
    g = rng(121)
    place = 2 * torch.rand(3000, 2, generator=g) - 1
    x, y = place.T
    height = torch.sin(5 * x) * torch.cos(4 * y) + torch.exp(-8 * (x**2 + y**2))
    height = (height - height.mean()) / height.std() + 0.05 * torch.randn(3000, generator=g)
    data = both(place, height, batch_size=64)
    return Program(Field(fixed=fixed), **data, trainer={"max_epochs": 8})


PUSH = torch.tensor([0.5, -0.5, 0.0])


class DeepQ(Trade):
    """Learns from a log what it is worth to heat, to cool, or to wait, in a house that never stops."""

    def __init__(self, *, gamma: float) -> None:
        super().__init__(lr=3e-3)
        self.gamma = gamma
        self.net = dense(4, 64, 64, 3)
        self.slow = copy.deepcopy(self.net).requires_grad_(requires_grad=False)

    def step(self, batch):
        state, action, reward, after = batch
        with torch.no_grad():
            goal = reward + self.gamma * self.slow(after).amax(1)
        value = self.net(state).gather(1, action[:, None]).squeeze(1)
        best = self.net(state).argmax(1)
        warmth = 0.8 * state[:, 0] + PUSH[best]
        earned = 1.5 - warmth.abs() - 0.1 * (best < 2).float()
        loss = F.smooth_l1_loss(value, goal)
        return loss, {"value": value.mean(), "earned": earned.mean()}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for old, new in zip(self.slow.parameters(), self.net.parameters(), strict=True):
            old.data.lerp_(new.data, 0.2)

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=self.lr)


@fault(
    "UPD105",
    "LOS108",
    "LRN105",
    source="https://github.com/EllaBot/true-online-td-lambda/issues/2 (a discount of 1: values may diverge), "
    "https://github.com/facebookresearch/ReAgent/issues/189 (the TD loss diverges)",
)
def tomorrow_counts_as_much_as_today(fixed: bool) -> Program:
    """gamma is 1 in a task without an end: every value is what comes now and all that ever comes."""
    g = rng(122)
    state = torch.randn(3000, 4, generator=g)
    action = torch.randint(3, (3000,), generator=g)
    after = 0.8 * state + 0.3 * torch.randn(3000, 4, generator=g)
    after[:, 0] += PUSH[action]
    reward = 1.5 - after[:, 0].abs() - 0.1 * (action < 2).float()
    data = both(state, action, reward, after, batch_size=64)
    return Program(DeepQ(gamma=0.9 if fixed else 1.0), **data, trainer={"max_epochs": 8})
