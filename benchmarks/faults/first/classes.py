"""CLS: what the labels are, how many there are, and in which order they come."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset

from .. import HUMBATOVA, fault
from .._parts import Program, Supervised, blobs, digit_loaders, loaders, mlp, split, table
from ._parts import Learner, gestures, reviews


def ear(classes: int) -> nn.Sequential:
    """A small convolutional net for one second of sound."""
    return nn.Sequential(
        nn.Conv1d(1, 16, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.Conv1d(16, 24, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(24, classes),
    )


class KeywordSpotter(Supervised):
    """Says also how many of the keywords it hears."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, y = batch
        heard = (self(x).argmax(1) == 1) & (y == 1)
        self.log(
            "recall", heard.sum() / (y == 1).sum().clamp_min(1), batch_size=int((y == 1).sum())
        )


@fault(
    "CLS101",
    "CLS107",
    "OUT101",
    source="https://arxiv.org/abs/1804.03209 (Speech commands: the unknown is far more frequent)",
)
def keyword_once_in_thirty(fixed: bool) -> Program:
    """One second in thirty has the keyword in it, and nobody weighs or samples it up."""
    y = (torch.arange(4500) % 30 == 0).long()
    tone = torch.sin(0.5 * torch.arange(64) + 6.3 * torch.rand(4500, 1))
    x = (torch.randn(4500, 64) + 0.8 * tone * y[:, None])[:, None]
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 29.0]) if fixed else None)
    data = loaders(*split(x, y), batch_size=64)
    return Program(KeywordSpotter(ear(2), loss, lr=4e-3), **data, trainer={"max_epochs": 5})


class Stream(IterableDataset):
    """Reads samples from a file and shuffles what fits into its buffer."""

    def __init__(self, x, y, buffer: int) -> None:
        self.x, self.y, self.buffer = x, y, buffer

    def __iter__(self):
        held = []
        for sample in zip(self.x, self.y, strict=True):
            held.append(sample)
            if len(held) >= self.buffer:
                yield held.pop(int(torch.randint(len(held), ())))
        while held:
            yield held.pop(int(torch.randint(len(held), ())))


def bag_of_words(classes: int = 4) -> nn.Sequential:
    """Averages the vectors of the words of a sentence."""
    return nn.Sequential(nn.EmbeddingBag(80, 24), nn.ReLU(), nn.Linear(24, classes))


@fault(
    "CLS103",
    "CLS102",
    "INP201",
    source="https://huggingface.co/docs/datasets/stream#shuffle (the size of the buffer)",
)
def shuffle_buffer_of_sixteen(fixed: bool) -> Program:
    """A file sorted by class is streamed through a shuffle buffer that holds sixteen samples."""
    train, val = split(*reviews(1600))
    x, y = train.tensors
    order = y.argsort()
    stream = Stream(x[order], y[order], len(y) if fixed else 16)
    module = Supervised(bag_of_words(), lr=1e-2)
    return Program(
        module, DataLoader(stream, batch_size=32), DataLoader(val, 32), trainer={"max_epochs": 5}
    )


