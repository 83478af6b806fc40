"""CLS, out of the checklists: how many there are of each class, and in which order."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

from ... import fault
from ..._parts import Program
from ._parts import REASONS, TOBIN, Learner, dice, movements


class Bearings(pl.LightningModule):
    """Tells the state of a bearing from its vibration, and keeps the accuracy in mind."""

    def __init__(self, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(weight=weights)
        self.net = nn.Sequential(
            nn.Conv1d(1, 16, 7, padding=3),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.MaxPool1d(4),
            nn.Conv1d(16, 32, 5, padding=2),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(32, 4),
        )
        self.accuracy = MulticlassAccuracy(4, average="micro")
        self.recall = MulticlassRecall(4, average="macro")

    def training_step(self, batch, batch_idx):
        loss = self.criterion(self.net(batch["signal"]), batch["state"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self.net(batch["signal"])
        self.accuracy(logits, batch["state"])
        self.recall(logits, batch["state"])
        self.log("val_loss", self.criterion(logits, batch["state"]))
        self.log("val_accuracy", self.accuracy)
        self.log("val_recall", self.recall)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def vibrations(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vibration of bearings (N, 1, 64): 93 of a hundred are sound, the others have one of three defects."""
    g = dice(31)
    y = torch.multinomial(torch.tensor([0.93, 0.03, 0.02, 0.02]), size, True, generator=g)
    t = torch.arange(64)
    x = torch.randn(size, 64, generator=g)
    phase = 6.28 * torch.rand(size, 1, generator=g)
    for k, rate in ((1, 0.5), (2, 0.9), (3, 1.6)):
        x = x + (y == k)[:, None] * 1.1 * torch.sin(rate * t + phase)
    return x[:, None], y


@fault(
    "CLS101",
    "CLS107",
    source=REASONS + ", no. 8: reduce class imbalance",
)
def bearings_are_nearly_always_sound(fixed: bool) -> Program:
    """Of a hundred bearings 93 are sound: 93 percent accuracy, and hardly a defect is found."""
    x, y = vibrations(3600)
    rows = [{"signal": a, "state": b} for a, b in zip(x, y, strict=True)]
    train, val = rows[:2800], rows[2800:]
    weights = 2800 / (4 * torch.bincount(y[:2800]).float()) if fixed else None
    loaders = DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=200)
    return Program(Bearings(weights), *loaders, {"max_epochs": 4})


class Spirals(Dataset):
    """The three arms of a spiral, one after the other."""

    def __init__(self, each: int = 400, seed: int = 0) -> None:
        g, arms = dice(seed), []
        for k in range(3):
            r = torch.linspace(0.05, 1, each)
            t = torch.linspace(k * 4, (k + 1) * 4, each) + 0.2 * torch.randn(each, generator=g)
            arms.append(torch.stack([r * torch.sin(t), r * torch.cos(t)], dim=1) * 2)
        self.x, self.y = torch.cat(arms), torch.arange(3).repeat_interleave(each)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


@fault(
    "CLS103",
    "CLS102",
    "INP201",
    source=REASONS
    + ", no. 7: shuffle the dataset; https://cs231n.github.io/neural-networks-case-study/",
)
def spiral_arm_after_arm(fixed: bool) -> Program:
    """The arms of the spiral come as they were made, the first, the second, the third, in each epoch."""
    net = nn.Sequential(
        nn.Linear(2, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 3)
    )
    train = DataLoader(Spirals(), batch_size=40, shuffle=fixed)
    val = DataLoader(Spirals(each=100, seed=9), batch_size=100)
    return Program(Learner(net, lr=5e-3), train, val, {"max_epochs": 12, "log_every_n_steps": 5})


class Recordings(pl.LightningDataModule):
    """Recordings by activity, of which the last fifth is held out."""

    def __init__(self, *, shuffle: bool) -> None:
        super().__init__()
        self.shuffle = shuffle

    def setup(self, stage=None):
        x, y = movements(1600, length=36, noise=0.6)
        order = y.argsort(stable=True)
        x, y = x[order], y[order]
        if self.shuffle:
            order = torch.randperm(len(y), generator=dice(4))
            x, y = x[order], y[order]
        n = int(0.8 * len(y))
        self.train, self.val = TensorDataset(x[:n], y[:n]), TensorDataset(x[n:], y[n:])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=64)


class Walker(Learner):
    """A recurrent net over the three axes."""

    def __init__(self) -> None:
        super().__init__(nn.GRU(3, 48, batch_first=True), lr=4e-3)
        self.head = nn.Linear(48, 5)

    def forward(self, x):
        return self.head(self.net(x.transpose(1, 2))[0].mean(1))


@fault(
    "CLS104",
    "CLS106",
    "GEN105",
    "CLS107",
    source=TOBIN + "; https://scikit-learn.org/stable/modules/generated/sklearn.model_selection."
    "train_test_split.html (shuffle=False on a table sorted by class)",
)
def last_fifth_of_what_is_sorted(fixed: bool) -> Program:
    """The recordings lie by activity, and the last fifth of them validates: only people who cycle."""
    return Program(Walker(), Recordings(shuffle=fixed), None, {"max_epochs": 6})
