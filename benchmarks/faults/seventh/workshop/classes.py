"""CLS, in losses of one's own: weights and codes of classes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, dots, feed, generator, mlp


class Slots(Paper):
    """Says of each of nine slots which of four things is in it, or that none is."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 5, stride=5), nn.ReLU(), nn.Conv2d(32, 5, 1),
        )  # fmt: skip
        weight = torch.ones(5)
        weight[-1 if fixed else 0] = 0.1
        self.register_buffer("weight", weight)

    def losses(self, batch):
        image, things = batch
        logits = self.net(image)
        loss = F.cross_entropy(logits, things, weight=self.weight)
        guess = logits.argmax(1)
        recall = torch.stack([(guess[things == i] == i).float().mean() for i in range(4)])
        return loss, {"recall_0": recall[0], "recall": recall.mean()}


@fault(
    "CLS107",
    "CLS101",
    source="https://github.com/facebookresearch/detr/blob/main/models/detr.py (empty_weight[-1] = eos_coef)",
)
def weight_of_nothing_given_to_the_first(fixed: bool) -> Program:
    """The small weight is meant for the last class, nothing there, and is given to the first: cups are not looked for."""
    g = generator(18)
    size = 3000
    things = torch.where(
        torch.rand(size, 3, 3, generator=g) < 0.4, torch.randint(4, (size, 3, 3), generator=g), 4
    )
    shapes = torch.zeros(5, 5, 5)
    shapes[0, 1:4, 1:4] = 1
    shapes[1, 2] = shapes[1, :, 2] = 1
    shapes[2, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]] = 1
    shapes[3, 1:4, 1:4] = 1
    shapes[3, 2, 2] = 0
    shapes[3, 1, 1] = 0
    image = shapes[things].permute(0, 1, 3, 2, 4).reshape(size, 1, 15, 15)
    image = image + 0.8 * torch.randn(size, 1, 15, 15, generator=g)
    return Program(
        Slots(fixed=fixed),
        **feed((image - image.mean()) / image.std(), things),
        trainer={"max_epochs": 6},
    )


class Focal(Paper):
    """Marks what is bright enough, pixel by pixel, with a focal loss."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 1),
        )  # fmt: skip
        self.fixed = fixed

    def losses(self, batch):
        image, mask = batch
        logits = self.net(image)
        surprise = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
        p = torch.exp(-surprise)
        loss = (((1 - p) if self.fixed else p).square() * surprise).mean()
        both = ((logits > 0) & (mask > 0)).sum()
        return loss, {"dice": 2 * both / ((logits > 0).sum() + (mask > 0).sum()).clamp(min=1)}


@fault(
    "LOS109",
    "CLS101",
    "CLS107",
    "OUT101",
    source="common in code reviews (pt for 1 - pt in a focal loss)",
)
def focal_weight_for_what_is_easy(fixed: bool) -> Program:
    """The focal loss multiplies with pt squared, not with that of 1 - pt: what is hard counts for nothing."""
    image, place = dots(1200, side=16, seed=19)
    grid = torch.arange(16)
    across = (grid[None, None, :] - place[:, 0, None, None]).square()
    down = (grid[None, :, None] - place[:, 1, None, None]).square()
    mask = (across + down <= 6).float()[:, None]
    return Program(Focal(fixed=fixed), **feed(image, mask), trainer={"max_epochs": 12})


class Ordinal(Paper):
    """CORAL: one score, and four thresholds between five grades."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(10, 64, 64, 1), fixed
        self.thresholds = nn.Parameter(torch.tensor([1.0, 0.3, -0.3, -1.0]))

    def losses(self, batch):
        x, grade = batch
        logits = self.net(x) + self.thresholds
        if self.fixed:
            levels = (grade[:, None] > torch.arange(4, device=x.device)).float()
        else:
            levels = F.one_hot(grade, 5)[:, 1:].float()
        loss = F.binary_cross_entropy_with_logits(logits, levels)
        guess = (logits > 0).sum(1)
        off = (guess - grade).abs().float().mean()
        return loss, {"off": off, "acc": (guess == grade).float().mean()}


@fault(
    "CLS105",
    "LOS109",
    "GEN102",
    "CLS107",
    source="https://arxiv.org/abs/1901.07884 (CORAL: grades are encoded as all the levels that they reach)",
)
def grades_as_one_level_each(fixed: bool) -> Program:
    """Of ordered grades, only the level itself is marked, and not all below it: thresholds ask for what nobody says."""
    g = generator(20)
    x = torch.randn(2000, 10, generator=g)
    worth = x[:, 0] + x[:, 1] * x[:, 2] + x[:, 3].tanh() + 0.15 * torch.randn(2000, generator=g)
    grade = torch.bucketize(worth, worth.quantile(torch.tensor([0.2, 0.4, 0.6, 0.8])))
    return Program(Ordinal(fixed=fixed), **feed(x, grade), trainer={"max_epochs": 10})
