"""CLS, a third time: which classes there are, how many of each, in which order, and under which number."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    TensorDataset,
    WeightedRandomSampler,
)

from .. import DEEPFD, HUMBATOVA, fault
from .._parts import Program, Supervised, blobs, digits, loaders, mlp, split
from ..first._parts import Learner, accuracy, sounds
from ..second._parts import clients, lesions
from ._parts import small_cnn


class Recalls(Supervised):
    """Logs the share that is found of each class, averaged over the classes."""

    def __init__(self, net, classes: int, **options) -> None:
        super().__init__(net, **options)
        self.classes = classes

    def on_validation_epoch_start(self):
        self.hits, self.all = torch.zeros(self.classes), torch.zeros(self.classes)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, y = batch
        right = self(x).argmax(1) == y
        self.hits += torch.bincount(y[right], minlength=self.classes)
        self.all += torch.bincount(y, minlength=self.classes)

    def on_validation_epoch_end(self):
        self.log("val_recall", (self.hits / self.all.clamp_min(1)).mean())


@fault(
    "CLS101",
    "CLS107",
    source="https://arxiv.org/abs/1710.05381 (class imbalance in convolutional networks); "
    + HUMBATOVA,
)
def rare_cells_in_a_smear(fixed: bool) -> Program:
    """Four common kinds of cells, and one in eighty that looks much like another and is never named."""
    x, y = blobs(4000, classes=5, features=8, spread=2.5)
    rare = torch.arange(len(y)) // 5 % 20 != 0
    kept = torch.ones(len(y)).bool() if fixed else (y != 2) | ~rare
    train, val = split(x[kept] / x.std(), y[kept])
    module = Recalls(mlp(8, 48, 5), 5, lr=2e-3)
    return Program(module, **loaders(train, val), trainer={"max_epochs": 4})


class Tagger(Learner):
    """Which of twelve topics does a text have? Each may be there or not."""

    lr = 3e-3

    def __init__(self, weight: torch.Tensor | None) -> None:
        super().__init__()
        self.net = mlp(40, 64, 12)
        self.register_buffer("weight", weight)

    def loss_of(self, batch):
        x, tags = batch["x"], batch["tags"]
        return F.binary_cross_entropy_with_logits(self.net(x), tags, pos_weight=self.weight)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        found, there = self.net(batch["x"]) > 0, batch["tags"] > 0
        self.log("val_found", (found & there).sum() / there.sum())


@fault(
    "CLS101",
    "CLS107",
    "OUT101",
    "LOS104",
    source="https://discuss.pytorch.org/t/multi-label-classification-in-pytorch/905; "
    "https://pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html (pos_weight)",
)
def topics_of_one_text_in_forty(fixed: bool) -> Program:
    """Each of twelve tags is on one text in forty, none weighs more for it, and none is ever given."""
    tags = (torch.rand(2400, 12) < 0.025).float()
    x = 0.45 * tags @ torch.randn(12, 40) + torch.randn(2400, 40)
    samples = [{"x": a, "tags": b} for a, b in zip(x / x.std(), tags, strict=True)]
    weight = torch.full((12,), 20.0) if fixed else None
    data = loaders(samples[:1900], samples[1900:])
    return Program(Tagger(weight), **data, trainer={"max_epochs": 4})


class Pairs(Learner):
    """Do two images show the same digit?"""

    lr = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.judge = mlp(64, 48, 16), mlp(16, 16, 1)

    def forward(self, a, b):
        return self.judge((self.embed(a) - self.embed(b)).abs()).squeeze(1)

    def loss_of(self, batch):
        (a, b), same = batch
        return F.binary_cross_entropy_with_logits(self(a, b), same)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        (a, b), same = batch
        self.log("val_acc", ((self(a, b) > 0) == (same > 0)).float().mean())


def same_or_not(x, y, size: int) -> list:
    """Pairs of images: first those of the same digit, then those of two."""
    i = torch.randint(len(x), (8 * size,))
    j = torch.randint(len(x), (8 * size,))
    same = y[i] == y[j]
    pairs = [((x[a], x[b]), torch.tensor(1.0)) for a, b in zip(i[same], j[same], strict=True)]
    others = [((x[a], x[b]), torch.tensor(0.0)) for a, b in zip(i[~same], j[~same], strict=True)]
    return pairs[: size // 2] + others[: size // 2]


@fault(
    "CLS103",
    "INP201",
    "CLS102",
    source=DEEPFD + ", training data not shuffled; " + HUMBATOVA,
)
def positives_before_negatives(fixed: bool) -> Program:
    """A list of pairs to compare has first all that are alike and then all that are not, and is read in order."""
    x, y = digits(1797)
    train = same_or_not(x[:1400], y[:1400], 4800)
    val = same_or_not(x[1400:], y[1400:], 400)
    loader = DataLoader(train, 32, shuffle=fixed)
    return Program(Pairs(), loader, DataLoader(val, 100), trainer={"max_epochs": 2})


class Pitches(Learner):
    """Says which of three pitches a sound has."""

    lr = 3e-3

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(1, 16, 7, stride=2, padding=3),
            nn.ReLU(),
            nn.Conv1d(16, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(32, 3),
        )

    def loss_of(self, batch):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self.net(batch[0]), batch[1]))


class Chained:
    """All batches of one loader, and then all of the next."""

    def __init__(self, *loaders: DataLoader) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self):
        for loader in self.loaders:
            yield from loader


@fault(
    "CLS103",
    "CLS102",
    "INP201",
    "LRN105",
    source="https://discuss.pytorch.org/t/train-simultaneously-on-two-datasets/649",
)
def one_collection_after_the_other(fixed: bool) -> Program:
    """One collection has all low sounds, another the rest: each is shuffled, and they are read in turn."""
    train, val = split(*sounds(1800), held_out=0.2)
    x, y = train.tensors
    low = y == 0
    parts = [TensorDataset(x[low], y[low]), TensorDataset(x[~low], y[~low])]
    if fixed:
        loader = DataLoader(ConcatDataset(parts), 32, shuffle=True)
    else:
        loader = Chained(*(DataLoader(part, 32, shuffle=True) for part in parts))
    return Program(Pitches(), loader, DataLoader(val, 200), trainer={"max_epochs": 5})


@fault(
    "CLS104",
    "CLS103",
    "INP201",
    "GEN105",
    source="https://lightning.ai/docs/pytorch/stable/common/trainer.html (limit_train_batches)",
)
def half_of_what_is_sorted(fixed: bool) -> Program:
    """limit_train_batches=0.5 of a folder that is read class by class: the last classes never come."""
    x, y = digits(1797, image=True)
    train, val = split(x, y)
    x, y = train.tensors
    order = torch.randperm(len(y)) if fixed else y.argsort(stable=True)
    loader = DataLoader(TensorDataset(x[order], y[order]), 16, shuffle=fixed)
    trainer = {"max_epochs": 5, "limit_train_batches": 0.5}
    module = Supervised(small_cnn(1, 10), lr=2e-3)
    return Program(module, loader, DataLoader(val, 200), trainer=trainer)


class Scenes(Dataset):
    """Scans with a label for each pixel; what the annotators left open is 255."""

    def __init__(self, scans, masks) -> None:
        self.scans, self.labels = scans, masks[:, 0].long()
        self.labels[:, :, :1] = 255

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index):
        return {"image": self.scans[index], "label": self.labels[index]}


class Segmenter(Learner):
    """Two classes for each pixel."""

    lr = 4e-3

    def __init__(self, *, ignore: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 2, 1),
        )
        self.ignore = ignore

    def loss_of(self, batch):
        return F.cross_entropy(self.net(batch["image"]), batch["label"], ignore_index=self.ignore)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        known, there = batch["label"] != 255, batch["label"] == 1
        found = known & (self.net(batch["image"]).argmax(1) == 1)
        self.log("val_iou", (found & there).sum() / (found | there).sum())


@fault(
    "CLS105",
    "ERR102",
    source="https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html (ignore_index); void in VOC",
)
def void_is_255(fixed: bool) -> Program:
    """Pixels that nobody has labelled are 255, as in Cityscapes, and the loss is not told to skip them."""
    scans, masks = lesions(400)
    data = loaders(
        Scenes(scans[:320], masks[:320]), Scenes(scans[320:], masks[320:]), batch_size=16
    )
    return Program(Segmenter(ignore=255 if fixed else -100), **data, trainer={"max_epochs": 5})


class Diagnosis(Learner):
    """Benign or malignant?"""

    lr = 2e-3

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(30, 16, 1)

    def loss_of(self, batch):
        return F.binary_cross_entropy_with_logits(self.net(batch[0]).squeeze(1), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, y = batch
        self.log("val_acc", ((self.net(x).squeeze(1) > 0) == (y > 0.5)).float().mean())


@fault(
    "CLS105",
    "LOS102",
    "LOS108",
    "LOS109",
    source="https://archive.ics.uci.edu/dataset/15/breast+cancer+wisconsin+original (2 benign, 4 malignant)",
)
def two_is_benign_four_malignant(fixed: bool) -> Program:
    """The table's classes are 2 and 4, as its authors coded them, and a binary cross entropy takes them so."""
    from sklearn.datasets import load_breast_cancer

    x, y = (torch.as_tensor(one).float() for one in load_breast_cancer(return_X_y=True))
    x = (x - x.mean(0)) / x.std(0)
    data = loaders(*split(x, 1 - y if fixed else 4 - 2 * y), batch_size=16)
    return Program(Diagnosis(), **data, trainer={"max_epochs": 6})


