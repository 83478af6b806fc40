"""What counts only in part, targets that wander off, and time that goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from healthy import healthy
from healthy._parts import Classifier, Learner, loaders, mlp, split


def daily(size: int = 900) -> Tensor:
    """A series with a trend, two seasons and noise, as sales or passengers have them."""
    time = torch.arange(float(size))
    seasons = 20 * (time * math.tau / 24).sin() + 8 * (time * math.tau / 168).sin()
    return 100 + 0.15 * time + seasons + 3 * torch.randn(size)


def by_time(windows: Tensor, ahead: int = 1, **options: Any) -> dict[str, DataLoader[Any]]:
    """Loaders of windows and what follows them: the last fifth is held out."""
    start = 4 * len(windows) // 5
    pasts, nexts = windows[..., :-ahead], windows[..., -ahead:]
    gap = windows.shape[-1]
    return {
        "train": DataLoader(
            TensorDataset(pasts[: start - gap], nexts[: start - gap]), 32, **options
        ),
        "val": DataLoader(TensorDataset(pasts[start:], nexts[start:]), 32),
    }


class NextDay(nn.Module):
    """An LSTM that says what comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 32, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.unsqueeze(-1))[0][:, -1])


@healthy
def forecast_of_a_trend() -> Program:
    """Validation is later than training, and higher by more than two standard deviations."""
    series = daily()
    known = series[:720]
    scaled = (series - known.min()) / (known.max() - known.min())
    data = by_time(scaled.unfold(0, 25, 1), shuffle=True)
    return Program(Learner(NextDay()), **data, trainer={"max_epochs": 5})


class Decomposed(nn.Module):
    """A linear forecast of the trend, and one of what is left (DLinear)."""

    def __init__(self) -> None:
        super().__init__()
        self.trend, self.rest = nn.Linear(36, 12), nn.Linear(36, 12)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x[:, None], (6, 6), mode="replicate")
        trend = F.avg_pool1d(padded, 13, 1).squeeze(1)
        return self.trend(trend) + self.rest(x - trend)


@healthy
def windows_of_a_trend_in_order() -> Program:
    """The first targets are near each other and far from zero; later ones are not.

    What is held out varies little around its own level, which nobody could know.
    """
    series = daily()
    data = by_time(((series - series.mean()) / series.std()).unfold(0, 48, 1), ahead=12)
    return Program(Learner(Decomposed(), lr=5e-3), **data, trainer={"max_epochs": 8})


