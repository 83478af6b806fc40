"""LRN: steps of the wrong length."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ... import fault
from ._parts import Coursework, Program, accuracy, convolutional, digits, drawings, served


class Shapes(Coursework):
    """A small convolutional net, trained with momentum."""

    def __init__(self, lr: float, momentum: float) -> None:
        super().__init__()
        self.net = convolutional(3, 3)
        self.arguments = (lr, momentum)

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), *self.arguments)


@fault(
    "LRN101",
    "LOS108",
    "ACT101",
    "OUT101",
    "LOS104",
    source="https://pytorch.org/docs/stable/generated/torch.optim.SGD.html (the order of its arguments)",
)
def rate_and_momentum_exchanged(fixed: bool) -> Program:
    """SGD(parameters, 0.9, 0.02): the momentum stands where the learning rate belongs."""
    image, kind, _ = drawings(1200, seed=51)
    data = served((image - 0.5) / 0.25, kind)
    arguments = (0.02, 0.9) if fixed else (0.9, 0.02)
    return Program(Shapes(*arguments), **data, trainer={"max_epochs": 8})


class Handwriting(Coursework):
    """Digits as images, with a loss that is to be an average over the epoch."""

    def __init__(self, divisor: int) -> None:
        super().__init__()
        self.net = convolutional(1, 10, side=8)
        self.divisor = divisor

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y) / self.divisor, accuracy(logits, y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


@fault(
    "LRN102",
    "UPD103",
    "GRD102",
    "LOS101",
    "LOS104",
    source="https://discuss.pytorch.org/t/average-loss-in-dp-and-ddp/93306 (a mean that is divided again)",
)
def mean_divided_by_the_data_set(fixed: bool) -> Program:
    """The mean of a batch is divided by the length of the data set, to add up to that of an epoch."""
    x, y = digits(1797, image=True)
    data = served(x, y)
    divisor = 1 if fixed else len(data["train"].dataset)
    return Program(Handwriting(divisor), **data, trainer={"max_epochs": 7})
