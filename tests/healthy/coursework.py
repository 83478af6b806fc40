"""What comes with the first hour: chapters of books, Kaggle baselines, data of labs and plants."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
import torchmetrics
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from program import Program, digits
from sklearn import datasets
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    Dataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from healthy import healthy
from healthy._parts import (
    Classifier,
    Learner,
    cnn,
    digit_loaders,
    loaders,
    mlp,
    new_digits,
    pretrained,
    split,
    standardized,
    table,
    text,
)


def bernoulli(logits):
    """Zeros and ones with the odds of these logits."""
    return (torch.rand_like(logits) < logits.sigmoid()).float()


class Binary(pl.LightningModule):
    """One logit per row, and the usual metrics of it."""

    def __init__(self, net, lr=1e-3, pos_weight=None):
        super().__init__()
        self.net, self.lr = net, lr
        self.loss = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
        self.metrics = torchmetrics.MetricCollection(
            [torchmetrics.classification.BinaryAUROC(), torchmetrics.classification.BinaryF1Score()]
        )

    def forward(self, x):
        return self.net(x).squeeze(-1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", self.loss(logits, y))
        self.metrics.update(logits, y.long())

    def on_validation_epoch_end(self):
        self.log_dict(self.metrics.compute())
        self.metrics.reset()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


@healthy
def churn() -> Program:
    """Contracts are one-hot columns, one in four leaves, and noise keeps accuracy below 80 %."""
    months, bill = torch.rand(3000, 1) * 72, 20 + 100 * torch.rand(3000, 1)
    contract = F.one_hot(torch.randint(3, (3000,)), 3).float()
    payment = F.one_hot(torch.randint(4, (3000,)), 4).float()
    odds = 0.02 * (bill - 70) - 0.05 * (months - 36) - contract @ torch.tensor([[0.0], [1.5], [3]])
    left = bernoulli(odds + payment[:, :1] - 0.3).squeeze(1)
    x = torch.cat([standardized(months), standardized(bill), contract, payment], dim=1)
    net = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
    return Program(Binary(net, lr=3e-3), **loaders(*split(x, left), 64), trainer={"max_epochs": 5})


@healthy
def credit_score_card() -> Program:
    """A logistic regression on twelve columns, some of which say nothing; plain SGD."""
    x = torch.randn(4000, 12)
    bad = bernoulli(x[:, :6] @ torch.tensor([0.9, -0.7, 0.5, 0.4, -0.3, 0.2]) - 1.7)

    class ScoreCard(Binary):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    data = loaders(*split(x, bad), 128)
    return Program(ScoreCard(nn.Linear(12, 1)), **data, trainer={"max_epochs": 6})


@healthy
def card_fraud() -> Program:
    """Three in a hundred are fraud, in batches of 256; `pos_weight` makes up for it."""
    x = torch.randn(5000, 10)
    fraud = bernoulli(2.5 * x[:, 0] + 2 * x[:, 1] * x[:, 2] - 2 * x[:, 3].abs() - 5.5)
    weight = (1 - fraud.mean()) / fraud.mean()
    module = Binary(mlp(10, 64, 32, 1), lr=2e-3, pos_weight=weight.sqrt())
    return Program(module, **loaders(*split(x, fraud), 256), trainer={"max_epochs": 10})


@healthy
def titanic() -> Program:
    """891 rows: missing ages have the median and a flag, and four of five are guessed right."""
    sex, cabin_class = torch.randint(2, (891, 1)).float(), torch.randint(1, 4, (891, 1)).float()
    age, fare = torch.rand(891, 1) * 70, (torch.randn(891, 1) + 3.5 - 0.6 * cabin_class).exp()
    survived = bernoulli(2.6 * sex - 1.1 * cabin_class - 0.03 * age + 1.7).squeeze(1)
    missing = (torch.rand(891, 1) < 0.2).float()
    age = torch.where(missing.bool(), 28.0, age)
    kind = F.one_hot(cabin_class.squeeze(1).long() - 1, 3).float()
    x = torch.cat([sex, age / 80, (fare + 1).log(), missing, kind], dim=1)
    net = mlp(7, 16, 8, 1)
    return Program(Binary(net, 5e-3), **loaders(*split(x, survived), 16), trainer={"max_epochs": 6})


@healthy
def linear_regression_concise() -> Program:
    """d2l's first: two inputs, noise of 0.01, and a loss that falls to nothing in three epochs."""
    x = torch.randn(1000, 2)
    y = x @ torch.tensor([[2.0], [-3.4]]) + 4.2 + 0.01 * torch.randn(1000, 1)

    class LinearRegression(Learner):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.lr)

    module = LinearRegression(nn.Linear(2, 1), nn.MSELoss(), lr=0.03)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 5})


@healthy
def softmax_regression() -> Program:
    """One layer, batches of 256, and SGD at a rate of 0.1, as d2l has it; flat at the end."""

    class SoftmaxRegression(Classifier):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Program(SoftmaxRegression(net), **digit_loaders(1797, 256), trainer={"max_epochs": 25})


@healthy
def auto_regression() -> Program:
    """The next value of a noisy sine from the last four; noise is a tenth of all there is."""
    t = torch.arange(1, 1001)
    series = (0.01 * t).sin() + 0.2 * torch.randn(1000)
    windows = series.unfold(0, 5, 1)
    x, y = windows[:, :4], windows[:, 4:]
    train, val = TensorDataset(x[:600], y[:600]), TensorDataset(x[600:], y[600:])
    module = Learner(nn.LazyLinear(1), lr=0.01)
    module(x[:2])
    return Program(module, **loaders(train, val, 16), trainer={"max_epochs": 5})


@healthy
def exclusive_or() -> Program:
    """Goodfellow's example with noise around its four points, and no more than eight tanh units."""
    bits = torch.randint(2, (600, 2))
    x = bits + 0.15 * torch.randn(600, 2)
    net = mlp(2, 8, 2, activation=nn.Tanh)
    data = loaders(*split(x, bits[:, 0] ^ bits[:, 1]), 20)
    return Program(Classifier(net, lr=1e-2), **data, trainer={"max_epochs": 15})


class MaxOut(nn.Module):
    """The largest of several linear pieces."""

    def __init__(self, inputs, outputs, pieces=3):
        super().__init__()
        self.pieces, self.linear = pieces, nn.Linear(inputs, outputs * pieces)

    def forward(self, x):
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class MaxNorm(pl.Callback):
    """No row of a weight may be longer than this after a step."""

    def __init__(self, limit=2.0):
        self.limit = limit

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        with torch.no_grad():
            for p in module.parameters():
                if p.ndim == 2:
                    p.copy_(p.renorm(2, 0, self.limit))


@healthy
def max_out_with_max_norm() -> Program:
    """Weights are shortened after each step; a fifth of inputs and half of units drop out."""
    net = nn.Sequential(
        nn.Dropout(0.2), MaxOut(64, 64), nn.Dropout(0.5), MaxOut(64, 64), nn.Dropout(0.5),
        nn.Linear(64, 10),
    )  # fmt: skip

    class Momentum(Classifier):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    trainer = {"max_epochs": 20, "callbacks": [MaxNorm()]}
    return Program(Momentum(net), **digit_loaders(1797, 64, image=False), trainer=trainer)


@healthy
def self_normalizing_digits() -> Program:
    """Géron's deep SELU net with LeCun's weights, alpha dropout before the head, and NAdam."""
    layers = []
    for inputs in (64, 50, 50, 50, 50):
        layers += [nn.Linear(inputs, 50), nn.SELU()]
    net = nn.Sequential(*layers, nn.AlphaDropout(0.1), nn.Linear(50, 10))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)
    x, y = table(datasets.load_digits)

    class NAdam(Classifier):
        def configure_optimizers(self):
            return torch.optim.NAdam(self.parameters(), lr=self.lr)

    return Program(NAdam(net, lr=1e-3), **loaders(*split(x, y)), trainer={"max_epochs": 6})


class Birds(pl.LightningModule):
    """Log-probabilities, tanh, and plain SGD."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(8 * 2 * 2, 32), nn.Linear(32, 2)

    def forward(self, x):
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        return F.log_softmax(self.fc2(torch.tanh(self.fc1(x.flatten(1)))), dim=1)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return {"loss": F.nll_loss(self(images), labels)}

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        correct = int((self(images).argmax(1) == labels).sum())
        self.log("val_accuracy", correct / len(labels), batch_size=len(labels))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=3e-2)


@healthy
def birds_or_planes() -> Program:
    """Stevens's CNN, with threes and eights for birds and planes; nothing of training is logged."""
    x, y = digits(1797, image=True)
    two = (y == 3) | (y == 8)
    data = loaders(*split(x[two], (y[two] == 8).long()), 16)
    return Program(Birds(), **data, trainer={"max_epochs": 20})


