"""NAN, a fourth time: something is not finite, and comes from somewhere."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from .. import fault
from .._parts import Program
from ._parts_a import Sorter, Trained, dense, dice, feed, tables, tones


class Sales(Trained):
    """What a shop will sell tomorrow."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.net = dense(columns, 48, 24, 1)

    def measure(self, batch):
        out, sold = self.net(batch["columns"]).squeeze(1), batch["sold"]
        return {"loss": F.smooth_l1_loss(out, sold), "error": (out - sold).abs().mean()}


@fault(
    "NAN101",
    source="https://newbe.dev/pandas-rolling-gives-nan",
)
def rolling_means_begin_with_nothing(fixed: bool) -> Program:
    """The mean of the last seven days is not a number in the first six of each shop, and no row is dropped."""
    g = dice(71)
    shops, days = 40, 66
    level = torch.randn(shops, 1, generator=g)
    week = (torch.arange(days) * 6.2832 / 7).sin() * torch.rand(shops, 1, generator=g)
    sold = level + week + 0.4 * torch.randn(shops, days, generator=g)
    mean = torch.full_like(sold, torch.nan)
    mean[:, 6:] = sold.unfold(1, 7, 1).mean(-1)
    phase = torch.arange(days) * 6.2832 / 7
    calendar = torch.stack([phase.sin(), phase.cos()], dim=-1).expand(shops, days, 2)
    x = torch.cat([sold[..., None], mean[..., None], calendar], dim=-1)[:, :-1]
    y = sold[:, 1:]
    if fixed:
        x, y = x[:, 6:], y[:, 6:]
    cut = x.shape[1] - 12
    train, val = (
        [
            {"columns": a, "sold": b}
            for a, b in zip(x[:, part].flatten(0, 1), y[:, part].flatten(), strict=True)
        ]
        for part in (slice(0, cut), slice(cut, None))
    )
    return Program(Sales(4), **feed(train, val), trainer={"max_epochs": 4})


class Uncertain(Trained):
    """A value, and how far it may be off."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = dense(8, 64, 64, 2), fixed

    def measure(self, batch):
        x, y = batch
        mean, variance = self.net(x).unbind(1)
        if self.fixed:
            variance = F.softplus(variance) + 1e-3
        loss = 0.5 * (variance.log() + (y - mean) ** 2 / variance).mean()
        return {"loss": loss, "error": (y - mean).abs().mean()}


@fault(
    "NAN102",
    source="https://arxiv.org/abs/1703.04977 (aleatoric uncertainty: predict the logarithm of the variance)",
)
def variance_of_either_sign(fixed: bool) -> Program:
    """The second output is the variance as it is: nothing keeps it above nought, and below there is no logarithm."""
    g = dice(72)
    x = torch.randn(2000, 8, generator=g)
    noise = 0.3 * torch.sigmoid(2 * x[:, 3]) + 0.05
    y = x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + noise * torch.randn(2000, generator=g)
    return Program(
        Uncertain(fixed=fixed),
        **feed(*tables(x, y, held_out=400)),
        trainer={"max_epochs": 6},
    )


class Poincare(Trained):
    """Nodes of a tree as points of a hyperbolic disc: neighbours near, others farther away."""

    lr = 2e-2

    def __init__(self, nodes: int, *, fixed: bool) -> None:
        super().__init__()
        self.nodes, self.fixed = nn.Embedding(nodes, 5), fixed
        nn.init.uniform_(self.nodes.weight, -0.1, 0.1)

    def points(self, ids):
        x = self.nodes(ids)
        return x / (1 + x.square().sum(-1, keepdim=True)).sqrt()

    def distance(self, u, v):
        u, v = self.points(u), self.points(v)
        room = (1 - u.square().sum(-1)) * (1 - v.square().sum(-1))
        x = 1 + 2 * (u - v).square().sum(-1) / room
        return torch.acosh(x.clamp_min(1 + 1e-6) if self.fixed else x)

    def measure(self, batch):
        node, near, far = batch
        distance = self.distance(node[:, None], torch.cat([near[:, None], far], dim=1))
        loss = F.cross_entropy(-distance, torch.zeros_like(node))
        return {"loss": loss, "first": (distance.argmin(1) == 0).float().mean()}


@fault(
    "NAN103",
    source="https://arxiv.org/abs/1705.08039 (Poincare embeddings), "
    "https://github.com/geoopt/geoopt (the gradient of arcosh at one, and its clamp)",
)
def node_drawn_as_its_own_stranger(fixed: bool) -> Program:
    """A node may be drawn among the strangers to itself, and arcosh has no slope where two points are one."""
    g = dice(73)
    nodes = 255
    child = torch.arange(1, nodes)
    parent = (child - 1) // 2
    node = torch.cat([child, parent]).repeat(10)
    near = torch.cat([parent, child]).repeat(10)
    far = torch.randint(nodes, (len(node), 8), generator=g)
    met = (far == near[:, None]) | (
        (far == node[:, None]) & (torch.arange(len(node)) < 400)[:, None]
    )
    far[met] = (far[met] + 97) % nodes
    order = torch.randperm(len(node), generator=g)
    train, val = tables(node[order], near[order], far[order], held_out=1000)
    return Program(
        Poincare(nodes, fixed=fixed), **feed(train, val, batch_size=64), trainer={"max_epochs": 5}
    )


class InHalf(Sorter):
    """Trains in half precision throughout, to fit into memory."""

    def __init__(self, net: nn.Module, eps: float) -> None:
        super().__init__(net, lr=1e-3)
        self.eps = eps

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr, eps=self.eps)


@fault(
    "NAN104",
    source="https://github.com/pytorch/pytorch/issues/8860, "
    "https://discuss.pytorch.org/t/adam-half-precision-nans/1765",
)
def epsilon_too_small_for_half_precision(fixed: bool) -> Program:
    """All is in half precision, in which Adam's epsilon of 1e-8 is nought, and so are small squares."""
    g = dice(74)
    y = torch.randint(5, (1600,), generator=g)
    centre = torch.randn(5, 20, generator=g)
    x = 0.8 * centre[y] + torch.randn(1600, 20, generator=g)
    return Program(
        InHalf(dense(20, 64, 32, 5), eps=1e-4 if fixed else 1e-8),
        **feed(*tables(x, y, held_out=320)),
        trainer={"max_epochs": 5, "precision": "16-true"},
    )


