"""MOD: training is not over when validation begins."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Coursework, Program, accuracy, digits, rolls, served


class DropsAlways(Coursework):
    """Digits with plenty of dropout."""

    def __init__(self, *, registered: bool) -> None:
        super().__init__(lr=3e-3)
        self.fc1, self.fc2, self.out = nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 10)
        if registered:
            self.dropout = nn.Dropout(0.5)
        self.registered = registered

    def forward(self, x):
        for layer in (self.fc1, self.fc2):
            x = F.relu(layer(x))
            x = self.dropout(x) if self.registered else nn.Dropout(0.5)(x)
        return self.out(x)

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)


@fault(
    "MOD106",
    "MOD102",
    source="https://newbe.dev/using-dropout-in-pytorch-nn-dropout-vs-f-dropout (Stack Overflow)",
)
def dropout_built_where_it_is_used(fixed: bool) -> Program:
    """nn.Dropout(0.5)(x) in forward: a new layer with every call, and a new layer trains."""
    data = served(*digits(1797))
    return Program(DropsAlways(registered=fixed), **data, trainer={"max_epochs": 8})


def _pretrained() -> nn.Sequential:
    """A body that has learned to tell digits apart."""
    body = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    net = nn.Sequential(body, nn.Linear(128, 10))
    x, y = digits(800, image=True)
    optimizer, g = torch.optim.Adam(net.parameters(), lr=5e-3), rolls(71)
    for _ in range(120):
        rows = torch.randint(0, 800, (32,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
    return body.requires_grad_(False)


class FineTuned(Coursework):
    """A new head on a body that stays as it is, its statistics too."""

    def __init__(self, body: nn.Module, *, passed_on: bool) -> None:
        super().__init__(lr=2e-3)
        self.body = body
        self.head = nn.Sequential(
            nn.Dropout(0.4), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.4), nn.Linear(64, 10)
        )
        self.passed_on = passed_on

    def train(self, mode=True):
        if self.passed_on:
            super().train(mode)
        self.training = mode
        self.body.eval()
        return self

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self.head(self.body(x))
        return F.cross_entropy(logits, y), accuracy(logits, y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=self.lr)


@fault(
    "MOD102",
    "MOD106",
    source="https://github.com/roytseng-tw/Detectron.pytorch/issues/104 (train is overridden, and some "
    "layers never hear of it)",
)
def train_overridden_and_not_passed_on(fixed: bool) -> Program:
    """train() is overridden to keep the norms of the body still, and the head never hears of eval."""
    x, y = digits(1797, image=True)
    later = slice(800, None)
    data = served(x[later], y[later], batch_size=16)
    return Program(FineTuned(_pretrained(), passed_on=fixed), **data, trainer={"max_epochs": 6})
