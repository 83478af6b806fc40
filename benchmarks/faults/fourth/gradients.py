"""GRD, a fourth time: slopes that are too large, lost on the way, kept too long, or mere noise."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, digits
from ._parts_b import (
    Classifier,
    Learner,
    dense,
    headlines,
    hits,
    noise,
    r2,
    source,
    two_loaders,
    whole,
)


class Block(nn.Module):
    """Attention and two linear layers, each after a norm."""

    def __init__(self, width: int, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        y = self.norm1(x)
        y = self.attention(y, y, y, need_weights=False)[0]
        x = x + y if self.fixed else y
        y = self.mlp(self.norm2(x))
        return x + y if self.fixed else y


class Commands(Classifier):
    """Which command a line of eight tokens is: it depends on the order of two of them."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(nn.Identity(), lr=2e-3)
        self.tokens, self.places = nn.Embedding(40, 24), nn.Embedding(8, 24)
        self.blocks = nn.Sequential(*(Block(24, fixed=fixed) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 4)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(8, device=ids.device))
        return self.head(self.norm(self.blocks(x)).mean(1))


@fault(
    "GRD102",
    "GRD104",
    "OUT101",
    "LOS104",
    "GEN102",
    source="https://arxiv.org/abs/2103.03404 (attention without skip connections loses all rank)",
)
def attention_without_a_way_around(fixed: bool) -> Program:
    """The blocks of a transformer return what attention says and forget to add what they were given."""
    size = 2000
    ids = 8 + whole(32, size, 8, seed=1)
    kind = torch.arange(size) % 4
    first = torch.tensor([1, 2, 3, 4])[kind]
    last = torch.tensor([2, 1, 4, 3])[kind]
    where = whole(4, size, seed=2)
    ids[torch.arange(size), where] = first
    ids[torch.arange(size), where + 1 + whole(4, size, seed=3)] = last
    data = two_loaders(ids, kind)
    return Program(Commands(fixed=fixed), **data, trainer={"max_epochs": 4})


class Demand(Learner):
    """How many pieces a shop sells of an article in a day."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = dense(8, 64, 64, 1), fixed

    def step(self, batch):
        x, sold = batch
        expected = self.net(x).squeeze(1)
        error = (expected - sold).abs()
        loss = error.mean() if self.fixed else (error / (sold + 1e-8)).mean()
        return loss, {"mae": error.mean(), "r2": r2(expected, sold)}


@fault(
    "GRD101",
    "LOS101",
    "LOS109",
    "OUT101",
    "LOS104",
    source="https://github.com/unit8co/darts/issues/2517 (a MAPE loss, and targets of zero)",
)
def percent_of_no_sales_at_all(fixed: bool) -> Program:
    """The mean absolute percentage error of days on which nothing was sold: an error over 1e-8."""
    x = noise(2400, 8, seed=1)
    rate = (1.1 + 0.5 * x[:, 0] + 0.5 * x[:, 1] - 0.4 * x[:, 2].abs()).exp()
    sold = torch.poisson(rate, generator=source(2))
    data = two_loaders(x, sold)
    return Program(Demand(fixed=fixed), **data, trainer={"max_epochs": 6})


class Topics(Learner):
    """The topic of a headline, from the mean of its word vectors."""

    lr = 5e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.vectors = nn.Embedding(202, 12, padding_idx=0)
        self.head = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
        self.fixed = fixed

    def step(self, batch):
        ids, topic = batch
        seen = self.vectors(ids) if self.fixed else self.vectors.weight.data[ids]
        logits = self.head(seen.mean(1))
        return F.cross_entropy(logits, topic), {"acc": hits(logits, topic)}


@fault(
    "GRD103",
    "UPD102",
    "LOS107",
    source=HUMBATOVA
    + "; https://docs.pytorch.org/docs/stable/notes/autograd.html (what .data does)",
)
def vectors_looked_up_in_data(fixed: bool) -> Program:
    """The word vectors are taken out of weight.data by index: no gradient finds its way back."""
    data = two_loaders(*headlines(2400))
    return Program(Topics(fixed=fixed), **data, trainer={"max_epochs": 6})


class Patient(Classifier):
    """Means to step on the gradients of four batches by clearing them at every fourth."""

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        if (batch_idx + 1) % 4 == 0:
            optimizer.zero_grad()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Ordinary(Classifier):
    """Leaves that to the Trainer."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@fault(
    "GRD106",
    "LRN101",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/6910 (optimizer_zero_grad, "
    "overridden, and accumulation)",
)
def overridden_to_accumulate(fixed: bool) -> Program:
    """Gradients are cleared at each fourth batch, yet the optimizer steps at every one of them."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    data = two_loaders(*digits(1797, image=True), batch_size=16)
    if fixed:
        return Program(
            Ordinary(net, lr=0.05), **data, trainer={"max_epochs": 4, "accumulate_grad_batches": 4}
        )
    return Program(Patient(net, lr=0.05), **data, trainer={"max_epochs": 4})


class Bandit(pl.LightningModule):
    """Chooses one of ten ads for each visitor, and hears only what that one earned."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.policy = dense(64, 96, 10)
        self.register_buffer("usual", torch.tensor(0.0))

    def training_step(self, batch, batch_idx):
        visitor, wants = batch
        choice = torch.distributions.Categorical(logits=self.policy(visitor))
        shown = choice.sample()
        earned = 10 + 5 * (shown == wants).float()
        self.log("train_earned", earned.mean(), prog_bar=True)
        advantage = earned
        if self.fixed:
            advantage = earned - (earned.mean() if batch_idx == 0 else self.usual)
            self.usual.lerp_(earned.mean(), 0.1 if self.usual > 0 else 1.0)
        loss = -(choice.log_prob(shown) * advantage).mean() - 0.2 * choice.entropy().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        visitor, wants = batch
        self.log("val_clicked", hits(self.policy(visitor), wants))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "GRD107",
    "LOS104",
    "OUT101",
    source="https://spinningup.openai.com/en/latest/spinningup/rl_intro3.html (baselines in policy "
    "gradients)",
)
def rewards_that_are_all_good(fixed: bool) -> Program:
    """REINFORCE without a baseline, and no reward below ten: whatever was chosen is chosen again."""
    data = two_loaders(*digits(1797), batch_size=64)
    return Program(Bandit(fixed=fixed), **data, trainer={"max_epochs": 16, "log_every_n_steps": 20})


