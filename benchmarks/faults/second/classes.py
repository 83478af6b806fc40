"""CLS, a second time: what the labels are, how many there are, and in which order they come."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, SequentialSampler, Subset, TensorDataset

from .. import HUMBATOVA, fault
from .._parts import Program, Supervised, loaders, mlp, split, standardized
from ..first._parts import accuracy, gestures
from ._parts import patches


class FraudModel(pl.LightningModule):
    """Which payment is a fraud?"""

    def __init__(self, pos_weight: float) -> None:
        super().__init__()
        self.net = mlp(12, 48, 24, 1)
        self.criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(pos_weight))

    def forward(self, x):
        return self.net(x).squeeze(1)

    def training_step(self, batch, batch_idx):
        x, fraud = batch
        loss = self.criterion(self(x), fraud)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, fraud = batch
        flagged = self(x) > 0
        self.log("val_loss", self.criterion(self(x), fraud))
        self.log("val_recall", flagged[fraud > 0].float().mean())
        self.log("val_alarms", flagged[fraud == 0].float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def payments(size: int, rate: float):
    """Payments, and which of them are frauds."""
    fraud = (torch.arange(size) % round(1 / rate) == 0).float()
    x = torch.randn(size, 12)
    x[:, :4] += 0.9 * fraud[:, None]
    return standardized(x), fraud


@fault(
    "CLS101",
    "CLS107",
    "OUT101",
    source="https://www.tensorflow.org/tutorials/structured_data/imbalanced_data",
)
def fraud_is_never_flagged(fixed: bool) -> Program:
    """One payment in forty is a fraud, all weigh the same, and not one fraud is ever flagged."""
    train, val = split(*payments(16000, 1 / 40))
    return Program(
        FraudModel(39.0 if fixed else 1.0),
        DataLoader(train, 64, shuffle=True),
        DataLoader(val, len(val)),
        trainer={"max_steps": 280, "val_check_interval": 90},
    )


class Weighted(Supervised):
    """Says of each class how often it is recognized."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, y = batch
        found = self(x).argmax(1)
        for k in range(4):
            self.log(f"recall_{k}", (found[y == k] == k).float().mean())


def unequal_gestures(size: int = 3200):
    """Movements, the last two of them four times rarer than the others."""
    x, y = gestures(size)
    keep = (y < 2) | (torch.rand(size) < 0.25)
    return x[keep], y[keep]


@fault(
    "CLS101",
    "CLS107",
    "OUT101",
    source="https://discuss.pytorch.org/t/weights-in-weighted-loss-nn-crossentropyloss/69514; "
    + HUMBATOVA,
)
def weights_the_wrong_way_up(fixed: bool) -> Program:
    """The weights of the classes are their frequencies, where they were to be one over them."""
    train, val = split(*unequal_gestures())
    count = train.tensors[1].bincount().float() ** 2
    weight = 1 / count.sqrt() if fixed else count
    loss = nn.CrossEntropyLoss(weight=weight / weight.mean())
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 48), nn.ReLU(), nn.Linear(48, 4))
    return Program(
        Weighted(net, loss, lr=1e-3),
        DataLoader(train, 32, shuffle=True),
        DataLoader(val, len(val)),
        trainer={"max_epochs": 5},
    )


class Folders(pl.LightningDataModule):
    """Images as ImageFolder reads them: one folder of a class after the other."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed

    def setup(self, stage):
        x, y = patches(1500)
        order = y.argsort(stable=True)
        dataset = TensorDataset(x[order], y[order])
        index = torch.randperm(1500)
        self.train = Subset(dataset, index[:1200].sort().values.tolist())
        self.val = Subset(dataset, index[1200:].sort().values.tolist())

    def train_dataloader(self):
        if self.fixed:
            return DataLoader(self.train, batch_size=32, shuffle=True)
        return DataLoader(self.train, batch_size=32, sampler=SequentialSampler(self.train))

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=60)


def small_cnn(channels: int = 3, classes: int = 6) -> nn.Sequential:
    """Two convolutions and a hidden layer."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(288, 48),
        nn.ReLU(),
        nn.Linear(48, classes),
    )


@fault(
    "CLS103",
    "INP201",
    "CLS102",
    source="https://discuss.pytorch.org/t/imagefolder-and-shuffle-in-dataloader/28735; "
    + HUMBATOVA,
)
def folder_after_folder(fixed: bool) -> Program:
    """The indices of a random split are sorted again, and read by a sequential sampler, class by class."""
    module = Supervised(small_cnn(), lr=1e-3)
    return Program(module, Folders(fixed), trainer={"max_epochs": 6})


