"""NAN, after reports: numbers that are none."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ... import fault
from ..._parts import Program
from ._parts import Classify, Regress, Task, cells, conv, cut, loaders, mlp, rng, series


class Houses(Regress):
    """A linear regression by plain descent, the first program of many."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@fault(
    "NAN102",
    "NAN103",
    "NAN104",
    "LRN101",
    "INP103",
    "LOS108",
    source="https://stats.stackexchange.com/questions/594738 (the loss grows between epochs in a simple "
    "model, up to 1e28)",
)
def descent_upon_square_metres_and_years(fixed: bool) -> Program:
    """Square metres and the year of construction go into a linear regression at 0.01: infinite in a few steps."""
    g = rng(81)
    area = 40 + 160 * torch.rand(1200, generator=g)
    rooms = (area / 30 + torch.randn(1200, generator=g)).round().clamp_min(1)
    year = 1900 + (120 * torch.rand(1200, generator=g)).round()
    x = torch.stack([area, rooms, year], 1)
    price = 3 * area + 12 * rooms + 1.1 * (year - 1900) + 40 * torch.randn(1200, generator=g)
    price = (price - price.mean()) / price.std()
    if fixed:
        x = (x - x.mean(0)) / x.std(0)
    return Program(
        Houses(nn.Linear(3, 1), lr=0.01), **loaders(*cut(x, price)), trainer={"max_epochs": 8}
    )


class Findings(Task):
    """Several findings to an image; not every radiologist looked for each."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        pools = [nn.MaxPool2d(2), nn.MaxPool2d(2)]
        self.net = nn.Sequential(
            conv(1, 12, pools[0]), conv(12, 24, pools[1]), nn.Flatten(), nn.Linear(384, 4)
        )
        self.fixed = fixed

    def step(self, batch):
        image, findings = batch
        logits = self.net(image)
        known = ~findings.isnan()
        if self.fixed:
            loss = F.binary_cross_entropy_with_logits(logits[known], findings[known])
        else:
            loss = F.binary_cross_entropy_with_logits(logits, findings)
        right = ((logits > 0) == (findings > 0.5))[known].float().mean()
        return loss, {"acc": right}


@fault(
    "NAN101",
    "NAN102",
    source="https://github.com/mlmed/torchxrayvision/issues/119 (pathologies that a dataset has no "
    "label for are NaN)",
)
def findings_that_nobody_looked_for(fixed: bool) -> Program:
    """Two datasets are joined, and what one of them has no label for is NaN in the target."""
    image, _, box = cells(800)
    findings = torch.stack([box[:, 0] > 8, box[:, 1] > 8, box[:, 2] > 6, box[:, 3] > 6], 1).float()
    findings[torch.rand(800, generator=rng(82)) < 0.2, 2:] = torch.nan
    return Program(
        Findings(fixed=fixed), **loaders(*cut(image, findings)), trainer={"max_epochs": 5}
    )


class Gaps(Task):
    """A forecast from a day of hours; some of the hours to come were never measured."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(24, 48, 6), fixed

    def step(self, batch):
        x, y = batch
        out = self.net(x)
        known = ~y.isnan()
        error = (out - (y.nan_to_num() if self.fixed else y)) ** 2
        loss = torch.where(known, error, torch.zeros(())).sum() / known.sum()
        return loss, {"r2": 1 - loss.detach() / y[known].var()}


@fault(
    "NAN103",
    "NAN101",
    "NAN104",
    source="https://github.com/BLAST-AI-ML/synapse/pull/237 (missing values are ignored in the loss "
    "and still go into the gradients); https://github.com/pytorch/pytorch/issues/4132",
)
def gaps_ignored_by_the_loss_alone(fixed: bool) -> Program:
    """torch.where leaves the missing hours out of the loss; their gradient is NaN times nought all the same."""
    values = series(3000)
    x = values.unfold(0, 24, 1)[:-6]
    y = values[24:].unfold(0, 6, 1).clone()
    y[torch.rand(y.shape, generator=rng(83)) < 0.02] = torch.nan
    return Program(Gaps(fixed=fixed), **loaders(*cut(x, y[: len(x)])), trainer={"max_epochs": 6})


class Brains(Dataset):
    """Scans, with the random gamma that goes with them to train."""

    def __init__(self, image, size, *, augment: bool, fixed: bool) -> None:
        self.image, self.size, self.augment, self.fixed = image, size, augment, fixed
        self.generator = rng(84)

    def __len__(self):
        return len(self.image)

    def __getitem__(self, index):
        x = self.image[index]
        if self.augment and torch.rand((), generator=self.generator) < 0.3:
            gamma = float(torch.empty(()).uniform_(-0.3, 0.3, generator=self.generator).exp())
            x = x.sign() * x.abs() ** gamma if self.fixed else x**gamma
        return x, self.size[index]


class Clinic(pl.LightningDataModule):
    """The scans of a clinic, the last of them to validate."""

    def __init__(self, image, size, *, fixed: bool) -> None:
        super().__init__()
        self.train = Brains(image[:640], size[:640], augment=True, fixed=fixed)
        self.val = Brains(image[640:], size[640:], augment=False, fixed=fixed)

    def train_dataloader(self):
        return DataLoader(self.train, 32, shuffle=True, generator=rng(1))

    def val_dataloader(self):
        return DataLoader(self.val, 80)


@fault(
    "NAN101",
    "NAN102",
    source="https://github.com/TorchIO-project/torchio/issues/306 (RandomGamma turns negative values "
    "to NaN)",
)
def random_gamma_after_the_standardization(fixed: bool) -> Program:
    """The scans are standardized first, and gamma comes after: a negative number to the power of 1.2."""
    image, mask, _ = cells(800)
    size = mask.sum((1, 2))
    size = (size > size.float().median()).long()
    data = Clinic(image, size, fixed=fixed)
    net = nn.Sequential(conv(1, 16, nn.MaxPool2d(2)), conv(16, 32), nn.AdaptiveAvgPool2d(1))
    net = nn.Sequential(net, nn.Flatten(), nn.Linear(32, 2))
    return Program(Classify(net, lr=1e-3), data, trainer={"max_epochs": 6})