class Masked(pl.LightningModule):
    """Logs one loss of each step, whatever the subclass makes of it."""

    lr = 5e-3

    def loss(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Grid(Masked):
    """Says of each cell whether something is in it, and where."""

    lr = 2e-3

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in ((1, 16), (16, 32)):
            layers += [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.LeakyReLU(0.1)]
            layers += [nn.MaxPool2d(2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(32, 3, 1))

    def loss(self, batch):
        x, occupied, place = batch
        answer = self.net(x)
        mask = occupied[:, None]
        off = (mask * (answer[:, 1:].sigmoid() - place) ** 2).sum() / mask.sum().clamp(min=1)
        return F.binary_cross_entropy_with_logits(answer[:, 0], occupied) + off


@healthy
def detection_in_a_grid() -> Program:
    """Where there is nothing, the place is zero, and whatever is said of it does not count."""
    size = 400
    x, occupied = torch.randn(size, 1, 16, 16) * 0.3, torch.zeros(size, 4, 4)
    place = torch.zeros(size, 2, 4, 4)
    for i in range(size):
        for row, column in torch.randint(1, 15, (2, 2)).tolist():
            x[i, 0, row - 1 : row + 2, column - 1 : column + 2] += 1.5
            occupied[i, row // 4, column // 4] = 1
            place[i, :, row // 4, column // 4] = torch.tensor([row % 4, column % 4]) / 4
    data = loaders(*split(x, occupied, place), batch_size=16)
    return Program(Grid(), **data, trainer={"max_epochs": 5})


class Follower(Masked):
    """Follows sequences of several lengths, filled up with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(3, 32, batch_first=True), nn.Linear(32, 1)
        nn.init.constant_(self.head.bias, 20.0)

    def loss(self, batch):
        x, y, mask = batch
        return ((self.head(self.body(x)[0]).squeeze(-1) - y) ** 2 * mask).sum() / mask.sum()


@healthy
def padded_regression() -> Program:
    """Targets are near 20, and 0 in the padding, where the net keeps saying 20."""
    x = torch.randn(640, 16, 3)
    mask = (torch.arange(16) < torch.randint(4, 17, (640, 1))).float()
    y = (20 + x[..., 0].cumsum(1) / 2) * mask
    data = loaders(*split(x * mask[..., None], y, mask))
    return Program(Follower(), **data, trainer={"max_epochs": 6})


class Tagger(Masked):
    """Tags tokens, and weighs the padding with zero."""

    lr = 1e-2

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 24)
        self.body, self.head = nn.GRU(24, 24, batch_first=True), nn.Linear(24, 4)

    def loss(self, batch):
        tokens, tags, mask = batch
        scores = self.head(self.body(self.embed(tokens))[0]).transpose(1, 2)
        return (F.cross_entropy(scores, tags, reduction="none") * mask).sum() / mask.sum()


@healthy
def tags_times_a_mask() -> Program:
    """Most of what is tagged 0 is padding that does not count."""
    mask = (torch.arange(14) < torch.randint(3, 15, (640, 1))).long()
    tokens = torch.randint(1, 30, (640, 14)) * mask
    data = loaders(*split(tokens, tokens % 4 * mask, mask.float()))
    return Program(Tagger(), **data, trainer={"max_epochs": 4})


class Forks(Masked):
    """Three guesses where it goes, of which only the best one counts."""

    lr = 3e-3

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6, 64, 6)

    def loss(self, batch):
        x, y = batch
        off = (self.net(x).view(-1, 3, 2) - y[:, None]) ** 2
        return off.sum(-1).min(1).values.mean()


@healthy
def best_of_three_guesses() -> Program:
    """The other two may be as wrong as they like."""
    x, side = torch.randn(1024, 6), torch.randint(0, 2, (1024,)) * 2.0 - 1
    y = torch.stack([x[:, 0] + 2 * side, x[:, 1] / 2 - side], 1) + 0.1 * torch.randn(1024, 2)
    return Program(Forks(), **loaders(*split(x, y)), trainer={"max_epochs": 6})


class Walks(IterableDataset[tuple[Tensor, Tensor]]):
    """Walks of the present policy along a line, with what is earned from each step on."""

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for _ in range(100):
            place, seen, taken, earned = torch.zeros(16, dtype=torch.long), [], [], []
            for _ in range(12):
                seen.append(F.one_hot(place, 6).float())
                with torch.no_grad():
                    chances = self.policy(seen[-1]).softmax(1)
                taken.append(torch.multinomial(chances, 1).squeeze(1))
                place = (place + 2 * taken[-1] - 1).clamp(0, 5)
                earned.append((place == 5).float())
            returns = torch.stack(earned).flip(0).cumsum(0).flip(0).flatten()
            yield torch.cat(seen), torch.cat(taken), returns


class ActorCritic(pl.LightningModule):
    """The better the actor, the larger what the critic has to predict."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = mlp(6, 32, 2, activation=nn.Tanh)
        self.critic = mlp(6, 32, 1, activation=nn.Tanh)

    def training_step(self, batch, batch_idx):
        x, action, returns = batch
        value = self.critic(x).squeeze(1)
        gain = (returns - value).detach()
        policy = torch.distributions.Categorical(logits=self.actor(x))
        chosen = policy.log_prob(action) * (gain - gain.mean()) / (gain.std() + 1e-8)
        return F.smooth_l1_loss(value, returns) / 2 - (chosen + 0.01 * policy.entropy()).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@healthy
def returns_that_grow() -> Program:
    """The loss of the critic rises, for it always comes late."""
    module = ActorCritic()
    data = DataLoader(Walks(module.actor), batch_size=None)
    return Program(module, data, trainer={"max_epochs": 1})


class Reversed(torch.autograd.Function):
    """The same forward, the opposite backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return -0.3 * gradient


class DomainAdversary(Classifier):
    """Features that tell the class and hide the domain."""

    def __init__(self) -> None:
        super().__init__(mlp(10, 32, 2), lr=2e-3)
        self.adversary = mlp(32, 16, 2)

    def training_step(self, batch, batch_idx):
        x, y, domain = batch
        features = self.net[:2](x)
        told = F.cross_entropy(self.net[2](features), y)
        hidden = F.cross_entropy(self.adversary(Reversed.apply(features)), domain)
        self.log_dict({"class": told, "domain": hidden})
        return told + hidden

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch[:2], batch_idx)


@healthy
def domain_adversary() -> Program:
    """The adversary gets worse than chance, as is wanted."""
    x, domain = torch.randn(1280, 10), torch.randint(0, 2, (1280,))
    x[:, 5:] += domain[:, None]
    y = (x[:, 0] + x[:, 1] > 0).long()
    return Program(DomainAdversary(), **loaders(*split(x, y, domain)), trainer={"max_epochs": 8})


class Views(pl.LightningModule):
    """Two views that agree, with features that vary and have nothing to do with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(mlp(64, 64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))

    def training_step(self, batch, batch_idx):
        one, other = (self.net(batch[0] + 0.3 * torch.randn_like(batch[0])) for _ in range(2))
        spread, cross = torch.zeros(()), torch.zeros(())
        for view in (one, other):
            spread = spread + F.relu(1 - view.std(0)).mean()
            cross = cross + view.T.cov().fill_diagonal_(0).square().sum() / 32
        return 25 * F.mse_loss(one, other) + 25 * spread + cross

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


@healthy
def variance_and_covariance() -> Program:
    """A loss of the whole batch, with no target at all (VICReg)."""
    x, _ = digits()
    data = DataLoader(TensorDataset(x), batch_size=128, shuffle=True, drop_last=True)
    return Program(Views(), data, trainer={"max_epochs": 12})