class Findings(pl.LightningModule):
    """Which of five findings does an X-ray show? Some the report leaves open."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(20, 64, 5), fixed

    def training_step(self, batch, batch_idx):
        x, found, _ = batch
        logits = self.net(x)
        if self.fixed:
            known = found >= 0
            loss = F.binary_cross_entropy_with_logits(logits[known], found[known])
        else:
            loss = F.binary_cross_entropy_with_logits(logits, found)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, _, truth = batch
        self.log("val_acc", ((self.net(x) > 0) == (truth > 0)).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "CLS105",
    "LOS102",
    "LOS109",
    "LOS108",
    source="https://arxiv.org/abs/1901.07031 (CheXpert: -1 marks what the report leaves open)",
)
def uncertain_is_minus_one(fixed: bool) -> Program:
    """Findings that a report leaves open are marked -1, and a binary cross entropy takes them for labels."""
    x = torch.randn(2000, 20)
    truth = (x @ torch.randn(20, 5) / 2 + 0.5 * torch.randn(2000, 5) + 0.5 > 0).float()
    found = torch.where(torch.rand(2000, 5) < 0.35, -1.0, truth)
    data = loaders(*split(x, found, truth))
    return Program(Findings(fixed), **data, trainer={"max_epochs": 6})


class WordTagger(pl.LightningModule):
    """Gives every word of a sentence one of six tags."""

    def __init__(self, ignore: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 24, padding_idx=0)
        self.rnn = nn.LSTM(24, 32, batch_first=True, bidirectional=True)
        self.out, self.ignore = nn.Linear(64, 7), ignore

    def forward(self, words):
        return self.out(self.rnn(self.embed(words))[0])

    def training_step(self, batch, batch_idx):
        logits, tags = self(batch["words"]), batch["tags"]
        loss = F.cross_entropy(logits.transpose(1, 2), tags, ignore_index=self.ignore)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits, tags = self(batch["words"]), batch["tags"]
        real = batch["words"] > 0
        self.log("val_acc_words", accuracy(logits[real], tags[real]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=8e-3)


@fault(
    "CLS105",
    "INP206",
    "CLS101",
    source="https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html (ignore_index)",
)
def padding_is_a_tag(fixed: bool) -> Program:
    """Four words in five are padding, whose tag 0 counts in the loss like any other."""
    size, longest = 1200, 40
    length = torch.randint(5, 12, (size, 1))
    words = torch.randint(1, 60, (size, longest))
    before = torch.cat([torch.zeros(size, 1, dtype=torch.long), words[:, :-1]], dim=1)
    tags = 1 + (words + (before % 2)) % 6
    inside = torch.arange(longest) < length
    words, tags = (torch.where(inside, one, 0) for one in (words, tags))
    if fixed:
        tags = torch.where(inside, tags, -100)
        longest = int(length.max())  # as a collate function would cut it
        words, tags = words[:, :longest], tags[:, :longest]
    samples = [{"words": a, "tags": b} for a, b in zip(words, tags, strict=True)]
    return Program(
        WordTagger(-100),
        DataLoader(samples[:960], 32, shuffle=True),
        DataLoader(samples[960:], 80),
        trainer={"max_epochs": 5},
    )


@fault(
    "CLS104",
    "CLS106",
    "GEN105",
    "INP202",
    source="https://stackoverflow.com/questions/43162506 (split of a sorted table without shuffling)",
)
def last_kind_never_seen(fixed: bool) -> Program:
    """A table sorted by its class is cut at eighty per cent: the last class is in validation alone."""
    from sklearn.datasets import make_blobs

    x, y = make_blobs(1800, 13, centers=4, cluster_std=7.0, random_state=1)
    x, y = standardized(x), torch.as_tensor(y)
    order = torch.randperm(1800) if fixed else y.argsort(stable=True)
    x, y = x[order], y[order]
    train, val = TensorDataset(x[:1350], y[:1350]), TensorDataset(x[1350:], y[1350:])
    module = Supervised(mlp(13, 32, 4))
    return Program(module, **loaders(train, val), trainer={"max_epochs": 6})


@fault(
    "CLS106",
    "INP202",
    "CLS101",
    "GEN105",
    source="https://stats.stackexchange.com/questions/258166; https://scikit-learn.org/stable/common_pitfalls.html",
)
def frauds_appended_at_the_end(fixed: bool) -> Program:
    """More frauds were collected later and appended to the file, whose end is what validates."""
    x, fraud = payments(4000, 1 / 4)
    late = torch.rand(4000) ** torch.where(fraud > 0, 0.12, 1.0)
    order = torch.randperm(4000) if fixed else late.argsort()
    x, fraud = x[order], fraud[order]
    train, val = TensorDataset(x[:3000], fraud[:3000]), TensorDataset(x[3000:], fraud[3000:])
    return Program(
        FraudModel(1.0),
        DataLoader(train, 64, shuffle=True),
        DataLoader(val, len(val)),
        trainer={"max_epochs": 4},
    )
