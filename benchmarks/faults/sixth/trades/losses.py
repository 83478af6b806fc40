"""LOS in the trades: what is minimized is not what was meant."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, dense, digits_at_random, rng, scenes_with_discs


class Poisson(Trade):
    """How far a rod bends under a load, out of the equation alone."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = dense(1, 32, 32, 1, act=nn.Tanh), fixed

    def forward(self, x):
        return x * (1 - x) * self.net(2 * x - 1)

    def training_step(self, batch, batch_idx):
        x = batch[0].requires_grad_()
        first = torch.autograd.grad(self(x).sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
        load = math.pi**2 * torch.sin(math.pi * (x if self.fixed else x[:, 0]))
        load = load + 4 * math.pi**2 * torch.sin(2 * math.pi * (x if self.fixed else x[:, 0]))
        loss = (second + load).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, u = batch
        self.log("val_error", F.mse_loss(self(x), u))


@fault(
    "LOS103",
    "LOS104",
    "OUT101",
    source="https://github.com/lululxvi/deepxde/issues/2100 (silently broadcasts the error to (N, N)), "
    "https://github.com/lululxvi/deepxde/issues/1442 (x[0] for x[:, 0:1])",
)
def load_in_a_row_bend_in_a_column(fixed: bool) -> Program:
    """The load is taken of x[:, 0] and is (N,), the second derivative is (N, 1): all bends meet all loads."""
    x = torch.rand(2048, 1, generator=rng(81))
    grid = torch.linspace(0, 1, 128)[:, None]
    u = torch.sin(math.pi * grid) + torch.sin(2 * math.pi * grid)
    return Program(
        Poisson(fixed=fixed),
        DataLoader(TensorDataset(x), batch_size=64, shuffle=True),
        DataLoader(TensorDataset(grid, u), batch_size=128),
        {"max_epochs": 10},
    )


def corners(boxes):
    """(cx, cy, w, h) to (x0, y0, x1, y1)."""
    middle, size = boxes.chunk(2, dim=1)
    return torch.cat([middle - size / 2, middle + size / 2], dim=1)


def generalized_iou(a, b):
    """Of boxes given by their corners."""
    area = [(x[:, 2:] - x[:, :2]).clamp_min(0).prod(1) for x in (a, b)]
    inside = (torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    hull = (torch.max(a[:, 2:], b[:, 2:]) - torch.min(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    union = area[0] + area[1] - inside
    return inside / (union + 1e-6) - (hull - union) / (hull + 1e-6)


class Boxes(Trade):
    """Puts a box around a ship, by its middle and its size."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.fixed = fixed
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(800, 64),
            nn.ReLU(),
            nn.Linear(64, 4),
            nn.Sigmoid(),
        )

    def step(self, batch):
        image, boxes = batch
        out = self.net(image)
        iou = generalized_iou(corners(out), corners(boxes))
        measured = iou if self.fixed else generalized_iou(out, boxes)
        return (1 - measured).mean(), {"giou": iou.mean()}


@fault(
    "LOS104",
    "GRD103",
    "UPD102",
    "LOS109",
    "LOS102",
    "OUT101",
    source="https://github.com/stevebottos/owl-vit-object-detection/issues/14 "
    "(generalized_box_iou expects xyxy, but cxcywh boxes are passed in)",
)
def middle_and_size_for_two_corners(fixed: bool) -> Program:
    """The overlap wants two corners and gets middles and sizes: most of these boxes end before they begin."""
    mask, box = scenes_with_discs(900, 20, low=2.5, high=5.0, number=82)
    image = 1.5 * mask - 0.4 + 0.4 * torch.randn(mask.shape, generator=rng(83))
    middle, size = (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]
    data = both(image[:, None], torch.cat([middle, size], dim=1))
    return Program(Boxes(fixed=fixed), **data, trainer={"max_epochs": 8})


class Views(Trade):
    """Learns from two views of each digit, and is judged by the digit of the nearest neighbour."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.fixed = dense(64, 128, 32), fixed

    def contrast(self, x):
        views = [x + 0.3 * torch.randn_like(x) for _ in range(2)]
        z = F.normalize(self.net(torch.cat(views)), dim=1)
        n = len(x)
        index = torch.arange(2 * n)
        partner = (index + n) % (2 * n) if self.fixed else index ^ 1
        alike = (z @ z.T / 0.2).masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e4)
        return F.cross_entropy(alike, partner), (alike.argmax(1) == partner).float().mean()

    def training_step(self, batch, batch_idx):
        loss, found = self.contrast(batch[0])
        self.log_dict({"train_loss": loss, "train_found": found})
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        loss, found = self.contrast(x)
        z = F.normalize(self.net(x), dim=1)
        near = (z @ z.T).fill_diagonal_(-1).argmax(1)
        self.log_dict(
            {"val_loss": loss, "val_found": found, "val_nn": (y[near] == y).float().mean()}
        )


@fault(
    "LOS104",
    "INP204",
    "OUT101",
    "GEN102",
    source="https://github.com/sthalles/SimCLR/issues/29 and /33 (which entry is the positive one), "
    "https://github.com/Open-Deep-ML/DML-OpenProblem/pull/578 (0 and 1 are views of one, 2 and 3 of another)",
)
def partners_as_if_views_alternated(fixed: bool) -> Program:
    """The views are stacked one after the other, the partners counted as if they took turns."""
    data = both(*digits_at_random(), batch_size=64)
    return Program(Views(fixed=fixed), **data, trainer={"max_epochs": 8})
