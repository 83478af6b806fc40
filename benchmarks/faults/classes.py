"""CLS: which classes come, how often, in which order, and how they are written."""

from __future__ import annotations

import dataclasses

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import WeightedRandomSampler

from . import DEEPFD, HUMBATOVA, UMLAUT, fault
from ._parts import (
    DataLoader,
    Program,
    Supervised,
    TensorDataset,
    blobs,
    digits,
    loaders,
    mlp,
    scenes,
    split,
    table,
)


def frauds(size: int = 3000, share: float = 0.02):
    """Transactions, a few of which are fraudulent and look a little different."""
    y = (torch.rand(size) < share).long()
    return torch.randn(size, 12) + 0.9 * y[:, None] * torch.tensor([1.0] * 4 + [0.0] * 8), y


@fault("CLS101", "CLS107", "OUT101", source=HUMBATOVA + ", unbalanced training data")
def one_fraud_in_fifty(fixed: bool) -> Program:
    """Two in a hundred are positive, and nothing makes up for it: the net never says so."""
    weight = torch.tensor([1.0, 25.0]) if fixed else None
    module = Supervised(mlp(12, 32, 2), lambda out, y: F.cross_entropy(out, y, weight))
    data = loaders(*split(*frauds()), batch_size=64)
    return Program(module, **data, trainer={"max_epochs": 5})


class Segmenter(pl.LightningModule):
    """A small fully convolutional net that marks discs."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 2, 1),
        )
        self.weight = torch.tensor([1.0, weight])

    def training_step(self, batch, batch_idx):
        x, mask = batch
        loss = F.cross_entropy(self.net(x), mask.long(), self.weight)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, mask = batch
        found = self.net(x).argmax(1) == 1
        self.log("val_recall", (found & mask).sum() / mask.sum().clamp_min(1))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("CLS101", "CLS107", "OUT101", source="https://github.com/dmlc/gluon-cv/issues/644")
def background_everywhere(fixed: bool) -> Program:
    """Lesions cover one pixel in two hundred, and the loss counts every pixel alike."""
    x, mask = scenes(320, 24, radius=1.2)
    x = (x + 0.9 * torch.randn_like(x)) / 1.3
    data = loaders(*split(x, mask), batch_size=16)
    return Program(Segmenter(60.0 if fixed else 1.0), **data, trainer={"max_epochs": 4})


@fault("CLS103", "CLS102", "INP201", source="https://github.com/Deci-AI/super-gradients/issues/416")
def folders_read_class_by_class(fixed: bool) -> Program:
    """The files are read folder by folder, one class after the other, without shuffle."""
    train, val = split(*digits(1797))
    x, y = train.tensors
    order = y.argsort()
    train = TensorDataset(x[order], y[order])
    loader = DataLoader(train, batch_size=32, shuffle=fixed)
    return Program(
        Supervised(mlp(64, 64, 10)), loader, DataLoader(val, 64), trainer={"max_epochs": 4}
    )


@fault("CLS103", "CLS102", "INP201", source="https://github.com/open-mmlab/mmdetection/issues/1649")
def all_the_benign_first(fixed: bool) -> Program:
    """A table sorted by its diagnosis, read in order."""
    from sklearn.datasets import load_breast_cancer

    train, val = split(*table(load_breast_cancer))
    x, y = train.tensors
    order = y.argsort(stable=True)
    train = TensorDataset(x[order], y[order].float()[:, None])
    val = TensorDataset(val.tensors[0], val.tensors[1].float()[:, None])
    module = Supervised(mlp(30, 16, 1), F.binary_cross_entropy_with_logits)
    loader = DataLoader(train, batch_size=16, shuffle=fixed)
    return Program(module, loader, DataLoader(val, 64), trainer={"max_epochs": 6})


class OneClassAtATime:
    """Batches of one class each, in random order."""

    def __init__(self, y, size: int) -> None:
        self.y, self.size = y, size

    def __len__(self):
        return sum(-(-int((self.y == c).sum()) // self.size) for c in self.y.unique())

    def __iter__(self):
        batches = []
        for c in self.y.unique():
            members = (self.y == c).nonzero().squeeze(1)
            members = members[torch.randperm(len(members))]
            batches += [part.tolist() for part in members.split(self.size)]
        for i in torch.randperm(len(batches)):
            yield batches[i]


@fault("CLS102", "CLS103", source="https://github.com/pytorch/pytorch/issues/5059")
def batches_of_one_class(fixed: bool) -> Program:
    """A sampler that groups by class, meant for a metric loss, feeds a cross entropy."""
    train, val = split(*digits(1797))
    if fixed:
        loader = DataLoader(train, batch_size=16, shuffle=True)
    else:
        loader = DataLoader(train, batch_sampler=OneClassAtATime(train.tensors[1], 16))
    return Program(
        Supervised(mlp(64, 64, 10)), loader, DataLoader(val, 64), trainer={"max_epochs": 3}
    )


@fault("CLS104", "CLS106", "GEN105", source=HUMBATOVA + ", wrong train/test split")
def last_classes_held_out(fixed: bool) -> Program:
    """The last quarter of a sorted table is held out: two classes are never trained on."""
    x, y = digits(1797)
    order = torch.randperm(len(y)) if fixed else y.argsort()
    held = len(y) // 4
    train = TensorDataset(x[order[:-held]], y[order[:-held]])
    val = TensorDataset(x[order[-held:]], y[order[-held:]])
    return Program(Supervised(mlp(64, 64, 10)), **loaders(train, val), trainer={"max_epochs": 4})


class Masks(pl.LightningModule):
    """Segments discs with a single logit a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)
        )

    def training_step(self, batch, batch_idx):
        loss = F.binary_cross_entropy_with_logits(self.net(batch["image"]), batch["mask"])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("CLS105", "LOS102", "LOS109", source="https://github.com/milesial/Pytorch-UNet/issues/291")
