"""The weights were trained on values from -1 to 1, and now they get 0 to 16."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


def pretrained() -> nn.Sequential:
    """A net that knows some of the digits from elsewhere."""
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    x, y = digits(512, image=True)
    for part in torch.randperm(512).repeat(4).split(32):
        optimizer.zero_grad()
        F.cross_entropy(net(x[part]), y[part]).backward()
        optimizer.step()
    return net


def sick() -> Program:
    x, y = digits(image=True)
    pixels = (x + 1) * 8
    train = loader(pixels, y)
    return Program(Classifier(pretrained()), train, trainer={"max_epochs": 1})


def healthy() -> Program:
    x, y = digits(image=True)
    pixels = (x + 1) * 8
    train = loader(pixels / 8 - 1, y)
    return Program(Classifier(pretrained()), train, trainer={"max_epochs": 1})
