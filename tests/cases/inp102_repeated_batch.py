"""The sampler draws a random batch, with a generator that starts afresh at every batch."""

from __future__ import annotations

import torch
from program import Program, digits
from torch.utils.data import DataLoader, TensorDataset

from cases._parts import Classifier


class RandomBatches:
    """Batches of random indices."""

    def __init__(self, size: int, generators: list[torch.Generator]) -> None:
        self.size = size
        self.generators = generators

    def __len__(self):
        return len(self.generators)

    def __iter__(self):
        for generator in self.generators:
            yield torch.randperm(self.size, generator=generator)[:32].tolist()


def sick() -> Program:
    data = TensorDataset(*digits())
    generators = [torch.Generator().manual_seed(0) for _ in range(30)]
    train = DataLoader(data, batch_sampler=RandomBatches(len(data), generators))
    return Program(Classifier(), train, trainer={"max_epochs": 2})


def healthy() -> Program:
    data = TensorDataset(*digits())
    generators = [torch.Generator().manual_seed(0)] * 30
    train = DataLoader(data, batch_sampler=RandomBatches(len(data), generators))
    return Program(Classifier(), train, trainer={"max_epochs": 2})
