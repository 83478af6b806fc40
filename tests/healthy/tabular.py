"""Tables: regressions, counts, rare classes, and the losses that go with them."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
import torchmetrics
from program import Program
from sklearn import datasets
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from healthy import healthy
from healthy._parts import Classifier, Learner, loaders, mlp, moons, split, standardized, table


@healthy
def iris() -> Program:
    """A tiny data set: 112 samples, seven batches to an epoch."""
    return Program(
        Classifier(mlp(4, 32, 3), lr=1e-2),
        **loaders(*split(*table(datasets.load_iris)), batch_size=16),
        trainer={"max_epochs": 15},
    )


@healthy
def wine_raw_features() -> Program:
    """Columns from 0.1 to 1700, not standardized: batch norm comes first and takes care of it."""
    x, y = datasets.load_wine(return_X_y=True)
    net = nn.Sequential(nn.BatchNorm1d(13), mlp(13, 32, 3))
    data = split(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    return Program(
        Classifier(net, lr=1e-2), **loaders(*data, batch_size=16), trainer={"max_epochs": 14}
    )


class Normalizer(nn.Module):
    """Knows mean and scale of the raw training data."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("std", x.std(0))

    def forward(self, x):
        return (x - self.mean) / self.std


@healthy
def breast_cancer_raw_features() -> Program:
    """Raw columns of very different scales; a fixed layer of the model standardizes them."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    train, val = split(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    net = nn.Sequential(Normalizer(train.tensors[0]), mlp(30, 16, 2))
    return Program(Classifier(net, lr=5e-3), **loaders(train, val), trainer={"max_epochs": 8})


@healthy
def diabetes_regression() -> Program:
    """Real data with much noise: half of the variance is as good as it gets."""
    x, y = table(datasets.load_diabetes)
    return Program(
        Learner(mlp(10, 16, 1), lr=3e-3),
        **loaders(*split(x, standardized(y).unsqueeze(1)), batch_size=16),
        trainer={"max_epochs": 6},
    )


class HousePrices(pl.LightningModule):
    """Targets are in the hundred thousands; the module works in standard units."""

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, lr: float = 5e-3) -> None:
        super().__init__()
        self.save_hyperparameters("lr")
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.net = mlp(10, 64, 64, 1)
        self.error = torchmetrics.MeanAbsoluteError()

    def forward(self, x):
        return self.net(x).squeeze(1) * self.std + self.mean

    def training_step(self, batch, batch_idx):
        x, price = batch
        loss = F.smooth_l1_loss(self.net(x).squeeze(1), (price - self.mean) / self.std)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, price = batch
        self.error(self(x), price)
        self.log("val_error_in_dollars", self.error)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


@healthy
def house_prices() -> Program:
    """Raw targets of 300,000 in the batch, but the loss sees them standardized."""
    x, y = datasets.make_friedman1(1024, noise=0.5, random_state=0)
    price = torch.tensor(y, dtype=torch.float32) * 20_000 + 50_000
    module = HousePrices(price.mean(), price.std())
    return Program(module, **loaders(*split(standardized(x), price)), trainer={"max_epochs": 8})


@healthy
def customers_some_of_them_twice() -> Program:
    """One row in forty was entered twice, as in real tables; a column is constant, a flag is rare."""
    age, income = torch.randint(18, 90, (2000, 1)), torch.randn(2000, 1).mul(0.6).add(10.3).exp()
    orders, complained = torch.poisson(torch.full((2000, 1), 1.3)), torch.rand(2000, 1) < 0.03
    x = torch.cat([age, income, orders, complained, torch.ones(2000, 1)], dim=1)
    score = income.log() - 10.3 - 0.03 * (age - 54) - 0.4 * orders + 2 * complained
    left = (score + 0.3 * torch.randn(2000, 1) > 0.2).long().squeeze(1)  # one in four
    rows = torch.cat([torch.arange(2000), torch.randint(2000, (50,))])
    data = split(standardized(x[rows]), left[rows])
    return Program(Classifier(mlp(5, 32, 2)), **loaders(*data), trainer={"max_epochs": 4})


def pinball(prediction, y):
    """The mean quantile loss of the 10, 50 and 90 % quantiles."""
    q = torch.tensor([0.1, 0.5, 0.9])
    error = y - prediction
    return torch.maximum(q * error, (q - 1) * error).mean()


@healthy
def quantile_regression() -> Program:
    """Three outputs to one target; (N, 3) meets (N, 1) in the loss on purpose."""
    x = torch.randn(1024, 4)
    y = standardized(x[:, :1] + x[:, 1:2].exp() * 0.3 * torch.randn(1024, 1))
    return Program(
        Learner(mlp(4, 32, 3), pinball, lr=5e-3), **loaders(*split(x, y)), trainer={"max_epochs": 6}
    )


@healthy
def poisson_counts() -> Program:
    """Targets are counts, most of them 0 to 3; the loss may well be negative."""
    x = torch.randn(1024, 5)
    rate = (0.5 * x[:, 0] - 0.7 * x[:, 1] + 0.5).exp()
    module = Learner(nn.Sequential(mlp(5, 32, 1), nn.Flatten(0)), nn.PoissonNLLLoss(), lr=5e-3)
    return Program(module, **loaders(*split(x, torch.poisson(rate))), trainer={"max_epochs": 7})


class MaxMargin(Learner):
    """A linear support vector machine."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.relu(1 - (2 * y - 1) * self(x).squeeze(1)).mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", ((self(x).squeeze(1) > 0) == y.bool()).float().mean())


