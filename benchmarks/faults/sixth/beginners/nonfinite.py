"""NAN: no longer a number."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Coursework, Program, accuracy, rolls, served


def names(size: int = 1500, length: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Names (N, length, 20) of three languages, one-hot: in each, other letters follow on one another."""
    g = rolls(81)
    y = torch.arange(size) % 3
    chains = torch.softmax(4.0 * torch.randn(3, 20, 20, generator=g), dim=2)
    letter = torch.randint(0, 20, (size,), generator=g)
    letters = [letter]
    for _ in range(length - 1):
        letter = torch.multinomial(chains[y, letter], 1, generator=g).squeeze(1)
        letters.append(letter)
    return F.one_hot(torch.stack(letters, dim=1), 20).float(), y


class NameRNN(Coursework):
    """The recurrent net from scratch of a tutorial, with a layer for the state and one for the answer."""

    def __init__(self, *, squashed: bool) -> None:
        super().__init__()
        self.i2h = nn.Linear(20 + 64, 64)
        self.h2o = nn.Linear(64, 3)
        self.squashed = squashed

    def forward(self, x):
        hidden = x.new_zeros(len(x), 64)
        for t in range(x.shape[1]):
            hidden = self.i2h(torch.cat([x[:, t], hidden], dim=1))
            if self.squashed:
                hidden = torch.tanh(hidden)
        return self.h2o(hidden)

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


@fault(
    "NAN102",
    "GRD101",
    "NAN103",
    "NAN104",
    "LRN101",
    "STR103",
    "ACT103",
    source="https://pytorch.org/tutorials/intermediate/char_rnn_classification_tutorial.html (if you set "
    "this too high, it might explode)",
)
def cell_without_a_squash(fixed: bool) -> Program:
    """The recurrent cell is one linear layer, as in the tutorial: its state grows from letter to letter."""
    return Program(NameRNN(squashed=fixed), **served(*names()), trainer={"max_epochs": 10})


class Toxicity(Coursework):
    """Several tags to a comment, each weighted by how rare it is."""

    def __init__(self, pos_weight: torch.Tensor) -> None:
        super().__init__(lr=3e-3)
        self.words = nn.EmbeddingBag(300, 32, mode="mean", padding_idx=0)
        self.fc = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, len(pos_weight)))
        self.criterion = nn.BCEWithLogitsLoss(pos_weight=pos_weight)

    def loss_and_metric(self, batch):
        ids, tags = batch
        logits = self.fc(self.words(ids))
        return self.criterion(logits, tags), ((logits > 0) == (tags > 0.5)).float().mean()


@fault(
    "NAN102",
    "NAN103",
    "CLS104",
    source="https://github.com/fcakyon/balanced-loss/pull/12 (nan where a label has no samples)",
)
def weight_of_a_tag_that_never_occurs(fixed: bool) -> Program:
    """pos_weight is negatives over positives, and one tag of the sample has none: infinity times zero."""
    g = rolls(82)
    ids = torch.randint(1, 300, (1500, 16), generator=g)
    tags = torch.rand(1500, 6, generator=g) < torch.tensor([0.4, 0.35, 0.3, 0.45, 0.4, 0.0])
    own = torch.randperm(299, generator=g)[:60].view(6, 10) + 1
    for k in range(6):
        words = own[k][torch.randint(0, 10, (1500, 2), generator=g)]
        ids[:, 2 * k : 2 * k + 2] = torch.where(
            tags[:, k : k + 1], words, ids[:, 2 * k : 2 * k + 2]
        )
    tags = tags.float()
    if fixed:
        tags = tags[:, tags.sum(0) > 0]
    positive = tags.sum(0)
    weight = (len(tags) - positive) / positive
    return Program(Toxicity(weight), **served(ids, tags), trainer={"max_epochs": 10})