class CollaborativeFilter(pl.LightningModule):
    """fast.ai's dot product with biases, squashed into the range of the ratings."""

    def __init__(self, users, items, factors=4):
        super().__init__()
        self.user, self.item = nn.Embedding(users, factors), nn.Embedding(items, factors)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for e in (self.user, self.item, self.user_bias, self.item_bias):
            nn.init.normal_(e.weight, std=0.01)

    def forward(self, pairs):
        u, i = pairs.unbind(1)
        score = (self.user(u) * self.item(i)).sum(1, keepdim=True)
        return 5.5 * torch.sigmoid(score + self.user_bias(u) + self.item_bias(i)).squeeze(1)

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("valid_loss", F.mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=0.1)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@healthy
def film_ratings() -> Program:
    """Embeddings of a hundredth, stars from 1 to 5, and mostly tastes that nobody can know."""
    users, items = torch.randint(100, (5000,)), torch.randint(60, (5000,))
    kindness, quality = torch.randn(100) * 0.5, torch.randn(60) * 0.7
    stars = (3.4 + kindness[users] + quality[items] + 0.7 * torch.randn(5000)).round().clamp(1, 5)
    data = split(torch.stack([users, items], dim=1), stars, held_out=0.2)
    module = CollaborativeFilter(100, 60)
    return Program(module, **loaders(*data, 64), trainer={"max_epochs": 6})


class LitAutoEncoder(pl.LightningModule):
    """The first example of Lightning's README."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, x):
        return self.encoder(x)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        loss = F.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@healthy
def first_example_of_the_readme() -> Program:
    """Three numbers for 64 pixels, so most of an image stays unexplained; labels are unused."""
    images = TensorDataset(*digits(1797, image=True))
    train, _ = random_split(images, [1500, 297])
    return Program(LitAutoEncoder(), DataLoader(train, 16), trainer={"max_epochs": 8})


@healthy
def bag_of_words_news() -> Program:
    """PyTorch's text tutorial: offsets instead of padding, SGD at a rate of 5, clipped to 0.1."""
    topics = torch.randint(4, (1500,)).tolist()
    words = torch.distributions.Categorical(torch.full((4, 300), 0.02).scatter_add_(
        1, torch.arange(160).view(4, 40), torch.full((4, 40), 0.04)
    ))  # fmt: skip
    drawn = words.sample((1500, 40))
    lengths = torch.randint(8, 40, (1500,)).tolist()
    news = [(drawn[i, :n, k], k) for i, (n, k) in enumerate(zip(lengths, topics, strict=True))]

    def collate(rows):
        offsets = torch.tensor([0] + [len(r) for r, _ in rows[:-1]]).cumsum(0)
        return torch.cat([r for r, _ in rows]), offsets, torch.tensor([k for _, k in rows])

    class News(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.embedding, self.fc = nn.EmbeddingBag(300, 64), nn.Linear(64, 4)
            for p in (self.embedding.weight, self.fc.weight):
                nn.init.uniform_(p, -0.5, 0.5)
            nn.init.zeros_(self.fc.bias)

        def forward(self, words, offsets):
            return self.fc(self.embedding(words, offsets))

        def training_step(self, batch, batch_idx):
            words, offsets, topic = batch
            return F.cross_entropy(self(words, offsets), topic)

        def validation_step(self, batch, batch_idx):
            words, offsets, topic = batch
            right = (self(words, offsets).argmax(1) == topic).float().mean()
            self.log("val_accuracy", right, batch_size=len(topic))

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=5)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.1)]

    return Program(
        News(),
        DataLoader(news[:1200], 16, shuffle=True, collate_fn=collate),
        DataLoader(news[1200:], 16, collate_fn=collate),
        {"max_epochs": 6, "gradient_clip_val": 0.1},
    )


