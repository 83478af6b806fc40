"""LOS, after reports: losses that are given something else than they take."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from ... import HUMBATOVA, fault
from ..._parts import Program, digits
from ._parts import Task, cut, loaders, mlp, rng, shuffled


class Agent(Task):
    """Learns the worth of three actions from what others have done."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(6, 64, 64, 3), fixed
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def step(self, batch):
        state, action, reward, after, over = batch
        values = self.net(state).gather(1, action[:, None])
        with torch.no_grad():
            goal = reward + 0.5 * self.target(after).max(1).values * (1 - over)
        loss = F.smooth_l1_loss(values, goal[:, None] if self.fixed else goal)
        best = worth(state).argmax(1)
        return loss, {"best": (self.net(state).argmax(1) == best).float().mean()}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step % 20 == 0:
            self.target.load_state_dict(self.net.state_dict())

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=self.lr)


def worth(state: torch.Tensor) -> torch.Tensor:
    """What each action brings at once."""
    return torch.stack([state[:, 0] + state[:, 1], state[:, 2] * state[:, 3], -state[:, 0]], 1)


@fault(
    "LOS103",
    "LOS104",
    "OUT101",
    source="https://github.com/jaybutera/tetrisRL/pull/5 (expected values ([64]) reshaped to match "
    "the input ([64, 1]))",
)
def gathered_values_keep_their_column(fixed: bool) -> Program:
    """gather leaves (N, 1), the goals are (N,): every value is drawn to the goals of all the others."""
    g = rng(61)
    state, after = torch.randn(2, 2000, 6, generator=g)
    action = torch.randint(3, (2000,), generator=g)
    reward = worth(state)[torch.arange(2000), action] + 0.1 * torch.randn(2000, generator=g)
    over = (torch.rand(2000, generator=g) < 0.3).float()
    data = loaders(*cut(state, action, reward, after, over))
    return Program(Agent(fixed=fixed), **data, trainer={"max_epochs": 6})


class Pictures(Task):
    """An autoencoder whose pixels are chances, trained by binary cross entropy."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.encoder = mlp(64, 96, 16)
        self.decoder = mlp(16, 96, 64)

    def step(self, batch):
        x = batch[0]
        out = self.decoder(self.encoder(x))
        loss = F.binary_cross_entropy_with_logits(out, x)
        return loss, {"mse": F.mse_loss(out.detach().sigmoid(), x)}


@fault(
    "LOS109",
    "OUT102",
    "CLS105",
    "LOS108",
    "ACT102",
    source="https://github.com/qubvel/segmentation_models/issues/95 (the loss is negative and falls "
    "for ever: targets beyond one)",
)
def cross_entropy_of_sixteen_greys(fixed: bool) -> Program:
    """The pixels go from 0 to 16 and are the targets of a binary cross entropy: it falls without end."""
    x, y = shuffled(*digits(1797))
    x = (x + 1) / 2 if fixed else (x + 1) * 8
    return Program(Pictures(), **loaders(*cut(x, y)), trainer={"max_epochs": 6})


class Delivery(Task):
    """The net says how many days a parcel takes, and how sure it is of that."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(5, 64, 64, 2), fixed

    def step(self, batch):
        x, days = batch
        mean, spread = self.net(x).unbind(1)
        logvar = spread.clamp(-6, 6)
        if self.fixed:
            loss = ((days - mean) ** 2 * (-logvar).exp() + logvar).mean() / 2
        else:
            loss = ((days - mean) ** 2 * (-logvar).exp() - logvar).mean() / 2
        return loss, {"r2": 1 - F.mse_loss(mean.detach(), days) / days.var()}


@fault(
    "LOS109",
    "LOS108",
    "UPD105",
    "GEN102",
    source=HUMBATOVA + " (wrong loss function calculation: a sign)",
)
def rewarded_for_being_unsure(fixed: bool) -> Program:
    """The log variance comes with a minus: whatever the error, it is best to be as unsure as can be."""
    g = rng(63)
    x = torch.randn(1600, 5, generator=g)
    days = x[:, 0] + x[:, 1] * x[:, 2] + 0.3 * (1 + x[:, 3].abs()) * torch.randn(1600, generator=g)
    return Program(Delivery(fixed=fixed), **loaders(*cut(x, days)), trainer={"max_epochs": 6})
