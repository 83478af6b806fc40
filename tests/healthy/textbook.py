"""Textbook examples, homework and baselines: what a linter that judges too soon objects to."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from program import Program, digits
from sklearn import datasets
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from healthy import healthy
from healthy._parts import (
    Classifier,
    Learner,
    digit_loaders,
    loaders,
    mlp,
    moons,
    split,
    standardized,
    table,
)


class WithOptimizer(Classifier):
    """A classifier with an optimizer of one's own choice."""

    def __init__(self, net, optimizer, loss=F.cross_entropy):
        super().__init__(net, loss)
        self.optimizer = optimizer

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


@healthy
def slow_start_of_small_inputs() -> Program:
    """Columns in [0, 1] and a rate of 3e-4: the gradient is tiny at first, and grows by itself."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x = (x - x.min(0)) / (x.max(0) - x.min(0))
    data = split(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    adam = lambda p: torch.optim.Adam(p, lr=3e-4)  # noqa: E731
    return Program(
        WithOptimizer(mlp(30, 32, 16, 2), adam),
        **loaders(*data, batch_size=16),
        trainer={"max_epochs": 15},
    )


@healthy
def lenet_with_sigmoids() -> Program:
    """LeNet as of 1998: for a hundred steps all answers are alike, and then it learns."""
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 3), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10),
    )  # fmt: skip
    return Program(Classifier(net, lr=1e-2), **digit_loaders(), trainer={"max_epochs": 8})


@healthy
def oversampled_fraud() -> Program:
    """Trained on as many of each class, validated as they come: 1 in 20, and few in number."""
    x, y = datasets.make_classification(
        2000, 20, n_informative=8, weights=[0.95], class_sep=1.5, flip_y=0.01, random_state=0
    )
    train, val = split(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    weights = torch.where(train.tensors[1] == 1, 20.0, 1.0)
    sampler = WeightedRandomSampler(weights.tolist(), len(train))
    return Program(
        Classifier(mlp(20, 32, 16, 2), lr=1e-3),
        DataLoader(train, 64, sampler=sampler),
        DataLoader(val, 500),
        trainer={"max_epochs": 6},
    )


@healthy
def few_noisy_measurements() -> Program:
    """89 samples to validate on, and half of the variance is noise: that is hard to tell apart."""
    x, y = table(datasets.load_diabetes)
    return Program(
        Learner(mlp(10, 64, 32, 1), F.smooth_l1_loss, lr=1e-3),
        **loaders(*split(x, standardized(y).unsqueeze(1), held_out=0.2)),
        trainer={"max_epochs": 12},
    )


@healthy
def deep_and_narrow() -> Program:
    """Seven layers of 16 units: by chance, three quarters of one answer nothing from the start."""
    return Program(
        Classifier(mlp(2, *[16] * 7, 2), lr=3e-3),
        **loaders(*split(*moons())),
        trainer={"max_epochs": 8},
    )


class Mixup(Classifier):
    """Learns mixtures of two samples, by two losses on the same logits."""

    shares = torch.distributions.Beta(0.4, 0.4)

    def training_step(self, batch, batch_idx):
        x, y = batch
        share, other = float(self.shares.sample()), torch.randperm(len(x))
        logits = self(share * x + (1 - share) * x[other])
        loss = share * self.loss(logits, y) + (1 - share) * self.loss(logits, y[other])
        self.log("train_loss", loss)
        return loss


@healthy
def mixup_of_losses() -> Program:
    """In some batches nearly all of the loss is on the other labels: those of the batch do not fit."""
    return Program(
        Mixup(mlp(64, 64, 10), lr=3e-3), **digit_loaders(image=False), trainer={"max_epochs": 8}
    )


@healthy
def sure_of_itself() -> Program:
    """Solved after an epoch; the last wrong answers of 142 are given with ever more confidence."""
    return Program(
        Classifier(mlp(30, 32, 16, 2), lr=1e-2),
        **loaders(*split(*table(datasets.load_breast_cancer))),
        trainer={"max_epochs": 10},
    )


class LastStep(nn.Module):
    """An LSTM that forecasts the next value."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 16, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@healthy
def windows_in_order() -> Program:
    """Windows slide over a series, which nobody shuffles: there it is the custom."""
    t = torch.arange(800.0)
    series = torch.sin(t / 6) + 0.5 * torch.sin(t / 17) + 0.1 * torch.randn(800)
    x, y = series.unfold(0, 24, 1)[:-1].unsqueeze(-1), series[24:].unsqueeze(1)
    return Program(
        Learner(LastStep(), lr=1e-2),
        DataLoader(TensorDataset(x[:600], y[:600]), 32),
        DataLoader(TensorDataset(x[600:], y[600:]), 32),
        trainer={"max_epochs": 4},
    )


