"""OUT, as people meet it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import (
    DataLoader,
    Model,
    Program,
    accuracy,
    cut,
    explained,
    loaders,
    mlp,
    rng,
    standard,
)


class Cement(Model):
    """Three properties of a kind of concrete, from its recipe."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(2e-3)
        last = nn.Identity() if fixed else nn.Softmax(dim=1)
        self.net = nn.Sequential(
            nn.Linear(7, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 3), last
        )

    def measure(self, batch):
        recipe, properties = batch
        out = self.net(recipe)
        return F.mse_loss(out, properties), {"r2": explained(out, properties)}


@fault(
    "OUT102",
    "GEN102",
    "OUT101",
    source="https://arxiv.org/abs/1910.11015 (wrong activation of the last layer)",
)
def softmax_for_three_measurements(fixed: bool) -> Program:
    """The skeleton was one of a classifier: three measurements, standardized, are to come out
    of a softmax.
    """
    g = rng(14)
    x = torch.randn(2400, 7, generator=g)
    y = torch.stack(
        [x[:, 0] + x[:, 1] * x[:, 2], x[:, 3] - x[:, 4].abs(), x[:, 5] + 0.7 * x[:, 0] * x[:, 6]], 1
    )
    y = standard(y + 0.2 * torch.randn(2400, 3, generator=g))
    return Program(Cement(fixed=fixed), **loaders(x, y), trainer={"max_epochs": 12})


class Notebook(Model):
    """Three kinds of wheat, with a line that was tried out in a cell of its own."""

    def __init__(self, sample, *, fixed: bool) -> None:
        super().__init__(3e-3)
        self.net, self.fixed = mlp(10, 32, 3), fixed
        self.register_buffer("sample", sample)

    def forward(self, x):
        return self.net(x if self.fixed else self.sample)

    def measure(self, batch):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}


@fault(
    "OUT103",
    "LOS104",
    "OUT101",
    "INP101",
    "GEN102",
    source="common in notebooks: a function that uses the variable of an earlier cell, not its "
    "argument",
)
def forward_reads_the_batch_of_an_earlier_cell(fixed: bool) -> Program:
    """forward uses the batch of an earlier cell in place of its argument, and gives the same
    for all inputs.
    """
    g = rng(15)
    y = torch.arange(2000) % 3
    x = 0.9 * torch.randn(3, 10, generator=g)[y] + torch.randn(2000, 10, generator=g)
    train, val = cut((x - x.mean(0)) / x.std(0), y)
    sample = train.tensors[0][:40]
    return Program(
        Notebook(sample, fixed=fixed),
        DataLoader(train, batch_size=40, shuffle=True, drop_last=True),
        DataLoader(val, batch_size=40),
        {"max_epochs": 10},
    )
