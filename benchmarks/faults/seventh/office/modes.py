"""MOD, in applied work: what is done in training and otherwise in use."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, feeders, parted, rng, scans


def block(before: int, after: int, *, tracked: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.InstanceNorm2d(after, affine=True, track_running_stats=tracked),
        nn.LeakyReLU(0.01),
    )


class Organ(Model):
    """Finds an organ in a scan, with a U-Net of one floor."""

    def __init__(self, *, tracked: bool) -> None:
        super().__init__(lr=3e-3)
        self.down = block(1, 12, tracked=tracked)
        self.bottom = block(12, 24, tracked=tracked)
        self.up = block(36, 12, tracked=tracked)
        self.mask = nn.Conv2d(12, 1, 1)

    def forward(self, scan):
        fine = self.down(scan)
        coarse = F.interpolate(self.bottom(F.max_pool2d(fine, 2)), scale_factor=2.0)
        return self.mask(self.up(torch.cat([fine, coarse], dim=1)))

    def shared(self, batch):
        scan, mask = batch
        logits = self(scan)
        found = (logits > 0).float()
        dice = 2 * (found * mask).sum() / (found.sum() + mask.sum())
        return F.binary_cross_entropy_with_logits(logits, mask), {"dice": dice}


@fault(
    "MOD105",
    "GEN105",
    "GEN101",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.InstanceNorm2d.html (track_running_stats in eval)",
)
def instances_normed_by_all_in_the_end(fixed: bool) -> Program:
    """Scans have gains of their own; the instance norm tracks statistics, and in eval uses those of all scans."""
    data = feeders(*parted(*scans(400)), batch_size=8)
    return Program(Organ(tracked=not fixed), **data, trainer={"max_epochs": 6})


class Baskets(Model):
    """Completes a basket from a part of it, by a denoising autoencoder."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.encoder = nn.Sequential(nn.Linear(120, 64), nn.Tanh())
        self.decoder = nn.Linear(64, 120)
        self.fixed = fixed

    def forward(self, basket):
        seen = F.normalize(basket, dim=1)
        if self.fixed:
            seen = F.dropout(seen, 0.5, training=self.training)
        else:
            seen = F.dropout(seen, 0.5)
        return self.decoder(self.encoder(6 * seen))

    def shared(self, batch):
        basket = batch["seen"] + batch["next"]
        scores = F.log_softmax(self(basket if self.training else batch["seen"]), dim=1)
        loss = -(scores * basket).sum(1).mean() / 12
        if self.training:
            return loss, {}
        best = scores.masked_fill(batch["seen"] > 0, -torch.inf).topk(12).indices
        hits = batch["next"].gather(1, best).sum(1) / batch["next"].sum(1)
        return loss, {"recall_at_12": hits.mean()}


@fault(
    "MOD106",
    "MOD102",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html (training=True by default)",
)
def basket_half_emptied_before_the_advice(fixed: bool) -> Program:
    """The autoencoder drops articles with F.dropout, which knows no eval: advice is given from half of the basket."""
    g = rng(3)
    taste = torch.randint(10, (2400,), generator=g)
    likes = 0.15 * torch.ones(10, 120)
    for kind in range(10):
        likes[kind, 12 * kind : 12 * kind + 12] = 4.0
        likes[kind, (12 * kind + 30) % 120 : (12 * kind + 30) % 120 + 6] = 2.0
    drawn = torch.multinomial(likes[taste], 12, generator=g)
    seen = torch.zeros(2400, 120).scatter(1, drawn[:, :8], 1.0)
    later = torch.zeros(2400, 120).scatter(1, drawn[:, 8:], 1.0)
    rows = [{"seen": s, "next": n} for s, n in zip(seen, later, strict=True)]
    data = feeders(rows[:2000], rows[2000:])
    return Program(Baskets(fixed=fixed), **data, trainer={"max_epochs": 10})
