"""A hashed feature is written out as one of 2**40 columns."""

from __future__ import annotations

from program import Program
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Hashed(Classifier):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def loss(self, x, y):
        buckets = (x.sum(1).abs() * 1000).long() % 2**self.bits
        hashed = F.one_hot(buckets, 2**self.bits).float()
        return super().loss(x, y) + 0.0 * hashed.sum()


def sick() -> Program:
    return Program(Hashed(40), loader(), trainer={"max_steps": 5})


def healthy() -> Program:
    return Program(Hashed(8), loader(), trainer={"max_steps": 5})
