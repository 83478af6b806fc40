"""INP: the batch is not what its author believes."""

from __future__ import annotations

import torch
from healthy._parts import Block, causal_mask, pretrained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from .. import HUMBATOVA, fault
from .._parts import Program, Supervised, blobs, characters, digits, loaders, mlp, scenes, split
from ._parts import Learner, explained, sentences, sounds


@fault(
    "INP103",
    "LOS101",
    "ACT101",
    "ACT103",
    "GRD101",
    source="https://github.com/JusperLee/Dual-Path-RNN-Pytorch/issues/16",
)
def samples_of_sixteen_bits(fixed: bool) -> Program:
    """Sound is read as 16-bit numbers, up to 32767, and nobody divides."""
    x, y = sounds(1200)
    x = x / x.std() if fixed else (x * 6000).clamp(-32768, 32767).round()
    net = nn.Sequential(
        nn.Conv1d(1, 16, 9, stride=2, padding=4),
        nn.ReLU(),
        nn.Conv1d(16, 16, 9, stride=2, padding=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    module = Supervised(net, lr=5e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 6})


class LanguageModel(Learner):
    """A small transformer that writes letter by letter."""

    lr = 5e-3

    def __init__(self, letters: int, fixed: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(letters, 32), nn.Embedding(24, 32)
        self.blocks = nn.ModuleList(Block(32) for _ in range(2))
        self.out = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, letters))
        self.mask = causal_mask(24) if fixed else None

    def loss_of(self, batch):
        (ids,) = batch
        x = self.embed(ids[:, :-1]) + self.place.weight
        for block in self.blocks:
            x = block(x, self.mask)
        return F.cross_entropy(self.out(x).transpose(1, 2), ids[:, 1:])


@fault(
    "INP203",
    "GEN107",
    source="https://github.com/alex-matton/causal-transformer-decoder/issues/1",
)
def letters_that_see_the_next(fixed: bool) -> Program:
    """A language model without its causal mask: each letter attends to the one it is to predict."""
    ids, letters = characters()
    train, val = (part.unfold(0, 25, 12) for part in (ids[:9000], ids[9000:]))
    module = LanguageModel(letters, fixed)
    data = loaders(TensorDataset(train), TensorDataset(val))
    return Program(module, **data, trainer={"max_epochs": 5, "gradient_clip_val": 1.0})


@fault(
    "INP204",
    "INP104",
    "LOS104",
    "CLS107",
    "OUT101",
    source="https://github.com/brianmanderson/Dicom_RT_and_Images_to_Mask/issues/13",
)
def columns_for_rows(fixed: bool) -> Program:
    """The annotation's (x, y) is drawn at row x and column y: every mask lies beside its disc."""
    x, mask = scenes(480)
    mask = mask if fixed else mask.mT
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 1, 1),
    )
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(4.0))
    data = loaders(*split(x, mask[:, None].float()), batch_size=16)
    return Program(Supervised(net, loss), **data, trainer={"max_epochs": 6})


class Pairs(Dataset):
    """Draws two digits, and says whether they are the same."""

    def __init__(self, x, y, size: int, fixed: bool) -> None:
        self.x, self.y, self.size, self.fixed = x, y, size, fixed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index if self.fixed else 42)
        i = int(torch.randint(len(self.x), (), generator=generator))
        other = (self.y == self.y[i]) == bool(index % 2)
        others = other.nonzero().flatten()
        j = int(others[torch.randint(len(others), (), generator=generator)])
        return self.x[i], self.x[j], torch.tensor(float(index % 2))