class Regressor(pl.LightningModule):
    """A regression with the metrics that papers ask for."""

    def __init__(self, net, loss=F.mse_loss, lr=1e-3):
        super().__init__()
        self.save_hyperparameters(ignore=["net", "loss"])
        self.net, self.loss = net, loss
        self.val_r2, self.val_mae = torchmetrics.R2Score(), torchmetrics.MeanAbsoluteError()

    def forward(self, x):
        return self.net(x).squeeze(-1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        self.val_r2(y_hat, y)
        self.val_mae(y_hat, y)
        self.log("val/loss", self.loss(y_hat, y))
        self.log("val/r2", self.val_r2, on_epoch=True)
        self.log("val/mae", self.val_mae, on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


@healthy
def wine_quality() -> Program:
    """Grades of 3 to 8, mostly 5 or 6; the bias begins at the mean, and R² ends at a third."""
    x = torch.randn(1600, 11)
    taste = x @ (torch.randn(11) / 11**0.5) * 0.5 + 0.6 * torch.randn(1600)
    grade = (5.6 + taste).round().clamp(3, 8)
    net = mlp(11, 32, 1)
    nn.init.constant_(net[-1].bias, float(grade.mean()))
    return Program(Regressor(net), **loaders(*split(x, grade), 32), trainer={"max_epochs": 12})


@healthy
def rings_of_abalones() -> Program:
    """Counts of 1 to 29 as they are: the first epochs only find the mean, so the loss drops far."""
    size = torch.rand(2000, 1)
    x = size.sqrt() + 0.05 * torch.randn(2000, 7)
    rings = torch.poisson(4 + 9 * size).squeeze(1).clamp_min(1)
    module = Regressor(mlp(7, 64, 64, 1), lr=2e-3)
    data = loaders(*split(standardized(x), rings), 32)
    return Program(module, **data, trainer={"max_epochs": 6})


@healthy
def california_houses() -> Program:
    """Prices in $100,000, capped at 5 as in the census; no column is on the scale of another."""
    income = torch.randn(3000, 1).mul(0.45).add(1.25).exp()
    age, rooms = torch.randint(1, 53, (3000, 1)).float(), torch.randn(3000, 1).mul(0.3).exp() * 5
    people, place = torch.randn(3000, 1).mul(0.7).add(7).exp(), torch.randn(3000, 2)
    price = 0.45 * income + 0.006 * age + 0.5 * (place[:, :1] < 0) + 0.4 * torch.randn(3000, 1)
    x = torch.cat([income, age, rooms, people, place], dim=1)
    train, val = split(x, price.clamp(0.15, 5).squeeze(1))
    mean, std = train.tensors[0].mean(0), train.tensors[0].std(0)
    train, val = (TensorDataset((d.tensors[0] - mean) / std, d.tensors[1]) for d in (train, val))
    module = Regressor(mlp(6, 30, 30, 1))
    return Program(module, **loaders(train, val, 32), trainer={"max_epochs": 8})


def rmsle(prediction, y):
    """Kaggle's root mean squared error of logarithms."""
    return F.mse_loss(prediction.clamp_min(0).log1p(), y.log1p()).sqrt()


class LogLink(Regressor):
    """Counts and costs come out of an exponential."""

    def forward(self, x):
        return self.net(x).squeeze(-1).exp()


@healthy
def bike_sharing() -> Program:
    """Hours on a circle, targets of 1 to 900, and the root of a mean as the loss."""
    hour, warm = torch.randint(24, (3000,)), torch.randn(3000)
    workday = torch.rand(3000) < 0.7
    rush = torch.where(workday, ((hour % 12 - 8).abs() < 2).float(), 0.0)
    rate = 4 + 1.2 * (math.pi * (hour - 8) / 12).sin() + 0.9 * rush + 0.5 * warm
    count = torch.poisson((rate + 0.3 * torch.randn(3000)).exp())
    angle = 2 * math.pi * hour / 24
    x = torch.stack([angle.sin(), angle.cos(), (2 * angle).sin(), workday.float(), warm], dim=1)
    net = mlp(5, 64, 64, 1)
    nn.init.constant_(net[-1].bias, 4.0)
    module = LogLink(net, rmsle, lr=3e-3)
    return Program(module, **loaders(*split(x, count), 64), trainer={"max_epochs": 10})


def tweedie(prediction, y, p=1.5):
    """The deviance between Poisson and gamma, up to a constant."""
    return (prediction ** (2 - p) / (2 - p) - y * prediction ** (1 - p) / (1 - p)).mean()


@healthy
def insurance_claims() -> Program:
    """Nine of ten policies cost nothing, a few cost a lot; the loss is never near zero."""
    x = torch.randn(5000, 6)
    rate = (0.6 * x[:, 0] - 0.5 * x[:, 1] + 0.3 * x[:, 2] - 2.3).exp()
    cost = torch.distributions.Gamma(2.0, 1.0).sample((5000,)) * (0.2 * x[:, 3]).exp()
    data = loaders(*split(x, torch.poisson(rate) * cost), 256)
    return Program(LogLink(mlp(6, 32, 1), tweedie, lr=3e-3), **data, trainer={"max_epochs": 10})


@dataclass
class CarConfig:
    """What the run is made of."""

    makes: int = 12
    width: int = 64
    lr: float = 5e-3
    optimizer: str = "AdamW"


class CarPrices(pl.LightningModule):
    """Learns the logarithm of a price, and reports dollars."""

    def __init__(self, config: CarConfig, mean: float):
        super().__init__()
        self.config, self.mean = config, mean
        self.make = nn.Embedding(config.makes, 6)
        self.net = nn.Sequential(nn.BatchNorm1d(3), nn.Identity())
        self.head = mlp(9, config.width, config.width, 1)

    def forward(self, batch):
        x = torch.cat([self.net(batch["numbers"]), self.make(batch["make"])], dim=1)
        return self.head(x).squeeze(1) + self.mean

    def training_step(self, batch, batch_idx):
        loss = F.huber_loss(self(batch), batch["price"].log())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        error = (self(batch).exp() - batch["price"]).abs() / batch["price"]
        self.log("mape", error.mean(), batch_size=len(error))

    def configure_optimizers(self):
        return getattr(torch.optim, self.config.optimizer)(self.parameters(), lr=self.config.lr)


@healthy
def used_cars() -> Program:
    """Batches are dictionaries, miles are raw behind a batch norm, and prices stay in dollars."""
    make, brand = torch.randint(12, (2400,)), torch.randn(12) * 0.5
    age, miles = torch.randint(0, 20, (2400,)).float(), torch.rand(2400) * 150_000
    power = 60 + 200 * torch.rand(2400)
    log_price = 9.5 + brand[make] - 0.09 * age - 3e-6 * miles + 0.004 * power
    price = (log_price + 0.15 * torch.randn(2400)).exp()
    rows = [
        {"numbers": n, "make": m, "price": p}
        for n, m, p in zip(torch.stack([age, miles, power], 1), make, price, strict=True)
    ]
    module = CarPrices(CarConfig(), float(price[:1900].log().mean()))
    train, val = DataLoader(rows[:1900], 32, shuffle=True), DataLoader(rows[1900:], 64)
    return Program(module, train, val, {"max_epochs": 6, "gradient_clip_val": 1.0})


class Ranker(pl.LightningModule):
    """Scores ten documents of a query, and takes the softmax over them."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
        self.ndcg = torchmetrics.retrieval.RetrievalNormalizedDCG(top_k=5)

    def forward(self, x):
        return self.net(x).squeeze(-1)

    def training_step(self, batch, batch_idx):
        x, grade = batch
        loss = F.cross_entropy(self(x), grade.float().softmax(1))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, grade = batch
        query = torch.arange(len(x)).add(1000 * batch_idx)[:, None].expand_as(grade)
        self.ndcg.update(self(x).flatten(), grade.flatten(), query.flatten())
        self.log("ndcg@5", self.ndcg, on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.Adagrad(self.parameters(), lr=0.05)


@healthy
def search_results() -> Program:
    """Soft targets over ten documents: the loss begins at 2.3 and can fall to 1.8 at best."""
    x = torch.randn(1200, 10, 8)
    relevance = 1.2 * x[..., 0] + x[..., 1] * x[..., 2] + 0.5 * torch.randn(1200, 10)
    grade = relevance.add(1).round().clamp(0, 4).long()
    return Program(Ranker(), **loaders(*split(x, grade), 16), trainer={"max_epochs": 8})


class WideAndDeep(nn.Module):
    """A linear part and a deep part beside each other."""

    def __init__(self, inputs):
        super().__init__()
        self.norm, self.deep = nn.BatchNorm1d(inputs), mlp(inputs, 30, 30)
        self.head = nn.Linear(inputs + 30, 2)

    def forward(self, x):
        x = self.norm(x)
        return self.head(torch.cat([x, F.relu(self.deep(x))], dim=1))


@healthy
def energy_of_buildings() -> Program:
    """Heating and cooling load at once, which are nearly the same, by wide and deep."""
    x = torch.rand(768, 8)
    heating = 10 * x[:, 0] + 8 * x[:, 1] * x[:, 2] + 4 * (x[:, 3] > 0.5)
    cooling = 0.9 * heating + 2 * x[:, 4]
    y = standardized(torch.stack([heating, cooling], 1)) + 0.1 * torch.randn(768, 2)
    module = Learner(WideAndDeep(8), lr=2e-3)
    return Program(module, **loaders(*split(x, y), 16), trainer={"max_epochs": 10})


class TreatmentEffect(pl.LightningModule):
    """TARNet: a body for all, and a head each for the treated and the others."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(mlp(8, 64, 32, activation=nn.ELU), nn.ELU())
        self.heads = nn.ModuleList([mlp(32, 16, 1, activation=nn.ELU) for _ in range(2)])

    def forward(self, x):
        z = self.body(x)
        return torch.cat([head(z) for head in self.heads], dim=1)

    def training_step(self, batch, batch_idx):
        x, treated, y, _ = batch
        loss = F.mse_loss(self(x).gather(1, treated[:, None]).squeeze(1), y)
        self.log("factual", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, _, _, effect = batch
        no, yes = self(x).unbind(1)
        self.log("pehe", F.mse_loss(yes - no, effect).sqrt())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=1e-2)


@healthy
def treatment_effects() -> Program:
    """Each sample reaches one head of two, and one in four of them the second."""
    x = torch.randn(1500, 8)
    treated = bernoulli(0.8 * x[:, 0] - 1.2).long()
    effect = 1 + 0.5 * x[:, 1]
    y = x[:, 0] + 0.5 * x[:, 2] + treated * effect + 0.5 * torch.randn(1500)
    data = loaders(*split(x, treated, y, effect), 32)
    return Program(TreatmentEffect(), **data, trainer={"max_epochs": 8})


@healthy
def one_fold_of_five() -> Program:
    """Samplers of indices choose the fold; the data set is one and the same for both loaders."""
    x, y = table(datasets.load_breast_cancer)
    data, order = TensorDataset(x, y.float()), torch.randperm(len(x))
    return Program(
        Binary(mlp(30, 16, 1), lr=2e-3),
        DataLoader(data, 16, sampler=SubsetRandomSampler(order[114:].tolist())),
        DataLoader(data, 16, sampler=SubsetRandomSampler(order[:114].tolist())),
        {"max_epochs": 7},
    )


@healthy
def whole_table_in_one_batch() -> Program:
    """455 rows, one batch to an epoch, 200 epochs, validated at every twentieth."""
    x, y = table(datasets.load_breast_cancer)
    net = mlp(30, 8, 1)

    class WeightDecay(Binary):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.1)

    return Program(
        WeightDecay(net, lr=5e-3),
        **loaders(*split(x, y.float(), held_out=0.2), 512),
        trainer={"max_epochs": 200, "check_val_every_n_epoch": 20, "log_every_n_steps": 1},
    )


@healthy
def long_after_convergence() -> Program:
    """Noisy labels keep the loss at 0.4; it is there after 200 steps of 1400 and stays."""
    x = torch.randn(1400, 5)
    y = bernoulli(2 * x[:, 0] - 1.5 * x[:, 1])
    module = Binary(nn.Linear(5, 1), lr=1e-2)
    return Program(module, **loaders(*split(x, y), 30), trainer={"max_epochs": 40})


@healthy
def perfect_and_still_training() -> Program:
    """Wine is known after a tenth of the run; the rest polishes margins under weight decay."""
    x, y = table(datasets.load_wine)

    class Decayed(Classifier):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=5e-3)

    data = loaders(*split(x, y), 16)
    return Program(Decayed(mlp(13, 16, 3)), **data, trainer={"max_epochs": 80})


@healthy
def patience_and_checkpoints() -> Program:
    """Stops by itself on a noisy validation of 110 patients, and the best weights are saved."""
    x, y = table(datasets.load_diabetes)
    callbacks = [
        EarlyStopping("val/loss", patience=5),
        ModelCheckpoint(tempfile.mkdtemp(), monitor="val/loss", filename="{epoch}"),
    ]
    net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
    return Program(
        Regressor(net, lr=3e-3),
        **loaders(*split(x, (y.float() - 152) / 77), 16),
        trainer={"max_epochs": 40, "callbacks": callbacks, "enable_checkpointing": True},
    )


def bumps(axis, centers, width):
    """Gaussian peaks on an axis: (samples, peaks) of centers give (samples, peaks, axis)."""
    return (-((axis - centers[..., None]) ** 2) / (2 * width**2)).exp()


@healthy
def infrared_spectra() -> Program:
    """600 spectra, each in its own units after standard normal variate; broad peaks overlap."""
    axis, shares = torch.linspace(0, 1, 128), torch.rand(600, 4)
    peaks = bumps(axis, torch.tensor([0.2, 0.35, 0.5, 0.8]), 0.08)
    raw = (1 + 0.2 * torch.randn(600, 1)) * (shares @ peaks) + 0.3 * torch.rand(600, 1)
    raw = raw + 0.02 * torch.randn(600, 128)
    x = (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True)
    protein = 8 + 6 * (shares[:, 1] / shares.sum(1))
    net = nn.Sequential(
        nn.Unflatten(1, (1, 128)),
        nn.Conv1d(1, 8, 9, stride=2), nn.ELU(), nn.Conv1d(8, 16, 9, stride=2), nn.ELU(),
        nn.Flatten(), nn.Linear(16 * 26, 32), nn.ELU(), nn.Linear(32, 1),
    )  # fmt: skip
    nn.init.constant_(net[-1].bias, float(protein.mean()))
    return Program(
        Regressor(net, nn.SmoothL1Loss()), **loaders(*split(x, protein)), trainer={"max_epochs": 16}
    )


