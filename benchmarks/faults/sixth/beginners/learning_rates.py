"""LRN: steps of the wrong length."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Coursework, Program, accuracy, convolutional, digits, drawings, rolls, served


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
    "NAN102",
    "NAN103",
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
        return torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9)


@fault(
    "LRN102",
    "UPD103",
    "GRD102",
    "LOS101",
    "LOS104",
    source="https://github.com/williamleif/GraphSAGE/issues/12 (a loss that is divided twice: the learning "
    "rate is scaled by as much)",
)
def mean_divided_by_the_data_set(fixed: bool) -> Program:
    """The mean of a batch is divided by the length of the data set, to add up to that of an epoch."""
    x, y = digits(1797, image=True)
    data = served(x, y)
    divisor = 1 if fixed else len(data["train"].dataset)
    return Program(Handwriting(divisor), **data, trainer={"max_epochs": 7})


class Houses(Coursework):
    """The price of a house, with the linear scaling rule for the learning rate."""

    metric = "mae"

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        return self.net(x).squeeze(1)

    def loss_and_metric(self, batch):
        x, price = batch
        predicted = self(x)
        return F.mse_loss(predicted, price), (predicted - price).abs().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)]


@fault(
    "LRN103",
    "UPD102",
    "LOS104",
    source="https://arxiv.org/abs/1706.02677 (the linear scaling rule, and what // makes of it)",
)
def share_of_a_batch_in_integers(fixed: bool) -> Program:
    """lr = 0.1 * batch_size // 256 for a batch of 32: the division rounds down, and the rate is zero."""
    g = rolls(53)
    x = torch.randn(1500, 8, generator=g)
    price = 0.6 * x[:, 0] - 0.5 * x[:, 1] + 0.5 * x[:, 2] * x[:, 3] + 0.4 * x[:, 4].abs()
    price = price + 0.2 * torch.randn(1500, generator=g)
    batch_size = 32
    lr = 0.1 * batch_size / 256 if fixed else 0.1 * batch_size // 256
    data = served(x, (price - price.mean()) / price.std(), batch_size=batch_size)
    return Program(Houses(lr), **data, trainer={"max_epochs": 8})
