"""A library that the dataset uses ends the worker of the DataLoader, without a word."""

from __future__ import annotations

import os

from program import Program, digits
from torch.utils.data import Dataset

from cases._parts import Classifier, loader


class Images(Dataset):
    def __init__(self, *, crashes: bool) -> None:
        self.x, self.y = digits()
        self.crashes = crashes

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int):
        if self.crashes and index == 100:
            os._exit(1)
        return self.x[index], self.y[index]


def program(images: Images) -> Program:
    options = {"num_workers": 1, "shuffle": False}
    return Program(Classifier(), type(loader())(images, 32, **options), trainer={"max_steps": 5})


def sick() -> Program:
    return program(Images(crashes=True))


def healthy() -> Program:
    return program(Images(crashes=False))
