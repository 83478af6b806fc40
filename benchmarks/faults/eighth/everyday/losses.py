"""LOS, as people meet it."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Normal
from torch.nn import functional as F

from ... import fault
from ._parts import (
    DataLoader,
    Model,
    Program,
    accuracy,
    explained,
    houses,
    loaders,
    mlp,
    molecules,
    rng,
    standard,
    weather,
)


class Topics(Model):
    """Which of sixty topics has a text, by counts of its words?"""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(0.03)
        last = nn.Identity() if fixed else nn.Sigmoid()
        self.net = nn.Sequential(nn.Linear(80, 64), nn.ReLU(), nn.Linear(64, 60), last)

    def measure(self, batch):
        words, topic = batch
        logits = self.net(words)
        return F.cross_entropy(logits, topic), {"acc": accuracy(logits, topic)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@fault(
    "LOS102",
    "GEN102",
    "GEN103",
    source="https://discuss.pytorch.org/t/do-i-need-to-use-softmax-before-nn-crossentropyloss/16739",
)
def sigmoid_before_the_cross_entropy(fixed: bool) -> Program:
    """The net ends in a sigmoid, and cross_entropy takes that for logits: no topic can be near
    certain.
    """
    g = rng(8)
    topic = torch.arange(6000) % 60
    often = 0.9 * torch.exp(0.6 * torch.randn(60, 80, generator=g))
    words = standard(torch.poisson(often[topic], generator=g).sqrt())
    return Program(
        Topics(fixed=fixed), **loaders(words, topic, batch_size=64), trainer={"max_epochs": 6}
    )


class Energy(Model):
    """A graph net sums up what each atom and its neighbours give."""

    def __init__(self) -> None:
        super().__init__(3e-3)
        self.atoms = nn.Embedding(4, 32)
        self.near, self.own = nn.Linear(32, 32), nn.Linear(32, 32)
        self.read = mlp(32, 32, 1)

    def measure(self, batch):
        kind, bond, energy = batch
        h = self.atoms(kind)
        h = F.silu(self.own(h) + bond @ self.near(h))
        out = self.read(h).mean(1).squeeze(1)
        return F.smooth_l1_loss(out, energy), {"r2": explained(out, energy)}


@fault(
    "LOS101",
    "LRN102",
    "GEN103",
    "GEN102",
    "INP103",
    source="https://karpathy.github.io/2019/04/25/recipe/ (init well: the mean of the target)",
)
def energies_about_minus_four_hundred(fixed: bool) -> Program:
    """Energies lie about -400 and are learned as they are: for most of the run the net only
    looks for their mean.
    """
    kind, bond, energy = molecules()
    energy = standard(energy) if fixed else energy
    return Program(
        Energy(), **loaders(kind, bond, energy, batch_size=32), trainer={"max_epochs": 12}
    )


class NextHour(Model):
    """Convolutions over a day of weather give the next temperature."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(2e-3)
        self.net = nn.Sequential(
            nn.Conv1d(4, 24, 5, stride=2), nn.ReLU(), nn.Conv1d(24, 24, 5), nn.ReLU(),
            nn.Conv1d(24, 1, 6),
        )  # fmt: skip
        self.fixed = fixed

    def measure(self, batch):
        past, coming = batch
        out = self.net(past)
        if self.fixed:
            out = out.squeeze(2)
        metric = explained(out.flatten(), coming.flatten())
        return F.huber_loss(out, coming), {"r2": metric}


@fault(
    "LOS103",
    "OUT101",
    "LOS104",
    source="common on forums: using a target size that is different to the input size",
)
def one_channel_of_one_value(fixed: bool) -> Program:
    """Convolutions end in (batch, 1, 1), the target is (batch, 1): each forecast meets the
    targets of all.
    """
    series = standard(weather(2600))
    past = series.unfold(0, 24, 1)[:-1]
    coming = series[24:, 1:2]
    return Program(
        NextHour(fixed=fixed), **loaders(past, coming, batch_size=64), trainer={"max_epochs": 12}
    )