class Walker(pl.LightningModule):
    """REINFORCE on a line: go right. The environment is in the module, and the loader counts."""

    def __init__(self):
        super().__init__()
        self.policy = mlp(1, 16, 2)

    def training_step(self, batch, batch_idx):
        x, logs, rewards = torch.zeros(8, 1), [], []
        for _ in range(10):
            chosen = torch.distributions.Categorical(logits=self.policy(x))
            action = chosen.sample()
            x = x + 0.2 * (2.0 * action[:, None] - 1)
            logs.append(chosen.log_prob(action))
            rewards.append(x[:, 0])
        returns = torch.stack(rewards).flip(0).cumsum(0).flip(0)
        self.log("reward", rewards[-1].mean())
        return -(torch.stack(logs) * (returns - returns.mean(1, keepdim=True))).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@healthy
def loader_that_counts() -> Program:
    """The batches are zeros that nobody reads."""
    return Program(Walker(), DataLoader(torch.zeros(60, 1), 1), trainer={"max_epochs": 1})


@healthy
def second_order_on_everything() -> Program:
    """LBFGS, ten steps of all the data: nothing has time to be sure of."""
    x, y = table(datasets.load_diabetes)
    train, val = split(x, standardized(y).unsqueeze(1), held_out=0.2)
    module = Learner(nn.Linear(10, 1))
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters(), lr=0.5, max_iter=5)
    return Program(
        module, DataLoader(train, len(train)), DataLoader(val, 32), trainer={"max_epochs": 10}
    )


@healthy
def pairs_of_noisy_samples() -> Program:
    """Batches of two, and a fifth of the labels at random: the loss leaps, and comes back."""
    y = torch.randint(3, (400,))
    x = 0.5 * torch.randn(3, 12)[y] + torch.randn(400, 12)
    y = torch.where(torch.rand(400) < 0.2, torch.randint(3, (400,)), y)
    module = WithOptimizer(
        mlp(12, 16, 3), lambda parameters: torch.optim.SGD(parameters, lr=0.005, momentum=0.9)
    )
    train, val = split(x, y, held_out=0.2)
    return Program(
        module,
        DataLoader(train, 2, shuffle=True),
        DataLoader(val, 80),
        trainer={"max_epochs": 2},
    )


class GraphNet(pl.LightningModule):
    """Two graph convolutions: the whole graph is one sample, and a part of its nodes has labels."""

    def __init__(self):
        super().__init__()
        self.y = torch.randint(3, (150,))
        alike = torch.where(self.y[:, None] == self.y, 0.12, 0.01)
        edges = (torch.rand(150, 150) < alike).float()
        links = (edges + edges.T + torch.eye(150)).clamp(max=1.0)
        scale = links.sum(1).rsqrt()
        self.links = scale[:, None] * links * scale
        self.x = torch.randn(150, 16) + 0.6 * F.one_hot(self.y, 16)
        self.known = torch.rand(150) < 0.3
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self):
        hidden = F.relu(self.links @ self.first(self.x))
        return self.links @ self.second(self.drop(hidden))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self()[self.known], self.y[self.known])

    def validation_step(self, batch, batch_idx):
        scores, y = self()[~self.known], self.y[~self.known]
        self.log("val_loss", F.cross_entropy(scores, y))
        self.log("val_acc", (scores.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=5e-4)


@healthy
def nodes_of_a_graph() -> Program:
    """One step an epoch: the accuracy of the first ones goes down while every loss falls."""
    once = DataLoader(torch.zeros(1, 1), 1)
    return Program(GraphNet(), once, once, trainer={"max_epochs": 100})


@healthy
def body_that_was_trained_on_other_digits() -> Program:
    """A body that knows 0 to 4 at 1e-4 and a new head at 3e-3: it goes on getting better."""
    x, y = digits()
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
    head, old = nn.Linear(32, 5), y < 5
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        F.cross_entropy(head(body(x[old])), y[old]).backward()
        optimizer.step()
    net = nn.Sequential(body, nn.Linear(32, 5))
    module = WithOptimizer(
        net,
        lambda _: torch.optim.AdamW(
            [
                {"params": net[0].parameters(), "lr": 1e-4},
                {"params": net[1].parameters(), "lr": 3e-3},
            ]
        ),
    )
    train, val = split(x[~old], y[~old] - 5, held_out=0.2)
    return Program(
        module,
        DataLoader(train, 16, shuffle=True),
        DataLoader(val, 16),
        trainer={"max_epochs": 6},
    )
