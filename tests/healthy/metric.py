"""Representations learned from pairs, views and neighbours."""

from __future__ import annotations

import copy
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from healthy import healthy
from healthy._parts import Classifier, digit_loaders, loaders, mlp, split


def view(x: torch.Tensor) -> torch.Tensor:
    """A random augmentation: half a pixel of shift, a change of contrast, noise."""
    theta = torch.eye(2, 3).repeat(len(x), 1, 1)
    theta[:, :, 2] = 0.15 * torch.randn(len(x), 2)
    x = F.grid_sample(
        x + 1, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False
    )
    return x * (0.7 + 0.6 * torch.rand(len(x), 1, 1, 1)) - 1 + 0.2 * torch.randn_like(x)


class SimCLR(pl.LightningModule):
    """Two views of an image attract, views of other images repel (InfoNCE)."""

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Flatten(), mlp(64, 128, 64))
        self.projector = nn.Sequential(nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))

    def _loss(self, x):
        z = F.normalize(self.projector(self.encoder(torch.cat([view(x), view(x)]))), dim=1)
        similarity = (z @ z.T / self.hparams.temperature).fill_diagonal_(-torch.inf)
        partner = torch.arange(2 * len(x)).roll(len(x))
        return F.cross_entropy(similarity, partner)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        loss = self._loss(x)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch[0]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


@healthy
def simclr() -> Program:
    """-inf on the diagonal of the logits, samples of a batch depend on each other, labels unused."""
    return Program(SimCLR(), **digit_loaders(batch_size=64), trainer={"max_epochs": 10})


class Pair(NamedTuple):
    """Two images and whether they show the same digit."""

    left: torch.Tensor
    right: torch.Tensor
    same: torch.Tensor


class Pairs(Dataset):
    """Every image, with a partner of the same class for one half of them."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        same = torch.rand(()) < 0.5
        candidates = (self.y == self.y[i]) == same
        j = torch.multinomial(candidates.float(), 1).item()
        return Pair(self.x[i], self.x[j], same.float())


class Siamese(pl.LightningModule):
    """Contrastive loss on the distance of two embeddings of one net."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = mlp(64, 64, 16)

    def _loss(self, pair):
        distance = (self.embed(pair.left) - self.embed(pair.right)).square().sum(1).add(1e-6).sqrt()
        return (pair.same * distance**2 + (1 - pair.same) * F.relu(2 - distance) ** 2).mean()

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@healthy
def siamese_pairs() -> Program:
    """Named tuples; the same image is in many pairs, and sometimes paired with itself."""
    train, val = split(*digits(800))
    return Program(
        Siamese(),
        DataLoader(Pairs(*train.tensors), batch_size=16, shuffle=True),
        DataLoader(list(Pairs(*val.tensors)), batch_size=50),
        trainer={"max_epochs": 5},
    )


class Triplets(pl.LightningModule):
    """Anchor, positive and negative are the batch itself, regrouped by label."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = mlp(64, 64, 16)
        self.loss = nn.TripletMarginLoss(margin=0.5)

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = F.normalize(self.embed(x), dim=1)
        same = y[:, None] == y
        positive = torch.multinomial(same.float(), 1).squeeze(1)
        negative = torch.multinomial((~same).float(), 1).squeeze(1)
        loss = self.loss(z, z[positive], z[negative])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@healthy
def easy_triplets() -> Program:
    """Small batches: many of them satisfy the margin, with a loss and gradients of exactly 0."""
    x, y = digits(1024)
    train = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, drop_last=True)
    return Program(Triplets(), train, trainer={"max_epochs": 2})


class BYOL(pl.LightningModule):
    """Predicts what a slow copy of itself says about another view."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 32)
        )
        self.predictor = nn.Sequential(
            nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32)
        )
        self.target = copy.deepcopy(self.online)
        self.target.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        a, b = view(x), view(x)
        with torch.no_grad():
            target_a, target_b = self.target(a), self.target(b)
        loss = (
            -F.cosine_similarity(self.predictor(self.online(a)), target_b).mean()
            - F.cosine_similarity(self.predictor(self.online(b)), target_a).mean()
        ) / 2
        self.log("train_loss", loss)
        self.log("spread", F.normalize(target_a, dim=1).std(0).mean())
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, outputs, batch, batch_idx):
        for target, online in zip(self.target.parameters(), self.online.parameters(), strict=True):
            target.lerp_(online, 0.03)

    def configure_optimizers(self):
        return torch.optim.AdamW([*self.online.parameters(), *self.predictor.parameters()], lr=3e-3)


@healthy
def byol() -> Program:
    """A negative cosine that falls to nearly -1, and a target net that no optimizer knows."""
    return Program(BYOL(), digit_loaders(batch_size=64)["train"], trainer={"max_epochs": 10})


