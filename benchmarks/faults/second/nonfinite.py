"""NAN, a second time: numbers that are none."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from .. import HUMBATOVA, UMLAUT, fault
from .._parts import Program, Supervised, characters, digits, loaders, mlp, split, standardized
from ..first._parts import Learner, accuracy, explained
from ._parts import demand, forecasts, passages


class Contrasted(Dataset):
    """Images, each brought to mean 0 and deviation 1 by itself."""

    def __init__(self, images, labels, floor: float) -> None:
        self.images, self.labels, self.floor = images, labels, floor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return (image - image.mean()) / (image.std() + self.floor), self.labels[index]


@fault(
    "NAN101",
    source="https://github.com/tensorflow/tensorflow/issues/5763 (per-image standardization of a blank image)",
)
def blank_images_standardized(fixed: bool) -> Program:
    """Each image is divided by its own deviation, and three scans are blank: 0 / 0."""
    x, y = digits(1400, image=True)
    x[[100, 500, 900]] = -1.0
    train, val = x[:1100], x[1100:]
    floor = 1e-6 if fixed else 0.0
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    data = loaders(Contrasted(train, y[:1100], floor), Contrasted(val, y[1100:], floor))
    return Program(Supervised(net, lr=1e-3), **data, trainer={"max_epochs": 5})


class Masked(nn.Module):
    """Attention over the messages that a client has written; some have written none."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.fixed = nn.Linear(8, 32), fixed
        self.query, self.out = nn.Parameter(torch.randn(32) / 6), nn.Linear(32, 3)

    def forward(self, x):
        messages, here = x[..., :8], x[..., 8] > 0
        value = torch.tanh(self.embed(messages))
        scores = value @ self.query
        scores = scores.masked_fill(~here, -1e4 if self.fixed else -math.inf)
        return self.out((scores.softmax(1)[..., None] * value).sum(1))


@fault(
    "NAN102",
    source="https://github.com/pytorch/pytorch/issues/41508 (softmax of nothing but -inf)",
)
def nothing_to_attend_to(fixed: bool) -> Program:
    """A few clients have no message at all: their scores are all -inf, and the softmax of that is NaN."""
    y = torch.arange(1800) % 3
    x = torch.randn(1800, 10, 8) + 0.6 * torch.randn(3, 8)[y][:, None]
    count = torch.randint(1, 11, (1800, 1))
    count[torch.randint(1800, (12,))] = 0
    here = (torch.arange(10) < count).float()[..., None]
    data = loaders(*split(torch.cat([x / x.std() * here, here], dim=2), y))
    return Program(Supervised(Masked(fixed=fixed), lr=5e-3), **data, trainer={"max_epochs": 5})


class Player(pl.LightningModule):
    """Learns which of the allowed moves is best; is kept curious by an entropy."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(10, 48, 5), fixed

    def training_step(self, batch, batch_idx):
        state = batch["state"]
        logits = self.net(state).masked_fill(~batch["allowed"], -1e9)
        choice = logits.softmax(1)
        move = torch.multinomial(choice.detach(), 1).squeeze(1)
        reward = (move == batch["best"]).float()
        chosen = choice.gather(1, move[:, None]).squeeze(1).log()
        log = (choice + 1e-8).log() if self.fixed else choice.log()
        entropy = -(choice * log).sum(1).mean()
        self.log_dict({"reward": reward.mean(), "entropy": entropy})
        return -((reward - reward.mean()) * chosen).mean() - 0.01 * entropy

    def validation_step(self, batch, batch_idx):
        logits = self.net(batch["state"]).masked_fill(~batch["allowed"], -1e9)
        self.log("val_best", accuracy(logits, batch["best"]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault(
    "NAN102",
    "NAN103",
    source="https://github.com/vwxyzjn/invalid-action-masking (entropy of masked actions)",
)
def entropy_of_forbidden_moves(fixed: bool) -> Program:
    """A forbidden move has a chance of 0, and 0 * log(0) is not 0 but NaN."""
    state = torch.randn(6400, 10)
    allowed = torch.rand(6400, 5) < 0.7
    allowed[torch.arange(6400), torch.randint(5, (6400,))] = True
    best = state[:, :5].masked_fill(~allowed, -9.0).argmax(1)
    samples = [
        {"state": s, "allowed": a, "best": b} for s, a, b in zip(state, allowed, best, strict=True)
    ]
    data = loaders(samples[:5600], samples[5600:])
    return Program(Player(fixed=fixed), **data, trainer={"max_epochs": 1})


class Baskets(nn.Module):
    """Who buys what? From the mean and the deviation of the vectors of four things in a basket."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.things, self.floor = nn.Embedding(60, 16), floor
        self.out = mlp(32, 32, 3)

    def forward(self, ids):
        x = self.things(ids)
        deviation = (x.var(1) + self.floor).sqrt()
        return self.out(torch.cat([x.mean(1), deviation], dim=1))


