"""A sampler fills each batch from one class."""

from __future__ import annotations

import torch
from program import Program, digits
from torch.utils.data import DataLoader, TensorDataset

from cases._parts import Classifier


class ByClass:
    """Batches of 32 that are of one class each, in random order."""

    def __init__(self, y: torch.Tensor) -> None:
        self.y = y

    def __iter__(self):
        classes = [(self.y == c).nonzero().flatten() for c in self.y.unique()]
        batches = [one for c in classes for one in c[torch.randperm(len(c))].split(32)]
        for i in torch.randperm(len(batches)):
            yield batches[i].tolist()


def sick() -> Program:
    x, y = digits()
    train = DataLoader(TensorDataset(x, y), batch_sampler=ByClass(y))
    return Program(Classifier(), train, trainer={"max_steps": 60})


def healthy() -> Program:
    x, y = digits()
    train = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    return Program(Classifier(), train, trainer={"max_steps": 60})
