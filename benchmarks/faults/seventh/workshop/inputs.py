"""INP, in models of one's own: what goes in, and what it is compared with."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from ... import fault
from ._parts import DataLoader, Paper, Program, explained, feed, generator, mlp


class DenoisingMLP(Paper):
    """DDPM for points of the plane: 1000 steps, a net that gets the point and the step."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.steps, self.fixed = mlp(3, 128, 128, 2), 1000, fixed
        beta = torch.linspace(1e-4, 0.02, self.steps)
        self.register_buffer("kept", (1 - beta).cumprod(0))

    def losses(self, batch):
        (x,) = batch
        t = torch.randint(self.steps, (len(x), 1), device=x.device)
        noise = torch.randn_like(x)
        noisy = self.kept[t].sqrt() * x + (1 - self.kept[t]).sqrt() * noise
        when = 2 * t / self.steps - 1 if self.fixed else t.float()
        return F.mse_loss(self.net(torch.cat([noisy, when], dim=1)), noise), {}


@fault(
    "INP103",
    "LOS101",
    "GEN102",
    "LOS104",
    source="common in code reviews (the timestep of a toy diffusion model)",
)
def timestep_as_a_plain_number(fixed: bool) -> Program:
    """The net gets the step of the diffusion as a number up to 999, next to coordinates around 1."""
    g = generator(5)
    turn = 3 * math.pi * torch.rand(3000, 1, generator=g).sqrt()
    spiral = torch.cat([turn.cos(), turn.sin()], dim=1) * turn
    points = spiral / spiral.std() + 0.03 * torch.randn(3000, 2, generator=g)
    return Program(
        DenoisingMLP(fixed=fixed), **feed(points, batch_size=64), trainer={"max_epochs": 14}
    )


class Tracks(IterableDataset):
    """Episodes without end: a runner on a track of coins, which count double under a lamp."""

    def __init__(self, seed: int) -> None:
        self.seed, self.epoch = seed, 0

    def __iter__(self):
        self.epoch += 1
        g = generator(1000 * self.seed + self.epoch)
        for _ in range(160):
            coins = torch.randn(35, generator=g)
            lamps = (torch.rand(35, generator=g) < 0.5).float()
            seen = torch.cat([coins.unfold(0, 12, 1), 2 * lamps.unfold(0, 12, 1) - 1], dim=1)
            yield {"state": seen, "reward": (coins * (1 + lamps))[:24]}


class Value(Paper):
    """What will a state still bring? Monte Carlo returns, with a discount of 0.85."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(24, 64, 64, 1), fixed

    def returns(self, reward):
        """The discounted sum for each step."""
        total, sums = torch.zeros_like(reward[:, 0]), torch.zeros_like(reward)
        steps = range(reward.shape[1])
        for t in reversed(steps) if self.fixed else steps:
            total = reward[:, t] + 0.85 * total
            sums[:, t] = total
        return sums / 3

    def losses(self, batch):
        worth = self.net(batch["state"]).squeeze(2)
        wanted = self.returns(batch["reward"])
        return F.mse_loss(worth, wanted), {"r2": explained(worth, wanted)}


@fault(
    "INP204",
    "LOS104",
    "GEN102",
    "LOS109",
    source="common in code reviews (reversed() forgotten where returns are summed up)",
)
def rewards_so_far_for_those_to_come(fixed: bool) -> Program:
    """Returns are summed up from the first step and not from the last: a state is worth what it has brought already."""
    return Program(
        Value(fixed=fixed),
        DataLoader(Tracks(1), batch_size=8),
        DataLoader(list(Tracks(2)), batch_size=40),
        {"max_epochs": 30},
    )