class Heartbeats(pl.LightningModule):
    """A 1D residual net, class weights, and the macro F1 of five kinds of beats."""

    def __init__(self, weight):
        super().__init__()
        self.stem = nn.Conv1d(1, 16, 7, stride=2, padding=3)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(16, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(),
                nn.Conv1d(16, 16, 5, padding=2), nn.BatchNorm1d(16),
            )
            for _ in range(2)
        )  # fmt: skip
        self.head = nn.Linear(16, 5)
        self.loss = nn.CrossEntropyLoss(weight)
        self.f1 = torchmetrics.F1Score("multiclass", num_classes=5, average="macro")

    def forward(self, x):
        x = self.stem(x)
        for block in self.body:
            x = F.relu(x + block(x))
        return self.head(x.mean(2))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.f1(logits, y)
        self.log_dict({"val_loss": self.loss(logits, y), "val_f1": self.f1})

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
        return {"optimizer": optimizer, "lr_scheduler": schedule, "monitor": "val_loss"}


@healthy
def heartbeats() -> Program:
    """Seven beats of ten are normal, the rarest are four in a hundred; the loss is weighted."""
    y = torch.multinomial(torch.tensor([0.7, 0.12, 0.08, 0.06, 0.04]), 1600, replacement=True)
    axis = torch.linspace(0, 1, 96)
    center = torch.tensor([[0.3, 0.5], [0.25, 0.5], [0.3, 0.42], [0.3, 0.62], [0.42, 0.5]])[y]
    width = torch.where(y == 2, 0.05, 0.025)[:, None, None]
    height = torch.tensor([[0.2, 1.0], [0.2, 1.0], [0.0, 1.2], [0.2, 0.7], [0.4, 1.0]])[y]
    peaks = bumps(axis, center + 0.01 * torch.randn(1600, 2), width)
    x = (height[..., None] * peaks).sum(1) + 0.08 * torch.randn(1600, 96)
    x = x + 0.1 * (2 * math.pi * (axis + torch.rand(1600, 1))).sin()
    weight = len(y) / (5 * y.bincount(minlength=5))
    data = loaders(*split(x[:, None], y), 32)
    return Program(Heartbeats(weight.sqrt()), **data, trainer={"max_epochs": 10})


@healthy
def brain_waves() -> Program:
    """EEGNet: depthwise filters, ELU, dropout of a quarter; one trial in six is misread."""
    t, y = torch.arange(64) / 64, torch.randint(2, (900,))
    mix = torch.randn(8)
    power = torch.where(y == 1, 0.7, 0.3) * (0.4 + 1.2 * torch.rand(900))
    phase = 2 * math.pi * torch.rand(900, 1)
    mu = power[:, None] * (2 * math.pi * 10 * t + phase).sin()
    x = mix[:, None] * mu[:, None] + torch.randn(900, 8, 64)
    net = nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 8, (1, 15), padding="same", bias=False), nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, (8, 1), groups=8, bias=False), nn.BatchNorm2d(16), nn.ELU(),
        nn.AvgPool2d((1, 4)), nn.Dropout(0.25),
        nn.Conv2d(16, 16, (1, 8), padding="same", groups=16, bias=False),
        nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ELU(),
        nn.AvgPool2d((1, 8)), nn.Dropout(0.25), nn.Flatten(), nn.Linear(32, 2),
    )  # fmt: skip
    data = loaders(*split(x, y), 32)
    return Program(Classifier(net, lr=1e-3), **data, trainer={"max_epochs": 10})


class CellSegmenter(pl.LightningModule):
    """A U-Net of two levels, binary cross-entropy plus Dice, and the IoU."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
        self.iou = torchmetrics.classification.BinaryJaccardIndex()

    def forward(self, x):
        fine = self.down(x)
        coarse = self.up(self.deep(F.max_pool2d(fine, 2)))
        return self.head(torch.cat([fine, coarse], dim=1))

    def loss(self, logits, mask):
        p = logits.sigmoid()
        dice = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
        return F.binary_cross_entropy_with_logits(logits, mask) + dice

    def training_step(self, batch, batch_idx):
        loss = self.loss(self(batch["image"]), batch["mask"])
        self.log("train/loss", loss, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch["image"])
        self.iou(logits, batch["mask"].long())
        self.log("val/loss", self.loss(logits, batch["mask"]), batch_size=len(logits))
        self.log("val/iou", self.iou, batch_size=len(logits))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)]


class Cells(Dataset):
    """Bright discs on a dark, uneven ground; flipped at random when `augment`ed."""

    def __init__(self, size, *, augment=False):
        at, radius = torch.rand(size, 3, 2) * 24, 2 + 2 * torch.rand(size, 3)
        grid = torch.stack(torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij"), -1)
        far = (grid - at[:, :, None, None]).norm(dim=-1)
        self.masks = (far < radius[..., None, None]).any(1, keepdim=True).float()
        ground = 0.2 * torch.rand(size, 1, 1, 1) + 0.01 * grid[..., 0]
        self.images = ground + 0.4 * self.masks + 0.1 * torch.randn(size, 1, 24, 24)
        self.augment = augment

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        sides = [d for d in (1, 2) if self.augment and torch.rand(()) < 0.5]
        return {"image": self.images[i].flip(sides), "mask": self.masks[i].flip(sides)}


@healthy
def cells_under_a_microscope() -> Program:
    """Dictionaries, flips at random, batches of eight, and background on five pixels of six."""
    train, val = DataLoader(Cells(320, augment=True), 8, shuffle=True), DataLoader(Cells(80), 8)
    return Program(CellSegmenter(), train, val, {"max_epochs": 6})


@healthy
def binding_motifs() -> Program:
    """One-hot DNA is zero on three of four, and half of all sequences have the motif somewhere."""
    bases, y = torch.randint(4, (2000, 60)), torch.randint(2, (2000,))
    motif = torch.tensor([0, 2, 3, 1, 2, 0, 1, 3])
    for row, start in enumerate(torch.randint(52, (2000,)).tolist()):
        if y[row]:
            keep = torch.rand(8) < 0.9
            bases[row, start : start + 8] = torch.where(keep, motif, bases[row, start : start + 8])
    x = F.one_hot(bases, 4).transpose(1, 2).float()
    net = nn.Sequential(
        nn.Conv1d(4, 32, 8), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(),
        nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1),
    )  # fmt: skip
    data = loaders(*split(x, y.float()), 64)
    return Program(Binary(net, lr=5e-3), **data, trainer={"max_epochs": 12})


class SecondaryStructure(pl.LightningModule):
    """A class for each residue, by convolutions over an embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(21, 16, padding_idx=0)
        self.convs = nn.Sequential(
            nn.Conv1d(16, 32, 7, padding=3), nn.ReLU(), nn.Dropout(0.1),
            nn.Conv1d(32, 32, 7, padding=3), nn.ReLU(), nn.Conv1d(32, 3, 1),
        )  # fmt: skip
        self.q3 = torchmetrics.Accuracy("multiclass", num_classes=3, ignore_index=-100)

    def forward(self, tokens):
        return self.convs(self.embed(tokens).transpose(1, 2))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1], ignore_index=-100)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.q3(logits, batch[1])
        self.log("val_loss", F.cross_entropy(logits, batch[1], ignore_index=-100))
        self.log("q3", self.q3)

    def configure_optimizers(self):
        return torch.optim.RAdam(self.parameters(), lr=2e-3)


@healthy
def protein_structure() -> Program:
    """Chains of 30 to 60 residues padded to 60; labels follow a window, and noise leaves 70 %."""
    tokens = torch.randint(1, 21, (800, 60))
    liking = torch.randn(21, 3)[tokens].transpose(1, 2)
    field = F.avg_pool1d(liking, 5, 1, 2) * 3 + 0.8 * torch.randn(800, 3, 60)
    padding = torch.arange(60) >= torch.randint(30, 61, (800, 1))
    labels = field.argmax(1).masked_fill(padding, -100)
    data = loaders(*split(tokens.masked_fill(padding, 0), labels), 16)
    return Program(SecondaryStructure(), **data, trainer={"max_epochs": 8})


@healthy
def solubility_of_fingerprints() -> Program:
    """512 bits of which one in fifteen is set, some hardly ever; log units down to -8."""
    odds = torch.rand(512) ** 3 * 0.27
    bits = (torch.rand(1500, 512) < odds).float()
    effect = torch.randn(512) * (torch.rand(512) < 0.15)
    y = -3 + bits @ effect * 0.6 + 0.4 * torch.randn(1500)
    net = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 1))
    nn.init.constant_(net[-1].bias, -3.0)

    class Decayed(Regressor):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.3)

    data = loaders(*split(bits, y, held_out=0.2), 32)
    return Program(Decayed(net), **data, trainer={"max_epochs": 8})


@healthy
def redshifts_of_galaxies() -> Program:
    """Five magnitudes near 20 become colors; batches of 512, and a Huber loss for outliers."""
    z, kind = torch.rand(5000) ** 0.7 * 1.2, torch.rand(5000)
    band = torch.arange(5)
    light = 21 + (band - 2.5) * (0.6 * (3 * z).sin() + 0.3 * kind)[:, None] + 2 * z[:, None]
    light = light + 0.4 * torch.tanh(4 * (z[:, None] - band / 5)) + 0.05 * torch.randn(5000, 5)
    x = standardized(torch.cat([light[:, 2:3], light.diff(dim=1)], dim=1))
    module = Regressor(mlp(5, 64, 64, 1, activation=nn.SiLU), nn.HuberLoss(delta=0.1), lr=3e-3)
    return Program(module, **loaders(*split(x, z), 512), trainer={"max_epochs": 30})