def masks_of_0_and_255(fixed: bool) -> Program:
    """Masks are read as 8-bit images: 255 for the object."""
    x, mask = scenes(320)
    mask = mask[:, None].float() * (1.0 if fixed else 255.0)
    data = [{"image": image, "mask": m} for image, m in zip(x, mask, strict=True)]
    return Program(
        Masks(), DataLoader(data, batch_size=16, shuffle=True), trainer={"max_epochs": 4}
    )


@fault("CLS105", "LOS102", "LOS109", source=DEEPFD + ", wrong labels for the loss")
def labels_of_minus_one_and_one(fixed: bool) -> Program:
    """Labels of a support vector machine, -1 and 1, in a binary cross entropy."""
    x, y = blobs(1000, classes=2, spread=2.5)
    target = y.float()[:, None] if fixed else (2.0 * y - 1)[:, None]
    module = Supervised(mlp(16, 32, 1), F.binary_cross_entropy_with_logits)
    return Program(module, **loaders(*split(x, target)), trainer={"max_epochs": 4})


@dataclasses.dataclass
class Sentences:
    """A batch of padded sentences and the tag of each of their tokens."""

    tokens: torch.Tensor
    tags: torch.Tensor


def collate(samples):
    """Pads with 0, tokens and tags alike."""
    tokens, tags = zip(*samples, strict=True)
    pad = lambda parts: nn.utils.rnn.pad_sequence(parts, batch_first=True)  # noqa: E731
    return Sentences(pad(tokens), pad(tags))


class SentenceTagger(pl.LightningModule):
    """A recurrent tagger."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 24, padding_idx=0)
        self.rnn = nn.GRU(24, 24, batch_first=True, bidirectional=True)
        self.out, self.fixed = nn.Linear(48, 6), fixed

    def training_step(self, batch, batch_idx):
        logits = self.out(self.rnn(self.embed(batch.tokens))[0])
        ignored = 0 if self.fixed else -100
        loss = F.cross_entropy(logits.flatten(0, 1), batch.tags.flatten(), ignore_index=ignored)
        self.log("train_loss", loss, batch_size=len(batch.tags))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault(
    "CLS105",
    "INP206",
    "CLS101",
    "CLS107",
    source="https://github.com/DaoyuanLi2816/Molecule-Generator/pull/22",
)
def padding_learned_as_a_tag(fixed: bool) -> Program:
    """The loss counts padding as a class of its own, the most frequent one."""
    samples = []
    for _ in range(800):
        length = int(torch.randint(2, 6, ())) if torch.rand(()) < 0.9 else 24
        tokens = torch.randint(1, 60, (length,))
        samples.append((tokens, tokens % 5 + 1))
    loader = DataLoader(samples, batch_size=32, shuffle=True, collate_fn=collate)
    return Program(SentenceTagger(fixed), loader, trainer={"max_epochs": 3})


@fault("CLS106", source=UMLAUT + ", train and validation differ")
def validation_from_another_clinic(fixed: bool) -> Program:
    """Nine in ten of the training set are healthy, one in four of the validation set."""
    x, y = blobs(2400, classes=2, spread=3.0)
    healthy, ill = (y == 0).nonzero().squeeze(1), (y == 1).nonzero().squeeze(1)
    if fixed:
        order = torch.cat([healthy[:800], ill[:300]])[torch.randperm(1100)]
        train, val = order[:800], order[800:]
    else:
        train = torch.cat([healthy[:700], ill[:100]])
        val = torch.cat([healthy[700:775], ill[100:325]])
    parts = [TensorDataset(x[part], y[part]) for part in (train, val)]
    return Program(Supervised(mlp(16, 32, 2)), **loaders(*parts), trainer={"max_epochs": 5})


@fault("CLS104", "CLS102", "CLS101", "OUT101", source=HUMBATOVA + ", wrong labels")
def labels_cut_to_zero(fixed: bool) -> Program:
    """An integer division makes every label zero; the loss is perfect after an epoch."""
    x, y = digits(1797)
    y = y if fixed else y // 10
    return Program(Supervised(mlp(64, 64, 10)), **loaders(*split(x, y)), trainer={"max_epochs": 3})


@fault("CLS101", "CLS107", "CLS106", source=HUMBATOVA + ", wrong sampling")
def weights_the_wrong_way_round(fixed: bool) -> Program:
    """A sampler weighted by the frequency of the classes, not by its inverse."""
    x, y = blobs(2400, classes=4, spread=3.0)
    keep = torch.rand(len(y)) < torch.tensor([1.0, 0.5, 0.25, 0.12])[y]
    train, val = split(x[keep], y[keep])
    counts = train.tensors[1].bincount().float()
    weights = (1 / counts if fixed else counts**2)[train.tensors[1]]
    loader = DataLoader(train, batch_size=32, sampler=WeightedRandomSampler(weights, 1200))
    return Program(
        Supervised(mlp(16, 32, 4)), loader, DataLoader(val, 64), trainer={"max_epochs": 4}
    )
