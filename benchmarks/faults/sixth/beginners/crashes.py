"""ERR: it ends with an exception."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Coursework, Program, accuracy, news, passengers, rolls, served


class Headlines(Coursework):
    """A transformer encoder over padded headlines."""

    def __init__(self, *, by_key: bool) -> None:
        super().__init__(lr=1e-3)
        self.words = nn.Embedding(400, 32, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(20, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.3, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(32, 4)
        self.by_key = by_key

    def forward(self, ids):
        padding = ids == 0
        x = self.words(ids) + self.places
        if self.by_key:
            x = self.encoder(x, src_key_padding_mask=padding)
        else:
            x = self.encoder(x, padding)
        there = (~padding).unsqueeze(-1)
        return self.fc((x * there).sum(1) / there.sum(1))

    def loss_and_metric(self, batch):
        ids, topic = batch
        logits = self(ids)
        return F.cross_entropy(logits, topic), accuracy(logits, topic)


@fault(
    "ERR101",
    source="https://github.com/pytorch/examples/issues/784 (src_mask and src_key_padding_mask)",
)
def padding_for_an_attention_mask(fixed: bool) -> Program:
    """The padding of a batch is passed as the mask of the attention: (32, 20) where (20, 20) should be."""
    ids, topic = news(1600)
    lengths = torch.randint(10, 21, (1600, 1), generator=rolls(11))
    ids = ids.masked_fill(torch.arange(20) >= lengths, 0)
    return Program(
        Headlines(by_key=fixed), **served(ids, topic, batch_size=32), trainer={"max_epochs": 5}
    )


class Fares(Coursework):
    """What a passenger paid, from everything else."""

    metric = "mae"

    def __init__(self, *, called: bool) -> None:
        super().__init__(lr=3e-3)
        self.net = nn.Sequential(nn.Linear(5, 48), nn.ReLU(), nn.Linear(48, 1))
        self.called = called

    def loss_and_metric(self, batch):
        x, fare = batch
        predicted = self.net(x)
        loss = nn.MSELoss()(predicted, fare) if self.called else nn.MSELoss(predicted, fare)
        return loss, (predicted - fare).abs().mean()


@fault(
    "ERR101",
    "LOS102",
    source="https://github.com/pytorch/pytorch/issues/15337 (torch.nn.MSELoss(a, b) does not work)",
)
def loss_built_from_its_arguments(fixed: bool) -> Program:
    """nn.MSELoss(prediction, target): what the loss should be called with is given to its constructor."""
    x, _ = passengers()
    data = served(x[:, [0, 1, 2, 3, 5]], x[:, 4:5])
    return Program(Fares(called=fixed), **data, trainer={"max_epochs": 5})


class Survival(Coursework):
    """Two logits for who is saved."""

    def __init__(self) -> None:
        super().__init__(lr=3e-3)
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)


@fault(
    "ERR102",
    "CLS105",
    source="https://www.kaggle.com/c/titanic (train.csv and test.csv joined to be cleaned together: the "
    "latter has no Survived)",
)
def rows_of_the_test_have_no_label(fixed: bool) -> Program:
    """Train and test were joined to be cleaned; the label of the latter is missing, and cast to an integer."""
    x, y = passengers()
    column = y.double()
    column[1400:] = torch.nan
    if fixed:
        x, column = x[:1400], column[:1400]
    return Program(Survival(), **served(x, column.long()), trainer={"max_epochs": 5})
