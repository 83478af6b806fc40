"""GEN, in programs that came from elsewhere: training and validation tell different stories."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Program, Task, digits, handwriting, loaders, mlp, right


class Augmented(Task):
    """Digits between nought and one, with a little noise while training."""

    def __init__(self, sigma: float) -> None:
        super().__init__(lr=1e-3)
        self.sigma = sigma
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 64),
            nn.GELU(),
            nn.Linear(64, 10),
        )

    def step(self, batch):
        x, y = batch
        if self.training:
            x = x + self.sigma * torch.randn_like(x)
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}


@fault(
    "GEN104",
    "INP202",
    "GEN102",
    source="https://imgaug.readthedocs.io/en/latest/source/overview/arithmetic.html#additivegaussiannoise (scale is in units of 0..255)",
)
def noise_in_units_of_grey_levels(fixed: bool) -> Program:
    """Images are now scaled to 0..1, the noise of the augmentation still counts in 255 levels."""
    x, y = digits(1797, image=True)
    data = loaders((x + 1) / 2, y)
    return Program(Augmented(2 / 255 if fixed else 2.0), **data, trainer={"max_epochs": 8})


class Averaged(Task):
    """Trains a net, and validates the moving average of its weights."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.log_dict({"loss": loss, "acc": right(logits, y)})
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, outputs, batch, batch_idx):
        for kept, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
            kept.lerp_(now, 0.05)
        if self.fixed:
            for kept, now in zip(self.average.buffers(), self.net.buffers(), strict=True):
                kept.copy_(now)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.average(x)
        self.log_dict({"val_loss": F.cross_entropy(logits, y), "val_acc": right(logits, y)})

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=self.lr)


@fault(
    "GEN105",
    "MOD105",
    "MOD102",
    "GEN101",
    source="https://github.com/CuriousAI/mean-teacher/issues/9 and https://github.com/fadel/pytorch_ema/issues/13 (averages of parameters, and the statistics of batch norm)",
)
def average_that_knows_no_buffers(fixed: bool) -> Program:
    """The validated average goes over parameters(): the running statistics of its norms stay at nought and one."""
    x, y = digits(1797, image=True)
    return Program(Averaged(fixed=fixed), **loaders((x + 1) / 2, y), trainer={"max_epochs": 5})


class Slow(Task):
    """A small net, and plain descent with momentum."""

    def __init__(self) -> None:
        super().__init__(lr=0.01)
        self.net = mlp(64, 96, 48, 10)

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True)


@fault(
    "GEN103",
    "LRN102",
    source="https://lightning.ai/docs/pytorch/stable/common/trainer.html#max-steps (steps of the optimizer, whatever the number of devices)",
)
def steps_for_eight_devices(fixed: bool) -> Program:
    """max_steps divides by the eight devices of the cluster, and the run is on one."""
    data = handwriting()
    devices = 1 if fixed else 8
    steps = 12 * 1437 // (32 * devices)
    return Program(Slow(), **data, trainer={"max_steps": steps, "val_check_interval": 20})
