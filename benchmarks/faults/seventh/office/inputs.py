"""INP, in applied work: what the rows and windows hold, and how they were put together."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import (
    DataLoader,
    Dataset,
    Model,
    Program,
    TensorDataset,
    explained,
    feeders,
    mlp,
    parted,
    rng,
    scored,
    sold_by_the_hour,
    standard,
    tickets,
)


class Dispatcher(Model):
    """Sends a ticket to one of four teams."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.words = nn.Embedding(260, 32, padding_idx=0)
        self.reader = nn.GRU(32, 48, batch_first=True, bidirectional=True)
        self.team = nn.Linear(96, 4)

    def shared(self, batch):
        text, team = batch
        states, _ = self.reader(self.words(text))
        there = (text > 0).unsqueeze(2)
        mean = (states * there).sum(1) / there.sum(1).clamp(min=1)
        logits = self.team(mean)
        return F.cross_entropy(logits, team), {"acc": scored(logits, team)}


@fault(
    "INP206",
    "LOS104",
    "INP101",
    "GEN105",
    "GEN102",
    source="https://www.tensorflow.org/api_docs/python/tf/keras/utils/pad_sequences (padding and truncating, each 'pre' or 'post')",
)
def last_words_are_padding(fixed: bool) -> Program:
    """Tickets are padded at the end to 40 words, and then cut to the last 16: most keep nothing but padding."""
    texts, team = tickets(4000, seed=2)
    padded = torch.stack([F.pad(text, (0, 40 - len(text))) for text in texts])
    text = padded[:, :16] if fixed else padded[:, -16:]
    return Program(Dispatcher(), **feeders(*parted(text, team)), trainer={"max_epochs": 3})


class Windows(Dataset):
    """Two days of a series, and the six hours that follow."""

    def __init__(self, series: torch.Tensor, *, every_hour: bool) -> None:
        self.series, self.every_hour = series, every_hour

    def __len__(self) -> int:
        return len(self.series) - 54

    def __getitem__(self, i: int):
        start = i if self.every_hour else i // 24 * 24
        window = self.series[start : start + 54]
        return {"past": window[:48], "next": window[48:]}


class NextHours(Model):
    """Forecasts six hours."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.net = mlp(48, 64, 64, 6)

    def shared(self, batch):
        out = self.net(batch["past"])
        return F.mse_loss(out, batch["next"]), {"r2": explained(out, batch["next"])}


@fault(
    "INP106",
    "GEN101",
    "INP102",
    "GEN105",
    source="common in code reviews (the index is rounded to the stride, the length of the data set is not divided by it)",
)
def each_window_comes_a_day_long(fixed: bool) -> Program:
    """Windows begin at midnight, but the data set counts hours: the same window comes 24 times in each epoch."""
    series = sold_by_the_hour(2000, seed=1)
    train = Windows(series[:1600], every_hour=fixed)
    val = Windows(series[1600:], every_hour=True)
    return Program(NextHours(), **feeders(train, val, 32), trainer={"max_epochs": 12})


class Bearing(Model):
    """How worn a bearing is, by a second of its vibration."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(
            nn.Conv1d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(16, 32, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
            nn.Flatten(), nn.Linear(32, 3),
        )  # fmt: skip

    def shared(self, batch):
        wave, wear = batch
        logits = self.net(wave)
        return F.cross_entropy(logits, wear), {"acc": scored(logits, wear)}


@fault(
    "INP204",
    "LOS104",
    "GEN102",
    "OUT101",
    source="common in code reviews (z-score of each window, where the level of vibration is what tells, as in ISO 10816)",
)
def each_vibration_of_deviation_one(fixed: bool) -> Program:
    """Each second of vibration is standardized by itself, and wear is nothing but its strength."""
    g = rng(6)
    wear = torch.randint(3, (1500,), generator=g)
    strength = torch.tensor([0.5, 1.0, 2.0])[wear] * (0.9 + 0.2 * torch.rand(1500, generator=g))
    t = torch.arange(64) * 0.5 + 6.28 * torch.rand(1500, 1, generator=g)
    wave = strength[:, None] * (torch.sin(t) + torch.randn(1500, 64, generator=g))
    if fixed:
        wave = (wave - wave.mean()) / wave.std()
    else:
        wave = (wave - wave.mean(1, keepdim=True)) / wave.std(1, keepdim=True)
    data = feeders(*parted(wave[:, None], wear))
    return Program(Bearing(), **data, trainer={"max_epochs": 8})


class Underwriter(Model):
    """Which of three premiums a firm gets."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.net = mlp(6, 64, 64, 3)

    def shared(self, batch):
        books, premium = batch
        logits = self.net(books)
        return F.cross_entropy(logits, premium), {"acc": scored(logits, premium)}


@fault(
    "INP103",
    "GRD101",
    "GEN102",
    "LRN105",
    source="https://developers.google.com/machine-learning/crash-course/numerical-data/normalization (log scaling for power laws, not the z-score)",
)
def turnover_with_a_tail_of_millions(fixed: bool) -> Program:
    """Amounts from a heavy tail are standardized without a logarithm: nearly all alike, and a few at sixty."""
    g = rng(8)
    size = 2400
    logs = torch.randn(size, 6, generator=g)
    risk = logs[:, 0] - logs[:, 1] + 0.8 * logs[:, 2] * logs[:, 3]
    risk = risk + 0.2 * torch.randn(size, generator=g)
    premium = (risk > risk.quantile(0.33)).long() + (risk > risk.quantile(0.67)).long()
    amounts = 20 * torch.exp(2.8 * logs)
    books = standard(torch.log(amounts) if fixed else amounts)
    return Program(Underwriter(), **feeders(*parted(books, premium)), trainer={"max_epochs": 12})


class Archive(Model):
    """Files a ticket under one of six topics."""

    def __init__(self) -> None:
        super().__init__(lr=3e-3)
        self.words = nn.EmbeddingBag(300, 32, padding_idx=0)
        self.net = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 6))

    def shared(self, batch):
        text, topic = batch
        logits = self.net(self.words(text))
        found = scored(logits, topic)
        if self.training:
            return F.cross_entropy(logits, topic), {"acc": found}
        recalls = [(logits.argmax(1) == c)[topic == c].float().mean() for c in range(6)]
        return F.cross_entropy(logits, topic), {"acc": found, "worst_recall": min(recalls)}


@fault(
    "INP205",
    "CLS101",
    "CLS107",
    "CLS106",
    "LOS109",
    source="common in code reviews (a new topic is trained with the four tickets that opened it)",
)
def new_topics_of_four_tickets(fixed: bool) -> Program:
    """Two of six topics are new and have four tickets each to train on; the fix waits for more of them."""
    texts, topic = tickets(3000, topics=6, seed=9)
    text = torch.stack([F.pad(text, (0, 28 - len(text))) for text in texts])
    train, val = torch.arange(2400), torch.arange(2400, 3000)
    if not fixed:
        new = [(topic[train] == c).nonzero()[4:, 0] for c in (2, 5)]
        kept = torch.ones(2400, dtype=torch.bool)
        kept[torch.cat(new)] = False
        train = train[kept]
    sets = [TensorDataset(text[rows], topic[rows]) for rows in (train, val)]
    data = feeders(*sets)
    data["val"] = DataLoader(sets[1], batch_size=600)
    return Program(Archive(), **data, trainer={"max_steps": 450})
