"""MOD, in applied work: what is done in training and otherwise in use."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, feeders, parted, scans


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
