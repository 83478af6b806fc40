"""GRD, as people meet it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, accuracy, digits, explained, houses, loaders, mlp


class ByHand(Model):
    """Digits, with a loop as in a tutorial of PyTorch."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(0.05)
        self.automatic_optimization = False
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        self.fixed = fixed

    def measure(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}

    def on_train_epoch_start(self):
        self.optimizers().zero_grad()

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if self.fixed:
            optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@fault(
    "GRD106",
    "LRN101",
    "GRD101",
    "LOS108",
    source="https://stackoverflow.com/questions/48001598 (why zero_grad is called for each batch)",
)
def zeroed_before_each_epoch(fixed: bool) -> Program:
    """zero_grad is called before each epoch and not before each batch: gradients add up for an
    epoch.
    """
    return Program(
        ByHand(fixed=fixed), **loaders(*digits(1797, image=True)), trainer={"max_epochs": 10}
    )


class Summed(Model):
    """Prices of houses, by SGD."""

    def __init__(self, reduction: str) -> None:
        super().__init__(0.03)
        self.net, self.reduction = mlp(8, 64, 64, 1), reduction

    def measure(self, batch):
        x, price = batch
        out = self.net(x)
        loss = F.mse_loss(out, price, reduction=self.reduction)
        return loss, {"r2": explained(out, price)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@fault(
    "GRD101",
    "LRN101",
    "LOS108",
    "OUT101",
    "ACT101",
    "NAN104",
    "NAN102",
    "UPD105",
    source="common on forums: reduction='sum' with a learning rate that was found for the mean",
)
def sum_of_errors_at_the_rate_of_a_mean(fixed: bool) -> Program:
    """The loss is the sum over the batch, and the learning rate is that of its mean: 64 times
    too far.
    """
    model = Summed("mean" if fixed else "sum")
    return Program(model, **loaders(*houses(), batch_size=64), trainer={"max_epochs": 20})