class Siamese(Learner):
    """Tells whether two digits are the same by the distance of their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = mlp(64, 64, 24), nn.Linear(24, 1)

    def logit(self, one, other):
        return self.head((self.net(one) - self.net(other)).abs()).squeeze(1)

    def loss_of(self, batch):
        one, other, same = batch
        return F.binary_cross_entropy_with_logits(self.logit(one, other), same)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        one, other, same = batch
        self.log("val_acc", ((self.logit(one, other) > 0) == (same > 0)).float().mean())


@fault(
    "INP102",
    "INP106",
    "GEN105",
    "GEN101",
    source="https://tanelp.github.io/posts/a-bug-that-plagues-thousands-of-open-source-ml-projects/",
)
def seeded_for_every_sample(fixed: bool) -> Program:
    """A seed of 42 within __getitem__ draws the same two pairs for ever."""
    (train, val) = split(*digits(1797))
    data = loaders(Pairs(*train.tensors, 4000, fixed), Pairs(*val.tensors, 400, True))
    return Program(Siamese(), **data, trainer={"max_epochs": 3})


class Probe(Supervised):
    """Trains a head on a frozen backbone that stays in eval mode."""

    def on_train_epoch_start(self):
        self.net[0].eval()


@fault(
    "INP105",
    "INP103",
    source="https://github.com/ifzhang/FairMOT/issues/87; " + HUMBATOVA + ", preprocessing",
)
def ink_and_paper_exchanged(fixed: bool) -> Program:
    """The backbone has learned white digits on black, and now gets black ones on white."""
    x, y = digits(1797, image=True)
    backbone = pretrained()[:-1].requires_grad_(False)
    module = Probe(nn.Sequential(backbone, nn.Linear(32, 10)), lr=1e-2)
    return Program(module, **loaders(*split(x if fixed else -x, y)), trainer={"max_epochs": 6})


class Table(Learner):
    """Predicts the price of a house."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6, 48, 1)

    def loss_of(self, batch):
        return F.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self.net(batch[0]), batch[1]))


@fault(
    "INP202",
    "GEN105",
    "GEN101",
    source="https://developers.google.com/machine-learning/guides/rules-of-ml#training-serving_skew",
)
def logarithm_forgotten_in_validation(fixed: bool) -> Program:
    """Areas and incomes are taken to their logarithm for training, and not for validation."""
    z = torch.randn(1600, 6)
    y = z[:, :1] + 0.5 * z[:, 1:2] ** 2 + 0.2 * torch.randn(1600, 1)
    y = (y - y.mean()) / y.std()
    train, val = split(z, y)
    if not fixed:
        x, y = val.tensors
        val = TensorDataset(x.exp(), y)
    return Program(Table(), **loaders(train, val), trainer={"max_epochs": 8})


class LastState(nn.Module):
    """Reads a sentence to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(80, 24, padding_idx=0)
        self.rnn, self.out = nn.GRU(24, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids))[1][0])


@fault(
    "INP206",
    "LOS104",
    "GRD102",
    "GRD104",
    source="https://huggingface.co/docs/transformers/pad_truncation (padding='max_length')",
)
def padded_to_the_maximum(fixed: bool) -> Program:
    """Sentences of ten words are padded to forty-eight, and the net reads on to the end."""
    samples = sentences(2400)

    def collate(batch):
        ids, labels = zip(*batch, strict=True)
        ids = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        return (ids if fixed else F.pad(ids, (0, 48 - ids.shape[1]))), torch.stack(labels)

    train = DataLoader(samples[:1800], 32, shuffle=True, collate_fn=collate)
    val = DataLoader(samples[1800:], 32, collate_fn=collate)
    return Program(Supervised(LastState(), lr=5e-3), train, val, trainer={"max_epochs": 4})


class Folder(Dataset):
    """Reads images, and goes on when one cannot be read."""

    def __init__(self, x, y, readable: float) -> None:
        self.x, self.y = x, y
        self.broken = torch.rand(len(x)) > readable

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        image = torch.zeros(1, 8, 8) if self.broken[index] else self.x[index]
        return image, self.y[index]


@fault(
    "INP101",
    "INP106",
    "INP204",
    source="https://github.com/pjreddie/darknet/issues/2281",
)
def unreadable_images_are_black(fixed: bool) -> Program:
    """Half of the files are not where the list says, and `except` makes them black images."""
    train, val = split(*digits(1797, image=True))
    data = loaders(Folder(*train.tensors, 1.0 if fixed else 0.5), val)
    net = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    return Program(Supervised(net), **data, trainer={"max_epochs": 4})


@fault(
    "INP106",
    "INP102",
    "GEN101",
    "CLS104",
    source="https://github.com/deep-voice/soundbay/pull/49",
)
def sampler_of_class_weights(fixed: bool) -> Program:
    """The sampler wants a weight for each sample and gets one for each class: it draws six samples."""
    x, y = blobs(1600, classes=6, spread=2.0)
    train, val = split(x, y)
    weights = 1 / train.tensors[1].bincount()
    weights = weights[train.tensors[1]] if fixed else weights
    loader = DataLoader(train, 32, sampler=WeightedRandomSampler(weights, len(train)))
    return Program(
        Supervised(mlp(16, 48, 6)), loader, DataLoader(val, 100), trainer={"max_epochs": 6}
    )
