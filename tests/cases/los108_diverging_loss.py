"""A bonus for certain answers, without any bound: certainty pays more than being right."""

from __future__ import annotations

from program import Program
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Rewarded(Classifier):
    def __init__(self, bonus: float) -> None:
        super().__init__(lr=3e-3)
        self.bonus = bonus

    def loss(self, x, y):
        scores = self(x)
        return F.cross_entropy(scores, y) - self.bonus * scores.square().mean()


def sick() -> Program:
    return Program(Rewarded(bonus=0.5), loader(), trainer={"max_epochs": 4})


def healthy() -> Program:
    return Program(Rewarded(bonus=0.0), loader(), trainer={"max_epochs": 4})
