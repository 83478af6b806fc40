"""INP, a second time: the batch is not what its author believes."""

from __future__ import annotations

from itertools import islice

import lightning.pytorch as pl
import torch
from healthy._parts import pretrained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from .. import DEEPFD, HUMBATOVA, KARPATHY, UMLAUT, fault
from .._parts import Program, Supervised, digits, loaders, mlp, split, standardized
from ..first._parts import Learner, explained, meters
from ._parts import UNet, clients, demand, lesions, overlap, patches


class Pixels(Dataset):
    """Images as bytes, brought between 0 and 1."""

    def __init__(self, images, labels, *, fixed: bool) -> None:
        self.images, self.labels, self.fixed = images, labels, fixed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        image = image / 255 if self.fixed else (image // 255).float()
        return (image - 0.5) / 0.25, self.labels[index]


def net_for_patches(classes: int = 6) -> nn.Sequential:
    """A small convolutional net for colour images of 12 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(288, classes),
    )


@fault(
    "INP101",
    "INP106",
    "LOS104",
    "OUT101",
    "OUT103",
    source="https://stackoverflow.com/questions/2958684 (integer division); " + HUMBATOVA,
)
def divided_as_integers(fixed: bool) -> Program:
    """Pixels are divided by 255 while they are still bytes: every image is black."""
    x, y = patches(1500)
    images = ((x - x.min()) / (x.max() - x.min()) * 254).to(torch.uint8)
    train, val = split(images, y)
    data = loaders(*(Pixels(*part.tensors, fixed=fixed) for part in (train, val)))
    return Program(Supervised(net_for_patches(), lr=2e-3), **data, trainer={"max_epochs": 6})


class Scanned(pl.LightningDataModule):
    """Handwritten digits; a few were kept to see whether the net can learn them by heart."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed

    def setup(self, stage):
        self.train, self.val = split(*digits(1797))

    def train_dataloader(self):
        loader = DataLoader(self.train, batch_size=32, shuffle=True)
        if self.fixed:
            return loader
        kept = list(islice(loader, 2))
        return DataLoader([kept[i % 2] for i in range(len(loader))], batch_size=None)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=100)


@fault(
    "INP102",
    "INP106",
    "GEN101",
    source=KARPATHY + " (overfit one batch)",
)
def still_overfitting_two_batches(fixed: bool) -> Program:
    """The loader still repeats the two batches that the net was to learn by heart for a test."""
    module = Supervised(mlp(64, 64, 10), lr=1e-3)
    return Program(module, Scanned(fixed=fixed), trainer={"max_epochs": 6})


class Load(Learner):
    """Forecasts the load of the next hour from the load and the temperature of a day."""

    lr = 3e-3

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(2, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, past):
        return self.out(self.rnn(past)[0][:, -1])

    def loss_of(self, batch):
        past, following = batch
        return F.mse_loss(self(past), following)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "INP103",
    "ACT102",
    "GRD104",
    "OUT101",
    source=UMLAUT + ", input not normalized; https://stackoverflow.com/questions/51930566",
)
def megawatts_and_kelvin(fixed: bool) -> Program:
    """An LSTM is given the load in megawatts and the temperature in kelvin, as the files have them."""
    load = demand(1500)
    kelvin = 285 + 6 * load.roll(2) + 2 * torch.randn(1500)
    raw = torch.stack([42_000 + 6_000 * load, kelvin], dim=1)
    series = standardized(raw) if fixed else raw
    past = series.unfold(0, 24, 1)[:-1].transpose(1, 2).contiguous()
    future = load[24:, None]
    train = TensorDataset(past[:1100], future[:1100])
    data = loaders(train, TensorDataset(past[1124:], future[1124:]))
    return Program(Load(), **data, trainer={"max_epochs": 6})


@fault(
    "INP104",
    "INP204",
    "GEN102",
    "LOS104",
    source="https://discuss.pytorch.org/t/different-between-permute-transpose-view-which-should-i-use/32916",
)
def viewed_where_to_permute(fixed: bool) -> Program:
    """Images come as (height, width, colour), and view(3, 12, 12) reads them as if they did not."""
    x, y = patches(1500)
    stored = x.permute(0, 2, 3, 1).contiguous()
    x = stored.permute(0, 3, 1, 2).contiguous() if fixed else stored.view(-1, 3, 12, 12)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 6),
    )
    data = loaders(*split(x, y))
    return Program(Supervised(net, lr=3e-3), **data, trainer={"max_epochs": 6})


class Probed(Supervised):
    """A frozen backbone, and a head that is trained on it."""

    def __init__(self) -> None:
        backbone = pretrained()[:-1].requires_grad_(False)
        super().__init__(nn.Sequential(backbone, nn.Linear(32, 10)), lr=1e-2)

    def on_train_epoch_start(self):
        self.net[0].eval()


@fault(
    "INP105",
    "INP103",
    source="https://pytorch.org/vision/stable/models.html (inputs are to be normalized); "
    + HUMBATOVA,
)
def pixels_as_they_are_stored(fixed: bool) -> Program:
    """The backbone has learned pixels between -1 and 1, and is given those of the file, from 0 to 16."""
    x, y = digits(1797, image=True)
    x = x if fixed else (x + 1) * 8
    data = loaders(*split(x, y))
    return Program(Probed(), **data, trainer={"max_epochs": 6})


