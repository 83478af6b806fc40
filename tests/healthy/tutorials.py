"""Well-known examples as their authors wrote them, with what looks like a fault and is none."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.distributions import Categorical
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from healthy import healthy
from healthy._parts import Classifier, Learner, conv, loaders, mlp, split


class BagOfWords(pl.LightningModule):
    """The mean of the embeddings of all words tells the topic."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(400, 32)
        self.fc = nn.Linear(32, 4)

    def training_step(self, batch, batch_idx):
        label, words, offsets = batch
        return F.cross_entropy(self.fc(self.embedding(words, offsets)), label)

    def validation_step(self, batch, batch_idx):
        label, words, offsets = batch
        scores = self.fc(self.embedding(words, offsets))
        self.log("val_acc", (scores.argmax(1) == label).float().mean(), batch_size=len(label))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=4.0)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.3)]


def end_to_end(samples):
    """Collates texts of several lengths without padding."""
    labels, texts = zip(*samples, strict=True)
    begins = [0, *(len(text) for text in texts[:-1])]
    return torch.tensor(labels), torch.cat(texts), torch.tensor(begins).cumsum(0)


@healthy
def texts_end_to_end() -> Program:
    """The only tensor with a row for each sample tells where it begins, and 0 is the first."""
    labels = torch.randint(4, (800,)).tolist()
    samples = []
    for label in labels:
        topic = torch.randint(20, (4,)) + 20 * label
        words = torch.cat([topic, torch.randint(80, 400, (int(torch.randint(4, 12, ())),))])
        samples.append((label, words[torch.randperm(len(words))]))
    return Program(
        BagOfWords(),
        DataLoader(samples[:640], 16, shuffle=True, collate_fn=end_to_end),
        DataLoader(samples[640:], 16, collate_fn=end_to_end),
        {"max_epochs": 4, "gradient_clip_val": 0.5},
    )


@healthy
def ratings_as_they_are() -> Program:
    """A mean of 5.6 at a deviation of 0.8 is learned in the first tenth of the run."""
    x = torch.randn(1200, 11)
    y = (5.6 + x[:, :3] @ torch.tensor([0.45, -0.3, 0.2]) + 0.5 * torch.randn(1200)).round()
    data = loaders(*split(x, y.unsqueeze(1)))
    return Program(Learner(mlp(11, 64, 32, 1)), **data, trainer={"max_epochs": 12})


class GatedResidual(nn.Module):
    """The block of a temporal fusion transformer: the gate takes two layers in one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout, self.gate = nn.Dropout(0.1), nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        hidden = self.dropout(self.second(F.elu(self.first(x))))
        return self.norm(x + F.glu(self.gate(hidden), dim=-1))


@healthy
def gated_residual_network() -> Program:
    """No more than dropout comes between two linear layers, of which the second is a gate's."""
    net = nn.Sequential(nn.Linear(64, 32), GatedResidual(32), GatedResidual(32), nn.Linear(32, 10))
    return Program(Classifier(net), **loaders(*split(*digits())), trainer={"max_epochs": 5})


