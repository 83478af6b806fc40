"""LRN, after reports: rates copied from elsewhere."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from ... import fault
from ..._parts import Program, digits
from ._parts import (
    Classify,
    Task,
    accuracy,
    conv,
    customers,
    cut,
    loaders,
    mlp,
    rng,
    shuffled,
    texts,
)


class Bert(nn.Module):
    """A small encoder of sentences: token 0 is put in front, and what becomes of it is the sentence."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = (
            nn.Embedding(101, width),
            nn.Parameter(0.02 * torch.randn(17, width)),
        )
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 3)

    def forward(self, ids):
        ids = F.pad(ids, (1, 0))
        return self.layers(self.words(ids) + self.places)[:, 0]


def pretrained_bert() -> Bert:
    """The encoder, after it has learned to tell eight topics of other texts."""
    bert, head = Bert(), nn.Linear(32, 8)
    ids, y = texts(1600, topics=8, seed=51)
    optimizer = torch.optim.Adam([*bert.parameters(), *head.parameters()], lr=1e-3)
    g = rng(52)
    for _ in range(80):
        at = torch.randint(1600, (32,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(head(bert(ids[at])), y[at]).backward()
        optimizer.step()
    return bert


class FineTune(Task):
    """A new head upon a pretrained encoder."""

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.bert, self.classifier = pretrained_bert(), nn.Linear(32, 4)

    def step(self, batch):
        ids, y = batch
        logits = self.classifier(self.bert(ids))
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


@fault(
    "LRN101",
    "OUT101",
    "LOS104",
    source="https://github.com/huggingface/transformers/issues/735 (the same output for all inputs; "
    "0.01 to 5e-5 worked for me)",
)
def encoder_fine_tuned_at_a_twentieth(fixed: bool) -> Program:
    """A pretrained transformer is fine-tuned at 0.05: after some steps all sentences are the same to it."""
    ids, y = texts(1500, seed=53)
    module = FineTune(5e-4 if fixed else 5e-2)
    return Program(module, **loaders(*cut(ids, y)), trainer={"max_epochs": 2})


class Handwriting(Task):
    """A pretrained body, and a head that is new."""

    def __init__(self, body: nn.Module, *, fixed: bool) -> None:
        super().__init__(4e-5)
        self.body, self.head, self.fixed = body, nn.Linear(128, 5), fixed
        self.val_accuracy = MulticlassAccuracy(5, average="micro")

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.head(self.body(x)), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.head(self.body(x))
        self.val_accuracy(logits, y)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", self.val_accuracy, on_epoch=True)

    def configure_optimizers(self):
        head = 2e-3 if self.fixed else self.lr
        groups = [
            {"params": self.body.parameters(), "lr": self.lr},
            {"params": self.head.parameters(), "lr": head},
        ]
        return torch.optim.AdamW(groups, weight_decay=0.01)


def pretrained_body(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """Convolutions that have learned to tell the digits from 0 to 4."""
    body = nn.Sequential(conv(1, 16, nn.MaxPool2d(2)), conv(16, 32, nn.MaxPool2d(2)), nn.Flatten())
    head = nn.Linear(128, 5)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=2e-3)
    g = rng(54)
    for _ in range(100):
        at = torch.randint(len(x), (32,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(head(body(x[at])), y[at]).backward()
        optimizer.step()
    return body


@fault(
    "LRN102",
    "GEN103",
    source="https://github.com/ThilinaRajapakse/simpletransformers/issues/234 (4e-5 for the encoder, "
    "1e-3 for the layer that classifies)",
)
def new_head_at_the_rate_of_its_body(fixed: bool) -> Program:
    """The rate is that of fine-tuning, 4e-5, for the new head, too: it has hardly moved when the run ends."""
    x, y = shuffled(*digits(1797, image=True))
    low = y < 5
    module = Handwriting(pretrained_body(x[low], y[low]), fixed=fixed)
    data = loaders(*cut(x[~low], y[~low] - 5))
    return Program(module, **data, trainer={"max_epochs": 5})


class Accumulate(pl.LightningModule):
    """Gradients of eight small batches to a step, by hand."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.every, self.fixed = mlp(8, 64, 64, 1), 8, fixed

    def loss(self, batch):
        x, y = batch
        return F.mse_loss(self.net(x).squeeze(1), y)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.log("train/loss", loss)
        self.manual_backward(loss / self.every if self.fixed else loss)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()
            optimizer.zero_grad()

    def validation_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("val/loss", loss)
        self.log("val/r2", 1 - loss / batch[1].var())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


@fault(
    "LRN101",
    "LOS108",
    "GRD101",
    "LRN105",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/14527 (accumulated by hand, "
    "training does not converge; with accumulate_grad_batches it does)",
)
def accumulated_by_hand_and_not_divided(fixed: bool) -> Program:
    """Eight batches are added up by hand and never divided by eight, as the Trainer would."""
    data = loaders(*cut(*customers()), 4)
    return Program(Accumulate(fixed=fixed), **data, trainer={"max_epochs": 4})


class HalvedEachEpoch(Classify):
    """The rate is halved at each epoch, as in the scripts of a library of forecasts."""

    def __init__(self, net: nn.Module, gamma: float) -> None:
        super().__init__(net, lr=3e-3)
        self.gamma = gamma

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.gamma)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


@fault(
    "LRN104",
    "LRN103",
    "LRN102",
    "GEN103",
    source="https://github.com/thuml/Time-Series-Library/issues/315 (updating learning rate to "
    "1.78e-20 after fifty epochs)",
)
def halved_at_each_of_forty_epochs(fixed: bool) -> Program:
    """Epochs are short, and the rate is halved after each: from the tenth on it is a thousandth."""
    x, y = shuffled(*digits(480, image=True))
    net = nn.Sequential(nn.Flatten(), mlp(64, 48, 48, 10))
    module = HalvedEachEpoch(net, 0.95 if fixed else 0.5)
    return Program(module, **loaders(*cut(x, y), 64), trainer={"max_epochs": 40})