class WaveNet(nn.Module):
    """Residual blocks of dilated convolutions under a weight norm; each is to change nothing at first."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 24, 3, padding=1)
        self.blocks = nn.ModuleList(self.block(2**i, fixed=fixed) for i in range(3))
        self.head = nn.Linear(24, 4)

    def block(self, dilation: int, *, fixed: bool) -> nn.Sequential:
        wide = nn.Conv1d(24, 24, 3, padding=dilation, dilation=dilation)
        last = nn.Conv1d(24, 24, 1)
        if not fixed:
            nn.init.zeros_(last.weight)
        wide, last = weight_norm(wide), weight_norm(last)
        if fixed:
            nn.init.constant_(last.parametrizations.weight.original0, 0.1)
        return nn.Sequential(nn.ReLU(), wide, nn.ReLU(), last)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.amax(-1))


@fault(
    "NAN102",
    "UPD104",
    source="https://github.com/pytorch/pytorch/issues/19126",
)
def zeros_under_a_weight_norm(fixed: bool) -> Program:
    """The last layer of each block begins with zeros, and its weight norm divides them by their length."""
    x, y = tones(900, length=128)
    x = x / x.std(dim=1, keepdim=True)
    return Program(
        Sorter(WaveNet(fixed=fixed), lr=3e-3),
        **feed(*tables(x[:, None], y, held_out=180)),
        trainer={"max_epochs": 5},
    )


class Occupied(Trained):
    """Which share of the rooms of a house is taken, as a beta distribution."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = dense(6, 48, 24, 2), fixed

    def measure(self, batch):
        x, share = batch
        a, b = (F.softplus(self.net(x)) + 0.1).unbind(1)
        target = (share * 999 + 0.5) / 1000 if self.fixed else share
        beta = torch.distributions.Beta(a, b, validate_args=False)
        loss = -beta.log_prob(target).mean()
        return {"loss": loss, "error": (a / (a + b) - share).abs().mean()}


@fault(
    "NAN102",
    "NAN103",
    source="https://github.com/pytorch/pytorch/issues/92260, "
    "https://github.com/pytorch/pytorch/issues/65811",
)
def house_with_no_room_left(fixed: bool) -> Program:
    """Shares are taken to be beta distributed, and on a few nights a house is full: a density of infinity."""
    g = dice(76)
    x = torch.randn(2000, 6, generator=g)
    mean = torch.sigmoid(0.8 * x[:, 0] - 0.6 * x[:, 1] + 0.5 * x[:, 2] * x[:, 3])
    share = (mean + 0.08 * torch.randn(2000, generator=g)).clamp(0.02, 0.98)
    share[torch.rand(2000, generator=g) < 0.004] = 1.0
    return Program(
        Occupied(fixed=fixed),
        **feed(*tables(x, share, held_out=400)),
        trainer={"max_epochs": 6},
    )
