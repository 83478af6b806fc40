"""INP: what goes in, and how it goes together with the labels and the validation set."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from healthy._parts import new_digits, pretrained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset

from . import DEEPFD, HUMBATOVA, KARPATHY, UMLAUT, fault
from ._parts import (
    DataLoader,
    Program,
    Supervised,
    TensorDataset,
    blobs,
    characters,
    diabetes,
    digits,
    loaders,
    mlp,
    split,
    table,
    waves,
)


@fault(
    "INP101",
    "LOS104",
    "OUT101",
    source="https://github.com/facebookresearch/InterHand2.6M/issues/110",
)
def integer_division_of_pixels(fixed: bool) -> Program:
    """Pixels // 255 in integers: almost every image is all zeros."""
    x, y = digits(1797)
    pixels = ((x + 1) * 127).to(torch.uint8)
    x = pixels / 255 if fixed else (pixels // 255).float()
    return Program(Supervised(mlp(64, 64, 10)), **loaders(*split(x, y)), trainer={"max_epochs": 4})


@fault(
    "INP101",
    "OUT101",
    "LOS104",
    "INP103",
    source="https://github.com/facebookresearch/InterHand2.6M/issues/110",
)
def divided_by_255_three_times(fixed: bool) -> Program:
    """The dataset, the transform and the model all divide by 255."""
    x, y = digits(1797)
    x = (x + 1) / 2
    x = x if fixed else x / 255**2
    return Program(Supervised(mlp(64, 64, 10)), **loaders(*split(x, y)), trainer={"max_epochs": 5})


class FirstBatch:
    """An iterable that starts its source anew for every batch."""

    def __init__(self, loader, fixed: bool) -> None:
        self.loader, self.fixed = loader, fixed

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        if self.fixed:
            yield from self.loader
            return
        for _ in range(len(self.loader)):
            yield next(iter(self.loader))


@fault("INP102", "GEN101", source=HUMBATOVA + ", wrong batch iteration")
def first_batch_again_and_again(fixed: bool) -> Program:
    """next(iter(loader)) in a loop, without shuffle: always the first batch."""
    train, val = split(*digits(1797))
    loader = FirstBatch(DataLoader(train, batch_size=32, shuffle=fixed), fixed)
    return Program(
        Supervised(mlp(64, 64, 10)), loader, DataLoader(val, 64), trainer={"max_epochs": 3}
    )


class Modulo(Dataset):
    """A dataset whose index goes astray."""

    def __init__(self, x, y, fixed: bool) -> None:
        self.x, self.y, self.fixed = x, y, fixed

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        i = i if self.fixed else i % 40
        return self.x[i], self.y[i]


@fault("INP106", "INP102", "GEN101", source="https://github.com/huggingface/datasets/issues/4261")
def index_that_wraps_around(fixed: bool) -> Program:
    """An index modulo 40: the set has 1,347 entries and 40 samples."""
    train, val = split(*digits(1797))
    loader = DataLoader(Modulo(*train.tensors, fixed), batch_size=32, shuffle=True)
    return Program(
        Supervised(mlp(64, 64, 10)), loader, DataLoader(val, 64), trainer={"max_epochs": 3}
    )


@fault("INP103", "ACT102", "UPD105", source="https://github.com/milesial/Pytorch-UNet/issues/142")
def pixels_up_to_255(fixed: bool) -> Program:
    """Raw pixels, 0 to 255, into a convolutional net without norms."""
    x, y = digits(1797, image=True)
    x = x if fixed else (x + 1) * 127.5
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    return Program(Supervised(net), **loaders(*split(x, y)), trainer={"max_epochs": 4})


@fault("INP103", "GRD101", "LOS104", "LRN101", "LOS101", source=UMLAUT + ", input not normalized")
def raw_table(fixed: bool) -> Program:
    """The wine table as it comes: one column reaches 1,680, another 0.66."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    x = (x - x.mean(0)) / x.std(0) if fixed else x
    module = Supervised(mlp(13, 32, 3), lr=5e-3)
    return Program(module, **loaders(*split(x, y), batch_size=16), trainer={"max_epochs": 15})


@fault(
    "INP103",
    "UPD103",
    "GRD101",
    "LOS104",
    "ACT102",
    "LRN101",
    source=DEEPFD + ", missing normalization",
)
def timestamp_among_the_features(fixed: bool) -> Program:
    """One column is a Unix time stamp."""
    x, y = diabetes()
    if not fixed:
        stamp = 1.6e9 + 3e7 * torch.rand(len(x), 1)
        x = torch.cat([x, stamp], dim=1)
    module = Supervised(mlp(x.shape[1], 32, 1), F.mse_loss)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 10})


@fault("INP104", source=HUMBATOVA + ", wrong tensor layout")
def channels_last_images(fixed: bool) -> Program:
    """Images (N, H, W, C) go into convolutions that take (N, C, H, W); sides and channels fit."""
    x, y = digits(1797, image=True)
    colour = torch.cat([x, x**2, -x], dim=1)
    x = F.interpolate(colour, size=(16, 16))
    if not fixed:
        x = x.permute(0, 2, 3, 1).contiguous()
    first = nn.Conv2d(3, 16, 3, padding=1) if fixed else nn.Conv2d(16, 16, 3, padding=1)
    net = nn.Sequential(
        first,
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((2, 2)),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    module = Supervised(net, lr=6e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 4})


class TimeFirst(Supervised):
    """A recurrent net that is handed (T, N, 1) by its collate."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), lr=5e-3)
        self.rnn, self.out = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


@fault("INP104", "OUT105", source="https://github.com/pytorch/pytorch/issues/122959")
def time_first_batches(fixed: bool) -> Program:
    """The collate stacks along time, the net reads the batch first; both are 20 long."""
    x, y = waves(800)

    def collate(samples):
        xs, ys = zip(*samples, strict=True)
        return torch.stack(xs, dim=0 if fixed else 1), torch.stack(ys)

    loader = DataLoader(TensorDataset(x, y), 20, shuffle=True, drop_last=True, collate_fn=collate)
    return Program(TimeFirst(), loader, trainer={"max_epochs": 5})


@fault(
    "INP105",
    "INP103",
    "MOD105",
    source="https://github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning/issues/60",
)
def pretrained_on_other_pixels(fixed: bool) -> Program:
    """A net that was trained on [-1, 1] is fine-tuned on pixels from 0 to 255."""
    net = pretrained()
    net[-1] = nn.Linear(32, 5)
    data = new_digits()
    if not fixed:
        for loader in data.values():
            x, y = loader.dataset.tensors
            loader.dataset.tensors = ((x + 1) * 127.5, y)
    net[:-1].requires_grad_(False).eval()
    return Program(Frozen(net, lr=1e-2), **data, trainer={"max_epochs": 5})


class Frozen(Supervised):
    """Keeps its backbone in eval mode."""

    def on_train_epoch_start(self):
        self.net[:-1].eval()


@fault("INP201", "INP102", "LRN105", source=HUMBATOVA + ", data not shuffled")
def regression_in_order(fixed: bool) -> Program:
    """Samples sorted by their target, read in order."""
    train, val = split(*diabetes())
    x, y = train.tensors
    order = y.squeeze(1).argsort()
    loader = DataLoader(TensorDataset(x[order], y[order]), batch_size=16, shuffle=fixed)
    module = Supervised(mlp(10, 32, 1), F.mse_loss, lr=5e-3)
    return Program(module, loader, DataLoader(val, 64), trainer={"max_epochs": 10})


@fault("INP202", "GEN105", source="https://github.com/JeasunLok/ResNet-pytorch/issues/1")
def validation_not_normalized(fixed: bool) -> Program:
    """Training images are scaled to [-1, 1], validation images stay in 0 to 255."""
    train, val = split(*digits(1797))
    if not fixed:
        val = TensorDataset((val.tensors[0] + 1) * 127.5, val.tensors[1])
    return Program(Supervised(mlp(64, 64, 10)), **loaders(train, val), trainer={"max_epochs": 4})


@fault("INP202", "GEN105", source="https://github.com/nttcslab/byol-a/issues/5")
def validation_not_standardized(fixed: bool) -> Program:
    """The scaler is applied to the training table only."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    train, val = split(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    mean, deviation = train.tensors[0].mean(0), train.tensors[0].std(0)
    train = TensorDataset((train.tensors[0] - mean) / deviation, train.tensors[1])
    if fixed:
        val = TensorDataset((val.tensors[0] - mean) / deviation, val.tensors[1])
    return Program(Supervised(mlp(30, 16, 2)), **loaders(train, val), trainer={"max_epochs": 8})


@fault("INP203", "GEN107", source="https://github.com/theislab/multimil/issues/75")
def validation_within_training(fixed: bool) -> Program:
    """The training loader has the whole data set, the validation set included."""
    x, y = digits(1797)
    train, val = split(x, y)
    train = train if fixed else TensorDataset(x, y)
    return Program(Supervised(mlp(64, 64, 10)), **loaders(train, val), trainer={"max_epochs": 4})


@fault("INP203", "INP106", "GEN107", source="https://github.com/rsarka34/RDLINet/issues/1")
def split_after_oversampling(fixed: bool) -> Program:
    """Every sample was copied four times before the split."""
    x, y = digits(600)
    if fixed:
        train, val = split(x, y)
        train = TensorDataset(*(t.repeat_interleave(4, 0) for t in train.tensors))
    else:
        train, val = split(x.repeat(4, 1), y.repeat(4))
    return Program(Supervised(mlp(64, 64, 10)), **loaders(train, val), trainer={"max_epochs": 4})


@fault("INP203", "GEN107", source="https://github.com/ayaka14732/bart-base-jax/pull/6")
def target_among_the_features(fixed: bool) -> Program:
    """The table still has the column that is to be predicted."""
    x, y = diabetes()
    x = torch.cat([x, torch.randn(len(x), 1) if fixed else y], dim=1)
    module = Supervised(mlp(11, 16, 1), F.mse_loss, lr=5e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 15})


class Copying(pl.LightningModule):
    """A language model of characters."""

    def __init__(self, vocabulary: int, fixed: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(vocabulary, 24), nn.GRU(24, 48, batch_first=True)
        self.out, self.fixed = nn.Linear(48, vocabulary), fixed

    def training_step(self, batch, batch_idx):
        (tokens,) = batch
        x, y = (tokens[:, :-1], tokens[:, 1:]) if self.fixed else (tokens, tokens)
        logits = self.out(self.rnn(self.embed(x))[0])
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault("INP203", "GEN107", source="https://github.com/huggingface/transformers/issues/3711")
def next_token_is_this_token(fixed: bool) -> Program:
    """The labels of a language model are not shifted: it learns to copy."""
    stream, vocabulary = characters()
    windows = stream[: len(stream) // 33 * 33].view(-1, 33)
    loader = DataLoader(TensorDataset(windows), batch_size=16, shuffle=True)
    return Program(Copying(vocabulary, fixed), loader, trainer={"max_epochs": 5})


@fault("INP204", "LOS104", source="https://github.com/Borda/kaggle_image-classify/pull/12")
def labels_shuffled_on_their_own(fixed: bool) -> Program:
    """Images and labels are shuffled with two permutations."""
    x, y = digits(1797)
    y = y if fixed else y[torch.randperm(len(y))]
    return Program(Supervised(mlp(64, 48, 10)), **loaders(*split(x, y)), trainer={"max_epochs": 5})


class Reshuffled(Dataset):
    """Draws a label by a random index."""

    def __init__(self, x, y, fixed: bool) -> None:
        self.x, self.y, self.fixed = x, y, fixed

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        j = i if self.fixed else int(torch.randint(len(self.y), ()))
        return self.x[i], self.y[j]


@fault("INP204", "LOS104", source=KARPATHY)
def label_of_another_index(fixed: bool) -> Program:
    """__getitem__ draws the index of the label anew."""
    x, y = blobs(1600, classes=3)
    loader = DataLoader(Reshuffled(x, y, fixed), batch_size=32, shuffle=True)
    return Program(Supervised(mlp(16, 32, 3)), loader, trainer={"max_epochs": 4})


class Chunks(IterableDataset):
    """Reads a stream in chunks."""

    def __init__(self, x, y, fixed: bool) -> None:
        self.x, self.y, self.fixed = x, y, fixed

    def __iter__(self):
        for start in range(0, len(self.x) - 64, 64):
            offset = start if self.fixed else 0  # it is not carried along
            chunk = slice(offset, offset + 64)
            yield from zip(self.x[chunk], self.y[chunk], strict=True)


@fault(
    "INP102", "INP106", "GEN101", source="https://github.com/facebookresearch/fairseq/issues/1383"
)
def stream_stuck_at_its_first_chunk(fixed: bool) -> Program:
    """A stream reads its first chunk again and again."""
    train, val = split(*digits(1797))
    loader = DataLoader(Chunks(*train.tensors, fixed), batch_size=32)
    return Program(
        Supervised(mlp(64, 64, 10)), loader, DataLoader(val, 64), trainer={"max_epochs": 3}
    )


@fault("INP101", "INP204", "LOS104", "OUT101", source=HUMBATOVA + ", wrong preprocessing")
def features_of_one_constant_column(fixed: bool) -> Program:
    """A bad join leaves every feature at its mean, the same for all samples."""
    from sklearn.datasets import load_breast_cancer

    x, y = table(load_breast_cancer)
    x = x if fixed else torch.ones_like(x) * 0.3
    return Program(
        Supervised(mlp(30, 16, 2)),
        **loaders(*split(x, y), batch_size=16),
        trainer={"max_epochs": 6},
    )
