"""LRN, in programs that came from elsewhere: numbers that meant something else there."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Program, Task, digits, handwriting, loaders, mlp, pictograms, right


class Replica(Task):
    """One replica's step of a strategy that sums over the others."""

    def __init__(self, reduction: str) -> None:
        super().__init__(lr=0.03)
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(256, 64), nn.GELU(), nn.Linear(64, 10),
        )  # fmt: skip
        self.loss = nn.CrossEntropyLoss(reduction=reduction)

    def training_step(self, batch, batch_idx):
        image, digit = batch
        loss = self.loss(self.net(image), digit)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        image, digit = batch
        logits = self.net(image)
        self.log("val/loss", F.cross_entropy(logits, digit))
        self.log("val/acc", right(logits, digit), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.5)


@fault(
    "LRN101",
    "GRD101",
    "LOS108",
    "UPD103",
    source="https://www.tensorflow.org/tutorials/distribute/custom_training and https://github.com/tensorflow/tensorflow/issues/31317 (Reduction.SUM under a strategy)",
)
def summed_as_the_strategy_wanted(fixed: bool) -> Program:
    """Under tf.distribute losses are summed and divided by the global batch; here they are only summed."""
    data = handwriting(image=True, batch_size=32)
    return Program(Replica("mean" if fixed else "sum"), **data, trainer={"max_epochs": 8})


class Poly(Task):
    """A classifier with the schedule that segmentation nets use."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=0.05)
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 16, 3, padding=1), nn.GELU(),
            nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.GELU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, 5),
        )  # fmt: skip
        self.fixed = fixed

    def step(self, batch):
        image, kind = batch
        logits = self.net(image)
        return F.cross_entropy(logits, kind), {"acc": right(logits, kind)}

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        steps = {"total_iters": self.trainer.estimated_stepping_batches} if self.fixed else {}
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, power=0.9, **steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


@fault(
    "LRN104",
    "LRN103",
    "LRN102",
    source="https://github.com/pytorch/pytorch/pull/82769 (PolynomialLR, and its total_iters of five)",
)
def five_iterations_unless_told(fixed: bool) -> Program:
    """The poly schedule of the old code base became torch's, which reaches nought after five steps by default."""
    return Program(Poly(fixed=fixed), **loaders(*pictograms()), trainer={"max_epochs": 5})


class Decayed(Task):
    """The classifier of a Keras tutorial: SGD(learning_rate=0.2, momentum=0.8, decay=0.05)."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=0.2)
        self.net, self.decay, self.fixed = mlp(64, 64, 64, 10), 0.05, fixed

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        if not self.fixed:
            return torch.optim.SGD(
                self.parameters(), lr=self.lr, momentum=0.8, weight_decay=self.decay
            )
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.8)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 1 / (1 + self.decay * step)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@fault(
    "LOS106",
    "GEN102",
    "UPD106",
    "OUT101",
    source="https://github.com/rasbt/python-machine-learning-book-2nd-edition/issues/100 (decay of Keras' SGD is not a weight decay)",
)
def decay_of_the_wrong_thing(fixed: bool) -> Program:
    """Keras' decay lowers the rate with each step; it was passed on as weight_decay, and pulls on the weights."""
    return Program(Decayed(fixed=fixed), **loaders(*digits(1797)), trainer={"max_epochs": 7})
