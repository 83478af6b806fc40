"""LOS, a fourth time: a loss that says something else than what was meant."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, digits
from ._parts_b import (
    Learner,
    consumption,
    dense,
    hits,
    house_numbers,
    noise,
    r2,
    shapes,
    split_loaders,
    stars,
    tumours,
    two_loaders,
    whole,
)


class PicturesAndCaptions(pl.LightningModule):
    """Two towers and a contrastive loss, after the example of CLIP."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.picture = dense(48, 96, 32)
        self.words = nn.EmbeddingBag(48, 48, mode="mean")
        self.caption = dense(48, 96, 32)
        start = torch.tensor(1 / 0.07)
        self.logit_scale = nn.Parameter(start.log() if fixed else start)

    def similarities(self, batch):
        picture = F.normalize(self.picture(batch[0]), dim=1)
        caption = F.normalize(self.caption(self.words(batch[1])), dim=1)
        return self.logit_scale.exp() * picture @ caption.T

    def training_step(self, batch, batch_idx):
        logits = self.similarities(batch)
        own = torch.arange(len(logits), device=self.device)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_recall", hits(logits, own))
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self.similarities(batch)
        own = torch.arange(len(logits), device=self.device)
        self.log("val_loss", F.cross_entropy(logits, own))
        self.log("val_recall", hits(logits, own))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


@fault(
    "LOS101",
    "GRD101",
    "ACT102",
    source="https://github.com/openai/CLIP/issues/46 (a logit scale of 1/0.07, where its logarithm "
    "belongs)",
)
def temperature_without_its_logarithm(fixed: bool) -> Program:
    """The scale of the logits starts at 1/0.07 and is taken for a logarithm: e to the fourteenth."""
    meaning = noise(3000, 6, seed=1)
    pictures = torch.tanh(meaning @ noise(6, 48, seed=2) / 2) + 0.1 * noise(3000, 48, seed=3)
    bins = ((meaning + 2) * 2).long().clamp(0, 7)
    captions = bins + 8 * torch.arange(6)
    data = two_loaders(pictures, captions, batch_size=64)
    return Program(PicturesAndCaptions(fixed=fixed), **data, trainer={"max_epochs": 6})


class NumberReader(pl.LightningModule):
    """Reads house numbers without being told where each digit is."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.eye = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d((2, 1)),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.rnn = nn.GRU(64, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 11)

    def forward(self, x):
        seen = self.eye(x).permute(0, 3, 1, 2).flatten(2)
        return self.head(self.rnn(seen)[0])

    def ctc(self, logits, digits):
        scores = logits.log_softmax(2) if self.fixed else logits.softmax(2)
        lengths = [torch.full((len(digits),), n) for n in (scores.shape[1], 3)]
        return F.ctc_loss(scores.transpose(0, 1), digits + 1, *lengths)

    def training_step(self, batch, batch_idx):
        x, digits = batch
        loss = self.ctc(self(x), digits)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, digits = batch
        logits = self(x)
        read = [row.unique_consecutive() for row in logits.argmax(2)]
        whole = [(r[r > 0] - 1).tolist() == d.tolist() for r, d in zip(read, digits, strict=True)]
        self.log("val_loss", self.ctc(logits, digits))
        self.log("val_numbers_right", sum(whole) / len(whole))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=4e-3)


@fault(
    "LOS102",
    "LOS104",
    "OUT101",
    "OUT102",
    source="https://discuss.pytorch.org/t/ctc-loss-is-negative/200771",
)
def ctc_of_probabilities(fixed: bool) -> Program:
    """The CTC loss asks for logarithms of probabilities, and is given the probabilities."""
    data = two_loaders(*house_numbers(1300))
    return Program(NumberReader(fixed=fixed), **data, trainer={"max_epochs": 4})


class Diagnosis(Learner):
    """Benign or not, by the soft margin loss."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = dense(30, 32, 32, 1), fixed

    def step(self, batch):
        x, y = batch
        score = self.net(x).squeeze(1)
        target = 2 * y - 1 if self.fixed else y
        loss = F.soft_margin_loss(score, target.float())
        return loss, {"acc": ((score > 0) == (y == 1)).float().mean()}


@fault(
    "LOS102",
    "CLS105",
    "OUT101",
    "CLS107",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.SoftMarginLoss.html "
    "(targets of 1 and -1)",
)
def soft_margin_of_noughts(fixed: bool) -> Program:
    """Labels of 0 and 1 go into soft_margin_loss, which is log 2 for any score where they are 0."""
    return Program(
        Diagnosis(fixed=fixed),
        **two_loaders(*tumours(), batch_size=16),
        trainer={"max_epochs": 10, "log_every_n_steps": 5},
    )