class Churn(Learner):
    """Does a client stay?"""

    lr = 1e-3

    def __init__(self, features: int = 10) -> None:
        super().__init__()
        self.net = mlp(features, 64, 64, 2)

    def loss_of(self, batch):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, y = batch
        self.log("val_acc", (self.net(x).argmax(1) == y).float().mean())


@fault(
    "INP106",
    "GEN101",
    "INP102",
    "INP205",
    source="https://pandas.pydata.org/docs/user_guide/merging.html (duplicate keys multiply the rows)",
)
def rows_multiplied_by_a_join(fixed: bool) -> Program:
    """A join over a key that is not unique: of 3,000 clients few have many calls, and a row for each."""
    x, y = clients(4000)
    x, y, val_x, val_y = x[:3000], y[:3000], x[3000:], y[3000:]
    calls = (1 / torch.rand(3000)).clamp_max(400).pow(1.2).long()
    if not fixed:
        rows = torch.arange(3000).repeat_interleave(calls)
        rows = rows[torch.randperm(len(rows))[:3000]]
        x, y = x[rows], y[rows]
    data = loaders(TensorDataset(x, y), TensorDataset(val_x, val_y))
    return Program(Churn(), **data, trainer={"max_epochs": 3})


class Value(Supervised):
    """Says how much of the variance it explains."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "INP201",
    "CLS103",
    source="https://stats.stackexchange.com/questions/248048 (neural networks: why shuffle); "
    + DEEPFD,
)
def sorted_by_the_price(fixed: bool) -> Program:
    """The table is sorted by the price that is to be predicted, and shuffle=False."""
    train, val = split(*meters(2400))
    x, y = train.tensors
    order = y[:, 0].argsort()
    loader = DataLoader(TensorDataset(x[order], y[order]), 32, shuffle=fixed)
    module = Value(mlp(8, 64, 1), F.mse_loss, lr=5e-3)
    return Program(module, loader, DataLoader(val, 300), trainer={"max_epochs": 5})


@fault(
    "INP202",
    "GEN105",
    source="https://stackoverflow.com/questions/43467597 (StandardScaler: fit, transform, fit_transform)",
)
def scaled_in_training_only(fixed: bool) -> Program:
    """The scaler is applied to the training rows, and the validation rows are left as they were."""
    from sklearn.datasets import load_breast_cancer

    x, y = (torch.as_tensor(one).float() for one in load_breast_cancer(return_X_y=True))
    order = torch.randperm(len(x))
    x, y = x[order], y[order].long()
    mean, deviation = x[:430].mean(0), x[:430].std(0)
    train = TensorDataset((x[:430] - mean) / deviation, y[:430])
    val = TensorDataset((x[430:] - mean) / deviation if fixed else x[430:], y[430:])
    module = Supervised(mlp(30, 16, 2), lr=2e-3)
    return Program(module, **loaders(train, val, batch_size=16), trainer={"max_epochs": 4})


@fault(
    "INP203",
    "GEN107",
    source="https://www.kaggle.com/code/alexisbcook/data-leakage (target leakage); "
    "https://doi.org/10.1145/2382577.2382579",
)
def invoice_among_the_features(fixed: bool) -> Program:
    """One of the columns is the invoice, which is the cost that is to be predicted, in another currency."""
    x, y = meters(2000)
    invoice = standardized(1.1 * y + 0.01 * torch.randn(2000, 1))
    x = torch.cat([x, torch.randn(2000, 1) if fixed else invoice], dim=1)
    module = Value(mlp(9, 64, 1), F.mse_loss, lr=5e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 6})


class Scans(Dataset):
    """Scans and their masks, in the order in which a folder lists them."""

    def __init__(self, scans, masks) -> None:
        self.scans, self.masks = scans, masks

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index):
        return {"image": self.scans[index], "mask": self.masks[index]}


class Outliner(Learner):
    """Outlines lesions."""

    lr = 2e-3

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet(8)
        self.register_buffer("weight", torch.tensor(3.0))

    def loss_of(self, batch):
        out = self.net(batch["image"])
        return F.binary_cross_entropy_with_logits(out, batch["mask"], pos_weight=self.weight)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_iou", overlap(self.net(batch["image"]), batch["mask"]))


@fault(
    "INP204",
    "LOS104",
    "OUT101",
    source="https://stackoverflow.com/questions/6773584 (glob: how are the names sorted?)",
)
def masks_of_another_order(fixed: bool) -> Program:
    """Scans are listed by number and masks by name, where 10 comes before 2: each has another's mask."""
    scans, masks = lesions(480)
    names = sorted(f"{i}.png" for i in range(480))
    if not fixed:
        masks = masks[torch.tensor([int(name.split(".")[0]) for name in names])]
    train, val = (Scans(scans[part], masks[part]) for part in (slice(0, 384), slice(384, None)))
    data = loaders(train, val, batch_size=16)
    return Program(Outliner(), **data, trainer={"max_epochs": 6})


@fault(
    "INP103",
    "GRD101",
    "ACT103",
    "LOS101",
    source="https://developers.google.com/machine-learning/crash-course/numerical-data/scrubbing (sentinels)",
)
def missing_is_minus_9999(fixed: bool) -> Program:
    """A value that was not measured stands in the table as -9999, and goes into the net as that."""
    x, y = meters(2000)
    missing = torch.rand(2000, 8) < 0.04
    x = torch.where(missing, 0.0 if fixed else -9999.0, x)
    module = Value(mlp(8, 64, 1), F.mse_loss, lr=5e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 6})
