"""INP, as people meet it."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from ... import fault
from ._parts import (
    DataLoader,
    Model,
    Program,
    accuracy,
    cut,
    explained,
    loaders,
    mlp,
    rng,
    standard,
    textures,
    vision,
    weather,
)

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


class Cloth(Model):
    """Tells four kinds of cloth apart."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__(lr)
        self.net = vision()

    def measure(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}


class ClothBySGD(Cloth):
    """The same, with the optimizer of the paper."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)]


@fault(
    "INP103",
    "GRD101",
    "LOS101",
    "LRN101",
    "ACT101",
    "OUT101",
    source="https://discuss.pytorch.org/t/understanding-transform-normalize/21730 (ToTensor, "
    "then Normalize)",
)
def numbers_of_imagenet_for_bytes(fixed: bool) -> Program:
    """Normalize with the means of ImageNet gets bytes up to 255, since ToTensor was left out."""
    x, y = textures()
    photos = (255 * x).byte().float()
    photos = photos / 255 if fixed else photos
    model = ClothBySGD(0.02)
    return Program(model, **loaders((photos - MEAN) / STD, y), trainer={"max_epochs": 10})


class Forecast(Model):
    """The temperature in three hours, from two days of weather."""

    def __init__(self) -> None:
        super().__init__(3e-3)
        self.lstm = nn.LSTM(4, 32, batch_first=True)
        self.head = nn.Linear(32, 1)

    def measure(self, batch):
        past, coming = batch["past"], batch["coming"]
        out = self.head(self.lstm(past)[0][:, -1])
        return F.mse_loss(out, coming), {"r2": explained(out, coming)}


class Hours(Dataset):
    """Windows of a series, as dicts."""

    def __init__(self, series, target, begins, length: int = 24) -> None:
        self.series, self.target, self.begins, self.length = series, target, begins, length

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, i):
        begin = int(self.begins[i])
        end = begin + self.length
        return {"past": self.series[begin:end], "coming": self.target[end + 2]}


@fault(
    "INP103",
    "ACT102",
    "GEN102",
    "OUT101",
    source="common on forums: an LSTM on unscaled measurements answers with the mean",
)
def pressure_in_hectopascal(fixed: bool) -> Program:
    """Pressure around 1013 and temperature around 285 go into an LSTM: its gates are full from
    the start.
    """
    series = weather(2600)
    target = standard(series[:, 1:2])
    series = standard(series) if fixed else series
    begins = torch.randperm(1900, generator=rng(2))
    return Program(
        Forecast(),
        DataLoader(Hours(series, target, begins), batch_size=64, shuffle=True),
        DataLoader(Hours(series, target, torch.arange(1930, 2570)), batch_size=320),
        {"max_epochs": 16},
    )


class Paired(Cloth):
    """Takes a batch of pictures and a batch of labels."""

    def measure(self, batch):
        return super().measure((batch["image"], batch["label"]))


class Named(Dataset):
    """Pictures with their labels."""

    def __init__(self, image, label) -> None:
        self.image, self.label = image, label

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i):
        return {"image": self.image[i], "label": self.label[i]}


@fault(
    "INP204",
    "LOS104",
    "GEN105",
    "OUT101",
    source="common on forums: two loaders in one loop, and both shuffle",
)
def two_loaders_shuffled_each_for_itself(fixed: bool) -> Program:
    """One loader gives pictures, another one labels, and both shuffle: a label is that of any
    picture.
    """
    x, y = textures()
    train, val = cut((x - x.mean()) / x.std(), y)
    image, label = train.tensors
    options = {"batch_size": 32, "shuffle": True}
    if fixed:
        data = DataLoader(Named(image, label), **options)
    else:
        data = CombinedLoader(
            {"image": DataLoader(image, **options), "label": DataLoader(label, **options)},
            mode="min_size",
        )
    return Program(
        Paired(), data, DataLoader(Named(*val.tensors), batch_size=320), {"max_epochs": 8}
    )


class District(Model):
    """Median value of the houses of a district."""

    def __init__(self) -> None:
        super().__init__(2e-3)
        self.net = mlp(6, 48, 48, 1)

    def measure(self, batch):
        x, y = batch
        out = self.net(x).squeeze(1)
        return F.huber_loss(out, y), {"r2": explained(out, y)}


@fault(
    "INP101",
    "OUT101",
    "GEN102",
    "INP103",
    "LOS104",
    "OUT103",
    source="common on forums: (x - x.mean(axis=1)) / x.std(axis=1), and all rows look alike",
)
def standardized_along_the_row(fixed: bool) -> Program:
    """Standardized with axis=1 and not 0: population is the largest number of each row, so rows
    are alike.
    """
    g = rng(6)
    z = torch.randn(2500, 6, generator=g)
    value = z[:, 0] + z[:, 1].abs() + z[:, 2] * z[:, 3] - 0.6 * z[:, 4]
    value = standard(value + 0.2 * torch.randn(2500, generator=g))
    scale = torch.tensor([1.5, 0.4, 8.0, 0.7, 0.3, 900.0])
    middle = torch.tensor([4.0, 5.4, 28.0, 3.0, 1.1, 30000.0])
    x = middle + scale * z
    axis = 0 if fixed else 1
    x = (x - x.mean(axis, keepdim=True)) / x.std(axis, keepdim=True)
    return Program(District(), **loaders(x, value), trainer={"max_epochs": 14})


@fault(
    "INP104",
    "GEN102",
    "GEN101",
    "GEN105",
    source="common on forums: the rows of CIFAR-10's pickles reshaped to (32, 32, 3)",
)
def rows_of_cifar_read_pixel_by_pixel(fixed: bool) -> Program:
    """A row holds all reds, then greens, then blues; it is reshaped as if each pixel's three
    came together.
    """
    x, y = textures(500)
    rows = ((x - x.mean()) / x.std()).flatten(1)
    image = rows.view(-1, 3, 16, 16) if fixed else rows.view(-1, 16, 16, 3).permute(0, 3, 1, 2)
    return Program(Cloth(), **loaders(image, y), trainer={"max_epochs": 16})
