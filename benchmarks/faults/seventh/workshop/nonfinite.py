"""NAN, in models of one's own: zero and infinity in what a paper leaves to the reader."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, feed, generator, images


class AveragedCodes(Paper):
    """A vector-quantized autoencoder, whose codes are moving averages of what they stand for."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 3, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
        )  # fmt: skip
        self.register_buffer("codes", 0.3 * torch.randn(32, 8))
        self.fixed = fixed

    def losses(self, batch):
        image, _ = batch
        z = self.encoder(image).movedim(1, -1)
        nearest = torch.cdist(z.flatten(0, 2), self.codes).argmin(1)
        code = self.codes[nearest].view_as(z)
        if self.training:
            self.follow(z.detach().flatten(0, 2), nearest)
        content = F.mse_loss(self.decoder((z + (code - z).detach()).movedim(-1, 1)), image)
        return content + 0.25 * F.mse_loss(z, code), {"content": content}

    def follow(self, z, nearest):
        """Moves each code towards the mean of the vectors that are nearest to it."""
        chosen = F.one_hot(nearest, len(self.codes)).float()
        count = chosen.sum(0)[:, None]
        mean = chosen.T @ z / count
        if self.fixed:
            mean = torch.where(count > 0, mean, self.codes)
        self.codes = self.codes.lerp(mean, 0.05)


@fault(
    "NAN104",
    "NAN102",
    source="https://github.com/rosinality/vq-vae-2-pytorch/pull/72 and https://arxiv.org/abs/1711.00937 (VQ-VAE, appendix A.1; others smooth the counts)",
)
def mean_of_a_code_that_nobody_uses(fixed: bool) -> Program:
    """Codes follow the mean of what they stand for; that of a code which stands for nothing is 0 / 0."""
    return Program(AveragedCodes(fixed=fixed), **images(), trainer={"max_epochs": 12})


class Tagger(Paper):
    """A recurrent net and a conditional random field: names of one or more words in sentences."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.words, self.rnn = nn.Embedding(40, 24), nn.GRU(24, 24, batch_first=True)
        self.head = nn.Linear(24, 3)
        self.transitions = nn.Parameter(torch.zeros(4, 4))
        never = torch.zeros(4, 4)  # from, to: outside, begin, inside, start
        never[:, 3] = never[0, 2] = never[3, 2] = -1e4 if fixed else -math.inf
        self.register_buffer("never", never)

    def losses(self, batch):
        ids, tags = batch
        scores = F.pad(self.head(self.rnn(self.words(ids))[0]), (0, 1))
        step = self.transitions + self.never
        total = step[3] + scores[:, 0]
        for t in range(1, ids.shape[1]):
            total = torch.logsumexp(total[:, :, None] + step, dim=1) + scores[:, t]
        before = F.pad(tags[:, :-1], (1, 0), value=3)
        own = (scores.gather(2, tags[..., None]).squeeze(2) + step[before, tags]).sum(1)
        loss = (total.logsumexp(1) - own).mean() / ids.shape[1]
        return loss, {}


@fault(
    "NAN103",
    "NAN104",
    "NAN102",
    source="https://github.com/pytorch/pytorch/issues/31829 (logsumexp of nothing but -inf has a gradient of nan)",
)
def transitions_of_minus_infinity(fixed: bool) -> Program:
    """Forbidden transitions of a CRF are -inf; the start is reached from nowhere, and its gradient is NaN."""
    g = generator(12)
    size, length = 1500, 12
    ids = torch.randint(0, 20, (size, length), generator=g)
    tags = torch.zeros_like(ids)
    for i in range(size):
        at, long = torch.randint(0, 9, (1,), generator=g), torch.randint(1, 4, (1,), generator=g)
        ids[i, at] = torch.randint(20, 30, (1,), generator=g)
        tags[i, at] = 1
        tags[i, at + 1 : at + long] = 2
        ids[i, at + 1 : at + long] = torch.randint(30, 40, (int(long) - 1,), generator=g)
    return Program(Tagger(fixed=fixed), **feed(ids, tags), trainer={"max_epochs": 8})