class Forecaster(pl.LightningModule):
    """Convolutions over two days, and the twelve hours that follow."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.net = nn.Sequential(
            nn.Conv1d(1, 24, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(24, 24, 5, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * 48, 12),
            nn.Unflatten(1, (1, 12)),
        )

    def error(self, batch):
        hours = self.net(batch["past"])
        if self.fixed:
            hours = hours.transpose(1, 2)
        return hours, (hours - batch["future"]).abs().mean()

    def training_step(self, batch, batch_idx):
        loss = self.error(batch)[1]
        self.log("train_mae", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        hours, loss = self.error(batch)
        self.log("val_mae", loss)
        self.log("val_r2", r2(hours.flatten(), batch["future"].flatten()))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)]


@fault(
    "LOS103",
    "OUT101",
    "LOS104",
    source="https://discuss.pytorch.org/t/output-of-the-model-depends-on-the-shape-of-the-weights-tensor/"
    "148155 (mse_loss warns of it, a difference taken by hand does not)",
)
def each_hour_against_every_hour(fixed: bool) -> Program:
    """The forecast is (N, 1, 12) and the truth (N, 12, 1): their difference has 144 hours."""
    past, future = consumption(1500)
    rows = [{"past": p[None], "future": f[:, None]} for p, f in zip(past, future, strict=True)]
    return Program(Forecaster(fixed=fixed), **split_loaders(rows), trainer={"max_epochs": 6})


class Centred(Learner):
    """Cross entropy, and features that are drawn to the centre of their class."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.body, self.head = dense(64, 96, 16), nn.Linear(16, 10)
        self.centres = nn.Parameter(torch.randn(10, 16))
        self.weight = 0.02 if fixed else 20.0

    def step(self, batch):
        x, y = batch
        features = self.body(x)
        logits = self.head(features)
        apart = (features - self.centres[y]).square().sum(1).mean() / 2
        entropy = F.cross_entropy(logits, y)
        shown = {"acc": hits(logits, y), "entropy": entropy, "apart": apart}
        return entropy + self.weight * apart, shown


@fault(
    "LOS105",
    "LOS106",
    "OUT101",
    source="https://github.com/KaiyangZhou/pytorch-center-loss (the weight of the loss), "
    "https://ydwen.github.io/papers/WenECCV16.pdf (0.003, and what larger ones do)",
)
def drawn_to_the_centres_too_hard(fixed: bool) -> Program:
    """The centre loss weighs a thousand times too much, and is smallest where all centres meet."""
    data = two_loaders(*digits(1797))
    return Program(Centred(fixed=fixed), **data, trainer={"max_epochs": 6})


class Continual(Learner):
    """Learns a second task, held to the weights of the first by their Fisher information."""

    def __init__(self, net: nn.Module, fisher: dict, *, strength: float) -> None:
        super().__init__()
        self.net, self.fisher, self.strength = net, fisher, strength
        self.old = {n: p.detach().clone() for n, p in net.named_parameters()}

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        kept = sum(
            (self.fisher[n] * (p - self.old[n]) ** 2).sum() for n, p in self.net.named_parameters()
        )
        loss = F.cross_entropy(logits, y)
        return loss + self.strength / 2 * kept, {"acc": hits(logits, y), "new": loss, "kept": kept}


@fault(
    "LOS106",
    "LOS105",
    "LOS104",
    source="https://arxiv.org/abs/1612.00796 (elastic weight consolidation, and the weight of the "
    "old task)",
)
def nothing_new_may_be_learned(fixed: bool) -> Program:
    """The penalty of elastic weight consolidation weighs so much that the second task is hardly learned."""
    x, y = digits(1797)
    net = dense(64, 96, 96, 10)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for i in range(200):
        chosen = whole(len(x), 64, seed=i)
        optimizer.zero_grad()
        F.cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimizer.step()
    fisher = {n: torch.zeros_like(p) for n, p in net.named_parameters()}
    for a, b in zip(x[:300], y[:300], strict=True):
        net.zero_grad()
        F.cross_entropy(net(a[None]), b[None]).backward()
        for n, p in net.named_parameters():
            fisher[n] += p.grad**2 / 300
    net.zero_grad()
    turned = x.view(-1, 8, 8).rot90(1, (1, 2)).flatten(1)
    return Program(
        Continual(net, fisher, strength=20.0 if fixed else 1e7),
        **two_loaders(turned, y),
        trainer={"max_epochs": 5},
    )


