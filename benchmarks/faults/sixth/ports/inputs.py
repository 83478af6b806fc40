"""INP, in programs that came from elsewhere: what the pipeline now delivers."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset

from ... import fault
from ._parts import DataLoader, Program, Task, explained, fresh, load_curve


class Windows(Dataset):
    """As timeseries_dataset_from_array: window i, and target i."""

    def __init__(self, data, targets, length) -> None:
        self.data, self.targets, self.length = data, targets, length

    def __len__(self) -> int:
        return min(len(self.data) - self.length + 1, len(self.targets))

    def __getitem__(self, i):
        return self.data[i : i + self.length], self.targets[i]


class Grid(pl.LightningDataModule):
    """The load of a town: the first four fifths to train, the rest to validate."""

    def __init__(self, *, fixed: bool, length: int = 24) -> None:
        super().__init__()
        self.fixed, self.length = fixed, length

    def setup(self, stage):
        curve = load_curve()
        parts = {"train": curve[:1920], "val": curve[1920:]}
        start = self.length if self.fixed else 0
        self.windows = {k: Windows(c[:, None], c[start:], self.length) for k, c in parts.items()}

    def train_dataloader(self):
        return DataLoader(self.windows["train"], batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.windows["val"], batch_size=128)


class Forecaster(Task):
    """Convolutions over the last day."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.net = nn.Sequential(
            nn.Conv1d(1, 24, 5, padding=2), nn.ReLU(), nn.Conv1d(24, 24, 5, padding=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(24 * 24, 1),
        )  # fmt: skip

    def step(self, batch):
        window, load = batch
        out = self.net(window.transpose(1, 2)).squeeze(1)
        return F.mse_loss(out, load), {"r2": explained(out, load)}


@fault(
    "INP203",
    "GEN107",
    source="https://github.com/tensorflow/tensorflow/issues/40343 (timeseries_dataset_from_array: the target starts with the first record of the window)",
)
def hour_that_the_window_begins_with(fixed: bool) -> Program:
    """Target i belongs to the window that starts at i, and the series was not moved: the answer is in the window."""
    return Program(Forecaster(), Grid(fixed=fixed), trainer={"max_epochs": 5})


class Pendulums(IterableDataset):
    """Simulates an epoch of swings, with noise, from a key."""

    def __init__(self, seed: int, batches: int, *, split: bool) -> None:
        self.key, self.batches, self.split = fresh(seed), batches, split
        self.seed = seed

    def __iter__(self):
        key = self.key if self.split else fresh(self.seed)
        for _ in range(self.batches):
            length, damping = 0.5 + torch.rand(2, 32, 1, generator=key)
            phase = 6.28 * torch.rand(32, 1, generator=key)
            t = torch.linspace(0, 6, 40)
            swing = (-0.4 * damping * t).exp() * torch.cos((9.8 / length).sqrt() * t + phase)
            yield {
                "swing": swing + 0.2 * torch.randn(32, 40, generator=key),
                "is": torch.cat([length, damping], dim=1) - 1,
            }


class Inverse(Task):
    """Reads length and damping off a noisy swing."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(
            nn.Linear(40, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2)
        )

    def step(self, batch):
        out = self.net(batch["swing"])
        return F.mse_loss(out, batch["is"]), {"r2": explained(out, batch["is"])}


@fault(
    "INP102",
    "GEN101",
    "INP106",
    "INP205",
    source="https://github.com/AakashKumarNain/TF_JAX_tutorials/issues/4 and https://github.com/jax-ml/jax/issues/2009 (one key for every draw)",
)
def key_that_is_never_split(fixed: bool) -> Program:
    """Every epoch simulates its batches anew, from the key of the configuration: they are the same six batches."""
    train, val = Pendulums(0, 6, split=fixed), Pendulums(1, 8, split=False)
    return Program(
        Inverse(),
        DataLoader(train, batch_size=None),
        DataLoader(val, batch_size=None),
        {"max_epochs": 65, "check_val_every_n_epoch": 5},
    )
