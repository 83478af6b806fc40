"""GEN, a second time: fits what it sees, and not what it is for; or does not get to fit it."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from .. import KARPATHY, UMLAUT, fault
from .._parts import Program, Supervised, digits, loaders, mlp, split
from ..first._parts import Learner, accuracy, explained
from ._parts import demand, forecasts, patches, ratings, rings


class Taste(pl.LightningModule):
    """Matrix factorization with biases: how many stars will a user give?"""

    def __init__(self, users: int, items: int, factors: int, penalty: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.user, self.item = nn.Embedding(users, factors), nn.Embedding(items, factors)
        self.of_user, self.of_item = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for one in (self.user, self.item):
            nn.init.normal_(one.weight, std=0.1)
        for one in (self.of_user, self.of_item):
            nn.init.zeros_(one.weight)

    def forward(self, user, item):
        alike = (self.user(user) * self.item(item)).sum(1)
        return 3 + alike + self.of_user(user).squeeze(1) + self.of_item(item).squeeze(1)

    def training_step(self, batch, batch_idx):
        user, item, stars = batch
        loss = F.mse_loss(self(user, item), stars)
        self.log("train_mse", loss)
        sizes = self.user(user).pow(2).sum(1) + self.item(item).pow(2).sum(1)
        return loss + self.hparams.penalty * sizes.mean()

    def validation_step(self, batch, batch_idx):
        user, item, stars = batch
        self.log("val_loss", F.mse_loss(self(user, item), stars))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@fault(
    "GEN101",
    source="https://datajobs.com/data-science-repo/Recommender-Systems-[Netflix].pdf (regularization); "
    + UMLAUT,
)
def factors_without_a_penalty(fixed: bool) -> Program:
    """Thirty-two factors and no penalty on them, for users who have rated some forty films each."""
    data = loaders(*split(*ratings(5000, 100, 60, noise=0.8)), batch_size=128)
    module = Taste(100, 60, 32, 0.1 if fixed else 0.0)
    return Program(module, **data, trainer={"max_epochs": 10})


@fault("GEN102", "STR103", "LOS104", source=UMLAUT + ", underfitting; " + KARPATHY)
def line_between_rings(fixed: bool) -> Program:
    """A single linear layer is asked which of three rings a point is on."""
    net = mlp(2, 32, 32, 3) if fixed else nn.Sequential(nn.Linear(2, 3))
    data = loaders(*split(*rings(2000)))
    return Program(Supervised(net, lr=5e-3), **data, trainer={"max_epochs": 6})


class Heat(Learner):
    """Forecasts the demand for the next hour."""

    lr = 3e-3

    def __init__(self, past: int) -> None:
        super().__init__()
        self.past, self.net = past, nn.Sequential(nn.Linear(past, 48), nn.ReLU())
        self.head = nn.Linear(48, 1)

    def loss_of(self, batch):
        past, future = batch
        return F.mse_loss(self.head(self.net(past[:, -self.past :])), future)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        past, future = batch
        self.log("val_r2", explained(self.head(self.net(past[:, -self.past :])), future))


@fault(
    "GEN103",
    source="https://lightning.ai/docs/pytorch/stable/debug/debugging_basic.html (limit_train_batches)",
)
def left_from_a_smoke_test(fixed: bool) -> Program:
    """limit_train_batches=0.15 is left from a smoke test: the run ends before it has begun."""
    trainer = {"max_epochs": 5} if fixed else {"max_epochs": 5, "limit_train_batches": 0.15}
    data = loaders(*forecasts(demand(2500), 24, 1))
    module = Heat(24)
    module.lr = 1e-3
    return Program(module, **data, trainer=trainer)


class Erased(Dataset):
    """Images, with a rectangle erased at random."""

    def __init__(self, x, y, share: float) -> None:
        self.x, self.y, self.share = x, y, share

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        image = self.x[index].clone()
        side = round(image.shape[-1] * self.share**0.5)
        top, left = torch.randint(image.shape[-1] - side + 1, (2,)).tolist()
        image[:, top : top + side, left : left + side] = 0.0
        return image, self.y[index]


@fault(
    "GEN104",
    "GEN107",
    "GEN102",
    source="https://arxiv.org/abs/1708.04896 (Random erasing: of at most four tenths of the image)",
)
def erased_nearly_all_of_it(fixed: bool) -> Program:
    """Random erasing takes more than half of each training image, where two hundredths to a tenth was meant."""
    train, val = split(*patches(1600))
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 6),
    )
    data = loaders(Erased(*train.tensors, 0.05 if fixed else 0.55), val)
    return Program(Supervised(net, lr=2e-3), **data, trainer={"max_epochs": 6})


@fault(
    "GEN105",
    "GEN101",
    "INP202",
    source="https://stackoverflow.com/questions/55525195 (do I have to fit the LabelEncoder twice?)",
)
def factorized_in_each_table(fixed: bool) -> Program:
    """The names of the classes are factorized for each table by itself: 0 is the first that comes."""
    x, y = digits(1797)
    names = [f"digit-{k}" for k in y.tolist()]

    def factorize(labels, known=None):
        known = {} if known is None else known
        return torch.tensor([known.setdefault(one, len(known)) for one in labels]), known

    order = torch.randperm(1797)
    train, val = order[:1400], order[1400:]
    labels, known = factorize([names[i] for i in train])
    of_val, _ = factorize([names[i] for i in val], known if fixed else None)
    data = loaders(TensorDataset(x[train], labels), TensorDataset(x[val], of_val))
    return Program(Supervised(mlp(64, 64, 10), lr=1e-3), **data, trainer={"max_epochs": 6})


class Rollout(Learner):
    """Forecasts the next eight hours one by one, from what it has forecast for the hours before."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.reader, self.writer = nn.GRU(1, 32, batch_first=True), nn.GRUCell(1, 32)
        self.out, self.fixed = nn.Linear(32, 1), fixed

    def forward(self, past, future):
        h, value, steps = self.reader(past[..., None])[1][0], past[:, -1:], []
        for t in range(future.shape[1]):
            h = self.writer(value, h)
            steps.append(value + self.out(h))
            forced = not (self.training or self.fixed)
            value = future[:, t : t + 1] if forced else steps[-1]
        return torch.cat(steps, dim=1)

    def loss_of(self, batch):
        past, future = batch
        return F.mse_loss(self(past, future), future)