@healthy
def hinge_loss() -> Program:
    """Loss and gradient are exactly 0 for batches beyond the margin, which are more and more."""
    x, y = datasets.make_blobs(800, 6, centers=2, cluster_std=2.5, random_state=3)
    data = split(standardized(x), torch.tensor(y))
    return Program(
        MaxMargin(nn.Linear(6, 1), lr=1e-2),
        **loaders(*data, batch_size=8),
        trainer={"max_epochs": 3},
    )


def rare(size: int = 1500, share: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes of 8 features, the second of which is rare."""
    x, y = datasets.make_classification(
        size,
        8,
        n_informative=5,
        weights=[1 - share],
        class_sep=1.5,
        flip_y=0.0,
        random_state=int(torch.randint(1 << 30, ())),
    )
    return standardized(x), torch.tensor(y)


class BalancedClassifier(Classifier):
    """Logs the recall of every class, since accuracy says little."""

    def __init__(self, net, weight=None, lr=3e-3):
        super().__init__(net, nn.CrossEntropyLoss(weight), lr)
        self.recall = torchmetrics.Recall("multiclass", num_classes=2, average="macro")

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.recall(logits, y)
        self.log("val_loss", self.loss(logits, y))
        self.log("val_acc_balanced", self.recall)


@healthy
def class_weights() -> Program:
    """Nine of ten samples are of one class, and the loss is weighted accordingly."""
    x, y = rare()
    weight = len(y) / (2 * y.bincount().float())
    return Program(
        BalancedClassifier(mlp(8, 32, 2), weight),
        **loaders(*split(x, y)),
        trainer={"max_epochs": 6},
    )


@healthy
def weighted_sampler() -> Program:
    """Imbalanced data, balanced batches: the sampler draws rare samples again and again."""
    train, val = split(*rare())
    y = train.tensors[1]
    sampler = WeightedRandomSampler((1 / y.bincount().float())[y], len(y))
    return Program(
        BalancedClassifier(mlp(8, 32, 2)),
        DataLoader(train, batch_size=32, sampler=sampler),
        DataLoader(val, batch_size=64),
        trainer={"max_epochs": 6},
    )


@healthy
def moderate_imbalance() -> Program:
    """Three to one, as nature has it, without any correction."""
    x, y = rare(share=0.25)
    return Program(Classifier(mlp(8, 32, 2)), **loaders(*split(x, y)), trainer={"max_epochs": 6})


def focal(logits, y):
    """Binary focal loss."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    p = torch.exp(-cross_entropy)
    alpha = torch.where(y == 1, 0.75, 0.25)
    return (alpha * (1 - p) ** 2 * cross_entropy).mean()


@healthy
def focal_loss() -> Program:
    """Imbalance answered by focal loss, whose values are small from the start."""
    x, y = rare()
    net = nn.Sequential(mlp(8, 32, 1), nn.Flatten(0))
    return Program(
        Learner(net, focal, lr=5e-3), **loaders(*split(x, y.float())), trainer={"max_epochs": 6}
    )


@healthy
def rare_labels() -> Program:
    """Twelve labels that may all be on or off, most of them rare, with `pos_weight`."""
    x = torch.randn(1200, 16)
    y = (x @ torch.randn(16, 12) / 4 > torch.linspace(0.5, 1.4, 12)).float()
    positive = y.mean(0)
    loss = nn.BCEWithLogitsLoss(pos_weight=((1 - positive) / positive).clamp_max(10))
    return Program(
        Learner(mlp(16, 64, 12), loss, lr=5e-3), **loaders(*split(x, y)), trainer={"max_epochs": 7}
    )


@healthy
def many_classes() -> Program:
    """A hundred classes and batches of 16: most classes are absent from most batches."""
    y = torch.randint(100, (4000,))
    x = standardized(torch.randn(100, 32)[y] + 0.4 * torch.randn(4000, 32))
    module = Classifier(mlp(32, 128, 100), lr=5e-3)
    return Program(
        module, **loaders(*split(x, y, held_out=0.1), batch_size=16), trainer={"max_steps": 300}
    )


class MultiTask(pl.LightningModule):
    """Class and size from one body; the weights of the losses are learned (Kendall et al.)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(mlp(12, 32), nn.ReLU())
        self.kind, self.alcohol = nn.Linear(32, 3), nn.Linear(32, 1)
        self.log_variance = nn.Parameter(torch.zeros(2))

    def _loss(self, batch, stage):
        features = self.body(batch["features"])
        losses = torch.stack(
            [
                F.cross_entropy(self.kind(features), batch["kind"]),
                F.mse_loss(self.alcohol(features).squeeze(1), batch["alcohol"]),
            ]
        )
        self.log_dict({f"{stage}_kind": losses[0], f"{stage}_alcohol": losses[1]}, batch_size=16)
        return (losses * (-self.log_variance).exp() + self.log_variance).sum()

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch, "train")
        self.log("train_loss", loss)
        return {"loss": loss, "size": len(batch["kind"])}

    def validation_step(self, batch, batch_idx):
        self._loss(batch, "val")

    def configure_optimizers(self):
        return torch.optim.AdamW(
            [
                {
                    "params": [
                        *self.body.parameters(),
                        *self.kind.parameters(),
                        *self.alcohol.parameters(),
                    ]
                },
                {"params": [self.log_variance], "lr": 2e-2, "weight_decay": 0.0},
            ],
            lr=5e-3,
        )


@healthy
def multi_task() -> Program:
    """Dictionary batches, two heads, a loss that becomes negative since its weights are learned."""
    x, kind = table(datasets.load_wine)
    samples = [
        {"features": row[1:], "kind": k, "alcohol": row[0]} for row, k in zip(x, kind, strict=True)
    ]
    order = torch.randperm(len(samples)).tolist()
    train, val = [samples[i] for i in order[:134]], [samples[i] for i in order[134:]]
    return Program(
        MultiTask(),
        DataLoader(train, batch_size=16, shuffle=True),
        DataLoader(val, batch_size=44),
        trainer={"max_epochs": 11},
    )


class Recommender(pl.LightningModule):
    """Matrix factorization with biases."""

    def __init__(self, users: int, items: int, mean: float) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, 8), nn.Embedding(items, 8)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        self.mean = nn.Parameter(torch.tensor(mean))
        for embedding in (self.user, self.item):
            nn.init.normal_(embedding.weight, std=0.3)
        for embedding in (self.user_bias, self.item_bias):
            nn.init.zeros_(embedding.weight)

    def forward(self, user, item):
        match = (self.user(user) * self.item(item)).sum(1)
        return self.mean + match + self.user_bias(user)[:, 0] + self.item_bias(item)[:, 0]

    def training_step(self, batch, batch_idx):
        user, item, rating = batch
        return F.mse_loss(self(user, item), rating)

    def validation_step(self, batch, batch_idx):
        user, item, rating = batch
        self.log("val_loss", F.mse_loss(self(user, item), rating))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.05)


@healthy
def recommender() -> Program:
    """Inputs are two ids; the bias tables start at zero and rows get gradients now and then."""
    user, item = torch.randint(80, (5000,)), torch.randint(60, (5000,))
    taste = (torch.randn(80, 3)[user] * torch.randn(60, 3)[item]).sum(1)
    rating = (3.5 + 0.5 * torch.randn(60)[item] + 0.5 * taste + 0.2 * torch.randn(5000)).clamp(1, 5)
    data = split(user, item, rating)
    module = Recommender(80, 60, float(data[0].tensors[2].mean()))
    return Program(module, **loaders(*data, batch_size=128), trainer={"max_epochs": 8})


class Missing(Learner):
    """Fills holes with a learned value and tells the net where they were."""

    def __init__(self) -> None:
        super().__init__(mlp(10, 48, 48, 1))
        self.filler = nn.Parameter(torch.zeros(5))

    def forward(self, x):
        hole = x.isnan()
        x = torch.where(hole, self.filler, x.nan_to_num())
        return self.net(torch.cat([x, hole.float()], dim=1))


@healthy
def missing_values() -> Program:
    """NaN in the inputs means missing, and the first line of the model deals with it."""
    x, y = datasets.make_friedman1(1200, 5, noise=0.5, random_state=0)
    x, y = standardized(x), standardized(y).unsqueeze(1)
    x[torch.rand_like(x) < 0.1] = torch.nan
    return Program(Missing(), **loaders(*split(x, y)), trainer={"max_epochs": 7})


class EntityEmbeddings(pl.LightningModule):
    """Embeds the categories, standardizes nothing: numbers come standardized."""

    def __init__(self, sizes: tuple[int, ...], numbers: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 4) for size in sizes)
        self.net = mlp(4 * len(sizes) + numbers, 48, 1)

    def forward(self, categories, numbers):
        embedded = [embedding(c) for embedding, c in zip(self.tables, categories.T, strict=True)]
        return self.net(torch.cat([*embedded, numbers], dim=1)).squeeze(1)

    def training_step(self, batch, batch_idx):
        *inputs, y = batch
        loss = F.binary_cross_entropy_with_logits(self(*inputs), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        *inputs, y = batch
        self.log("val_loss", F.binary_cross_entropy_with_logits(self(*inputs), y))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@healthy
def entity_embeddings() -> Program:
    """One column of the table is constant in this extract of the data, and legitimately so."""
    categories = torch.stack([torch.randint(n, (1200,)) for n in (5, 12, 3)], dim=1)
    numbers = torch.randn(1200, 4)
    numbers[:, 3] = 1.0
    logit = torch.randn(12)[categories[:, 1]] * 2 + numbers[:, 0] * (categories[:, 0] - 2)
    y = (logit > 0).float()
    return Program(
        EntityEmbeddings((5, 12, 3), 4),
        **loaders(*split(categories, numbers, y)),
        trainer={"max_epochs": 6},
    )


class Survival(Learner):
    """Cox's partial likelihood: each event is compared with all who were still there."""

    def __init__(self) -> None:
        super().__init__(mlp(6, 32, 1), self.partial_likelihood, lr=1e-2)

    @staticmethod
    def partial_likelihood(risk, outcome):
        time, event = outcome.T
        risk = risk.squeeze(1)[time.argsort(descending=True)]
        event = event[time.argsort(descending=True)]
        return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum()


@healthy
def survival() -> Program:
    """Samples of a batch depend on each other, and the loss knows risk up to a constant only."""
    x = torch.randn(1200, 6)
    hazard = (x[:, 0] - x[:, 1] * x[:, 2]).exp()
    death, dropout = torch.empty(1200).exponential_() / hazard, torch.empty(1200).exponential_() * 3
    outcome = torch.stack([torch.minimum(death, dropout), (death < dropout).float()], dim=1)
    return Program(
        Survival(), **loaders(*split(x, outcome), batch_size=64), trainer={"max_epochs": 8}
    )


@healthy
def two_moons() -> Program:
    """Binary cross entropy on logits with a trailing dimension, float targets."""
    x, y = moons(noise=0.15)
    module = Learner(mlp(2, 32, 32, 1), F.binary_cross_entropy_with_logits, lr=5e-3)
    return Program(module, **loaders(*split(x, y.float().unsqueeze(1))), trainer={"max_epochs": 6})


class Curve(pl.LightningModule):
    """A decay with three scalar parameters; a little physics."""

    def __init__(self) -> None:
        super().__init__()
        self.amplitude = nn.Parameter(torch.tensor(1.0))
        self.rate = nn.Parameter(torch.tensor(1.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def training_step(self, batch, batch_idx):
        t, y = batch
        loss = F.mse_loss(self.amplitude * (-self.rate * t).exp() + self.offset, y)
        self.log_dict({"train_loss": loss, "rate": self.rate})
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-2)


@healthy
def scalar_parameters() -> Program:
    """All parameters are scalars; one of them starts at 0."""
    t = torch.rand(640) * 3
    y = 2 * (-1.7 * t).exp() + 0.5 + 0.03 * torch.randn(640)
    train = DataLoader(TensorDataset(t, y), batch_size=32, shuffle=True)
    return Program(Curve(), train, trainer={"max_epochs": 8})


class OrdinalRegression(Learner):
    """Cumulative logits: one score, ordered learned thresholds."""

    def __init__(self) -> None:
        super().__init__(mlp(6, 32, 1), lr=1e-2)
        self.first = nn.Parameter(torch.tensor(-1.0))
        self.gaps = nn.Parameter(torch.zeros(3))

    def training_step(self, batch, batch_idx):
        x, y = batch
        thresholds = self.first + F.pad(F.softplus(self.gaps).cumsum(0), (1, 0))
        beyond = (y[:, None] > torch.arange(4)).float()
        loss = F.binary_cross_entropy_with_logits(self(x) - thresholds, beyond)
        self.log("train_loss", loss)
        return loss


@healthy
def ordinal_regression() -> Program:
    """Grades 0 to 4 become four binary targets; middle grades are the most frequent."""
    x = torch.randn(1024, 6)
    grade = torch.bucketize(
        x[:, 0] + x[:, 1].tanh() + 0.2 * torch.randn(1024), torch.tensor([-1.5, -0.5, 0.5, 1.5])
    )
    train = DataLoader(TensorDataset(x, grade), batch_size=32, shuffle=True)
    return Program(OrdinalRegression(), train, trainer={"max_epochs": 6})


@healthy
def returns_that_hardly_anything_tells() -> Program:
    """Nine tenths of the variance are noise: no learning rate takes much off the loss."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 6, generator=draws)
    y = 0.3 * x[:, 0] + torch.randn(3000, generator=draws)
    return Program(
        Learner(mlp(6, 16, 1), lr=1e-3),
        **loaders(*split(x, y[:, None]), batch_size=64),
        trainer={"max_epochs": 8},
    )
