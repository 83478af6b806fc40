"""ERR, in programs that came from elsewhere: what the other framework put up with."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Program, Task, digits, givers, loaders, mlp, pictograms, right


class Categorical(Task):
    """Digits, labelled as Keras' to_categorical did."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.fixed = mlp(64, 64, 10), fixed

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y.argmax(dim=1) if self.fixed else y)
        return loss, {"acc": right(logits, y.argmax(dim=1))}


@fault(
    "ERR103",
    "ERR101",
    "CLS105",
    source="https://github.com/pytorch/pytorch/issues/137188 and https://github.com/George730/E-ResGAT/issues/5 (Expected floating point type for target with class probabilities, got Long)",
)
def categorical_in_whole_numbers(fixed: bool) -> Program:
    """The labels are one-hot vectors of integers, which categorical_crossentropy took and cross_entropy does not."""
    x, y = digits(1797)
    return Program(
        Categorical(fixed=fixed), **loaders(x, F.one_hot(y, 10)), trainer={"max_epochs": 5}
    )


class KerasHead(Task):
    """Convolutions, and a dense layer that counts features row by row and channels last."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.conv = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.dense, self.fixed = nn.Linear(512, 5), fixed

    def forward(self, image):
        last = self.conv(image).permute(0, 2, 3, 1)
        flat = last.reshape(len(last), -1) if self.fixed else last.view(len(last), -1)
        return self.dense(flat)

    def step(self, batch):
        image, kind = batch
        logits = self(image)
        return F.cross_entropy(logits, kind), {"acc": right(logits, kind)}


@fault(
    "ERR101",
    source="https://github.com/pytorch/pytorch/issues/764 (view size is not compatible with input tensor's size and stride)",
)
def reshape_became_view(fixed: bool) -> Program:
    """tf.reshape was rewritten as view, after the axes had been permuted to the order of the dense layer."""
    return Program(KerasHead(fixed=fixed), **loaders(*pictograms()), trainer={"max_epochs": 5})


class Relative(Task):
    """One layer of attention with a learned bias for each distance."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.words, self.reach = nn.Embedding(30, 32), 6
        self.bias = nn.Embedding(2 * self.reach + 1, 1)
        self.qkv, self.norm = nn.Linear(32, 96), nn.LayerNorm(32)
        self.out, self.fixed = mlp(32, 64, 6), fixed

    def forward(self, ids):
        x = self.words(ids)
        place = torch.arange(ids.shape[1], device=ids.device)
        distance = place[None] - place[:, None]
        if self.fixed:
            distance = distance.clamp(-self.reach, self.reach)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        bias = self.bias(distance + self.reach).squeeze(-1)
        scores = q @ k.transpose(1, 2) / 32**0.5 + bias
        return self.out((x + scores.softmax(-1) @ v)[:, 0])

    def step(self, batch):
        ids, giver = batch
        logits = self(ids)
        return F.cross_entropy(logits, giver), {"acc": right(logits, giver)}


@fault(
    "ERR102",
    "ERR101",
    source="https://docs.jax.dev/en/latest/notebooks/Common_Gotchas_in_JAX.html#out-of-bounds-indexing",
)
def distance_that_jax_would_clamp(fixed: bool) -> Program:
    """Distances beyond the table of biases: JAX takes the last row without a word, PyTorch raises."""
    return Program(Relative(fixed=fixed), **loaders(*givers(3200)), trainer={"max_epochs": 5})