class Machine(pl.LightningModule):
    """One body for a machine's wear, and a head for each of its five bearings."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.body = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(64, 1) for _ in range(5))

    def losses(self, batch):
        x, wear = batch
        features = self.body(x)
        return [F.mse_loss(h(features).squeeze(1), wear[:, i]) for i, h in enumerate(self.heads)]

    def training_step(self, batch, batch_idx):
        first, *others = self.losses(batch)
        others = torch.stack(others) if self.fixed else torch.tensor(others)
        loss = first + others.mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        losses = self.losses(batch)
        self.log("val_loss", sum(losses) / len(losses))
        self.log_dict({f"val_bearing_{i}": loss for i, loss in enumerate(losses)})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "GRD103",
    "LOS107",
    "UPD102",
    source="https://discuss.pytorch.org/t/gradient-is-lost-when-use-torch-tensor-t1-t2/23261",
)
def side_losses_made_a_new_tensor(fixed: bool) -> Program:
    """The losses of four heads are gathered by torch.tensor([...]), which keeps their values alone."""
    x = noise(2000, 12, seed=1)
    hidden = torch.tanh(x @ noise(12, 8, seed=2) / 3)
    wear = hidden @ noise(8, 5, seed=3)
    wear = wear / wear.std(0) + 0.1 * noise(2000, 5, seed=4)
    return Program(Machine(fixed=fixed), **two_loaders(x, wear), trainer={"max_epochs": 5})


class Recommender(Learner):
    """Factors and biases of users and films."""

    lr = 5e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(80, 8), nn.Embedding(60, 8)
        self.user_bias, self.film_bias = nn.Embedding(80, 1), nn.Embedding(60, 1)
        for table in (self.users, self.films, self.user_bias, self.film_bias):
            nn.init.normal_(table.weight, std=0.1)
        self.level = nn.Parameter(torch.tensor(3.2))
        self.fixed = fixed

    def forward(self, pairs):
        user, film = pairs.unbind(1)
        dot = (self.users(user) * self.films(film)).sum(1)
        return dot + self.user_bias(user)[:, 0] + self.film_bias(film)[:, 0] + self.level

    def step(self, batch):
        pairs, given = batch
        score = self(pairs)
        if self.fixed:
            return F.mse_loss(score, given), {"mae": (score - given).abs().mean()}
        loss = F.binary_cross_entropy_with_logits(score, given)
        return loss, {"mae": (score - given).abs().mean()}


@fault(
    "LOS109",
    "LOS108",
    "CLS105",
    "LOS102",
    source=HUMBATOVA + " (the choice of the loss function); the documentation of BCEWithLogitsLoss "
    "(targets between 0 and 1)",
)
def stars_as_if_they_were_chances(fixed: bool) -> Program:
    """One to five stars go into the binary cross entropy of implicit feedback: it falls for ever."""
    data = two_loaders(*stars(6000), batch_size=128)
    return Program(Recommender(fixed=fixed), **data, trainer={"max_epochs": 8})


class Embedder(pl.LightningModule):
    """Embeds shapes so that those of a kind are close."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 32),
        )

    def forward(self, x):
        return F.normalize(self.net(x), dim=1)

    def triplet(self, batch):
        anchor, positive, negative = (self(x) for x in batch)
        order = (positive, negative) if self.fixed else (negative, positive)
        nearer = (anchor - positive).norm(dim=1) < (anchor - negative).norm(dim=1)
        return F.triplet_margin_loss(anchor, *order, margin=0.5), nearer.float().mean()

    def training_step(self, batch, batch_idx):
        loss, right = self.triplet(batch)
        self.log_dict({"train_loss": loss, "train_right": right})
        return loss

    def validation_step(self, batch, batch_idx):
        loss, right = self.triplet(batch)
        self.log_dict({"val_loss": loss, "val_right": right}, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault(
    "LOS109",
    "LOS104",
    "LOS102",
    "OUT101",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.TripletMarginLoss.html "
    "(anchor, positive, negative)",
)
def triplet_in_another_order(fixed: bool) -> Program:
    """triplet_margin_loss(anchor, negative, positive): what is alike is pushed apart."""
    x, y = shapes(2400)
    groups = [x[y == k] for k in range(4)]
    same, other = whole(600, 2400, seed=1), whole(600, 2400, seed=2)
    another = (y + 1 + whole(3, 2400, seed=3)) % 4
    positive = torch.stack([groups[k][i] for k, i in zip(y.tolist(), same, strict=True)])
    negative = torch.stack([groups[k][i] for k, i in zip(another.tolist(), other, strict=True)])
    data = two_loaders(x, positive, negative)
    return Program(Embedder(fixed=fixed), **data, trainer={"max_epochs": 5})
