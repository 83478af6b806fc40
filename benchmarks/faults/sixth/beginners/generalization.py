"""GEN: it learns, but not what was hoped for, or nobody can tell."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ... import fault
from ._parts import Coursework, Program, passengers, rolls, served


class Churn(pl.LightningModule):
    """Predicts which customers leave."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
        )

    def forward(self, x):
        return self.net(x).squeeze(1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.binary_cross_entropy_with_logits(self(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, y))
        self.log("val_acc", ((logits > 0) == (y > 0.5)).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@fault(
    "GEN101",
    "INP205",
    source="https://scikit-learn.org/stable/modules/generated/sklearn.model_selection.train_test_split"
    ".html (test_size, taken for what remains to train)",
)
def four_fifths_are_for_the_test(fixed: bool) -> Program:
    """train_test_split(x, y, test_size=0.8): one customer of five is there to learn from, and learned by heart."""
    g = rolls(21)
    x = torch.randn(1500, 30, generator=g)
    worth = x[:, :12] @ torch.randn(12, generator=g) / 2 + x[:, 12] * x[:, 13]
    y = (worth + 0.3 * torch.randn(1500, generator=g) > 0).float()
    x_train, x_val, y_train, y_val = train_test_split(
        x, y, test_size=0.2 if fixed else 0.8, random_state=0
    )
    return Program(
        Churn(),
        DataLoader(TensorDataset(x_train, y_train), batch_size=16, shuffle=True),
        DataLoader(TensorDataset(x_val, y_val), batch_size=256),
        trainer={"max_steps": 380},
    )


class Saved(Coursework):
    """One logit for who is saved."""

    def __init__(self, *, threshold: bool) -> None:
        super().__init__(lr=3e-3)
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
        self.threshold = threshold

    def loss_and_metric(self, batch):
        x, y = batch
        p = self.net(x)
        predicted = (p > 0.5).long().squeeze(1) if self.threshold else p.argmax(dim=1)
        return F.binary_cross_entropy(p, y.float().unsqueeze(1)), (predicted == y).float().mean()


@fault(
    "GEN106",
    source="https://www.codegenes.net/blog/binary-classificaton-always-return-zero-pytorch",
)
def argmax_of_the_only_column(fixed: bool) -> Program:
    """The accuracy takes the argmax of a single column, which is always zero, and never changes."""
    return Program(Saved(threshold=fixed), **served(*passengers()), trainer={"max_epochs": 6})
