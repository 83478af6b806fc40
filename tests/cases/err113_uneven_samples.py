"""Sequences of different lengths are stacked."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from cases._parts import Classifier, loader


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1, keepdim=True)


def samples():
    x, y = digits(256)
    return [(one[: 32 + i % 32], label) for i, (one, label) in enumerate(zip(x, y, strict=True))]


def padded(batch):
    x, y = zip(*batch, strict=True)
    return pad_sequence(list(x), batch_first=True), torch.stack(y)


def program(collate) -> Program:
    net = nn.Sequential(Mean(), nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 10))
    train = type(loader())(samples(), 32, collate_fn=collate)
    return Program(Classifier(net), train, trainer={"max_steps": 5})


def sick() -> Program:
    return program(None)


def healthy() -> Program:
    return program(padded)