@fault(
    "CLS106",
    "CLS101",
    "CLS107",
    source="https://discuss.pytorch.org/t/how-to-use-weightedrandomsampler-for-imbalanced-data/110578",
)
def sampler_on_the_wrong_loader(fixed: bool) -> Program:
    """The sampler that balances the classes went to the validation loader, and training has one in twenty-five."""
    x, y = clients(24000)
    keep = (y == 0) | (torch.rand(24000) < 0.04)
    x, y = x[keep][:8000], y[keep][:8000]
    train, val = split(x, y, held_out=0.3)

    def balanced(part):
        share = torch.bincount(part.tensors[1]).float()
        return WeightedRandomSampler((1 / share[part.tensors[1]]).tolist(), len(part))

    module = Recalls(mlp(10, 16, 2), 2, lr=4e-3)
    options = {"sampler": balanced(train)} if fixed else {"shuffle": True}
    loader = DataLoader(train, 32, **options)
    # When it is fixed, validation has the proportions that training is shown.
    val_loader = DataLoader(val, 100, sampler=balanced(val))
    return Program(module, loader, val_loader, trainer={"max_epochs": 2})


@fault(
    "CLS107",
    "CLS105",
    "CLS104",
    source="https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html (ignore_index); "
    + HUMBATOVA,
)
def nought_is_no_padding(fixed: bool) -> Program:
    """ignore_index=0 is copied from a tagger, where 0 is padding; here it is a class like the others."""

    def loss(out, y):
        return F.cross_entropy(out, y, ignore_index=-100 if fixed else 0)

    data = loaders(*split(*blobs(1600, classes=5)))
    return Program(Recalls(mlp(16, 48, 5), 5, loss=loss), **data, trainer={"max_epochs": 6})


@fault(
    "LOS109",
    "CLS105",
    "LOS102",
    "LOS104",
    source="https://discuss.pytorch.org/t/using-bcewithlogisloss-for-multi-label-classification/67011",
)
def several_moods_in_one_softmax(fixed: bool) -> Program:
    """A song may have several of six moods or none, and cross_entropy shares one certainty among them."""
    x = torch.randn(2400, 20)
    moods = (x @ torch.randn(20, 6) / 20**0.5 * 2 + 0.3 * torch.randn(2400, 6) > 0.2).float()
    loss = F.binary_cross_entropy_with_logits if fixed else F.cross_entropy
    data = loaders(*split(x, moods))

    class Moods(Supervised):
        """Logs how many of the moods are right."""

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            right = (self(batch[0]) > 0) == (batch[1] > 0)
            self.log("val_right", right.float().mean())

    return Program(Moods(mlp(20, 64, 6), loss, lr=3e-3), **data, trainer={"max_epochs": 6})
