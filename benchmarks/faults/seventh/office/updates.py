"""UPD, in applied work: optimizers and the arguments they were given."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, digits, feeders, mlp, parted, rng, scored


class Ads(Model):
    """Whether an advertisement is clicked, by its kind, its place, and what is known of the reader."""

    def __init__(self, lr_decay: float) -> None:
        super().__init__(lr=0.08)
        self.kind, self.place = nn.Embedding(8, 8), nn.Embedding(10, 8)
        self.net = mlp(22, 48, 1)
        self.lr_decay = lr_decay

    def shared(self, batch):
        reader, kind, place, click = batch
        row = torch.cat([reader, self.kind(kind), self.place(place)], dim=1)
        logits = self.net(row).squeeze(1)
        acc = ((logits > 0) == (click > 0.5)).float().mean()
        return F.binary_cross_entropy_with_logits(logits, click), {"acc": acc}

    def configure_optimizers(self):
        return torch.optim.Adagrad(self.parameters(), lr=self.lr, lr_decay=self.lr_decay)


@fault(
    "LRN102",
    "UPD106",
    "LRN104",
    "GEN103",
    "GEN102",
    source="https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html (lr_decay, which comes on top of what Adagrad does)",
)
def adagrad_that_decays_twice(fixed: bool) -> Program:
    """Adagrad lowers its steps by itself, and lr_decay=0.2 divides them by the number of steps once more."""
    g = rng(2)
    size = 5000
    reader = torch.randn(size, 6, generator=g)
    kind = torch.randint(8, (size,), generator=g)
    place = torch.randint(10, (size,), generator=g)
    taste, spot = torch.randn(8, 6, generator=g), torch.randn(10, generator=g)
    pull = (taste[kind] * reader).sum(1) + 1.5 * spot[place]
    click = (pull > pull.median()).float()
    module = Ads(0.0 if fixed else 0.2)
    return Program(
        module, **feeders(*parted(reader, kind, place, click)), trainer={"max_epochs": 8}
    )


class Forms(Model):
    """Reads the digits of a form, by descent with momentum."""

    def __init__(self, dampening: float) -> None:
        super().__init__(lr=0.01)
        self.net = nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 10))
        self.dampening = dampening

    def shared(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": scored(logits, y)}

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.lr, momentum=0.9, dampening=self.dampening
        )
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@fault(
    "UPD106",
    "LRN102",
    "GEN103",
    "GEN102",
    source="https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html (dampening of the momentum; the default is 0)",
)
def dampened_as_much_as_driven(fixed: bool) -> Program:
    """Next to momentum=0.9 there is dampening=0.9, as in an exponential average: steps are a tenth of what they were."""
    data = feeders(*parted(*digits(1797)))
    return Program(Forms(0.0 if fixed else 0.9), **data, trainer={"max_epochs": 10})
