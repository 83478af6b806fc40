"""A softplus written by hand, whose backward is that of its square."""

from __future__ import annotations

import torch
from program import Program
from torch import nn

from cases._parts import Classifier, loader


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log1p(x.exp())

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.sigmoid() ** 2


class Right(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log1p(x.exp())

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.sigmoid()


class Softplus(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


def program(function: type[torch.autograd.Function]) -> Program:
    net = nn.Sequential(nn.Linear(64, 32), Softplus(function), nn.Linear(32, 10))
    return Program(Classifier(net), loader(), trainer={"max_steps": 5})


def sick() -> Program:
    return program(Wrong)


def healthy() -> Program:
    return program(Right)
