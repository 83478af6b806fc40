"""GRD: the gradient is lost on its way, or there is too much of it."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ... import fault
from ._parts import Program, accuracy, convolutional, drawings, rolls, served


class ByHand(pl.LightningModule):
    """The loop of an assignment, moved into a training step with manual optimization."""

    def __init__(self, *, each_time: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = convolutional(3, 3)
        self.each_time = each_time

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if self.each_time or batch_idx == 0:
            optimizer.zero_grad()
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.manual_backward(loss)
        optimizer.step()
        self.log("train_loss", loss)
        self.log("train_acc", accuracy(logits, y))

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", accuracy(logits, y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


@fault(
    "GRD106",
    "LRN101",
    "LOS108",
    source="https://flisks.com/python-why-do-we-need-to-call-zero-grad-in-pytorch (Stack Overflow)",
)
def zeroed_with_the_first_batch_only(fixed: bool) -> Program:
    """zero_grad stands where an epoch begins: every step is taken along the sum of all before it."""
    image, kind, _ = drawings(1200)
    data = served((image - 0.5) / 0.25, kind)
    return Program(ByHand(each_time=fixed), **data, trainer={"max_epochs": 10})


class Complaints(pl.LightningModule):
    """Reads complaints of any length one by one, and says which are urgent."""

    def __init__(self, *, stacked: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(12, 32, batch_first=True)
        self.fc = nn.Linear(32, 1)
        self.stacked = stacked

    def forward(self, texts):
        scores = [self.fc(self.gru(text[None])[1][-1]).squeeze() for text in texts]
        return torch.stack(scores) if self.stacked else torch.tensor(scores, requires_grad=True)

    def training_step(self, batch, batch_idx):
        texts, urgent = batch
        loss = F.binary_cross_entropy_with_logits(self(texts), urgent)
        self.log("train_loss", loss, batch_size=len(texts))
        return loss

    def validation_step(self, batch, batch_idx):
        texts, urgent = batch
        logits = self(texts)
        loss = F.binary_cross_entropy_with_logits(logits, urgent)
        right = ((logits > 0) == (urgent > 0.5)).float().mean()
        self.log_dict({"val_loss": loss, "val_acc": right}, batch_size=len(texts))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def _as_lists(samples):
    texts, urgent = zip(*samples, strict=True)
    return list(texts), torch.tensor(urgent)


@fault(
    "GRD103",
    "LOS107",
    "UPD102",
    "LOS104",
    source="https://github.com/lululxvi/deepxde/pull/1318 (a list of tensors becomes a tensor, and loses "
    "where it came from)",
)
def scores_put_into_a_new_tensor(fixed: bool) -> Program:
    """The scores of a batch are collected in a list, and torch.tensor makes something new of it, without a past."""
    g = rolls(31)
    samples = []
    for i in range(640):
        text = 0.6 * torch.randn(int(torch.randint(5, 11, (), generator=g)), 12, generator=g)
        text[:, i % 2] += 0.5
        samples.append((text, float(i % 2)))
    train = DataLoader(samples[:512], batch_size=16, shuffle=True, collate_fn=_as_lists)
    val = DataLoader(samples[512:], batch_size=32, collate_fn=_as_lists)
    return Program(Complaints(stacked=fixed), train, val, trainer={"max_epochs": 4})
