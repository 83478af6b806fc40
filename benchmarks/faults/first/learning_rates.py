"""LRN: the rate, and the schedule that moves it."""

from __future__ import annotations

import torch
from healthy._parts import pretrained
from torch import nn
from torch.nn import functional as F

from .. import fault
from .._parts import Program, Supervised, digit_loaders, digits, loaders, mlp, scenes, split
from ._parts import gestures, reviews


class Denoiser(nn.Module):
    """Predicts what is to be taken away from an image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 1, 3, padding=1),
        )

    def forward(self, x):
        return x - self.net(x)


@fault(
    "LRN101",
    "GRD101",
    "LOS108",
    "NAN102",
    "NAN104",
    "NAN105",
    "ACT101",
    source="https://github.com/PENGLU-WashU/IMC_Denoise/issues/11",
)
def sum_over_the_pixels(fixed: bool) -> Program:
    """The loss is summed over the pixels of the batch, and the rate is for their mean."""
    clean = digits(1024, image=True)[0]
    noisy = clean + 0.4 * torch.randn_like(clean)
    reduction = "mean" if fixed else "sum"
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)  # noqa: E731
    loss = nn.MSELoss(reduction=reduction)
    module = Supervised(Denoiser(), loss, lr=0.05, optimizer=sgd)
    return Program(module, **loaders(*split(noisy, clean)), trainer={"max_epochs": 10})


@fault(
    "LRN101",
    "GRD101",
    "LOS101",
    "LOS108",
    "UPD103",
    "ACT101",
    source="https://arxiv.org/abs/1801.06146 (ULMFiT: catastrophic forgetting)",
)
def fine_tuned_at_a_fifth(fixed: bool) -> Program:
    """A pretrained net is fine-tuned with Adam at 0.2, and forgets in ten steps what it knew."""
    net = pretrained()
    net[-1] = nn.Linear(32, 10)
    module = Supervised(net, lr=2e-3 if fixed else 0.2)
    return Program(module, **digit_loaders(image=True), trainer={"max_epochs": 3})


@fault(
    "LRN102",
    "UPD103",
    "UPD102",
    "LOS104",
    source="https://arxiv.org/abs/1706.02677 (linear scaling: lr x batch / 256, once)",
)
def scaled_by_the_batch_twice(fixed: bool) -> Program:
    """The rate is scaled to the batch in the config and again in the code: 32 / 256, two times over."""
    net = nn.Sequential(nn.Conv1d(3, 24, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)  # noqa: E731
    rate = 0.4 * 32 / 256
    rate = rate if fixed else rate * (32 / 256) ** 3
    module = Supervised(net.append(nn.Linear(24, 4)), lr=rate, optimizer=sgd)
    x, y = gestures(1200)
    return Program(module, **loaders(*split(x.mT.contiguous(), y)), trainer={"max_epochs": 6})


class Scheduled(Supervised):
    """Has a schedule."""

    def __init__(self, net, loss, schedule, **options) -> None:
        super().__init__(net, loss, **options)
        self.schedule = schedule

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}


@fault(
    "LRN104",
    "LRN103",
    "UPD102",
    "LRN102",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/4929",
)
def polynomial_of_one_epoch(fixed: bool) -> Program:
    """(1 - step / total) ** 0.9, whose total are the steps of one epoch: zero for all the others."""
    x, mask = scenes(400)
    epochs, steps = 6, 19
    total = steps * (epochs if fixed else 1)

    def schedule(optimizer):
        power = lambda step: max(0.0, 1 - step / total) ** 0.9  # noqa: E731
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, power)
        return {"scheduler": scheduler, "interval": "step"}

    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 1, 1),
    )
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(4.0))
    data = loaders(*split(x, mask[:, None].float()), batch_size=16)
    return Program(Scheduled(net, loss, schedule), **data, trainer={"max_epochs": epochs})


@fault(
    "LRN104",
    "LRN102",
    "GEN103",
    source="https://github.com/md-mohaiminul/ViS4mer/issues/4",
)
def plateau_of_an_accuracy(fixed: bool) -> Program:
    """The plateau scheduler watches the accuracy and waits for it to fall: each gain cuts the rate."""

    def schedule(optimizer):
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max" if fixed else "min", factor=0.1, patience=1
        )
        return {"scheduler": scheduler, "monitor": "val_acc"}

    net = nn.Sequential(nn.EmbeddingBag(80, 24), nn.ReLU(), nn.Linear(24, 4))
    module = Scheduled(net, F.cross_entropy, schedule, lr=5e-3)
    return Program(module, **loaders(*split(*reviews(1600))), trainer={"max_epochs": 8})


@fault(
    "LRN105",
    "LRN101",
    "GRD101",
    "LRN104",
    "LOS108",
    source="https://arxiv.org/abs/1506.01186 (Cyclical learning rates: the range test comes first)",
)
def cycles_that_climb_too_high(fixed: bool) -> Program:
    """Each cycle of the rate climbs to 0.06 with Adam, and the loss jumps with it every time."""

    def schedule(optimizer):
        scheduler = torch.optim.lr_scheduler.CyclicLR(
            optimizer, 5e-4, 5e-3 if fixed else 0.06, step_size_up=25, cycle_momentum=False
        )
        return {"scheduler": scheduler, "interval": "step"}

    module = Scheduled(mlp(64, 96, 96, 10), F.cross_entropy, schedule)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 6})
