"""CLS, in programs that came from elsewhere: how often each class is seen."""

from __future__ import annotations

import random

import torch
import torchmetrics
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from ... import fault
from ._parts import DataLoader, Program, Task, digits, fresh, loaders, mlp, right


class Churn(Task):
    """Which customers are about to leave, by numbers and by their contract."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.contract, self.region = nn.Embedding(4, 6), nn.Embedding(12, 6)
        self.net = mlp(6 + 12, 48, 48, 1)
        self.class_weight = {0: 1.0, 1: 20.0}
        self.fixed = fixed
        self.recall = torchmetrics.classification.BinaryRecall()
        self.auroc = torchmetrics.classification.BinaryAUROC()

    def forward(self, row):
        tables = [self.contract(row["contract"]), self.region(row["region"])]
        return self.net(torch.cat([row["numbers"], *tables], dim=1)).squeeze(1)

    def training_step(self, batch, batch_idx):
        y = batch["left"].float()
        weight = torch.where(y > 0, self.class_weight[1], self.class_weight[0])
        logits = self(batch)
        loss = F.binary_cross_entropy_with_logits(logits, y, weight if self.fixed else None)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch)
        self.recall(logits.sigmoid(), batch["left"])
        self.auroc(logits.sigmoid(), batch["left"])
        loss = F.binary_cross_entropy_with_logits(logits, batch["left"].float())
        self.log_dict({"val/loss": loss, "val/recall": self.recall, "val/auroc": self.auroc})


@fault(
    "CLS101",
    "CLS107",
    source="http://fmnt.info/blog/20201029_sample-weights.html and https://keras.io/api/models/model_training_apis/ (class_weight is an argument of fit)",
)
def weights_that_fit_was_given(fixed: bool) -> Program:
    """Keras took class_weight in fit; in the LightningModule it is an attribute that no loss looks at."""
    g = fresh(3)
    size = 4000
    numbers = torch.randn(size, 6, generator=g)
    contract = torch.randint(4, (size,), generator=g)
    region = torch.randint(12, (size,), generator=g)
    pull = 1.2 * numbers[:, 0] - 0.9 * numbers[:, 1] + 0.7 * numbers[:, 2] * (contract == 1)
    pull = pull + 0.8 * (contract == 0) + torch.randn(size, generator=g)
    left = (pull > pull.quantile(0.95)).long()
    rows = [
        {"numbers": n, "contract": c, "region": r, "left": y}
        for n, c, r, y in zip(numbers, contract, region, left, strict=True)
    ]
    return Program(
        Churn(fixed=fixed),
        DataLoader(rows[:3200], batch_size=64, shuffle=True),
        DataLoader(rows[3200:], batch_size=200),
        {"max_epochs": 4},
    )


class Shards(IterableDataset):
    """Reads record after record, and shuffles within a buffer, as tf.data does."""

    def __init__(self, records: list, buffer: int) -> None:
        self.records, self.buffer, self.random = records, buffer, random.Random(0)

    def __iter__(self):
        held = []
        for record in self.records:
            held.append(record)
            if len(held) >= self.buffer:
                yield held.pop(self.random.randrange(len(held)))
        self.random.shuffle(held)
        yield from held


class Reader(Task):
    """Reads digits out of a stream."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 10))

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}


@fault(
    "CLS103",
    "CLS102",
    "INP201",
    "LRN105",
    source="https://github.com/tensorflow/tensorflow/issues/36626 (Dataset.shuffle with a buffer, and data in order)",
)
def buffer_of_fifty_records(fixed: bool) -> Program:
    """The records were written folder by folder, and the shuffle buffer of the old pipeline holds fifty."""
    data = loaders(*digits(1797))
    records = sorted(data["train"].dataset, key=lambda record: int(record[1]))
    stream = Shards(records, buffer=len(records) if fixed else 50)
    return Program(Reader(), DataLoader(stream, batch_size=32), data["val"], {"max_epochs": 7})