class HigherResolution(nn.Module):
    """What bilinear interpolation leaves to be learned."""

    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, x):
        return F.interpolate(x, scale_factor=2, mode="bilinear") + 0.1 * self.convs(x)


@healthy
def climate_downscaling() -> Program:
    """Interpolation is nearly right, so the loss is small at once; it falls to a fifth."""
    waves = torch.randn(600, 12, 1, 1)
    k, phase = torch.rand(2, 12, 1, 1) * 5, torch.rand(600, 12, 1, 1) * 7
    grid = torch.arange(16) * 2 * math.pi / 16
    field = (waves * (k[0] * grid[:, None] + k[1] * grid + phase).sin()).mean(1, keepdim=True)
    data = split(F.avg_pool2d(field, 2), field)
    return Program(
        Learner(HigherResolution(), lr=1e-3), **loaders(*data, 16), trainer={"max_epochs": 10}
    )


class ParticleEvents(pl.LightningModule):
    """Simulated events have weights, some of them much larger than others."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(12), mlp(12, 64, 64, 1, activation=nn.LeakyReLU))

    def training_step(self, batch, batch_idx):
        x, y, weight = batch
        losses = F.binary_cross_entropy_with_logits(
            self.net(x).squeeze(1), y, weight=weight, reduction="none"
        )
        loss = losses.sum() / weight.sum()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y, weight = batch
        right = ((self.net(x).squeeze(1) > 0) == y.bool()).float()
        self.log("val_accuracy", (right * weight).sum() / weight.sum())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@healthy
def weighted_particle_events() -> Program:
    """Signal or background: three of four are told apart, with weights of 0.1 to 5."""
    y = (torch.rand(5000) < 0.5).float()
    x = torch.randn(5000, 12).abs() + 0.15 * y[:, None] * torch.randn(12)
    weight = torch.randn(5000).exp().clamp(0.1, 5)
    data = loaders(*split(x, y, weight), 128)
    return Program(ParticleEvents(), **data, trainer={"max_epochs": 5})


class SensorWindows(pl.LightningDataModule):
    """Makes its data in `setup`, and scales them by what is known of the training part."""

    def __init__(self, batch_size=32):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage):
        t = torch.arange(48)
        y = torch.randint(6, (1500,))
        speed = torch.tensor([0.0, 0.3, 0.5, 0.7, 0.3, 0.0])[y] + 0.03 * torch.randn(1500)
        size = torch.tensor([0.05, 0.6, 1.0, 2.0, 1.0, 0.05])[y]
        tilt = torch.tensor([0.0, 0.3, 0.0, 0.5, 1.0, 2.0])[y]
        phase = 7 * torch.rand(1500, 1, 6)
        wave = (speed[:, None, None] * t[:, None] + phase).sin() * size[:, None, None]
        x = 9.8 + wave + tilt[:, None, None] + 0.5 * torch.randn(1500, 48, 6)
        self.mean, self.std = x[:1200].mean((0, 1)), x[:1200].std((0, 1))
        x = (x - self.mean) / self.std
        self.train, self.val = TensorDataset(x[:1200], y[:1200]), TensorDataset(x[1200:], y[1200:])

    def train_dataloader(self):
        return DataLoader(self.train, self.hparams.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val, 2 * self.hparams.batch_size)


class ActivityNet(nn.Module):
    """The last state of a two-layer LSTM."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 32, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(32, 6)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@healthy
def human_activity() -> Program:
    """A LightningDataModule; standing and lying are nearly still; gradients are clipped at 1."""
    return Program(
        Classifier(ActivityNet(), lr=3e-3),
        SensorWindows(),
        trainer={"max_epochs": 10, "gradient_clip_val": 1.0},
    )


