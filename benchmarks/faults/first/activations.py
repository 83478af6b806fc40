"""ACT: units that are dead, shut or out of scale."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .. import fault
from .._parts import Program, Supervised, digits, loaders, mlp, split, standardized
from ._parts import Learner, batches


class SparseCode(Learner):
    """An autoencoder whose code is rectified and kept sparse."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
        self.decoder, self.weight = nn.Linear(96, 64), weight

    def loss_of(self, batch):
        (x,) = batch
        code = self.encoder(x)
        return F.mse_loss(self.decoder(code), x) + self.weight * code.abs().mean()


@fault(
    "ACT101",
    "LOS106",
    "LOS105",
    "GRD102",
    "GRD104",
    "OUT103",
    "OUT101",
    source="https://web.stanford.edu/class/cs294a/sparseAutoencoder.pdf (A. Ng, sparse autoencoder)",
)
def sparse_until_nothing_is_left(fixed: bool) -> Program:
    """The sparsity penalty of an autoencoder is so heavy that no unit of its code ever answers."""
    x = digits(1797)[0]
    return Program(SparseCode(0.01 if fixed else 5.0), batches(x), trainer={"max_epochs": 6})


class Highway(nn.Module):
    """Layers that carry their input on, as far as a gate says so."""

    def __init__(self, bias: float, width: int = 48, depth: int = 6) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for gate in self.gates:
            nn.init.constant_(gate.bias, bias)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        for layer, gate in zip(self.layers, self.gates, strict=True):
            open_ = torch.sigmoid(gate(x))
            x = open_ * torch.relu(layer(x)) + (1 - open_) * x
        return self.last(x)


@fault(
    "ACT102",
    "GRD102",
    "UPD104",
    "UPD102",
    "GRD103",
    source="https://arxiv.org/abs/1505.00387 (Highway networks: the gates start at -1 to -3)",
)
def gates_that_start_shut(fixed: bool) -> Program:
    """The gates of a highway net start at -20 where the paper says -2, and never open."""
    module = Supervised(Highway(-2.0 if fixed else -20.0))
    return Program(module, **loaders(*split(*digits(1797))), trainer={"max_epochs": 5})


def expert(size: int = 1500):
    """States of a pendulum, and what an expert does: a push in [-1, 1]."""
    state = torch.randn(size, 6)
    push = torch.tanh(1.2 * state[:, :1] - 0.8 * state[:, 1:2] * state[:, 2:3].cos())
    return state, push


@fault(
    "ACT102",
    "UPD104",
    "GRD102",
    "LOS101",
    source="https://arxiv.org/abs/1509.02971 (DDPG: the last layer starts within 0.003)",
)
def actor_at_its_limits(fixed: bool) -> Program:
    """The last layer of an actor starts a thousand times too wide, so that its tanh is full on or off."""
    net = mlp(6, 64, 64, 1)
    nn.init.uniform_(net[-1].weight, -(0.003 if fixed else 30.0), 0.003 if fixed else 30.0)
    module = Supervised(net.append(nn.Tanh()), F.mse_loss)
    return Program(module, **loaders(*split(*expert())), trainer={"max_epochs": 8})


class Circles(Learner):
    """Finds the group that each member of a circle of friends belongs to."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        widths = [12, 32, 32, 32]
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.out, self.fixed = nn.Linear(32, 3), fixed

    def forward(self, friends, x):
        mixing = friends / friends.sum(2, keepdim=True) if self.fixed else friends
        for layer in self.layers:
            x = torch.relu(layer(mixing @ x))
        return self.out(x)

    def loss_of(self, batch):
        friends, x, y = batch
        return F.cross_entropy(self(friends, x).flatten(0, 1), y.flatten())

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        friends, x, y = batch
        self.log("val_acc", (self(friends, x).argmax(2) == y).float().mean())


@fault(
    "ACT103",
    "GRD101",
    "LOS101",
    "LRN101",
    source="https://arxiv.org/abs/1609.02907 (GCN, section 3.1: renormalization)",
)
def friends_added_up(fixed: bool) -> Program:
    """A graph net adds up the friends of everyone, layer after layer, and never divides."""
    y = torch.randint(3, (480, 40))
    close = torch.where(y[:, :, None] == y[:, None], 0.7, 0.2)
    friends = (torch.rand(480, 40, 40) < close).float().triu(1)
    friends = friends + friends.mT + torch.eye(40)
    x = standardized(torch.randn(3, 12)[y] + 1.2 * torch.randn(480, 40, 12))
    data = loaders(*split(friends, x, y), batch_size=16)
    return Program(Circles(fixed), **data, trainer={"max_epochs": 6})


class Shrinking(nn.Module):
    """Cleans a wave: filters it, drops what is small, and puts it together again."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.analysis = nn.Conv1d(1, 24, 9, padding=4)
        self.middle = nn.Conv1d(24, 24, 9, padding=4)
        self.synthesis, self.threshold = nn.Conv1d(24, 1, 9, padding=4), threshold

    def forward(self, x):
        x = F.softshrink(self.analysis(x), self.threshold)
        return self.synthesis(F.softshrink(self.middle(x), self.threshold))


@fault(
    "ACT101",
    "GRD104",
    "GRD102",
    "GRD103",
    "OUT103",
    "OUT101",
    "LOS104",
    source="https://icml.cc/Conferences/2010/papers/449.pdf (LISTA: what lies below the threshold is 0)",
)
def threshold_above_every_signal(fixed: bool) -> Program:
    """The threshold was tuned for 16-bit samples: of a standardized wave nothing passes it."""
    pitch = 0.2 + 0.6 * torch.rand(900, 1)
    clean = torch.sin(pitch * torch.arange(64) + 6.3 * torch.rand(900, 1))[:, None]
    noisy = clean + 0.5 * torch.randn_like(clean)
    module = Supervised(Shrinking(0.05 if fixed else 5.0), F.mse_loss)
    return Program(module, **loaders(*split(noisy, clean)), trainer={"max_epochs": 6})