class Cleaner(Learner):
    """Removes noise from a signal: what is small after a convolution is cut off."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.analyse = nn.Conv1d(1, 32, 16, stride=8)
        self.cut = nn.Parameter(torch.full((32, 1), 0.5))
        self.rebuild = nn.ConvTranspose1d(32, 1, 16, stride=8)
        self.fixed = fixed

    def step(self, batch):
        noisy, clean = batch
        parts = self.analyse(noisy)
        if self.fixed:
            parts = parts.sign() * F.relu(parts.abs() - self.cut)
        else:
            parts = parts * (parts.abs() > self.cut)
        out = self.rebuild(parts)
        return F.mse_loss(out, clean), {"r2": r2(out, clean)}


@fault(
    "GRD103",
    "UPD102",
    source="https://discuss.pytorch.org/t/torch-round-gradient/28628; "
    + HUMBATOVA
    + " (a step has no slope)",
)
def threshold_that_no_slope_reaches(fixed: bool) -> Program:
    """What is small is cut off by a comparison with a parameter, which has no gradient ever."""
    t = torch.arange(128)
    where = 16 + 96 * torch.rand(2000, 3, 1, generator=source(1))
    height = noise(2000, 3, 1, seed=2)
    clean = (height * torch.exp(-((t - where) ** 2) / 8)).sum(1)
    clean = (clean / clean.std())[:, None]
    noisy = clean + noise(2000, 1, 128, seed=3)
    data = two_loaders(noisy, clean)
    return Program(Cleaner(fixed=fixed), **data, trainer={"max_epochs": 6})


@fault(
    "INP103",
    "GRD104",
    "LOS104",
    "OUT101",
    "OUT103",
    source="https://mne.tools/stable/documentation/implementation.html#internal-representation-units "
    "(EEG is stored in volts), and the tutorials of braindecode, which multiply by 1e6",
)
def recordings_in_volts(fixed: bool) -> Program:
    """The EEG comes in volts, so all of it is below 0.0001: the biases are all that the net sees."""
    size, t = 1500, torch.arange(128) / 128
    kind = torch.arange(size) % 3
    phase = 6.28 * torch.rand(size, 1, 1, generator=source(1))
    place = torch.zeros(3, 8)
    place[0, :3], place[1, 3:6], place[2, 5:] = 1.0, 1.0, 1.0
    rhythm = torch.sin(6.283 * (9 + 3 * noise(size, 1, 1, seed=2).sigmoid()) * t + phase)
    volts = 1e-5 * (place[kind][..., None] * rhythm + 2.5 * noise(size, 8, 128, seed=3))
    if fixed:
        volts = volts / volts.std()
    net = nn.Sequential(
        nn.Conv1d(8, 24, 17, padding=8),
        nn.ELU(),
        nn.MaxPool1d(4),
        nn.Conv1d(24, 24, 9, padding=4),
        nn.ELU(),
        nn.AdaptiveMaxPool1d(4),
        nn.Flatten(),
        nn.Linear(96, 3),
    )
    data = two_loaders(volts, kind)
    return Program(Classifier(net, lr=1e-3), **data, trainer={"max_epochs": 4})
