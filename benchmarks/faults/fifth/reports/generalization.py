"""GEN, after reports: what the figures of validation do not say, or say of something else."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from ... import HUMBATOVA, fault
from ..._parts import Program, digits
from ._parts import Classify, conv, cut, loaders, mlp, rng, shuffled


def small_cnn() -> nn.Sequential:
    """Two convolutions and a linear layer for images of 8 x 8."""
    pools = (nn.MaxPool2d(2), nn.MaxPool2d(2))
    return nn.Sequential(
        conv(1, 16, pools[0]), conv(16, 32, pools[1]), nn.Flatten(), nn.Linear(128, 10)
    )


@fault(
    "GEN103",
    "INP102",
    "INP205",
    "LRN102",
    source="https://github.com/Lightning-AI/pytorch-lightning/pull/11950 (1 and 1.0); "
    "https://github.com/Shreeyak/pytorch-lightning-segmentation-template/issues/24",
)
def one_batch_where_all_were_meant(fixed: bool) -> Program:
    """limit_train_batches=1, out of a configuration that meant 100 %: one batch to each epoch."""
    net = nn.Sequential(nn.Flatten(), mlp(64, 96, 10))
    data = loaders(*cut(*shuffled(*digits(1797, image=True))), 256)
    limit = 1.0 if fixed else 1
    return Program(
        Classify(net, lr=1e-3), **data, trainer={"max_epochs": 50, "limit_train_batches": limit}
    )


@fault(
    "INP203",
    "GEN107",
    "INP106",
    source="https://github.com/robinreni96/Font_Recognition-DeepFont/issues/2 (augmented, then "
    "split into train and test)",
)
def augmented_on_disk_then_split(fixed: bool) -> Program:
    """Four slightly spoilt copies of each image are written first, and then they are split at random."""
    x, y = shuffled(*digits(600, image=True))
    x = x + 0.4 * torch.randn(x.shape, generator=rng(20))
    copies = x.repeat(4, 1, 1, 1) + 0.1 * torch.randn(2400, 1, 8, 8, generator=rng(21))
    labels, source = y.repeat(4), torch.arange(600).repeat(4)
    if fixed:
        ours = source < 480
        train = TensorDataset(copies[ours], labels[ours])
        val = TensorDataset(copies[~ours], labels[~ours])
    else:
        train, val = cut(*shuffled(copies, labels))
    return Program(Classify(small_cnn(), lr=1e-3), **loaders(train, val), trainer={"max_epochs": 3})


@fault(
    "GEN105",
    "INP204",
    "CLS106",
    source=HUMBATOVA
    + " (wrong labels for the data); https://stackoverflow.com (labels looked up by "
    "position after a shuffled train_test_split)",
)
def labels_looked_up_by_position(fixed: bool) -> Program:
    """Rows are split at random; the labels of validation are read by position in the file."""
    x, y = digits(1797, image=True)
    order = torch.randperm(1797, generator=rng(22))
    train, val = order[:1400], order[1400:]
    labels = y[val] if fixed else y[1400:]
    data = loaders(TensorDataset(x[train], y[train]), TensorDataset(x[val], labels))
    return Program(Classify(small_cnn(), lr=1e-3), **data, trainer={"max_epochs": 5})