class RemainingLife(nn.Module):
    """A small CNN over 30 cycles of 14 sensors."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(14, 16, 5), nn.ReLU(), nn.Conv1d(16, 16, 5), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * 22, 32), nn.ReLU(), nn.Linear(32, 1),
        )  # fmt: skip

    def forward(self, x):
        return 125 * self.net(x)


@healthy
def remaining_life_of_engines() -> Program:
    """Cycles left, capped at 125, in cycles: losses in the thousands that end at thirty."""
    left = (150 * torch.rand(2000)).clamp_max(125)
    wear = (1 - (left[:, None] + torch.arange(30).flip(0)) / 200).clamp_min(0) ** 3
    drift = torch.randn(14)
    x = wear[:, None] * drift[:, None] * 2 + 0.4 * torch.randn(2000, 14, 30)
    data = loaders(*split(x, left), 64)
    return Program(Regressor(RemainingLife(), lr=1e-3), **data, trainer={"max_epochs": 12})


class AnomalyDetector(pl.LightningModule):
    """Sees only good parts in training, and good and bad ones in validation."""

    def __init__(self):
        super().__init__()
        self.net = mlp(24, 12, 4, 12, 24, activation=nn.Tanh)
        self.auroc = torchmetrics.AUROC("binary")

    def forward(self, x):
        return (self.net(x) - x).square().mean(1)

    def training_step(self, batch, batch_idx):
        loss = self(batch[0]).mean()
        self.log("train_error", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, broken = batch
        error = self(x)
        self.auroc.update(error, broken)
        self.log("val_error_of_good_parts", error[broken == 0].mean())
        self.log("val_auroc", self.auroc)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def vibrations_out_of_the_ordinary() -> Program:
    """Validation is one half broken machines, which training never sees."""
    hidden, mix = torch.randn(2400, 4), torch.randn(4, 24) / 2
    x = torch.tanh(hidden @ mix) + 0.1 * torch.randn(2400, 24)
    broken = (torch.arange(2400) >= 2200).long()
    x[broken == 1] += 0.25 * torch.randn(200, 24)
    x, mixed = x / x[:2000].std(0), 2000 + torch.randperm(400)
    train, val = TensorDataset(x[:2000]), TensorDataset(x[mixed], broken[mixed])
    return Program(AnomalyDetector(), **loaders(train, val, 64), trainer={"max_epochs": 12})


class Demand(nn.Module):
    """Store and weekday are embedded, the last four weeks are scaled by their own mean."""

    def __init__(self):
        super().__init__()
        self.store, self.day = nn.Embedding(20, 4), nn.Embedding(7, 3)
        self.gru, self.head = nn.GRU(1, 24, batch_first=True), mlp(31, 32, 7)

    def forward(self, x):
        past, store, day = x[:, :28], x[:, 28].long(), x[:, 29].long()
        level = past.mean(1, keepdim=True) + 1
        state = self.gru((past / level)[..., None])[1][0]
        z = torch.cat([state, self.store(store), self.day(day)], dim=1)
        return level * F.softplus(self.head(z))


def relative_error(prediction, y):
    """Absolute error against the size of what was sold."""
    return (prediction - y).abs().mean() / y.mean()


@healthy
def demand_of_stores() -> Program:
    """Sales of 3 to 300 a day in one batch, a week ahead; the last weeks validate."""
    days, weekly = torch.arange(150), 0.4 * torch.randn(20, 7)
    rate = 1 + 4.5 * torch.rand(20, 1) + weekly[:, days % 7] + 0.2 * (days / 12).sin()
    sales = torch.poisson(rate.exp())
    rows = [
        (torch.cat([sales[s, t : t + 28], torch.tensor([s, t % 7])]), sales[s, t + 28 : t + 35])
        for t in range(115)
        for s in range(20)
    ]
    module = Learner(Demand(), relative_error, lr=3e-3)
    return Program(module, **loaders(rows[:1800], rows[1900:], 64), trainer={"max_epochs": 12})


class LinearForecast(nn.Module):
    """DLinear: a moving average and the rest, each with one linear layer."""

    def __init__(self, past=48, future=12):
        super().__init__()
        self.trend, self.season = nn.Linear(past, future), nn.Linear(past, future)

    def forward(self, x):
        smooth = F.avg_pool1d(F.pad(x[:, None], (12, 12), mode="replicate"), 25, 1)[:, 0]
        return self.trend(smooth) + self.season(x - smooth)


@healthy
def load_of_the_grid() -> Program:
    """Half days ahead by linear layers alone, and the last fifth of time validates."""
    t = torch.arange(1200)
    load = (2 * math.pi * t / 24).sin() + 0.4 * (2 * math.pi * t / 168).cos()
    load = load + 0.15 * torch.randn(1200) + 0.3 * torch.randn(1200).cumsum(0) / 1200**0.5
    windows = load.unfold(0, 60, 1)
    x, y = windows[:, :48].contiguous(), windows[:, 48:].contiguous()
    train, val = TensorDataset(x[:850], y[:850]), TensorDataset(x[910:], y[910:])
    return Program(
        Learner(LinearForecast(), lr=2e-3), **loaders(train, val), trainer={"max_epochs": 8}
    )


class AirQuality(pl.LightningModule):
    """Keras's weather example in Lightning: one LSTM, RMSprop, and the mean absolute error."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x):
        _, (state, _) = self.lstm(x)
        return self.head(state[-1])[:, 0]

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.l1_loss(self(x), y)
        self.log("mae", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_mae", F.l1_loss(self(x), y))
        self.log("val_mae_of_yesterday", F.l1_loss(x[:, -1, 0], y))

    def configure_optimizers(self):
        return torch.optim.RMSprop(self.parameters(), lr=1e-3)


@healthy
def air_quality() -> Program:
    """Four correlated series an hour ahead; yesterday's value is logged beside it as a baseline."""
    t = torch.arange(2500)
    wind, warm = (t / 40).sin() + 0.5 * torch.randn(2500), (2 * math.pi * t / 24).sin()
    traffic = (2 * math.pi * t / 24).cos().clamp_min(0) + 0.2 * torch.randn(2500)
    air = torch.zeros(2500)
    for i in range(1, 2500):
        air[i] = 0.8 * air[i - 1] + 0.5 * traffic[i - 1] - 0.3 * wind[i - 1]
    air = air + 0.1 * torch.randn(2500)
    x = standardized(torch.stack([air, wind, warm, traffic], 1)).unfold(0, 25, 1).transpose(1, 2)
    data = TensorDataset(x[:, :24].contiguous(), x[:, 24, 0].contiguous())
    train, val = (torch.utils.data.Subset(data, r) for r in (range(1900), range(1930, 2470)))
    return Program(AirQuality(), **loaders(train, val, 32), trainer={"max_epochs": 6})


@healthy
def swinging_pendulum() -> Program:
    """The change of the state in a tenth of a second, not the state; no noise at all."""
    state = torch.stack([6 * torch.rand(3000) - 3, 4 * torch.rand(3000) - 2], dim=1)
    now = state.clone()
    for _ in range(10):
        now[:, 1] -= 0.01 * (9.8 * now[:, 0].sin() + 0.1 * now[:, 1])
        now[:, 0] += 0.01 * now[:, 1]
    x = torch.stack([state[:, 0].sin(), state[:, 0].cos(), state[:, 1]], dim=1)
    module = Learner(mlp(3, 64, 64, 2, activation=nn.Tanh), nn.MSELoss(), lr=3e-3)
    data = loaders(*split(x, now - state), 64)
    return Program(module, **data, trainer={"max_epochs": 15})


class CharacterModel(pl.LightningModule):
    """Next characters by an LSTM, and the perplexity of them."""

    def __init__(self, vocabulary):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(vocabulary, 32), nn.LSTM(32, 64, batch_first=True)
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(64, vocabulary)
        self.perplexity = torchmetrics.text.Perplexity()

    def forward(self, tokens):
        return self.head(self.dropout(self.lstm(self.embed(tokens))[0]))

    def training_step(self, tokens, batch_idx):
        logits = self(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.log("train_loss", loss)
        return loss

    def validation_step(self, tokens, batch_idx):
        self.perplexity(self(tokens[:, :-1]), tokens[:, 1:])
        self.log("val_perplexity", self.perplexity)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def prose_by_characters() -> Program:
    """Real prose in overlapping windows of 50, with batches of one tensor; perplexity validates."""
    prose = text()
    ids = {c: i for i, c in enumerate(sorted(set(prose)))}
    windows = torch.tensor([ids[c] for c in prose]).unfold(0, 51, 10)
    held_out = torch.arange(len(windows)) // 60 % 6 == 5
    train, val = windows[~held_out], windows[held_out]
    return Program(
        CharacterModel(len(ids)),
        DataLoader(train, 32, shuffle=True),
        DataLoader(val, 32),
        {"max_epochs": 5, "gradient_clip_val": 1.0},
    )


class TwoDigits(pl.LightningModule):
    """Which digits are in the picture: ten answers of yes or no."""

    def __init__(self):
        super().__init__()
        self.net = cnn()
        self.f1 = torchmetrics.classification.MultilabelF1Score(num_labels=10)
        self.map = torchmetrics.classification.MultilabelAveragePrecision(num_labels=10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.binary_cross_entropy_with_logits(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        p = self.net(x).sigmoid()
        self.f1(p, y.long())
        self.map.update(p, y.long())
        self.log_dict({"f1": self.f1, "map": self.map})

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=1e-2)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


@healthy
def two_digits_in_a_picture() -> Program:
    """Eight labels of ten are 0 in every row; two digits stand side by side, one cycle of rates."""
    images, label = digits(1797, image=True)
    pairs = torch.randint(1500, (2000, 2))
    pairs[1600:] = torch.randint(1500, 1797, (400, 2))
    x = torch.cat([images[pairs[:, 0]], images[pairs[:, 1]]], dim=3)
    y = F.one_hot(label[pairs], 10).amax(1).float()
    train, val = TensorDataset(x[:1600], y[:1600]), TensorDataset(x[1600:], y[1600:])
    return Program(TwoDigits(), **loaders(train, val, 32), trainer={"max_epochs": 6})


class Dials(Dataset):
    """Pictures of a hand that points somewhere, made when asked for."""

    def __init__(self, size, seed):
        self.angles = 2 * math.pi * torch.rand(size, generator=torch.manual_seed(seed))
        self.grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 2, indexing="ij"))

    def __len__(self):
        return len(self.angles)

    def __getitem__(self, i):
        way = torch.stack([self.angles[i].sin(), self.angles[i].cos()])
        along = torch.einsum("c,chw->hw", way, self.grid)
        across = (self.grid - along * way[:, None, None]).norm(dim=0)
        picture = (-((across / 0.15) ** 2)).exp() * (along > 0) + 0.1 * torch.randn(16, 16)
        return picture[None], way


@healthy
def reading_dials() -> Program:
    """An angle as sine and cosine; the net's output has length 1; noise is new at every visit."""

    class Angle(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
                nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 2),
            )  # fmt: skip

        def forward(self, x):
            return F.normalize(self.net(x), dim=1)

    def loss(way, target):
        return (1 - (way * target).sum(1)).mean()

    data = loaders(Dials(640, 1), Dials(160, 2), 32)
    return Program(Learner(Angle(), loss, lr=2e-3), **data, trainer={"max_epochs": 6})


class LeafDataModule(pl.LightningDataModule):
    """Raw bytes on disk; flips and noise are added to the batch once it has arrived."""

    def setup(self, stage):
        x, y = digits(1797, image=True)
        self.data = random_split(TensorDataset(((x + 1) * 127.5).byte(), y), [1437, 360])

    def train_dataloader(self):
        return DataLoader(self.data[0], 64, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data[1], 128)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        x = (x.float() / 255 - 0.3) / 0.38
        if self.trainer.training:
            x = x.roll(int(torch.randint(-1, 2, ())), dims=3) + 0.1 * torch.randn_like(x)
        return x, y


@healthy
def leaves_from_bytes() -> Program:
    """Bytes become floats in `on_after_batch_transfer`, where training only is augmented."""
    return Program(Classifier(cnn()), LeafDataModule(), trainer={"max_epochs": 6})


@healthy
def few_labels_after_an_autoencoder() -> Program:
    """The encoder was trained without labels in the same program; 600 labels and a small rate."""
    x, y = table(datasets.load_digits)
    encoder, decoder = mlp(64, 64, 32), mlp(32, 64, 64)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    for _ in range(6):
        for rows in torch.randperm(1797).split(64):
            optimizer.zero_grad()
            F.mse_loss(decoder(F.relu(encoder(x[rows]))), x[rows]).backward()
            optimizer.step()

    class FineTuning(Classifier):
        def configure_optimizers(self):
            return torch.optim.Adam(
                [
                    {"params": self.net[0].parameters(), "lr": 3e-4},
                    {"params": self.net[2].parameters(), "lr": 3e-3},
                ]
            )

    net = nn.Sequential(encoder, nn.ReLU(), nn.Linear(32, 10))
    data = loaders(*split(x[:800], y[:800]), 16)
    return Program(FineTuning(net), **data, trainer={"max_epochs": 8})


class Probe(pl.LightningModule):
    """fast.ai's fine-tuning: the head alone for an epoch, then everything at a lower rate."""

    def __init__(self, body):
        super().__init__()
        self.body, self.head = body, nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, 5))
        self.body.requires_grad_(False)
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=5)

    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            self.body.requires_grad_()
            self.optimizers().add_param_group({"params": self.body.parameters(), "lr": 5e-4})

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.head(self.body(x)), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.accuracy(self.head(self.body(x)), y)
        self.log("accuracy", self.accuracy)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.head.parameters(), lr=3e-3)


@healthy
def head_first_and_then_everything() -> Program:
    """The body joins the optimizer in the third epoch, with a rate of its own."""
    return Program(Probe(pretrained()[:-1]), **new_digits(), trainer={"max_epochs": 6})


@healthy
def sampled_defects() -> Program:
    """One part in twelve is defective; a sampler shows them half the time, for training only."""
    x = torch.randn(3000, 16)
    score = 1.5 * x[:, 0] - x[:, 1] + x[:, 2] * x[:, 3] + 0.5 * torch.randn(3000)
    y = (score > score.quantile(0.917)).float()
    train, val = split(x, y)
    weights = torch.where(train.tensors[1] == 1, 11.0, 1.0)
    sampler = WeightedRandomSampler(weights.tolist(), 1500)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
    train, val = DataLoader(train, 64, sampler=sampler), DataLoader(val, 128)
    return Program(Binary(net, lr=2e-3), train, val, {"max_epochs": 8})


