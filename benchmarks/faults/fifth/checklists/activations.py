"""ACT, out of the checklists: units that say nothing, or always the same."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from ... import KARPATHY, UMLAUT, fault
from ..._parts import Program
from ._parts import CS231N, Learner, dice, feed, hits, movements


class NamesModel(pl.LightningModule):
    """The multilayer perceptron of the lectures: a few letters in, the next letter out."""

    def __init__(
        self, *, fixed: bool, letters: int = 27, block: int = 4, hidden: int = 200
    ) -> None:
        super().__init__()
        g = dice(2147)
        gain = (5 / 3) / (block * 16) ** 0.5 if fixed else 1.0
        self.C = nn.Parameter(torch.randn(letters, 16, generator=g))
        self.W1 = nn.Parameter(torch.randn(block * 16, hidden, generator=g) * gain)
        self.b1 = nn.Parameter(torch.zeros(hidden))
        self.W2 = nn.Parameter(torch.randn(hidden, letters, generator=g) * 0.01)
        self.b2 = nn.Parameter(torch.zeros(letters))

    def forward(self, x):
        hidden = torch.tanh(self.C[x].flatten(1) @ self.W1 + self.b1)
        return hidden @ self.W2 + self.b2

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log_dict({"loss/train": loss, "loss/log10": loss.log10().detach()})
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("loss/val", F.cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@fault(
    "ACT102",
    "UPD104",
    "GRD102",
    source="https://github.com/karpathy/nn-zero-to-hero (part 3: the tanh is far too saturated)",
)
def tanh_of_the_names_model(fixed: bool) -> Program:
    """The first layer of the model of names comes straight from randn: most of its tanh are at one."""
    g = dice(5)
    follow = torch.randint(1, 27, (27, 3), generator=g)
    names = torch.randint(1, 27, (2000, 9), generator=g)
    for t in range(2, 9):
        near = follow[names[:, t - 1], torch.randint(3, (2000,), generator=g)]
        far = (names[:, t - 2] + 1) % 27
        names[:, t] = torch.where(torch.rand(2000, generator=g) < 0.4, far, near)
    cut = names.unfold(1, 5, 1).reshape(-1, 5)
    train, val = feed(cut[:, :4], cut[:, 4], size=64)
    return Program(NamesModel(fixed=fixed), train, val, {"max_epochs": 3, "gradient_clip_val": 5.0})


def jolted(classes: int = 5) -> nn.Sequential:
    """A plain convolutional net for signals of three channels."""
    return nn.Sequential(
        nn.Conv1d(3, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


class Descent(Learner):
    """The same with momentum."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True)


@fault(
    "ACT101",
    "LRN101",
    "OUT101",
    "LOS104",
    source=CS231N + ": as much as 40% of a ReLU net can be dead if the learning rate is too high",
)
def convolutions_dead_after_a_jolt(fixed: bool) -> Program:
    """SGD with momentum begins at one: the first steps throw the ReLUs where no signal wakes them."""
    train, val = feed(*movements(), size=32)
    return Program(Descent(jolted(), lr=0.02 if fixed else 1.0), train, val, {"max_epochs": 8})


class Reader(pl.LightningModule):
    """A net whose layers are started by hand, as an old paper has it."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in ((144, 96), (96, 96), (96, 96)))
        self.out = nn.Linear(96, 5)
        for layer in self.layers:
            if fixed:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
            else:
                nn.init.uniform_(layer.weight, -0.1, 0.02)
                nn.init.constant_(layer.bias, -0.2)

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.out(x)

    def step(self, batch, stage):
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.log(f"{stage}_loss", loss)
        self.log(f"{stage}_accuracy", hits(logits, y), prog_bar=True)
        return loss

    def training_step(self, batch, batch_idx):
        return self.step(batch, "train")

    def validation_step(self, batch, batch_idx):
        self.step(batch, "val")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@fault(
    "ACT101",
    "UPD104",
    "OUT101",
    "GRD102",
    "GRD104",
    "GRD103",
    "ACT103",
    source=KARPATHY
    + "; "
    + UMLAUT
    + "; https://arxiv.org/abs/1903.06733 (dying ReLU and initialization)",
)
def relus_born_dead(fixed: bool) -> Program:
    """Weights are drawn mostly below zero, and biases are below it: the second layer is never awake."""
    train, val = feed(*movements(2400, noise=0.5), size=50)
    return Program(Reader(fixed=fixed), train, val, {"max_steps": 300, "log_every_n_steps": 10})
