"""GEN, in applied work: when a run ends, and what its validation is worth."""

from __future__ import annotations

import zlib

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, TensorDataset, digits, feeders, mlp, parted, rng, scored, scores


class Screening(Model):
    """Whether a sample needs a second look."""

    def __init__(self, width: int = 128) -> None:
        super().__init__(lr=1.5e-3)
        self.net = mlp(10, width, width, 2)

    def shared(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": scored(logits, y)}

    def training_step(self, batch, batch_idx):
        loss, others = self.shared(batch)
        self.log_dict(
            {"train/loss": loss, "train/acc": others["acc"]}, on_step=False, on_epoch=True
        )
        return loss


@fault(
    "GEN101",
    source="https://lightning.ai/docs/pytorch/stable/common/early_stopping.html (monitor: which metric must get better)",
)
def stopping_watches_the_training(fixed: bool) -> Program:
    """EarlyStopping watches the loss of training, which falls for ever while that of validation has long turned."""
    x, score = scores(1600, seed=6)
    y = (score + 0.5 * torch.randn(1600, generator=rng(6)) > 0).long()
    stop = EarlyStopping("val/loss" if fixed else "train/loss", patience=3)
    data = feeders(*parted(x, y, held_out=0.3), batch_size=64)
    return Program(Screening(), **data, trainer={"max_epochs": 50, "callbacks": [stop]})


class Shopper(Model):
    """What a shopper will look for next, by where, how, and with what."""

    def __init__(self) -> None:
        super().__init__(lr=3e-3)
        self.values = nn.Embedding(512, 16)
        self.net = mlp(48, 48, 6)

    def shared(self, batch):
        ids, wanted = batch
        logits = self.net(self.values(ids).flatten(1))
        return F.cross_entropy(logits, wanted), {"acc": scored(logits, wanted)}


def hashed(rows: torch.Tensor, salt: str) -> torch.Tensor:
    """Each value of each column as one of 512 numbers."""
    numbers = [
        [zlib.crc32(f"{salt}{column}={value}".encode()) % 512 for column, value in enumerate(row)]
        for row in rows.tolist()
    ]
    return torch.tensor(numbers)


@fault(
    "GEN105",
    "INP202",
    "GEN101",
    source="https://docs.python.org/3/using/cmdline.html#envvar-PYTHONHASHSEED (hash() of a string differs from process to process)",
)
def hashed_in_two_processes(fixed: bool) -> Program:
    """Values are hashed by a job for training and by another for validation, each with the salt of its process."""
    g = rng(7)
    rows = torch.randint(24, (6000, 3), generator=g)
    pull = torch.randn(3, 24, 6, generator=g)
    worth = sum(pull[i][rows[:, i]] for i in range(3)) + 0.2 * torch.randn(6000, 6, generator=g)
    wanted = worth.argmax(1)
    train = TensorDataset(hashed(rows[:5500], "1"), wanted[:5500])
    val = TensorDataset(hashed(rows[5500:], "1" if fixed else "2"), wanted[5500:])
    return Program(Shopper(), **feeders(train, val), trainer={"max_epochs": 4})


class Postcodes(Model):
    """Reads the digits of a postcode."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.net = nn.Sequential(
            nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 10)
        )

    def shared(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": scored(logits, y)}


@fault(
    "GEN103",
    source="https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.callbacks.EarlyStopping.html (stopping_threshold)",
)
def good_enough_for_another_task(fixed: bool) -> Program:
    """stopping_threshold=1.0 was good enough for a task of a hundred classes; with ten it ends after an epoch or two."""
    stop = EarlyStopping("val/loss", patience=4, stopping_threshold=None if fixed else 1.0)
    data = feeders(*parted(*digits(1797)))
    trainer = {"max_epochs": 8, "val_check_interval": 0.5, "callbacks": [stop]}
    return Program(Postcodes(), **data, trainer=trainer)
