"""CLS, as people meet it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import DataLoader, Model, Program, accuracy, cut, digits, mlp, reviews, rng


class Engine(Model):
    """Will the engine fail within a day? From a window of three sensors."""

    def __init__(self, weight: float) -> None:
        super().__init__(3e-3)
        self.net = nn.Sequential(
            nn.Conv1d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(16, 16, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
            nn.Linear(16, 1),
        )  # fmt: skip
        self.register_buffer("weight", torch.tensor(weight))

    def measure(self, batch):
        logits, fails = self.net(batch["window"]).squeeze(1), batch["fails"]
        loss = F.binary_cross_entropy_with_logits(logits, fails, pos_weight=self.weight)
        return loss, {"acc": ((logits > 0) == (fails > 0)).float().mean()}

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        alarm, fails = self.net(batch["window"]).squeeze(1) > 0, batch["fails"] > 0
        recalls = alarm[fails].float().mean(), (~alarm[~fails]).float().mean()
        self.log("val_balanced", sum(recalls) / 2)


class Windows(torch.utils.data.Dataset):
    """Windows with their label, in dicts."""

    def __init__(self, tensors) -> None:
        self.window, self.fails = tensors

    def __len__(self) -> int:
        return len(self.fails)

    def __getitem__(self, i):
        return {"window": self.window[i], "fails": self.fails[i]}


@fault(
    "CLS101",
    "CLS107",
    "OUT101",
    "LOS104",
    source="common on forums: 97 percent right, and never an alarm",
)
def engines_that_fail_one_time_in_forty(fixed: bool) -> Program:
    """One window in forty comes before a failure: without pos_weight, 'never' is right to 97.5
    percent.
    """
    g = rng(3)
    fails = (torch.arange(6000) % 40 == 0).float()
    t = torch.arange(32)
    phase = 2 * math.pi * torch.rand(6000, 3, 1, generator=g)
    window = torch.randn(6000, 3, 32, generator=g)
    window += (0.2 + 0.8 * fails)[:, None, None] * torch.sin(0.9 * t + phase)
    train, val = cut(window, fails)
    return Program(
        Engine(39.0 if fixed else 1.0),
        DataLoader(Windows(train.tensors), batch_size=64, shuffle=True, drop_last=True),
        DataLoader(Windows(val.tensors), batch_size=1200),
        {"max_epochs": 8},
    )


class Sentiment(Model):
    """The mean of what the words say."""

    def __init__(self) -> None:
        super().__init__(5e-3)
        self.words = nn.EmbeddingBag(100, 24, mode="mean", padding_idx=0)
        self.head = mlp(24, 24, 2)

    def measure(self, batch):
        ids, y = batch
        logits = self.head(self.words(ids))
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}


@fault(
    "CLS103",
    "INP201",
    "CLS102",
    source="common on forums: all positive reviews are read first, then all negative ones",
)
def all_the_praise_and_then_all_the_blame(fixed: bool) -> Program:
    """Reviews are read from pos/ and then from neg/, and the loader was made without
    shuffle=True.
    """
    train, val = cut(*reviews())
    ids, y = train.tensors
    by_folder = torch.argsort(y, descending=True, stable=True)
    train = torch.utils.data.TensorDataset(ids[by_folder], y[by_folder])
    return Program(
        Sentiment(),
        DataLoader(train, batch_size=32, shuffle=fixed),
        DataLoader(val, batch_size=240),
        {"max_epochs": 5},
    )


class Digits(Model):
    """Digits, whose labels are words."""

    def __init__(self) -> None:
        super().__init__(2e-3)
        self.net = mlp(64, 64, 10)

    def measure(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}


@fault(
    "INP204",
    "CLS105",
    "LOS104",
    "GEN102",
    source="common in notebooks: LabelEncoder().fit_transform where it should be transform",
)
def label_encoder_fitted_to_each_batch(fixed: bool) -> Program:
    """The collate function fits the LabelEncoder anew: a batch without a one calls every two a
    one.
    """
    names = np.array(
        ["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    )
    x, y = digits(1797)
    known = np.unique(names)

    def collate(samples):
        labels = [names[int(label)] for _, label in samples]
        classes = known if fixed else np.unique(labels)
        encoded = torch.as_tensor(np.searchsorted(classes, labels))
        return torch.stack([image for image, _ in samples]), encoded

    train, val = cut(x, y)
    return Program(
        Digits(),
        DataLoader(train, batch_size=16, shuffle=True, drop_last=True, collate_fn=collate),
        DataLoader(val, batch_size=180, collate_fn=collate),
        {"max_epochs": 8},
    )


class Moods(Model):
    """Calm, glad, sad or angry? A GRU reads what was written."""

    def __init__(self, ignored: int) -> None:
        super().__init__(4e-3)
        self.words = nn.Embedding(80, 24)
        self.gru = nn.GRU(24, 32, batch_first=True)
        self.head, self.ignored = nn.Linear(32, 4), ignored

    def measure(self, batch):
        ids, mood = batch["ids"], batch["mood"]
        logits = self.head(self.gru(self.words(ids))[0].amax(1))
        loss = F.cross_entropy(logits, mood, ignore_index=self.ignored)
        return loss, {"acc": accuracy(logits, mood)}


class Messages(torch.utils.data.Dataset):
    """Messages with their mood, in dicts."""

    def __init__(self, tensors) -> None:
        self.ids, self.mood = tensors

    def __len__(self) -> int:
        return len(self.mood)

    def __getitem__(self, i):
        return {"ids": self.ids[i], "mood": self.mood[i]}


@fault(
    "CLS107",
    "CLS104",
    "LOS109",
    "LOS102",
    source="common in code reviews: ignore_index=0 comes along from a tagger, where 0 was the "
    "padding",
)
def calm_has_the_number_to_be_ignored(fixed: bool) -> Program:
    """The loss was copied from a tagger with its ignore_index=0; here 0 is a class, and is
    never learned.
    """
    g = rng(17)
    mood = torch.randint(4, (2400,), generator=g)
    ids = torch.randint(40, 80, (2400, 12), generator=g)
    for place in torch.rand(2400, 12, generator=g).argsort(1)[:, :2].T:
        words = torch.randint(10, (2400,), generator=g) + 10 * mood
        ids[torch.arange(2400), place] = words
    train, val = cut(ids, mood)
    return Program(
        Moods(-100 if fixed else 0),
        DataLoader(Messages(train.tensors), batch_size=32, shuffle=True, drop_last=True),
        DataLoader(Messages(val.tensors), batch_size=480),
        {"max_epochs": 6},
    )
