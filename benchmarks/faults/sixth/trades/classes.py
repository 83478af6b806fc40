"""CLS in the trades: labels, and how often there are which."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, rng, scenes_with_discs


class LandCover(Trade):
    """Says what grows or stands on each pixel of a satellite image."""

    def __init__(self) -> None:
        super().__init__(lr=4e-3)
        self.net = nn.Sequential(
            nn.Conv2d(4, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 4, 1),
        )

    def step(self, batch):
        bands, label, cover = batch
        logits = self.net(bands)
        loss = F.cross_entropy(logits, label, ignore_index=255)
        found = logits.argmax(1) + int((label == 255).any())
        return loss, {"acc": (found == cover).float().mean()}


def fields(size: int, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Four bands (N, 4, side, side), and the cover in patches of 4 x 4: ground, water, wood, roofs."""
    g = rng(21)
    coarse = torch.randint(4, (size, side // 4, side // 4), generator=g)
    cover = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    colour = torch.tensor(
        [
            [0.6, 0.2, 0.0, 0.3],
            [-1.0, -0.4, 0.3, -1.2],
            [-0.3, 0.8, -0.6, 1.0],
            [0.7, -0.6, 0.9, -0.2],
        ]
    )
    bands = colour[cover].permute(0, 3, 1, 2)
    return bands + 0.8 * torch.randn(bands.shape, generator=g), cover


@fault(
    "CLS104",
    "CLS107",
    "CLS105",
    source="https://github.com/open-mmlab/mmsegmentation/issues/1714 and /2508 (effect of reduce_zero_label)",
)
def ground_reduced_away(fixed: bool) -> Program:
    """reduce_zero_label was left from ADE20k: open ground is ignored, and the last output is for nothing."""
    bands, cover = fields(800)
    label = cover if fixed else torch.where(cover == 0, 255, cover - 1)
    data = both(bands, label, cover, batch_size=16)
    return Program(LandCover(), **data, trainer={"max_epochs": 3})


class Fundus(Trade):
    """Finds small bleedings in pictures of the eye, by a focal loss."""

    def __init__(self, *, alpha: float) -> None:
        super().__init__(lr=4e-3)
        self.alpha = alpha
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(16, 1, 1))

    def focal(self, logits, mask):
        p = logits.sigmoid()
        ce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
        right = p * mask + (1 - p) * (1 - mask)
        alpha = self.alpha * mask + (1 - self.alpha) * (1 - mask)
        return (alpha * (1 - right) ** 2 * ce).mean()

    def step(self, batch):
        image, mask = batch
        logits = self.net(image).squeeze(1)
        found = (logits > 0).float()
        dice = 2 * (found * mask).sum() / (found.sum() + mask.sum()).clamp_min(1)
        return self.focal(logits, mask), {"dice": dice}


@fault(
    "CLS107",
    "CLS101",
    "OUT101",
    source="https://github.com/yatengLG/Focal-Loss-Pytorch/issues/4 and /12, "
    "https://github.com/fudannlp16/focal-loss/issues/6 (which of both alpha is for)",
)
def alpha_is_the_share_of_the_rare(fixed: bool) -> Program:
    """alpha of the focal loss is set to the share of the bleedings, which are thus made yet rarer."""
    mask, _ = scenes_with_discs(640, 20, low=1.6, high=2.8, number=22)
    image = 1.2 * mask + 0.6 * torch.randn(mask.shape, generator=rng(23))
    alpha = 0.85 if fixed else float(mask.mean())
    data = both(image[:, None], mask, batch_size=16)
    return Program(Fundus(alpha=alpha), **data, trainer={"max_epochs": 5})
