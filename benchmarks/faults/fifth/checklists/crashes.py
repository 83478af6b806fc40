"""ERR, out of the checklists: the run ends with an exception."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_recall

from ... import NEURALINT, fault
from ..._parts import Program
from ._parts import (
    TOBIN,
    Estimator,
    Learner,
    dice,
    feed,
    hits,
    news,
    photographs,
    standardized,
)


class TwoWays(Learner):
    """Reads headlines from both ends."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(nn.Embedding(300, 32, padding_idx=0), lr=3e-3)
        self.lstm = nn.LSTM(32, 40, batch_first=True, bidirectional=True)
        self.head = nn.Linear(80 if fixed else 40, 4)

    def forward(self, x):
        states, _ = self.lstm(self.net(x))
        return self.head(states.mean(1))


@fault(
    "ERR101",
    source=NEURALINT + "; https://heytensor.com/answers/lstm-output-shape-bidirectional.html",
)
def both_ways_into_a_layer_for_one(fixed: bool) -> Program:
    """The LSTM reads both ways, and the layer behind it expects the states of one."""
    train, val = feed(*news(1600))
    return Program(TwoWays(fixed=fixed), train, val, {"max_epochs": 5})


class Seasons(Estimator):
    """Visitors of a museum, from the month, the day of the week, and the weather."""

    def __init__(self, *, fixed: bool) -> None:
        net = nn.Sequential(nn.Linear(8 + 4 + 2, 48), nn.ReLU(), nn.Linear(48, 1))
        super().__init__(net, lr=5e-3)
        self.month, self.day = nn.Embedding(12, 8), nn.Embedding(7, 4)
        self.first = 1 if fixed else 0

    def forward(self, x):
        month, day = x[:, 0].long() - self.first, x[:, 1].long()
        return self.net(torch.cat([self.month(month), self.day(day), x[:, 2:]], dim=1))


@fault(
    "ERR102",
    source="https://geek-docs.com/pytorch/pytorch-questions/340_pytorch_pytorch_embedding_index_out_of_range"
    ".html",
)
def december_is_the_twelfth(fixed: bool) -> Program:
    """Months go from one to twelve, the rows of their embedding from nought to eleven."""
    g = dice(41)
    month = torch.randint(1, 13, (2000,), generator=g)
    day = torch.randint(7, (2000,), generator=g)
    weather = torch.randn(2000, 2, generator=g)
    y = (
        torch.sin(month / 2)
        + (day > 4)
        + 0.4 * weather[:, 0]
        + 0.2 * torch.randn(2000, generator=g)
    )
    x = torch.cat([month[:, None].float(), day[:, None].float(), weather], dim=1)
    train, val = feed(x, standardized(y[:, None]), size=40)
    return Program(Seasons(fixed=fixed), train, val, {"max_epochs": 5})


class Places(Learner):
    """Which of two photographs a patch is from."""

    def __init__(self) -> None:
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 2),
        )
        super().__init__(net, lr=2e-3)


@fault(
    "ERR103",
    source="the error of conv2d (Input type (unsigned char) and bias type (float) should be the same); "
    + TOBIN,
)
def photographs_remain_bytes(fixed: bool) -> Program:
    """The photographs go from the array into the first convolution as they were read, as bytes."""
    x = photographs(1000)
    train, val = feed(x.float() / 127.5 - 1 if fixed else x, torch.arange(1000) % 2, size=25)
    return Program(Places(), train, val, {"max_epochs": 5})


class ByClass(pl.LightningModule):
    """Logs how many of each class are found."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(300, 48, mode="mean")
        self.head = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 4))
        self.fixed = fixed

    def forward(self, ids):
        return self.head(self.words(ids))

    def training_step(self, batch, batch_idx):
        ids, y = batch
        logits = self(ids)
        self.log("train/acc", hits(logits, y), on_step=False, on_epoch=True)
        return F.cross_entropy(logits, y)

    def validation_step(self, batch, batch_idx):
        ids, y = batch
        logits = self(ids)
        self.log("val/loss", F.cross_entropy(logits, y))
        recall = multiclass_recall(logits, y, num_classes=4, average="none")
        if self.fixed:
            self.log_dict({f"val/recall_{k}": r for k, r in enumerate(recall)})
        else:
            self.log("val/recall", recall)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    *(f"ERR{number}" for number in (118, 119, 104, 105, 109, 111)),
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/7370; "
    "https://lightning.ai/docs/pytorch/stable/extensions/logging.html",
)
def recall_of_each_logged_as_one(fixed: bool) -> Program:
    """self.log gets the recall of each class at once, four numbers, and takes one."""
    train, val = feed(*news(1800), size=60)
    return Program(ByClass(fixed=fixed), train, val, {"max_epochs": 6})