class Factors(pl.LightningModule):
    """Whether a user likes an item: small embeddings, their product, and a layer on top."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, 8), nn.Embedding(items, 8)
        self.layer = nn.Linear(8, 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.01)

    def forward(self, pairs):
        return self.layer(self.users(pairs[:, 0]) * self.items(pairs[:, 1])).squeeze(1)

    def training_step(self, batch, batch_idx):
        pairs, liked = batch
        return F.binary_cross_entropy_with_logits(self(pairs), liked)

    def validation_step(self, batch, batch_idx):
        pairs, liked = batch
        self.log("val_loss", F.binary_cross_entropy_with_logits(self(pairs), liked))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def product_of_small_embeddings() -> Program:
    """All scores are alike for the first 50 steps, and come apart by a share of what they are."""
    users, items = torch.randn(80, 3), torch.randn(60, 3)
    pairs = torch.stack([torch.randint(80, (6000,)), torch.randint(60, (6000,))], 1)
    scores = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(1)
    liked = (scores > scores.quantile(0.8)).float()
    data = loaders(*split(pairs, liked), batch_size=64)
    return Program(Factors(80, 60), **data, trainer={"max_epochs": 4})


class Pole:
    """A pole that falls: pushed to the left or to the right, it stays up for 100 steps at most."""

    def reset(self) -> torch.Tensor:
        self.state, self.age = 0.05 * torch.randn(2), 0
        return self.state

    def push(self, side: int) -> tuple[torch.Tensor, bool]:
        angle, speed = self.state.tolist()
        speed += 0.08 * (2 * side - 1) + 0.1 * math.sin(angle)
        self.state, self.age = torch.tensor([angle + 0.3 * speed, speed]), self.age + 1
        return self.state, abs(angle) > 0.4 or self.age >= 100


class ActorCritic(pl.LightningModule):
    """One episode to a step, and the sum of all its losses: they grow as the pole stays up."""

    def __init__(self) -> None:
        super().__init__()
        self.common = nn.Sequential(nn.Linear(2, 64), nn.ReLU())
        self.actor, self.critic = nn.Linear(64, 2), nn.Linear(64, 1)

    def training_step(self, batch, batch_idx):
        pole, falls = Pole(), False
        state, log_probs, values = pole.reset(), [], []
        while not falls:
            hidden = self.common(10 * state)
            choice = Categorical(logits=self.actor(hidden))
            action = choice.sample()
            log_probs.append(choice.log_prob(action))
            values.append(self.critic(hidden)[0])
            state, falls = pole.push(int(action))
        steps = torch.arange(len(values), 0.0, -1)
        returns = (1 - 0.97**steps) / 0.03
        returns = (returns - returns.mean()) / (returns.std() + 1e-6)
        value = torch.stack(values)
        self.log("length", float(len(values)))
        gained = -(torch.stack(log_probs) * (returns - value.detach())).sum()
        return gained + F.huber_loss(value, returns, reduction="sum")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@healthy
def actor_and_critic() -> Program:
    """The loss rises, and of the next episode no step of the last one knows: they differ."""
    nothing = TensorDataset(torch.zeros(80, 1))
    return Program(ActorCritic(), DataLoader(nothing, 1), None, {"max_epochs": 1})


class Robustness(Classifier):
    """The same images as they are, with noise, and turned by a right angle."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)


@healthy
def turned_images_beside_upright_ones() -> Program:
    """On the third loader the net is worse than a guess, and the metric says so: it is right."""
    net = nn.Sequential(
        conv(1, 16), conv(16, 32, stride=2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(128, 10),
    )  # fmt: skip
    train, upright = split(*digits(1024, image=True))
    x, y = upright.tensors
    versions = [x, x + 0.4 * torch.randn_like(x), x.rot90(1, (2, 3))]
    val = [DataLoader(TensorDataset(one, y), 256) for one in versions]
    return Program(Robustness(net), DataLoader(train, 32, shuffle=True), val, {"max_epochs": 4})


class Claims(Learner):
    """What insured people cost: nothing, mostly; the deviance is that of Tweedie."""

    def __init__(self) -> None:
        super().__init__(mlp(8, 32, 1), self.deviance, lr=1e-3)

    @staticmethod
    def deviance(score, y):
        return (2 * y * torch.exp(-0.5 * score) + 2 * torch.exp(0.5 * score)).mean()


@healthy
def rare_costs() -> Program:
    """Nearly all of the loss is noise: a longer step still lowers it, and so do the steps left."""
    x = torch.randn(2400, 8)
    number = torch.poisson(0.3 * torch.exp(0.6 * x[:, 0] - 0.4 * x[:, 1] - 0.5))
    cost = (number * torch.distributions.Gamma(2.0, 1.0).sample((2400,))).unsqueeze(1)
    return Program(Claims(), **loaders(*split(x, cost), batch_size=64), trainer={"max_epochs": 10})


class Decoder(pl.LightningModule):
    """Sorts a short sequence: a cell says one number after the other, and is told the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 24)
        self.encoder, self.cell = nn.GRU(24, 48, batch_first=True), nn.GRUCell(48 + 24, 48)
        self.head = nn.Linear(48, 11)

    def loss(self, batch):
        x, y = batch
        encoded = self.encoder(self.table(x))[1][0]
        hidden, last, scores = encoded, torch.full_like(y[:, 0], 10), []
        for target in y.unbind(1):
            hidden = self.cell(torch.cat([encoded, self.table(last)], 1), hidden)
            scores.append(self.head(hidden))
            last = target
        return F.cross_entropy(torch.stack(scores, dim=2), y)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def scores_stacked_behind_the_classes() -> Program:
    """No axis is exchanged, and the classes are in axis 1: the steps have come behind them."""
    x = torch.randint(10, (1000, 5))
    return Program(Decoder(), **loaders(*split(x, x.sort(1).values)), trainer={"max_epochs": 5})
