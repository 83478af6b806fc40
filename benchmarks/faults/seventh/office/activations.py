"""ACT, in applied work: how large the numbers become on their way through a net for tables."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, explained, feeders, parted, rng, scored, scores


class Forest(nn.Module):
    """Soft decision trees: each of their levels asks one question, and leaves are mixed by the answers."""

    def __init__(self, features: int, trees: int, depth: int, temperature: float) -> None:
        super().__init__()
        self.questions = nn.Linear(features, trees * depth)
        self.answer = nn.Sigmoid()
        self.leaves = nn.Parameter(0.1 * torch.randn(trees, 2**depth))
        self.trees, self.depth, self.temperature = trees, depth, temperature

    def forward(self, x):
        yes = self.answer(self.questions(x) / self.temperature).unflatten(1, (self.trees, -1))
        reached = x.new_ones(len(x), self.trees, 1)
        for level in range(self.depth):
            p = yes[..., level, None]
            reached = torch.cat([reached * p, reached * (1 - p)], dim=2)
        return (reached * self.leaves).sum((1, 2))


class Premiums(Model):
    """A premium, by a forest of soft trees."""

    def __init__(self, temperature: float) -> None:
        super().__init__(lr=0.01)
        self.forest = Forest(10, trees=24, depth=4, temperature=temperature)

    def shared(self, batch):
        x, y = batch
        out = self.forest(x)
        return F.mse_loss(out, y), {"r2": explained(out, y)}


@fault(
    "ACT102",
    "GRD102",
    "GEN102",
    source="https://arxiv.org/abs/1711.09784 (Frosst and Hinton, soft decision trees: an inverse temperature against soft splits)",
)
def trees_with_hard_questions(fixed: bool) -> Program:
    """The temperature of soft trees is a thousandth, to get clear answers: each is 0 or 1, and no question is learned."""
    data = feeders(*parted(*scores(2000, seed=2)))
    return Program(Premiums(0.4 if fixed else 0.001), **data, trainer={"max_epochs": 10})


class Crossing(nn.Module):
    """Multiplies a row with a mix of what it has become, again and again: the cross net of DCN."""

    def __init__(self, width: int, layers: int, deviation: float) -> None:
        super().__init__()
        self.mixes = nn.ModuleList(nn.Linear(width, 1) for _ in range(layers))
        for mix in self.mixes:
            nn.init.normal_(mix.weight, std=deviation)

    def forward(self, x):
        crossed = x
        for mix in self.mixes:
            crossed = x * mix(crossed) + crossed
        return crossed


class Clicks(Model):
    """Which of three offers is taken, by a cross net beside a deep one."""

    def __init__(self, deviation: float) -> None:
        super().__init__(lr=3e-3)
        self.cross = Crossing(12, 6, deviation)
        self.deep = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU())
        self.offer = nn.Linear(36, 3)

    def shared(self, batch):
        x, offer = batch
        logits = self.offer(torch.cat([self.cross(x), self.deep(x)], dim=1))
        return F.cross_entropy(logits, offer), {"acc": scored(logits, offer)}


@fault(
    "ACT103",
    "UPD104",
    "GRD101",
    "LOS101",
    source="https://arxiv.org/abs/1708.05123 (Deep & Cross: each layer raises the degree by one)",
)
def crossed_six_times_with_itself(fixed: bool) -> Program:
    """The weights of a cross net start as standard normal: six products with the row make its numbers explode."""
    g = rng(4)
    x = torch.randn(4800, 12, generator=g)
    worth = torch.stack(
        [x[:, 0] * x[:, 1], x[:, 2] + 0.5 * x[:, 3], x[:, 4] * x[:, 5] - 0.3], dim=1
    )
    offer = (worth + 0.15 * torch.randn(4800, 3, generator=g)).argmax(1)
    module = Clicks(0.1 if fixed else 1.0)
    return Program(module, **feeders(*parted(x, offer)), trainer={"max_epochs": 6})