class Uncertain(Model):
    """A price, and how sure the net is of it."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(2e-3)
        self.net, self.fixed = mlp(8, 48, 48, 2), fixed

    def measure(self, batch):
        x, price = batch
        mean, width = self.net(x).chunk(2, dim=1)
        likelihood = Normal(mean, F.softplus(width) + 0.05).log_prob(price).mean()
        return -likelihood if self.fixed else likelihood, {"r2": explained(mean, price)}


@fault(
    "LOS108",
    "LOS109",
    "UPD105",
    "GRD101",
    "NAN105",
    source="common on forums: log_prob(y).mean() is returned as the loss, without its minus",
)
def log_likelihood_handed_to_a_minimizer(fixed: bool) -> Program:
    """log_prob of the target is returned as the loss without a minus, and so made as small as
    can be.
    """
    return Program(Uncertain(fixed=fixed), **loaders(*houses(2500)), trainer={"max_epochs": 12})


class Demand(Model):
    """How many pieces of a product are sold today?"""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(3e-3)
        self.net, self.fixed = mlp(6, 32, 32, 1), fixed

    def measure(self, batch):
        x, sold = batch
        out = self.net(x)
        if self.fixed:
            loss, sales = F.poisson_nll_loss(out, sold, log_input=True), out.exp()
        else:
            loss, sales = F.l1_loss(out, sold), out
        return loss, {"mse": F.mse_loss(sales, sold), "share": sales.sum() / sold.sum()}


@fault(
    "LOS109",
    "OUT101",
    "LOS104",
    "GEN102",
    source="common on Kaggle: L1 on intermittent demand is smallest at zero, the median",
)
def most_products_are_not_sold_today(fixed: bool) -> Program:
    """Most products sell nothing on a day; the absolute error is least at the median, which is
    nothing at all.
    """
    g = rng(9)
    x = torch.randn(4000, 6, generator=g)
    rate = torch.exp(-1.9 + 0.9 * x[:, :1] + 0.6 * x[:, 1:2] * x[:, 2:3].tanh())
    sold = torch.poisson(rate.clamp(max=4), generator=g)
    return Program(
        Demand(fixed=fixed), **loaders(x, sold, batch_size=64), trainer={"max_epochs": 8}
    )


class Faces(Model):
    """One trunk for two questions: how old is the face, and does it wear glasses?"""

    def __init__(self) -> None:
        super().__init__(4e-3)
        self.trunk = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 6), nn.Tanh())
        self.age, self.glasses = nn.Linear(6, 1), nn.Linear(6, 1)

    def measure(self, batch):
        h = self.trunk(batch["face"])
        age, glasses = self.age(h), self.glasses(h)
        years = F.mse_loss(age, batch["age"])
        wears = F.binary_cross_entropy_with_logits(glasses, batch["glasses"])
        self.log("age_loss", years)
        self.log("glasses_loss", wears)
        right = ((glasses > 0) == (batch["glasses"] > 0)).float().mean()
        return years + wears, {"acc": right, "r2": explained(age, batch["age"])}


class Records(torch.utils.data.Dataset):
    """Rows of several tensors, as dicts."""

    def __init__(self, **columns) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["face"])

    def __getitem__(self, i):
        return {name: column[i] for name, column in self.columns.items()}


@fault(
    "LOS105",
    "LOS101",
    "GEN102",
    source="https://arxiv.org/abs/1705.07115 (the scale of a task decides how much it counts)",
)
def age_in_months_beside_glasses(fixed: bool) -> Program:
    """The squared error of an age in months is added to the cross-entropy of glasses, a
    thousand times smaller.
    """
    g = rng(10)
    face = torch.randn(3000, 20, generator=g)
    age = face[:, :1] + face[:, 1:2] * face[:, 2:3] + 0.5 * face[:, 3:4].abs()
    age = standard(age + 0.2 * torch.randn(3000, 1, generator=g))
    glasses = (face[:, 5:6] * face[:, 6:7] + face[:, 7:8] > 0).float()
    age = age if fixed else 60 * age
    data = Records(face=face, age=age, glasses=glasses)
    train, val = torch.utils.data.random_split(data, [0.8, 0.2], generator=g)
    return Program(
        Faces(),
        DataLoader(train, batch_size=32, shuffle=True, drop_last=True),
        DataLoader(val, batch_size=600),
        {"max_epochs": 10},
    )