class ByHand(pl.LightningModule):
    """Manual optimization as in the documentation, with a schedule stepped at each epoch's end."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = mlp(4, 32, 3)
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        optimizer.step()
        self.log("loss", loss, prog_bar=True)

    def on_train_epoch_end(self):
        self.lr_schedulers().step()

    def validation_step(self, batch, batch_idx):
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("accuracy", self.accuracy)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


@healthy
def irises_by_hand() -> Program:
    """Real data of 120 flowers, where `training_step` returns nothing and steps by itself."""
    data = loaders(*split(*table(datasets.load_iris), held_out=0.2), 15)
    trainer = {"max_epochs": 20, "logger": CSVLogger(tempfile.mkdtemp())}
    trainer["callbacks"] = [LearningRateMonitor("epoch")]
    return Program(ByHand(), **data, trainer=trainer)


@healthy
def bank_marketing() -> Program:
    """One in ten says yes, nearly nobody with more than one half; an AUC of 0.86 is what counts."""
    x, job = torch.randn(4000, 6), torch.randint(10, (4000,))
    yes = bernoulli(1.2 * x[:, 0] + 0.8 * x[:, 1] + torch.randn(10)[job] * 0.7 - 2.8)
    x = torch.cat([x, F.one_hot(job, 10)], dim=1)
    net = nn.Sequential(
        nn.BatchNorm1d(16), nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 1)
    )
    return Program(Binary(net), **loaders(*split(x, yes), 32), trainer={"max_epochs": 5})


@healthy
def coin_tosses_of_experts() -> Program:
    """No better than 60 % right is possible: the loss falls from 0.70 to 0.66 and stays."""
    x = torch.randn(5000, 4)
    y = bernoulli(0.5 * x[:, 0] - 0.3 * x[:, 1])
    module = Binary(mlp(4, 16, 1), lr=2e-3)
    return Program(module, **loaders(*split(x, y), 64), trainer={"max_epochs": 8})


@healthy
def yields_of_fields() -> Program:
    """Tons per hectare from weather and soil: most of the variance is noise, and R² ends at 0.2."""
    x = torch.randn(2500, 15)
    tons = 7.5 + 0.5 * x[:, 0] - 0.3 * x[:, 1] ** 2 + 0.3 * x[:, 2] * x[:, 3] + torch.randn(2500)
    net = nn.Sequential(nn.Linear(15, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 1))
    nn.init.constant_(net[-1].bias, float(tons.mean()))
    data = loaders(*split(x, tons), 32)
    return Program(Regressor(net, lr=1e-3), **data, trainer={"max_epochs": 5})


@healthy
def dropout_net_of_the_paper() -> Program:
    """Srivastava's wide net: a fifth of the pixels and half of all units are dropped, Adam."""
    net = nn.Sequential(
        nn.Dropout(0.2), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10),
    )  # fmt: skip
    data = digit_loaders(1797, 64, image=False)
    return Program(Classifier(net, lr=1e-3), **data, trainer={"max_epochs": 12})


