"""GRD, after reports: gradients that do not arrive."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import HUMBATOVA, fault
from ..._parts import Program, digits
from ._parts import Classify, Task, cardio, cut, loaders, shuffled, texts


class Heart(nn.Module):
    """A GRU of two layers that reads a heart."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 32, num_layers=2, batch_first=True)
        self.head, self.layer = nn.Linear(32, 3), layer

    def forward(self, x):
        _, hidden = self.gru(x)
        return self.head(hidden[self.layer])


@fault(
    "GRD103",
    "UPD102",
    "STR105",
    source="https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html (h_n holds the last state of "
    "every layer, the first one first); https://github.com/pclucas14/GansFallingShort/pull/2",
)
def first_of_two_hidden_states(fixed: bool) -> Program:
    """h[0] of a GRU with two layers is the state of the lower one: the upper one is for nothing."""
    data = loaders(*cut(*cardio(1000, 30)))
    return Program(Classify(Heart(-1 if fixed else 0), lr=4e-3), **data, trainer={"max_epochs": 6})


class Reviews(Task):
    """A stack of LSTMs over the words of a review."""

    def __init__(self, depth: int) -> None:
        super().__init__(lr=2e-3)
        self.words = nn.Embedding(100, 24)
        self.lstm = nn.LSTM(24, 32, num_layers=depth, batch_first=True)
        self.head = nn.Linear(32, 4)

    def step(self, batch):
        ids, topic = batch
        logits = self.head(self.lstm(self.words(ids))[0][:, -1])
        return F.cross_entropy(logits, topic), {"acc": (logits.argmax(1) == topic).float().mean()}


@fault(
    "GRD102",
    "LOS104",
    "GRD104",
    "OUT101",
    "OUT103",
    source="https://techfeed.net/es/485530 (a multilayer LSTM converges to a constant); "
    + HUMBATOVA
    + " (suboptimal number of layers)",
)
def seven_lstms_one_upon_the_other(fixed: bool) -> Program:
    """Seven LSTMs upon each other, because two were good: nothing of the words arrives at the top."""
    data = loaders(*cut(*texts(1500)))
    return Program(Reviews(1 if fixed else 7), **data, trainer={"max_epochs": 5})


class MaskedLinear(nn.Module):
    """A linear layer in which a pixel sees those before it only."""

    def __init__(self, mask: torch.Tensor, *, fixed: bool) -> None:
        super().__init__()
        rows, columns = mask.shape
        self.register_buffer("mask", mask)
        self.weight = nn.Parameter(torch.randn(rows, columns) / columns**0.5)
        self.bias, self.fixed = nn.Parameter(torch.zeros(rows)), fixed

    def forward(self, x):
        weight = self.weight * self.mask
        if not self.fixed:
            weight = nn.Parameter(weight)
        return F.linear(x, weight, self.bias)


class Made(Task):
    """The chance of each pixel, given those before it."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        sees = torch.arange(192) % 63
        first = (sees[:, None] >= torch.arange(64)[None]).float()
        last = (torch.arange(64)[:, None] > sees[None]).float()
        layers = [MaskedLinear(first, fixed=fixed), nn.ReLU(), MaskedLinear(last, fixed=fixed)]
        self.net = nn.Sequential(*layers)

    def step(self, batch):
        x = (batch[0] > 0).float()
        logits = self.net(x)
        loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1).mean()
        return loss, {"bits": loss.detach() / 0.693 / 64}


@fault(
    "GRD103",
    "UPD102",
    source="https://github.com/chr5tphr/zennit/pull/185 (a new Parameter in place of a tensor that "
    "depends on the old one: no gradient to the original)",
)
def masked_weight_in_a_new_parameter(fixed: bool) -> Program:
    """nn.Parameter(weight * mask) at each call: the weights themselves never get a gradient."""
    x, y = shuffled(*digits(1797))
    return Program(Made(fixed=fixed), **loaders(*cut(x, y)), trainer={"max_epochs": 5})
