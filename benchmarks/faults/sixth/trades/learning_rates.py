"""LRN in the trades: steps that are too long or too short."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, dense, digits_at_random, explained, hit, rng, stars_given


class Adapted(nn.Module):
    """A frozen linear layer, and a correction of low rank."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(requires_grad=False)
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.scale = scale

    def forward(self, x):
        return self.layer(x) + self.scale * x @ self.down.T @ self.up.T


def reader() -> nn.Sequential:
    """A net that has learned to read digits."""
    x, y = digits_at_random()
    net = dense(64, 96, 96, 10)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x[:1000]), y[:1000]).backward()
        optimizer.step()
    return net


class LowRank(Trade):
    """Adapts a pretrained net to digits in a mirror."""

    def __init__(self, *, fixed: bool, rank: int = 32, alpha: int = 32) -> None:
        super().__init__(lr=5e-3)
        net = reader()
        for i in (0, 2, 4):
            net[i] = Adapted(net[i], rank, alpha / rank if fixed else alpha)
        self.net = net

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": hit(logits, y)}

    def configure_optimizers(self):
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=self.lr)


@fault(
    "LRN101",
    "UPD103",
    "ACT103",
    "GRD101",
    "LRN105",
    source="https://github.com/Blaizzy/mlx-vlm/issues/841 (alpha in the place of alpha / rank), "
    "https://github.com/kohya-ss/sd-scripts/pull/545",
)
def adapter_times_its_whole_alpha(fixed: bool) -> Program:
    """The correction of rank 32 is multiplied by alpha and not by alpha over rank: each step is 32 times too long."""
    x, y = digits_at_random()
    x = x.view(-1, 8, 8).flip(2).flatten(1)
    return Program(LowRank(fixed=fixed), **both(x, y), trainer={"max_epochs": 6})


class Curvature(Trade):
    """Fits the drag of a wing by L-BFGS."""

    def __init__(self) -> None:
        super().__init__(lr=1.0)
        self.net = dense(4, 24, 24, 1, act=nn.Tanh)

    def step(self, batch):
        x, y = batch
        out = self.net(x).squeeze(1)
        return F.mse_loss(out, y), {"r2": explained(out, y)}

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=self.lr)


@fault(
    "LRN101",
    "LOS108",
    "LRN105",
    "GRD101",
    "GRD107",
    "NAN102",
    source="https://github.com/pytorch/pytorch/issues/5953 (LBFGS always gives nan, where the objective is noisy), "
    "https://arxiv.org/abs/1605.06049 (a multi-batch L-BFGS)",
)
def curvature_from_batches_that_differ(fixed: bool) -> Program:
    """L-BFGS at its rate of 1 gets batches of 64: its curvature comes of their differences, its strides end far outside."""
    g = rng(71)
    x = torch.randn(800, 4, generator=g)
    y = torch.sin(2 * x[:, 0]) * x[:, 1] + x[:, 2] ** 2 - x[:, 3]
    y = (y - y.mean()) / y.std() + 0.05 * torch.randn(800, generator=g)
    data = both(x, y, batch_size=640 if fixed else 64)
    trainer = {"max_steps": 40, "val_check_interval": 10, "check_val_every_n_epoch": None}
    return Program(Curvature(), **data, trainer=trainer)


class Ratings(Trade):
    """Matrix factorization by plain descent, as in the first chapter on recommenders."""

    def __init__(self, *, lr: float) -> None:
        super().__init__(lr=lr)
        self.user, self.item = nn.Embedding(200, 8), nn.Embedding(120, 8)
        self.worth = nn.Embedding(120, 1)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.3)
        nn.init.zeros_(self.worth.weight)

    def step(self, batch):
        user, item, stars = batch
        out = (self.user(user) * self.item(item)).sum(1) + self.worth(item).squeeze(1)
        return F.mse_loss(out, stars), {"r2": explained(out, stars)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@fault(
    "LRN102",
    "LOS104",
    "GEN103",
    source="https://www.ethanrosenthal.com/2017/06/20/matrix-factorization-in-pytorch/ (SGD, one rating a step), "
    "https://xue-jishu.com/?p=10179 (a factorization that hardly falls)",
)
def rate_of_a_single_rating_for_a_batch(fixed: bool) -> Program:
    """The rate is from a program of one rating to a step; in a mean over 256 each vector gets one part of it."""
    user, item, stars = stars_given(each=60)
    data = both(user, item, stars, batch_size=256)
    return Program(Ratings(lr=1.0 if fixed else 0.01), **data, trainer={"max_epochs": 8})