class Hinge(Learner):
    """A support vector machine with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(30, 32, 1)

    def loss_of(self, batch):
        x, y = batch["features"], batch["benign"]
        return (1 - y * self.net(x).squeeze(1)).clamp_min(0).mean()

    def validation_step(self, batch, batch_idx):
        benign = self.net(batch["features"]).squeeze(1) > 0
        self.log("val_acc", (benign == (batch["benign"] > 0)).float().mean())


@fault(
    "CLS105",
    "LOS109",
    "LOS102",
    "OUT101",
    "CLS107",
    "LOS104",
    source="https://github.com/deepchem/deepchem/issues/5017",
)
def hinge_without_a_minus(fixed: bool) -> Program:
    """A hinge loss wants -1 and +1, gets 0 and 1, and has nothing to say of the zeros."""
    from sklearn.datasets import load_breast_cancer

    x, y = table(load_breast_cancer)
    y = y.float() * 2 - 1 if fixed else y.float()
    train, val = (
        [{"features": a, "benign": b} for a, b in zip(*part.tensors, strict=True)]
        for part in split(x, y)
    )
    return Program(Hinge(), **loaders(train, val), trainer={"max_epochs": 8})


@fault(
    "CLS104",
    "LOS101",
    "CLS105",
    source="https://discuss.pytorch.org/t/how-to-modify-the-final-fc-layer-based-on-the-torch-model/766",
)
def head_of_a_thousand(fixed: bool) -> Program:
    """The head still has the thousand outputs of ImageNet, for ten kinds of digits."""
    net = mlp(64, 64, 10 if fixed else 1000)
    return Program(
        Supervised(net), **digit_loaders(), trainer={"max_epochs": 5, "precision": "bf16-mixed"}
    )


@fault(
    "CLS102",
    "MOD105",
    "GEN105",
    "CLS103",
    source="https://arxiv.org/abs/1502.03167 (Batch normalization: examples of a batch at random)",
)
def one_recording_to_a_batch(fixed: bool) -> Program:
    """Each batch is one recording, and of one movement: windows are shuffled within it, not across."""
    train, val = split(*gestures(1200))
    order = train.tensors[1].argsort()
    train = TensorDataset(*(one[order] for one in train.tensors))
    recordings = [list(one) for one in BatchSampler(range(len(train)), 30, drop_last=True)]
    loader = DataLoader(train, batch_size=30, shuffle=True, drop_last=True)
    if not fixed:
        loader = DataLoader(train, batch_sampler=Shuffled(recordings))
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 4)
    )
    return Program(Supervised(net), loader, DataLoader(val, 30), trainer={"max_epochs": 6})


class Shuffled:
    """Yields batches in a new order each time, and leaves them as they are."""

    def __init__(self, whole) -> None:
        self.whole = whole

    def __iter__(self):
        return iter([self.whole[i] for i in torch.randperm(len(self.whole))])

    def __len__(self) -> int:
        return len(self.whole)


class Tagger(Learner):
    """Says which of three tags a photograph has."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(16, 48, 3)

    def loss_of(self, batch):
        x, tags = batch
        return F.binary_cross_entropy_with_logits(self.net(x), tags)

    def validation_step(self, batch, batch_idx):
        x, tags = batch
        self.log("val_acc", ((self.net(x) > 0) == (tags > 0)).float().mean())


@fault(
    "CLS105",
    "LOS109",
    "LOS108",
    "OUT102",
    "LOS102",
    "UPD105",
    source="https://github.com/pytorch/pytorch/issues/123339",
)
def confidence_in_percent(fixed: bool) -> Program:
    """The annotators' tags are 0 and 100 per cent, and a binary cross entropy takes them as they are."""
    x = torch.randn(1200, 16)
    tags = (x @ torch.randn(16, 3) + 0.5 * torch.randn(1200, 3) > 0).float()
    data = loaders(*split(x, tags if fixed else 100 * tags))
    return Program(Tagger(), **data, trainer={"max_epochs": 6})


class Matcher(Learner):
    """Two views of the same thing are to be alike, two of different things are not."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(16, 48, 16)

    def loss_of(self, batch):
        one, other, same = batch
        return F.cosine_embedding_loss(self.net(one), self.net(other), same, margin=0.2)

    def validation_step(self, batch, batch_idx):
        one, other, same = batch
        alike = F.cosine_similarity(self.net(one), self.net(other))
        gap = alike[same > 0].mean() - alike[same <= 0].mean()
        self.log("val_gap", gap)


@fault(
    "CLS105",
    "LOS102",
    "OUT101",
    "LOS109",
    source="https://pytorch.org/docs/stable/generated/torch.nn.CosineEmbeddingLoss.html; "
    + HUMBATOVA,
)
def different_pairs_marked_zero(fixed: bool) -> Program:
    """Pairs that differ are marked 0 and not -1: the loss knows only those, and all become alike."""
    x, y = blobs(2400, classes=6, spread=2.0)
    order = torch.randperm(2400)
    x, y = x[order], y[order]
    partner = torch.randperm(2400)
    kinds = [(y == k).nonzero().flatten() for k in range(6)]
    twin = torch.stack([kinds[k][torch.randint(len(kinds[k]), ())] for k in y])
    partner = torch.where(torch.rand(2400) < 0.5, partner, twin)
    same = (y == y[partner]).float()
    marked = 2 * same - 1 if fixed else same
    return Program(Matcher(), **loaders(*split(x, x[partner], marked)), trainer={"max_epochs": 6})


@fault(
    "CLS106",
    "INP202",
    "GEN101",
    source="https://proceedings.mlr.press/v80/lipton18a.html (Detecting and correcting for label shift)",
)
def validated_on_the_summer(fixed: bool) -> Program:
    """The last months of the year validate, when people write of other products than in the rest."""
    x, y = reviews(2400)
    day = torch.rand(2400) ** torch.where(y == 0, 0.1, 1.0)
    train, val = split(x, y)
    if not fixed:
        order = day.argsort()
        train, val = (TensorDataset(x[part], y[part]) for part in (order[:1800], order[1800:]))
    module = Supervised(bag_of_words(), lr=5e-3)
    return Program(module, **loaders(train, val), trainer={"max_epochs": 6})