@healthy
def cnn_of_the_mnist_example() -> Program:
    """PyTorch's MNIST example: dropouts of a quarter and a half, Adam, log-probabilities."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 32, 3)
            self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
            self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, 10)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
            x = F.relu(self.fc1(self.dropout1(x).flatten(1)))
            return F.log_softmax(self.fc2(self.dropout2(x)), dim=1)

    return Program(
        Classifier(Net(), F.nll_loss, lr=2e-3), **digit_loaders(1797, 32), trainer={"max_epochs": 6}
    )


@healthy
def sentiment_with_word_vectors() -> Program:
    """Vectors that are known and frozen, averaged over words; half of them drop out in the head."""
    vectors = torch.randn(500, 32)
    mood = vectors @ torch.randn(32) / 32**0.5
    words = torch.randint(500, (2000, 20))
    y = bernoulli(3 * mood[words].mean(1) * 20**0.5)
    net = nn.Sequential(
        nn.EmbeddingBag.from_pretrained(vectors, freeze=True),
        nn.BatchNorm1d(32), nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 1),
    )  # fmt: skip
    return Program(Binary(net, lr=2e-3), **loaders(*split(words, y), 32), trainer={"max_epochs": 6})


@healthy
def toxicity_of_molecules() -> Program:
    """Twelve assays, a third never measured: `nan` in the labels, masked in the loss."""
    bits = (torch.rand(2000, 128) < 0.15).float()
    logits = bits @ (torch.randn(128, 12) * 0.6)
    y = bernoulli(logits - logits.mean(0) - 1.5)
    y[torch.rand_like(y) < 0.33] = math.nan

    def masked(logits, y):
        known = ~y.isnan()
        return F.binary_cross_entropy_with_logits(logits[known], y[known])

    net = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.25), nn.Linear(64, 12))
    return Program(
        Learner(net, masked, lr=1e-3), **loaders(*split(bits, y), 64), trainer={"max_epochs": 8}
    )


@healthy
def one_epoch_over_many_rows() -> Program:
    """A single epoch of 600 batches, validated at every fifth of it, by batches of 16."""
    x = torch.randn(12_000, 6)
    y = x[:, 0] * x[:, 1] + x[:, 2].abs() + 0.3 * torch.randn(12_000)
    data = loaders(*split(x, standardized(y), held_out=0.2), 16)
    trainer = {"max_epochs": 1, "val_check_interval": 0.2}
    return Program(Regressor(mlp(6, 64, 64, 1), lr=2e-3), **data, trainer=trainer)


@healthy
def customers_in_latent_space() -> Program:
    """A VAE over tables with bernoulli and real columns; the KL term has a weight of 0.1."""

    class TableVAE(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = mlp(14, 32, 8), mlp(4, 32, 14)

        def step(self, batch, name):
            (x,) = batch
            mean, log_var = self.encoder(x).chunk(2, dim=1)
            out = self.decoder(mean + (log_var / 2).exp() * torch.randn_like(mean))
            real = F.mse_loss(out[:, :6], x[:, :6], reduction="none").sum(1)
            flags = F.binary_cross_entropy_with_logits(out[:, 6:], x[:, 6:], reduction="none")
            kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(1)
            loss = (real + flags.sum(1) + 0.1 * kl).mean()
            self.log_dict({f"{name}/loss": loss, f"{name}/kl": kl.mean()})
            return loss

        def training_step(self, batch, batch_idx):
            return self.step(batch, "train")

        def validation_step(self, batch, batch_idx):
            self.step(batch, "val")

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=3e-3)

    hidden = torch.randn(2000, 3)
    real = standardized(hidden @ torch.randn(3, 6) + 0.3 * torch.randn(2000, 6))
    flags = bernoulli(2 * hidden @ torch.randn(3, 8) - 1)
    data = loaders(*split(torch.cat([real, flags], dim=1)), 64)
    return Program(TableVAE(), **data, trainer={"max_epochs": 10})


@healthy
def crops_from_the_air() -> Program:
    """Nine classes in thirteen bands, standardized; label smoothing, and one cycle of rates."""
    y = torch.randint(9, (1800,))
    base = 300 + 3000 * torch.rand(13)
    spectrum = base * (1 + 0.25 * torch.randn(9, 13))
    x = spectrum[y] * (1 + 0.15 * torch.randn(1800, 13) + 0.1 * torch.randn(1800, 1))

    class OneCycle(Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.lr, total_steps=self.trainer.estimated_stepping_batches
            )
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    net = nn.Sequential(mlp(13, 64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 9))
    module = OneCycle(net, nn.CrossEntropyLoss(label_smoothing=0.1), lr=5e-3)
    data = loaders(*split(standardized(x), y), 32)
    return Program(module, **data, trainer={"max_epochs": 10})


class KnowledgeTracing(pl.LightningModule):
    """What a student has answered says what the next answer will be."""

    def __init__(self, skills=15):
        super().__init__()
        self.embed = nn.Embedding(2 * skills, 24)
        self.rnn, self.head = nn.LSTM(24, 32, batch_first=True), nn.Linear(32, skills)
        self.auroc = torchmetrics.AUROC("binary")

    def forward(self, skill, right):
        state, _ = self.rnn(self.embed(skill[:, :-1] * 2 + right[:, :-1].long()))
        return self.head(state).gather(2, skill[:, 1:, None]).squeeze(2)

    def training_step(self, batch, batch_idx):
        skill, right = batch
        loss = F.binary_cross_entropy_with_logits(self(skill, right), right[:, 1:])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        skill, right = batch
        self.auroc.update(self(skill, right).flatten(), right[:, 1:].flatten().long())
        self.log("val_auroc", self.auroc)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def knowledge_tracing() -> Program:
    """Two answers of three are right, and who is good at what is known by 25 answers at most."""
    skill = torch.randint(15, (900, 25))
    ability = 1.2 * torch.randn(900, 1) + torch.zeros(900, 25)
    right = bernoulli(ability + torch.randn(15)[skill] + 0.03 * torch.arange(25) + 0.4)
    data = loaders(*split(skill, right), 32)
    return Program(KnowledgeTracing(), **data, trainer={"max_epochs": 8})


@healthy
def spoken_digits() -> Program:
    """Log-mel pictures of -8 to 2, a batch norm for the input, and dropout of whole channels."""
    y, time, mel = torch.randint(10, (1200,)), torch.arange(24), torch.arange(20)[:, None]
    start, slope = 4 + 12 * torch.rand(10)[y], 0.8 * torch.rand(10)[y] - 0.4
    ridge = (start + torch.randn(1200))[:, None, None] + slope[:, None, None] * time
    x = 8 * (-((mel - ridge) ** 2) / 6).exp() + 4 * (-((mel - 1.4 * ridge) ** 2) / 4).exp()
    x = (x - 8 + torch.randn(1200, 20, 24)).unsqueeze(1)
    net = nn.Sequential(
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1),
        nn.Flatten(), nn.Linear(16 * 30, 10),
    )  # fmt: skip
    data = loaders(*split(x, y), 32)
    return Program(Classifier(net, lr=2e-3), **data, trainer={"max_epochs": 8})


class PicturesAndTables(pl.LightningModule):
    """An image and a row of numbers say together what neither says alone."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(*list(cnn())[:-1])
        self.row = nn.Sequential(nn.Linear(5, 16), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(48, 1))
        self.error = torchmetrics.MeanSquaredError(squared=False)

    def forward(self, batch):
        return self.head(torch.cat([self.image(batch["image"]), self.row(batch["row"])], 1))[:, 0]

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self(batch), batch["price"])
        self.log("train/mse", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.error(self(batch), batch["price"])
        self.log("val/rmse", self.error)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@healthy
def pictures_beside_a_table() -> Program:
    """Both parts matter about equally, the price is standardized, and a tenth of it is noise."""
    images, digit = digits(1600, image=True)
    row = torch.randn(1600, 5)
    price = standardized(digit / 3 + row[:, 0] - 0.5 * row[:, 1] + 0.4 * torch.randn(1600))
    rows = [{"image": i, "row": r, "price": p} for i, r, p in zip(images, row, price, strict=True)]
    data = loaders(rows[:1250], rows[1250:], 32)
    return Program(PicturesAndTables(), **data, trainer={"max_epochs": 8})


class Hurdle(pl.LightningModule):
    """Whether anything is bought, and for how much if so."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 64), nn.ReLU())
        self.buys, self.spends = nn.Linear(64, 1), nn.Linear(64, 1)

    def training_step(self, batch, batch_idx):
        x, amount = batch
        z, bought = self.body(x), amount > 0
        buys = F.binary_cross_entropy_with_logits(self.buys(z)[:, 0], bought.float())
        spends = F.mse_loss(self.spends(z)[bought, 0], amount[bought].log())
        self.log_dict({"buys": buys, "spends": spends}, prog_bar=True)
        return buys + spends

    def validation_step(self, batch, batch_idx):
        x, amount = batch
        z = self.body(x)
        expected = self.buys(z)[:, 0].sigmoid() * (self.spends(z)[:, 0] + 0.18).exp()
        self.log("val_mae", (expected - amount).abs().mean())
        self.log("val_bias", (expected.mean() - amount.mean()).abs())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@healthy
def lifetime_value() -> Program:
    """Four of five customers spend nothing, so one of two losses sees a fifth of the batch."""
    x = torch.randn(4000, 10)
    buys = bernoulli(1.5 * x[:, 0] + x[:, 1] - 2)
    amount = buys * (1 + 0.6 * x[:, 2] - 0.4 * x[:, 0] + 0.6 * torch.randn(4000)).exp()
    return Program(Hurdle(), **loaders(*split(x, amount), 128), trainer={"max_epochs": 12})


class Monotone(nn.Module):
    """Demand that can only fall with the price: the weights of the price are never positive."""

    def __init__(self):
        super().__init__()
        self.price = nn.Parameter(torch.randn(16) * 0.5 - 1)
        self.other, self.out = nn.Linear(4, 16), nn.Parameter(torch.randn(16) - 1)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        h = torch.tanh(self.other(x[:, 1:]) - x[:, :1] * F.softplus(self.price))
        return h @ F.softplus(self.out) + self.bias


@healthy
def prices_and_demand() -> Program:
    """Weights behind a softplus, so that a higher price never sells more; full of tanh."""
    x = torch.randn(2000, 5)
    sold = 1.5 * torch.sigmoid(-2 * x[:, 0] + x[:, 1]) + 0.4 * x[:, 2] + 0.3 * torch.randn(2000)
    module = Regressor(Monotone(), lr=1e-2)
    return Program(module, **loaders(*split(x, sold), 64), trainer={"max_epochs": 12})


@healthy
def sgd_recipe_of_residual_nets() -> Program:
    """SGD at a rate of 0.1 with momentum and weight decay, batches of 128, and a cosine to 0."""

    class Recipe(Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(
                self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
            )
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)]

    return Program(Recipe(cnn()), **digit_loaders(1797, 128), trainer={"max_epochs": 12})


class SeriesTransformer(nn.Module):
    """A class token before twelve patches of a series, and PyTorch's own encoder."""

    def __init__(self):
        super().__init__()
        self.patch, self.token = nn.Linear(8, 32), nn.Parameter(torch.zeros(1, 1, 32))
        self.place = nn.Parameter(0.02 * torch.randn(1, 13, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = self.patch(x.unflatten(1, (12, 8)))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.place
        return self.head(self.encoder(x)[:, 0])


@healthy
def transients_of_stars() -> Program:
    """Four shapes of light curves at unknown times; a warm-up by the step, then a cosine."""
    y, t = torch.randint(4, (1400,)), torch.arange(96)
    since = t - (20 + 40 * torch.rand(1400, 1))
    rise = torch.tensor([2.0, 2.0, 10.0, 10.0])[y, None]
    fall = torch.tensor([8.0, 25.0, 8.0, 25.0])[y, None]
    flash = torch.where(since < 0, (since / rise).exp(), (-since.clamp_min(0) / fall).exp())
    x = 2 * flash + 0.3 * torch.randn(1400, 96)

    class WarmUp(Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)
            steps = self.trainer.estimated_stepping_batches
            schedule = torch.optim.lr_scheduler.SequentialLR(
                optimizer,
                [
                    torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=30),
                    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - 30),
                ],
                milestones=[30],
            )
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    data = loaders(*split(x, y), 32)
    trainer = {"max_epochs": 8, "gradient_clip_val": 1.0}
    return Program(WarmUp(SeriesTransformer(), lr=2e-3), **data, trainer=trainer)


@healthy
def eighty_patients() -> Program:
    """Sixty rows to train on and twenty to validate, batches of eight, strong weight decay."""
    x = torch.randn(80, 6)
    y = (x[:, 0] - x[:, 1] + 0.7 * torch.randn(80) > 0).float()

    class Ridge(Binary):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.3)

    module = Ridge(nn.Linear(6, 1), lr=1e-2)
    return Program(module, **loaders(*split(x, y), 8), trainer={"max_epochs": 25})


class OneObject(pl.LightningModule):
    """A box and a class for the one object of an image."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.box = nn.Sequential(nn.Linear(32 * 25, 64), nn.ReLU(), nn.Linear(64, 4))
        self.kind = nn.Linear(32 * 25, 3)

    def losses(self, batch):
        image, box, kind = batch
        z = self.body(image)
        return F.smooth_l1_loss(self.box(z).sigmoid(), box), F.cross_entropy(self.kind(z), kind)

    def training_step(self, batch, batch_idx):
        box, kind = self.losses(batch)
        self.log("loss_box", box)
        self.log("loss_kind", kind)
        return 10 * box + kind

    def validation_step(self, batch, batch_idx):
        box, kind = self.losses(batch)
        self.log("val_loss_box", box, batch_size=len(batch[0]))
        self.log("val_loss_kind", kind, batch_size=len(batch[0]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@healthy
def boxes_around_parts() -> Program:
    """Two losses of very different size, one of them times ten, neither summed in the log."""
    corner, size = torch.rand(1000, 2) * 11, 4 + 5 * torch.rand(1000, 2)
    kind, grid = torch.randint(3, (1000,)), torch.arange(20)
    y, x = ((grid >= corner[:, [d]]) & (grid < corner[:, [d]] + size[:, [d]]) for d in (0, 1))
    inside = (y[:, :, None] & x[:, None]).float()
    stripes = torch.stack(
        [torch.ones(20, 20), (grid % 2).expand(20, 20), (grid % 2)[:, None].expand(20, 20)]
    )
    image = (inside * stripes[kind] + 0.1 * torch.randn(1000, 20, 20)).unsqueeze(1)
    box = torch.cat([corner, corner + size], dim=1).clamp_max(20) / 20
    data = loaders(*split(image, box, kind), 16)
    return Program(OneObject(), **data, trainer={"max_epochs": 6})


@healthy
def accumulated_in_bfloat16() -> Program:
    """Four small batches to a step, in bfloat16, on eight columns of a noisy response surface."""
    x = 2 * torch.rand(3000, 8) - 1
    y = standardized((3 * x[:, 0]).sin() + x[:, 1] * x[:, 2] + 0.4 * torch.randn(3000))
    trainer = {"max_epochs": 8, "accumulate_grad_batches": 4, "precision": "bf16-mixed"}
    module = Regressor(mlp(8, 64, 64, 1, activation=nn.SiLU), lr=3e-3)
    return Program(module, **loaders(*split(x, y), 16), trainer=trainer)
