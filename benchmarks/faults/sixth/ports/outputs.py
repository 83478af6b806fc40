"""OUT, in programs that came from elsewhere: axes that had another meaning there."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Program, Task, explained, fresh, loaders, mlp, right


class DeadReckoning(Task):
    """Adds up the steps that a walker takes, as his phone feels them."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.step_of, self.axis = mlp(6, 48, 48, 2), 1 if fixed else 0

    def forward(self, felt):
        return self.step_of(felt).cumsum(self.axis)

    def step(self, batch):
        felt, places = batch
        out = self(felt)
        return F.mse_loss(out, places), {"r2": explained(out, places)}


@fault(
    "OUT105",
    "GEN102",
    "INP104",
    source="https://docs.jax.dev/en/latest/automatic-vectorization.html (functions of one sample, under vmap); https://github.com/keras-team/keras-core/pull/143 (axes that differ from one framework to the other)",
)
def axis_of_one_sample_under_vmap(fixed: bool) -> Program:
    """Under vmap the function saw one walk, and summed along axis 0; without vmap that is the batch."""
    g = fresh(14)
    felt = torch.randn(1600, 16, 6, generator=g)
    steps = torch.stack([felt[..., 0] * felt[..., 1].tanh(), felt[..., 2] + 0.5 * felt[..., 3]], 2)
    places = (steps + 0.1 * torch.randn(1600, 16, 2, generator=g)).cumsum(1)
    return Program(
        DeadReckoning(fixed=fixed),
        **loaders(felt, places / places.std()),
        trainer={"max_epochs": 6},
    )


class Block(nn.Module):
    """One block of a transformer, with heads."""

    def __init__(self, width: int, heads: int, *, fixed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ff, self.heads, self.fixed = mlp(width, 2 * width, width), heads, fixed

    def attend(self, x):
        qkv = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1)
        q, k, v = qkv.unbind(2)
        if self.fixed:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        if self.fixed:
            out = out.transpose(1, 2)
        return self.proj(out.flatten(2))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.ff(self.norm2(x))


class Topic(Task):
    """What a sentence is about, read off its first token."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.words = nn.Embedding(81, 32)
        self.blocks = nn.Sequential(Block(32, 4, fixed=fixed), Block(32, 4, fixed=fixed))
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 5))

    def step(self, batch):
        ids, topic = batch
        logits = self.head(self.blocks(self.words(ids))[:, 0])
        return F.cross_entropy(logits, topic), {"acc": right(logits, topic)}


@fault(
    "INP104",
    "OUT103",
    "OUT101",
    "GRD104",
    "LOS104",
    source="https://github.com/pytorch/pytorch/issues/152257 and https://github.com/jax-ml/jax/pull/20380 (batch, length, heads against batch, heads, length)",
)
def heads_where_torch_has_positions(fixed: bool) -> Program:
    """JAX's attention takes (batch, length, heads, width), torch's the heads first: tokens never meet."""
    g = fresh(15)
    topic = torch.arange(2400) % 5
    ids = torch.randint(1, 81, (2400, 16), generator=g)
    topical = torch.rand(2400, 16, generator=g) < 0.5
    ids = torch.where(topical, 1 + topic[:, None] * 16 + ids % 16, ids)
    ids[:, 0] = 0
    return Program(Topic(fixed=fixed), **loaders(ids, topic), trainer={"max_epochs": 4})