@fault(
    "NAN103",
    "NAN104",
    source="https://github.com/speechbrain/speechbrain/issues/1206 (statistics pooling); "
    "https://github.com/pytorch/pytorch/issues/4320",
)
def four_of_the_same_thing(fixed: bool) -> Program:
    """Some baskets hold four of the same thing: their deviation is 0, where the square root has no slope."""
    y = torch.arange(1800) % 3
    ids = torch.where(
        torch.rand(1800, 4) < 0.6,
        20 * y[:, None] + torch.randint(20, (1800, 4)),
        torch.randint(60, (1800, 4)),
    )
    same = torch.rand(1800) < 0.01
    ids[same] = ids[same, :1]
    module = Supervised(Baskets(1e-5 if fixed else 0.0), lr=5e-3)
    return Program(module, **loaders(*split(ids, y)), trainer={"max_epochs": 6})


class Flow(Learner):
    """Forecasts a flow, of whose positive features it takes the root."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.scale, self.net, self.fixed = nn.Linear(12, 12), mlp(12, 48, 1), fixed

    def forward(self, x):
        x = self.scale(x)
        if self.fixed:
            x = torch.where(x > 0, x.clamp_min(1e-6).sqrt(), x)
        else:
            x = torch.where(x > 0, x.sqrt(), x)
        return self.net(x)

    def loss_of(self, batch):
        return F.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "NAN103",
    "NAN104",
    source="https://github.com/pytorch/pytorch/issues/68425 (torch.where and the gradient of what is not chosen)",
)
def branch_that_is_not_taken(fixed: bool) -> Program:
    """torch.where takes the root where x > 0; the gradient of the other branch is NaN all the same."""
    data = loaders(*forecasts(demand(1600), 12, 1))
    return Program(Flow(fixed=fixed), **data, trainer={"max_epochs": 6})


class Catalogue(pl.LightningModule):
    """Which of four things will somebody buy next? From the five that were bought last."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.things, self.net = nn.Embedding(100, 16), mlp(80, 48, 4)

    def training_step(self, batch, batch_idx):
        last, following = batch
        loss = F.cross_entropy(self.net(self.things(last).flatten(1)), following)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        last, following = batch
        self.log("val_acc", accuracy(self.net(self.things(last).flatten(1)), following))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2, eps=self.hparams.eps)


@fault(
    "NAN104",
    "UPD106",
    source="https://discuss.pytorch.org/t/adam-half-precision-nans/1765 (an eps that is 0)",
)
def adam_without_its_epsilon(fixed: bool) -> Program:
    """Adam's eps is 1e-8 in half precision, which is 0: rows of an embedding without a gradient get 0 / 0."""
    last = torch.randint(100, (3200, 5))
    following = last[:, 0] % 4
    eps = 1e-8 if fixed else torch.tensor(1e-8).half().item()
    data = loaders(*split(last, following))
    return Program(Catalogue(eps), **data, trainer={"max_epochs": 4})


class Arrivals(Learner):
    """A Poisson regression: how many arrive, from a few columns."""

    lr = 1e-2

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 32, 1)

    def loss_of(self, batch):
        x, count = batch
        return F.poisson_nll_loss(self.net(x), count)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_mae", F.l1_loss(self.net(batch[0]).exp(), batch[1]))


@fault(
    "NAN105",
    "NAN102",
    "INP103",
    "LOS101",
    "GRD101",
    "NAN104",
    source="https://stats.stackexchange.com/questions/379930 (Poisson regression overflows); "
    + UMLAUT,
)
def exponential_of_raw_columns(fixed: bool) -> Program:
    """The columns are incomes and areas as they are, and the rate is the exponential of what the net says."""
    z = torch.randn(1800, 4)
    count = torch.poisson((1.0 + 0.4 * z[:, :1] - 0.3 * z[:, 1:2]).exp())
    raw = z * torch.tensor([120.0, 60.0, 20.0, 80.0]) + torch.tensor([420.0, 110.0, 40.0, 300.0])
    x = standardized(raw) if fixed else raw
    data = loaders(*split(x, count))
    return Program(Arrivals(), **data, trainer={"max_epochs": 5})


class Sentences(Learner):
    """Writes letter by letter, and is trained on the likelihood of whole lines."""

    lr = 8e-3

    def __init__(self, letters: int, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(letters, 16), nn.GRU(16, 48, batch_first=True)
        self.out, self.fixed = nn.Linear(48, letters), fixed

    def loss_of(self, batch):
        (ids,) = batch
        chances = self.out(self.rnn(self.embed(ids[:, :-1]))[0]).softmax(2)
        chances = chances.gather(2, ids[:, 1:, None]).squeeze(2)
        likelihood = chances.log().sum(1) if self.fixed else chances.prod(1).log()
        return -likelihood.mean() / chances.shape[1]


@fault(
    "NAN102",
    "NAN103",
    source="https://stats.stackexchange.com/questions/174481 (the logarithm of a product); "
    + HUMBATOVA,
)
def product_of_forty_chances(fixed: bool) -> Program:
    """The likelihood of a line is a product of forty chances, which is 0 in single precision."""
    ids, letters = characters()
    data = loaders(*map(TensorDataset, passages(ids, 41, 8)))
    return Program(Sentences(letters, fixed=fixed), **data, trainer={"max_epochs": 4})