class CLIP(pl.LightningModule):
    """Matches the upper half of an image with its lower half."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = mlp(32, 96, 32), mlp(32, 96, 32)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def _loss(self, x):
        a, b = x.flatten(1).chunk(2, dim=1)
        a, b = F.normalize(self.upper(a), dim=1), F.normalize(self.lower(b), dim=1)
        logits = self.logit_scale.exp() * a @ b.T
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch[0])
        self.log_dict({"train_loss": loss, "temperature": 1 / self.logit_scale.exp()})
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch[0]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.1)


@healthy
def clip() -> Program:
    """The labels of every batch are 0, 1, 2, ...; the temperature is learned."""
    return Program(CLIP(), **digit_loaders(1797, batch_size=64), trainer={"max_epochs": 6})


class DeepSVDD(pl.LightningModule):
    """Draws normal samples near a fixed centre; what stays away from it is an anomaly."""

    def __init__(self, centre: torch.Tensor, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("centre", centre)

    def score(self, x):
        return (self.encoder(x) - self.centre).square().sum(1)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        loss = self.score(x).mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, anomaly = batch
        score = self.score(x)
        ranks = score[anomaly == 1][:, None] > score[anomaly == 0]
        self.log("val_auc", ranks.float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-2)


@healthy
def one_class() -> Program:
    """All training labels are 0, since anomalies only occur in validation; no layer has a bias."""
    x, y = digits(1797)
    train, normal = split(
        x[y == 0], torch.zeros(int((y == 0).sum()), dtype=torch.long), held_out=0.3
    )
    other = x[(y > 0)][: 4 * len(normal)]
    seen = torch.cat([normal.tensors[0], other])
    anomaly = (torch.arange(len(seen)) >= len(normal)).long()
    encoder = nn.Sequential(
        nn.Linear(64, 64, bias=False), nn.LeakyReLU(0.1), nn.Linear(64, 16, bias=False)
    )
    with torch.no_grad():
        centre = encoder(train.tensors[0]).mean(0)
    return Program(
        DeepSVDD(centre, encoder),
        DataLoader(train, batch_size=16, shuffle=True),
        DataLoader(TensorDataset(seen, anomaly), batch_size=len(seen)),
        trainer={"max_epochs": 10},
    )


class RotationPretext(Classifier):
    """Ignores the labels and guesses by which angle it turned the image."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        turns = torch.randint(4, (len(x),))
        return super().training_step((self.turned(x, turns), turns), batch_idx)

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        turns = torch.arange(len(x)) % 4
        super().validation_step((self.turned(x, turns), turns), batch_idx)

    @staticmethod
    def turned(x, turns):
        return torch.stack(
            [image.rot90(k, (1, 2)) for image, k in zip(x, turns.tolist(), strict=True)]
        )


@healthy
def rotation_pretext() -> Program:
    """Labels of the loss are made in the step; those in the batch have another number of classes."""
    net = nn.Sequential(nn.Flatten(), mlp(64, 128, 64, 4))
    return Program(RotationPretext(net), **digit_loaders(), trainer={"max_epochs": 6})


class Prototypes(pl.LightningModule):
    """Few-shot classification: the nearest mean of five examples of each of five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = mlp(64, 64, 32)

    def _step(self, batch, stage):
        support, query = (self.embed(x) for x in batch)
        logits = -(torch.cdist(query.flatten(0, 1), support.mean(1)) ** 2)
        labels = torch.arange(5).repeat_interleave(query.shape[1])
        loss = F.cross_entropy(logits, labels)
        self.log_dict(
            {
                f"{stage}_loss": loss,
                f"{stage}_acc": (logits.argmax(1) == labels).float().mean(),
            },
            batch_size=len(labels),
        )
        return loss

    def training_step(self, batch, batch_idx):
        return self._step(batch, "train")

    def validation_step(self, batch, batch_idx):
        self._step(batch, "val")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def episodes(
    x: torch.Tensor, y: torch.Tensor, count: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Five images to learn from and five to ask for, of each of five random classes."""
    classes = [x[y == c] for c in range(10)]
    made = []
    for _ in range(count):
        chosen = [classes[c] for c in torch.randperm(10)[:5].tolist()]
        images = torch.stack([c[torch.randperm(len(c))[:10]] for c in chosen])
        made.append((images[:, :5], images[:, 5:]))
    return made


@healthy
def prototypical_net() -> Program:
    """A class has another number in each episode, and labels are always 0 0 .. 1 1 .. in order."""
    train, val = split(*digits())
    return Program(
        Prototypes(),
        DataLoader(episodes(*train.tensors, count=60), batch_size=None, shuffle=True),
        DataLoader(episodes(*val.tensors, count=20), batch_size=None),
        trainer={"max_epochs": 3},
    )


@healthy
def cosine_classifier() -> Program:
    """Logits are scaled cosines with a fixed margin (ArcFace's cousin), so the loss starts high."""

    class Margin(Classifier):
        def __init__(self):
            super().__init__(mlp(64, 128, 32))
            self.classes = nn.Parameter(torch.randn(10, 32))

        def forward(self, x):
            return 10 * F.normalize(self.net(x), dim=1) @ F.normalize(self.classes, dim=1).T

        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.cross_entropy(self(x) - 2 * F.one_hot(y, 10), y)

    return Program(Margin(), **digit_loaders(image=False), trainer={"max_epochs": 6})


@healthy
def pairwise_ranking() -> Program:
    """Learns to order by a pairwise loss that depends on differences only: scores have no level."""

    class Ranker(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.score = nn.Sequential(mlp(8, 32), nn.Tanh(), nn.Linear(32, 1, bias=False))

        def _loss(self, batch):
            x, relevance = batch
            s = self.score(x).squeeze(-1)
            better = relevance[:, :, None] > relevance[:, None, :]
            return F.softplus(s[:, None, :] - s[:, :, None])[better].mean()

        def training_step(self, batch, batch_idx):
            return self._loss(batch)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self._loss(batch))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    documents = torch.randn(384, 6, 8)
    quality = documents[..., 0] + documents[..., 1] * documents[..., 2] + 0.2 * torch.randn(384, 6)
    relevance = (quality > 0).long() + (quality > 1)
    return Program(
        Ranker(), **loaders(*split(documents, relevance), batch_size=16), trainer={"max_epochs": 8}
    )