@fault(
    "GEN102",
    "GEN104",
    "MOD105",
    source="https://stackoverflow.com/questions/52315269 (keep_prob of TensorFlow, p of PyTorch)",
)
def dropped_what_was_to_be_kept(fixed: bool) -> Program:
    """0.9 was the chance to keep a value in the old framework; here it is the chance to lose it."""
    drop = 0.1 if fixed else 0.9
    net = nn.Sequential(
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Dropout(drop),
        nn.Linear(64, 48),
        nn.ReLU(),
        nn.Dropout(drop),
        nn.Linear(48, 10),
    )
    data = loaders(*split(*digits(1797)))
    return Program(Supervised(net), **data, trainer={"max_epochs": 6})


class Vote(pl.LightningModule):
    """Predicts who votes how, from a survey."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(15, 64, 64, 2)

    def training_step(self, batch, batch_idx):
        answers, vote = batch["answers"], batch["vote"]
        loss = F.cross_entropy(self.net(answers), vote)
        self.log("train_loss", loss)
        self.log("train_acc", accuracy(self.net(answers), vote))
        return loss

    def validation_step(self, batch, batch_idx):
        answers, vote = batch["answers"], batch["vote"]
        self.log("val_loss", F.cross_entropy(self.net(answers), vote))
        self.log("val_acc", accuracy(self.net(answers), vote))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "GEN105",
    "GEN101",
    "INP202",
    source="https://scikit-learn.org/stable/common_pitfalls.html#inconsistent-preprocessing",
)
def columns_of_a_newer_survey(fixed: bool) -> Program:
    """The survey of validation has the same questions, but lists them in another order."""
    x = torch.randn(2600, 15)
    vote = ((x[:, 0] + x[:, 1] - x[:, 2] + 0.7 * x[:, 3] * x[:, 4]) > 0).long()
    samples = [{"answers": a, "vote": b} for a, b in zip(x, vote, strict=True)]
    train, val = samples[:2000], samples[2000:]
    if not fixed:
        order = torch.arange(15).roll(5)
        val = [{"answers": one["answers"][order], "vote": one["vote"]} for one in val]
    return Program(
        Vote(), DataLoader(train, 50, shuffle=True), DataLoader(val, 200), trainer={"max_epochs": 4}
    )


@fault(
    "GEN107",
    "GEN104",
    "INP203",
    source="https://arxiv.org/abs/1506.03099 (Scheduled sampling: what is forced, and when)",
)
def forced_in_validation(fixed: bool) -> Program:
    """The rollout is told the true hour before in validation, and has only its own word for it in training."""
    data = loaders(*forecasts(demand(1800), 24, 8))
    return Program(Rollout(fixed=fixed), **data, trainer={"max_epochs": 5})
