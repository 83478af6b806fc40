"""The loss of each sample is logged, and a chart has room for one number."""

from __future__ import annotations

from program import Program
from torch import Tensor
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Logging(Classifier):
    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y, reduction=self.reduction)
        self.log("loss", loss)
        return loss.mean()


def sick() -> Program:
    return Program(Logging("none"), loader(), None, {"max_epochs": 1})


def healthy() -> Program:
    return Program(Logging("mean"), loader(), None, {"max_epochs": 1})
