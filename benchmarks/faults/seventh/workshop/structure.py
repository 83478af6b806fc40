"""STR, in models of one's own: layers that undo what others do."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, digits, feed, generator


class Block(nn.Module):
    """Two convolutions, and in between what is wanted, as a number for each channel."""

    def __init__(self, before: int, after: int, *, fixed: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.wish, self.fixed = nn.Linear(16, after), fixed

    def forward(self, x, wish):
        wish = self.wish(wish)[:, :, None, None]
        x = self.first(x)
        x = self.norm(x) + wish if self.fixed else self.norm(x + wish)
        return F.silu(self.second(F.silu(x)))


class Translator(Paper):
    """Does with an image what is asked for: nothing, the negative, a blur, or a step aside."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3, cosine=True)
        self.wishes = nn.Embedding(4, 16)
        self.one, self.two = Block(1, 16, fixed=fixed), Block(16, 16, fixed=fixed)
        self.last = nn.Conv2d(16, 1, 3, padding=1)

    def losses(self, batch):
        image, wish, wanted = batch
        asked = self.wishes(wish)
        out = self.last(self.two(self.one(image, asked), asked))
        return F.mse_loss(out, wanted), {}


@fault(
    "STR102",
    "GRD103",
    "GRD102",
    "UPD102",
    source="common in code reviews (conditions, time embeddings, and where the norm is)",
)
def condition_added_before_an_instance_norm(fixed: bool) -> Program:
    """What is asked for is added to whole channels right before an instance norm, which takes away their mean."""
    image, _ = digits(1797, image=True)
    image = (image - image.mean()) / image.std()
    wish = torch.randint(4, (1797,), generator=generator(22))
    kinds = torch.stack([image, -image, F.avg_pool2d(image, 3, 1, 1), image.roll(1, 3)])
    wanted = kinds[wish, torch.arange(1797)]
    return Program(
        Translator(fixed=fixed),
        **feed(image, wish, wanted, batch_size=16),
        trainer={"max_epochs": 10, "accumulate_grad_batches": 2},
    )
