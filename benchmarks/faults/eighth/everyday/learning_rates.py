"""LRN, as people meet it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, accuracy, digits, explained, loaders, mlp, reviews, rng


class Decayed(Model):
    """Digits, with a learning rate that goes down by five percent an epoch."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(0.05)
        self.net, self.fixed = mlp(64, 64, 64, 10), fixed

    def measure(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        decay = (lambda epoch: 0.95**epoch) if self.fixed else (lambda epoch: 0.95 * epoch)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, decay)]


@fault(
    "LRN104",
    "LRN101",
    "LRN105",
    "ACT101",
    "LRN103",
    source="https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LambdaLR.html "
    "(0.95 ** epoch)",
)
def times_the_epoch_for_to_the_power_of_it(fixed: bool) -> Program:
    """The factor is 0.95 * epoch, with one star lost: nothing in the first epoch, then more and
    more.
    """
    return Program(Decayed(fixed=fixed), **loaders(*digits(1797)), trainer={"max_epochs": 18})


class Transformer(Model):
    """Praise or blame, by a small transformer."""

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.words, self.places = nn.Embedding(100, 32, padding_idx=0), nn.Embedding(24, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 2)

    def measure(self, batch):
        ids, y = batch
        padding = ids == 0
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        x = self.encoder(x, src_key_padding_mask=padding)
        words = (~padding).unsqueeze(2)
        logits = self.head((x * words).sum(1) / words.sum(1))
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


@fault(
    "LRN101",
    "OUT101",
    "LOS104",
    "UPD103",
    "GRD104",
    source="https://github.com/google-research/tuning_playbook (the learning rate is the first "
    "thing to tune)",
)
def transformer_at_a_twentieth(fixed: bool) -> Program:
    """A transformer is trained by AdamW at 0.05, which did well for the bag of words before it."""
    return Program(
        Transformer(1e-3 if fixed else 0.05), **loaders(*reviews(3200)), trainer={"max_epochs": 5}
    )


class Films(Model):
    """Stars that a user gives to a film."""

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.users, self.films = nn.Embedding(60, 8), nn.Embedding(50, 8)
        nn.init.normal_(self.users.weight, std=0.3)
        nn.init.normal_(self.films.weight, std=0.3)
        self.net = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 1))

    def measure(self, batch):
        user, film, stars = batch
        u, f = self.users(user), self.films(film)
        out = self.net(torch.cat([u, f, u * f], dim=1)).squeeze(1)
        return F.mse_loss(out, stars), {"r2": explained(out, stars)}


@fault(
    "LRN102",
    "GEN103",
    "LOS104",
    "GEN102",
    source="common in notebooks: 2e-5 copied from a notebook that fine-tunes BERT",
)
def films_at_the_rate_of_bert(fixed: bool) -> Program:
    """A recommender learns from nothing at 2e-5, the rate at which the last notebook fine-tuned
    BERT.
    """
    g = rng(7)
    user, film = torch.randint(60, (6000,), generator=g), torch.randint(50, (6000,), generator=g)
    tastes, kinds = torch.randn(60, 2, generator=g), torch.randn(50, 2, generator=g)
    level = torch.randn(60, generator=g)[user] + torch.randn(50, generator=g)[film]
    stars = level + (tastes[user] * kinds[film]).sum(1) + 0.3 * torch.randn(6000, generator=g)
    stars = (stars - stars.mean()) / stars.std()
    return Program(
        Films(1e-2 if fixed else 2e-5),
        **loaders(user, film, stars, batch_size=64),
        trainer={"max_epochs": 10, "precision": "bf16-mixed"},
    )
