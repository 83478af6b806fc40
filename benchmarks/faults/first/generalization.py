"""GEN: fits what it sees, and not what it is for; or does not get to fit it."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, UMLAUT, fault
from .._parts import DataLoader, Program, Supervised, TensorDataset, digits, loaders, mlp, split
from ._parts import Learner, explained, meters, reviews


class Customers(Learner):
    """Will they buy? From a table, and from one category of each."""

    lr = 5e-3

    def __init__(self, categories: int) -> None:
        super().__init__()
        self.category, self.net = nn.Embedding(categories, 16), mlp(8 + 16, 48, 1)

    def logit(self, batch):
        x = torch.cat([batch["table"], self.category(batch["category"])], dim=1)
        return self.net(x).squeeze(1)

    def loss_of(self, batch):
        return F.binary_cross_entropy_with_logits(self.logit(batch), batch["bought"])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        right = (self.logit(batch) > 0) == (batch["bought"] > 0)
        self.log("val_acc", right.float().mean())


@fault(
    "GEN101",
    "GEN105",
    "INP203",
    "INP205",
    source="https://www.kaggle.com/code/alexisbcook/data-leakage; " + UMLAUT,
)
def number_of_the_customer(fixed: bool) -> Program:
    """The column that is embedded is the customer's own number: each one is learned by heart."""
    region = torch.randint(6, (2000,))
    table = torch.randn(2000, 8)
    taste = torch.linspace(-1.5, 1.5, 6)[region]
    bought = (table[:, 0] + taste + table[:, 1] * table[:, 2] + torch.randn(2000) > 0).float()
    category = region if fixed else torch.arange(2000)
    rows = TensorDataset(table, category, bought)
    names = ("table", "category", "bought")
    train, val = (
        [dict(zip(names, row, strict=True)) for row in part] for part in split(*rows.tensors)
    )
    module = Customers(6 if fixed else 2000)
    return Program(module, **loaders(train, val), trainer={"max_epochs": 8})


@fault("GEN102", "OUT101", "GEN103", source=HUMBATOVA + ", wrong number of neurons")
def embedding_of_one_number(fixed: bool) -> Program:
    """Words are embedded in one dimension, left from a test: four products do not fit on a line."""
    width = 24 if fixed else 1
    net = nn.Sequential(nn.EmbeddingBag(80, width), nn.Linear(width, 4))
    module = Supervised(net, lr=1e-2)
    return Program(module, **loaders(*split(*reviews(1600))), trainer={"max_epochs": 7})


@fault(
    "GEN103",
    "LRN102",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/9297",
)
def patience_of_nobody(fixed: bool) -> Program:
    """Early stopping asks for half a nat in each epoch, and gives up on a loss that still falls."""
    stopper = EarlyStopping("val_loss", min_delta=0.0 if fixed else 0.5, patience=3 if fixed else 1)
    x, y = digits(1797)
    module = Supervised(mlp(64, 64, 10), lr=1e-3)
    return Program(
        module, **loaders(*split(x, y)), trainer={"max_epochs": 9, "callbacks": [stopper]}
    )


class Forgetful(nn.Module):
    """Drops whole words of a sentence in training."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(80, 24), drop
        self.net = mlp(24, 32, 4)

    def forward(self, ids):
        x = self.embed(ids)
        if self.training:
            x = x * (torch.rand(ids.shape) > self.drop)[..., None]
        return self.net(x.mean(1))


@fault(
    "GEN104",
    "MOD105",
    "GEN102",
    source="https://aclanthology.org/P15-1162/ (Deep averaging networks: drops 30 % of the words)",
)
def nine_words_of_ten_dropped(fixed: bool) -> Program:
    """Word dropout keeps one word in ten, where the paper drops three."""
    module = Supervised(Forgetful(0.1 if fixed else 0.9), lr=3e-3)
    return Program(module, **loaders(*split(*reviews(1600))), trainer={"max_epochs": 7})


@fault(
    "GEN105",
    "INP202",
    "GEN101",
    source="https://github.com/minqukanq/hierarchical-multi-label-text-classification/issues/6",
)
def vocabulary_built_twice(fixed: bool) -> Program:
    """Validation builds a vocabulary of its own: the same words have other numbers there."""
    train, val = split(*reviews(1600))
    x, y = val.tensors
    numbers = torch.arange(80) if fixed else torch.cat([torch.arange(4), 4 + torch.randperm(76)])
    net = nn.Sequential(nn.EmbeddingBag(80, 24), nn.ReLU(), nn.Linear(24, 4))
    data = loaders(train, TensorDataset(numbers[x], y))
    return Program(Supervised(net, lr=5e-3), **data, trainer={"max_epochs": 6})


class Regression(Supervised):
    """Says how much of the variance it explains."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault("GEN101", "INP205", source=UMLAUT + ", overfitting")
def forty_rows_and_two_hundred_units(fixed: bool) -> Program:
    """The first forty rows of a table, left from a try, and a net with forty thousand weights."""
    train, val = split(*meters(2400))
    x, y = train.tensors
    rows = len(x) if fixed else 40
    loader = DataLoader(TensorDataset(x[:rows], y[:rows]), 32, shuffle=True)
    module = Regression(mlp(8, 200, 200, 1), F.mse_loss, lr=1e-3)
    return Program(module, loader, DataLoader(val, 300), trainer={"max_steps": 240})
