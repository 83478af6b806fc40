"""Recipes as people publish them, with the usual tricks of each trade."""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
from collections import deque

import lightning.pytorch as pl
import torch
import torchmetrics
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelPruning
from lightning.pytorch.callbacks import LearningRateFinder as RateFinder
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from program import Program, digits
from torch import nn
from torch.distributions import Categorical, Normal, StudentT
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from healthy import healthy
from healthy._parts import (
    Block,
    Classifier,
    Learner,
    causal_mask,
    characters,
    cnn,
    conv,
    digit_loaders,
    loaders,
    mlp,
    split,
    standardized,
    table,
)
from healthy.metric import view


def groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices, none for biases and norms."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def scheduled(
    module: pl.LightningModule, optimizer: torch.optim.Optimizer, share: float = 0.1
) -> dict:
    """A linear warm-up over this share of all steps, and a cosine down to a hundredth."""
    steps = int(module.trainer.estimated_stepping_batches)
    warm = max(1, int(share * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Recipe(Classifier):
    """AdamW with two groups, a warm-up by steps, and a cosine."""

    weight_decay = 0.05

    def configure_optimizers(self):
        return scheduled(self, torch.optim.AdamW(groups(self, self.weight_decay), lr=self.lr))


class Timm(Recipe):
    """Mixup or cutmix in every batch, on top of label smoothing."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        soft = F.one_hot(y, 10) * 0.9 + 0.01
        share, order = float(torch.distributions.Beta(0.8, 0.8).sample()), torch.randperm(len(x))
        if torch.rand(()) < 0.5:
            x = share * x + (1 - share) * x[order]
        else:
            side = round(8 * math.sqrt(1 - share))
            top, left = torch.randint(9 - side, (2,)).tolist()
            x = x.clone()
            x[:, :, top : top + side, left : left + side] = x[
                order, :, top : top + side, left : left + side
            ]
            share = 1 - side**2 / 64
        loss = torch.sum(
            -(share * soft + (1 - share) * soft[order]) * self(x).log_softmax(1), 1
        ).mean()
        self.log("train_loss", loss, prog_bar=True)
        return loss


@healthy
def timm_recipe() -> Program:
    """No training image has one label only, and validation runs with averaged weights."""
    average = EMAWeightAveraging(decay=0.98)
    return Program(
        Timm(cnn(), lr=5e-3), **digit_loaders(), trainer={"max_epochs": 15, "callbacks": [average]}
    )


class Residual(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv(width_in, width, stride)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        nn.init.zeros_(self.second[1].weight)
        self.short = nn.Identity()
        if stride > 1 or width_in != width:
            self.short = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        return F.relu(self.second(self.first(x)) + self.short(x))


class OneCycle(Classifier):
    """Nesterov's momentum and a tenth of a second of superconvergence."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(
            self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.1, total_steps=self.trainer.estimated_stepping_batches
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@healthy
def resnet_on_one_cycle() -> Program:
    """Lightning's CIFAR recipe: log-probabilities, a cycle of rates, and a logger that sees them."""
    net = nn.Sequential(
        conv(1, 16),
        Residual(16, 16),
        Residual(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
        nn.LogSoftmax(1),
    )
    trainer = {
        "max_epochs": 8,
        "logger": CSVLogger(tempfile.mkdtemp()),
        "callbacks": [LearningRateMonitor("step")],
    }
    return Program(OneCycle(net, F.nll_loss), **digit_loaders(), trainer=trainer)


class Inverted(nn.Module):
    """MobileNet's block: widen, look around, squeeze and excite, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.widen = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish()
        )
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, wide, 1),
            nn.Hardsigmoid(),
        )
        self.narrow = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        wide = self.depth(self.widen(x))
        return x + self.narrow(wide * self.squeeze(wide))


class Mobile(Classifier):
    """RMSprop with momentum, and a rate that decays from epoch to epoch."""

    def configure_optimizers(self):
        optimizer = torch.optim.RMSprop(
            self.parameters(), lr=2e-3, alpha=0.9, eps=2e-3, momentum=0.9, weight_decay=1e-5
        )
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


@healthy
def inverted_residuals() -> Program:
    """Hard gates, a dropout before the head, and an RMSprop whose epsilon is large."""
    net = nn.Sequential(
        conv(1, 16, stride=2),
        *(Inverted(16) for _ in range(3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 64),
        nn.Hardswish(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )
    return Program(Mobile(net), **digit_loaders(), trainer={"max_epochs": 8})


class ConvNeXt(nn.Module):
    """A wide depthwise convolution, a norm of channels, and an MLP scaled by almost nothing."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = mlp(width, 4 * width, width, activation=nn.GELU)
        self.scale = nn.Parameter(1e-6 * torch.ones(width))
        self.drop = drop

    def forward(self, x):
        y = self.scale * self.mlp(self.norm(self.look(x).permute(0, 2, 3, 1)))
        if self.training and self.drop:
            y = y * (torch.rand(len(x), 1, 1, 1) > self.drop) / (1 - self.drop)
        return x + y.permute(0, 3, 1, 2)


@healthy
def convnext() -> Program:
    """Layer scales of 1e-6 in bfloat16, and every tenth block is left out."""
    net = nn.Sequential(
        nn.Conv2d(1, 32, 2, 2),
        *(ConvNeXt(32, drop) for drop in (0.0, 0.05, 0.1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(32),
        nn.Linear(32, 10),
    )
    nn.init.trunc_normal_(net[-1].weight, std=0.02)
    nn.init.zeros_(net[-1].bias)
    return Program(
        Recipe(net, nn.CrossEntropyLoss(label_smoothing=0.1), lr=4e-3),
        **digit_loaders(1797),
        trainer={"max_epochs": 8, "precision": "bf16-mixed", "gradient_clip_val": 1.0},
    )


class Mixer(nn.Module):
    """One MLP over places, one over channels."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places = mlp(places, 2 * places, places, activation=nn.GELU)
        self.channels = mlp(width, 2 * width, width, activation=nn.GELU)

    def forward(self, x):
        x = x + self.places(self.norm1(x).mT).mT
        return x + self.channels(self.norm2(x))


class Swap(nn.Module):
    def forward(self, x):
        return x.mT


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


@healthy
def mlp_mixer() -> Program:
    """Two batches to a step, and validation twice in each epoch."""
    net = nn.Sequential(
        nn.Conv2d(1, 32, 2, 2),
        nn.Flatten(2),
        Swap(),
        *(Mixer(16, 32) for _ in range(3)),
        nn.LayerNorm(32),
        Mean(),
        nn.Linear(32, 10),
    )
    trainer = {"max_epochs": 8, "accumulate_grad_batches": 2, "val_check_interval": 0.5}
    return Program(Recipe(net, lr=3e-3), **digit_loaders(1797), trainer=trainer)


class Basics(nn.Module):
    """The net of PyTorch's first example, for smaller images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 32, 3)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout1(F.max_pool2d(x, 2)).flatten(1)
        return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)


class Delta(Classifier):
    """Adadelta at its rate of 1, and validation that sums the loss as the example does."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        output = self(x)
        self.log("val_loss", F.nll_loss(output, y, reduction="sum") / len(y))
        correct = output.argmax(1, keepdim=True).eq(y.view(-1, 1)).float().mean()
        self.log("val_acc", correct)

    def configure_optimizers(self):
        optimizer = torch.optim.Adadelta(self.parameters(), lr=1.0)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)]


@healthy
def first_example() -> Program:
    """Adadelta, two dropouts, log-probabilities, and images on a scale of their own."""
    return Program(Delta(Basics(), F.nll_loss), **digit_loaders(1797), trainer={"max_epochs": 8})


class Dino(pl.LightningModule):
    """A student learns what an average of itself says of another view of the image."""

    def __init__(self, prototypes: int = 64) -> None:
        super().__init__()
        body = cnn(64)
        head = nn.Sequential(mlp(64, 64, 32, activation=nn.GELU))
        last = nn.utils.parametrizations.weight_norm(nn.Linear(32, prototypes, bias=False))
        last.parametrizations.weight.original0.data.fill_(1)
        last.parametrizations.weight.original0.requires_grad_(False)
        self.student = nn.ModuleDict({"body": body, "head": head, "last": last})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(prototypes))
        self.memory: list[tuple[torch.Tensor, torch.Tensor]] = []

    def _scores(self, net, x):
        return net["last"](F.normalize(net["head"](net["body"](x)), dim=1))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        views = torch.cat([view(x), view(x)])
        with torch.no_grad():
            raw = self._scores(self.teacher, views)
            target = ((raw - self.center) / 0.04).softmax(1).roll(len(x), 0)
            self.center.lerp_(raw.mean(0), 0.1)
        loss = -(target * (self._scores(self.student, views) / 0.1).log_softmax(1)).sum(1).mean()
        self.log("train_loss", loss)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                old.lerp_(new, 0.02)

    def on_validation_epoch_start(self):
        self.memory = []

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.memory.append((F.normalize(self.teacher["body"](x), dim=1), y))

    def on_validation_epoch_end(self):
        z, y = (torch.cat(part) for part in zip(*self.memory, strict=True))
        near = (z @ z.T).fill_diagonal_(-1).argmax(1)
        self.log("val_nearest_acc", (y[near] == y).float().mean())

    def configure_optimizers(self):
        return scheduled(self, torch.optim.AdamW(groups(self.student, 0.04), lr=2e-3))


@healthy
def dino() -> Program:
    """The loss is the entropy of a moving target; the teacher is never in the optimizer."""
    trainer = {"max_epochs": 12, "gradient_clip_val": 3.0}
    return Program(Dino(), **digit_loaders(1797, batch_size=64), trainer=trainer)


class Balanced:
    """Batches of so many classes with so many samples of each, drawn anew in each epoch."""

    def __init__(self, labels: torch.Tensor, classes: int, each: int, count: int) -> None:
        self.places = [torch.nonzero(labels == c).flatten() for c in labels.unique()]
        self.classes, self.each, self.count = classes, each, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        for _ in range(self.count):
            chosen = torch.randperm(len(self.places))[: self.classes]
            parts = [self.places[c] for c in chosen.tolist()]
            yield torch.cat([p[torch.randperm(len(p))[: self.each]] for p in parts]).tolist()


class Embedder(pl.LightningModule):
    """An image becomes a direction; whoever is nearest should be of its class."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.net = cnn(width)
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x):
        return F.normalize(self.net(x), dim=1)

    def training_step(self, batch, batch_idx):
        loss = self.loss(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self):
        self.seen.clear()

    def validation_step(self, batch, batch_idx):
        self.seen.append((self(batch[0]), batch[1]))

    def on_validation_epoch_end(self):
        z, y = (torch.cat(part) for part in zip(*self.seen, strict=True))
        near = (z @ z.T).fill_diagonal_(-1).argmax(1)
        self.log("val_recall_at_1", (y[near] == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class BatchHard(Embedder):
    """The farthest friend against the nearest stranger."""

    def loss(self, z, y):
        distance = torch.cdist(z, z)
        same = y[:, None] == y
        friend = distance.masked_fill(~same, 0).amax(1)
        stranger = distance.masked_fill(same, torch.inf).amin(1)
        return F.relu(friend - stranger + 0.3).mean()


@healthy
def batch_hard_triplets() -> Program:
    """A batch sampler; distances of 0 on the diagonal; the loss stays at the margin for a while."""
    train, val = split(*digits(1797, image=True))
    sampler = Balanced(train.tensors[1], 8, 4, 40)
    data = {
        "train": DataLoader(train, batch_sampler=sampler),
        "val": DataLoader(val, batch_size=128),
    }
    return Program(BatchHard(), **data, trainer={"max_epochs": 8})


class ArcFace(Embedder):
    """The angle to one's own class is made larger by a margin."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(nn.init.xavier_uniform_(torch.empty(10, 16)))

    def loss(self, z, y):
        cosine = F.linear(z, F.normalize(self.centers, dim=1)).clamp(-1 + 1e-7, 1 - 1e-7)
        own = F.one_hot(y, 10)
        return F.cross_entropy(16 * (cosine.acos() + 0.3 * own).cos(), y)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 8], 0.1)]


@healthy
def arc_face() -> Program:
    """Arc cosines, a loss that starts far above chance, and rates in three stairs."""
    return Program(ArcFace(), **digit_loaders(1797), trainer={"max_epochs": 9})


class Barlow(Embedder):
    """Two views of a batch should correlate feature by feature, and in no other way."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(32, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64)
        )
        self.net = cnn(32)
        self.norm = nn.BatchNorm1d(64, affine=False)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        a, b = (self.norm(self.project(self.net(view(x)))) for _ in range(2))
        correlation = a.T @ b / len(x)
        on = (correlation.diagonal() - 1).square().sum()
        off = correlation.square().sum() - correlation.diagonal().square().sum()
        loss = on + 0.02 * off
        self.log_dict({"train_loss": loss, "on": on, "off": off})
        return loss

    def configure_optimizers(self):
        return scheduled(self, torch.optim.AdamW(groups(self, 1e-4), lr=2e-3))


@healthy
def barlow_twins() -> Program:
    """A sum over 4096 correlations, and a norm that runs twice in a step and has no weights."""
    return Program(Barlow(), **digit_loaders(1797, batch_size=128), trainer={"max_epochs": 14})


class Masked(pl.LightningModule):
    """Half of all patches are hidden, and the net paints them (a masked autoencoder)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.position = nn.Parameter(0.02 * torch.randn(16, width))
        self.encoder = nn.Sequential(Block(width), Block(width), nn.LayerNorm(width))
        self.bridge = nn.Linear(width, 32)
        self.mask = nn.Parameter(0.02 * torch.randn(32))
        self.place = nn.Parameter(0.02 * torch.randn(16, 32))
        self.decoder = nn.Sequential(Block(32), nn.LayerNorm(32), nn.Linear(32, 4))

    def _loss(self, x):
        patches = F.unfold(x, 2, stride=2).mT
        order = torch.rand(len(x), 16, device=x.device).argsort(1)
        kept = order[:, :8]
        rows = torch.arange(len(x), device=x.device)[:, None]
        z = self.bridge(self.encoder(self.embed(patches[rows, kept]) + self.position[kept]))
        canvas = self.mask.expand(len(x), 16, -1).clone()
        canvas[rows, kept] = z
        hidden = order[:, 8:]
        painted = self.decoder(canvas + self.place)
        return F.mse_loss(painted[rows, hidden], patches[rows, hidden])

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch[0])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch[0]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(groups(self, 0.05), lr=4e-3, betas=(0.9, 0.95))
        return scheduled(self, optimizer)


@healthy
def masked_autoencoder() -> Program:
    """Places of the input are drawn at random; a learned token stands for what is not seen."""
    return Program(Masked(), **digit_loaders(1797, batch_size=64), trainer={"max_epochs": 24})


class Windows(IterableDataset):
    """Endless batches of random windows, and of the same windows one character later."""

    def __init__(self, ids: torch.Tensor, length: int, size: int) -> None:
        self.ids, self.length, self.size = ids, length, size

    def __iter__(self):
        while True:
            begins = torch.randint(len(self.ids) - self.length - 1, (self.size, 1))
            where = begins + torch.arange(self.length)
            yield self.ids[where], self.ids[where + 1]


class CausalBlock(nn.Module):
    """The block of nanoGPT."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.attn_proj = nn.Linear(width, width, bias=False)
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.mlp_proj = nn.Linear(4 * width, width, bias=False)
        self.heads, self.dropout = heads, nn.Dropout(dropout)

    def forward(self, x):
        size, length, width = x.shape
        parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (t.view(size, length, self.heads, -1).transpose(1, 2) for t in parts)
        p = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        y = y.transpose(1, 2).reshape(size, length, width)
        x = x + self.dropout(self.attn_proj(y))
        return x + self.dropout(self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)))))


class NanoGPT(pl.LightningModule):
    """Characters after characters; one weight at both ends."""

    def __init__(self, vocabulary: int, length: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.drop = nn.Dropout(0.1)
        self.h = nn.ModuleList(CausalBlock(width, 4, 0.1) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width, bias=False)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.wte.weight = self.lm_head.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                deep = math.sqrt(2 * depth) if "proj" in name else 1
                nn.init.normal_(parameter, std=0.02 / deep)

    def forward(self, ids, targets):
        x = self.drop(self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device)))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    def training_step(self, batch, batch_idx):
        loss = self(*batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(*batch), prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(groups(self, 0.1), lr=3e-3, betas=(0.9, 0.99))
        return scheduled(self, optimizer)


@healthy
def nano_gpt() -> Program:
    """Endless batches without an epoch, tied weights of 0.02, and a loss that starts at chance."""
    ids, vocabulary = characters()
    cut = int(0.9 * len(ids))
    return Program(
        NanoGPT(vocabulary, 48),
        DataLoader(Windows(ids[:cut], 48, 16), batch_size=None),
        DataLoader(Windows(ids[cut:], 48, 16), batch_size=None),
        {
            "max_steps": 300,
            "val_check_interval": 60,
            "limit_val_batches": 8,
            "gradient_clip_val": 1.0,
        },
    )


def reviews(size: int = 1200) -> list[tuple[list[int], int]]:
    """Word ids, and whether good words (3 to 22) outnumber bad ones (23 to 42)."""
    samples = []
    for _ in range(size):
        label = int(torch.randint(2, ()))
        tone = torch.randint(20, (int(torch.randint(2, 6, ())),)) + 3 + 20 * (1 - label)
        words = torch.cat([tone, torch.randint(43, 300, (int(torch.randint(4, 20, ())),))])
        samples.append((words[torch.randperm(len(words))].tolist(), label))
    return samples


def padded(samples: list[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
    """What a tokenizer's collator returns: token 1 in front, padded with 0 to the longest."""
    length = max(len(words) for words, _ in samples) + 1
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    for row, (words, _) in zip(ids, samples, strict=True):
        row[: len(words) + 1] = torch.tensor([1, *words])
    labels = torch.tensor([label for _, label in samples])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


class TextCNN(pl.LightningModule):
    """Convolutions of three widths over words, and the largest answer of each."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, 32, padding_idx=0)
        self.convs = nn.ModuleList(nn.Conv1d(32, 24, k, padding=k // 2) for k in (1, 3, 5))
        self.dropout, self.fc = nn.Dropout(0.5), nn.Linear(72, 1)
        self.accuracy = torchmetrics.classification.BinaryAccuracy()

    def forward(self, ids):
        x = self.embedding(ids).transpose(1, 2)
        pooled = [F.relu(conv(x)).amax(2) for conv in self.convs]
        return self.fc(self.dropout(torch.cat(pooled, 1))).squeeze(1)

    def training_step(self, batch, batch_idx):
        loss = F.binary_cross_entropy_with_logits(self(batch["input_ids"]), batch["labels"].float())
        self.log("loss", loss, batch_size=len(batch["labels"]))
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        scores = self(batch["input_ids"])
        self.accuracy(scores.sigmoid(), batch["labels"])
        loss = F.binary_cross_entropy_with_logits(scores, batch["labels"].float())
        self.log("val_loss", loss, batch_size=len(scores))
        self.log("val_acc", self.accuracy, batch_size=len(scores))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def review_loaders() -> dict[str, DataLoader]:
    """Loaders of dictionaries."""
    samples = reviews()
    return {
        "train": DataLoader(samples[:960], 16, shuffle=True, collate_fn=padded),
        "val": DataLoader(samples[960:], 32, collate_fn=padded),
    }


@healthy
def text_cnn() -> Program:
    """Batches are dictionaries of many lengths, padding has a row of zeros, dropout takes half."""
    return Program(TextCNN(), **review_loaders(), trainer={"max_epochs": 8})


class Bert(pl.LightningModule):
    """A post-norm encoder; a tanh of the first token goes to the classifier."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.words = nn.Embedding(300, width, padding_idx=0)
        self.places = nn.Embedding(32, width)
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(0.1)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, 0.1, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.1))
        self.classifier = nn.Linear(width, 2)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)

    def forward(self, input_ids, attention_mask, labels):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.dropout(self.norm(self.words(input_ids) + self.places(places)))
        x = self.encoder(x, src_key_padding_mask=attention_mask == 0)
        logits = self.classifier(self.pooler(x[:, 0]))
        return F.cross_entropy(logits, labels), logits

    def training_step(self, batch, batch_idx):
        loss, _ = self(**batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        loss, logits = self(**batch)
        right = (logits.argmax(1) == batch["labels"]).float().mean()
        self.log_dict({"val_loss": loss, "val_acc": right}, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(groups(self, 0.01), lr=1e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=steps // 10)
        cool = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, total_iters=steps)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cool], [steps // 10])
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@healthy
def bert_classifier() -> Program:
    """Two classes stay at chance until attention finds the words; all weights start at 0.02."""
    trainer = {"max_epochs": 8, "gradient_clip_val": 1.0}
    return Program(Bert(), **review_loaders(), trainer=trainer)


class SkipGram(pl.LightningModule):
    """Words near each other get vectors near each other (word2vec with five negatives)."""

    def __init__(self, words: int, width: int = 16) -> None:
        super().__init__()
        self.centers, self.contexts = nn.Embedding(words, width), nn.Embedding(words, width)
        nn.init.uniform_(self.centers.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.contexts.weight)

    def _loss(self, pairs):
        center = self.centers(pairs[:, 0])
        near = (center * self.contexts(pairs[:, 1])).sum(1)
        strangers = torch.randint(self.contexts.num_embeddings, (len(pairs), 5))
        far = (self.contexts(strangers) @ center[:, :, None]).squeeze(2)
        return -(F.logsigmoid(near) + F.logsigmoid(-far).sum(1)).mean()

    def training_step(self, batch, batch_idx):
        return self._loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@healthy
def skip_gram() -> Program:
    """One of the two tables is all zeros, so the other gets no gradient at first."""
    topics = torch.randint(8, (1500,))
    words = topics[:, None] * 25 + (25 * torch.rand(1500, 10) ** 2).long()
    near = torch.stack([words[:, :-1], words[:, 1:]], 2).reshape(-1, 2)
    pairs = near[torch.randperm(len(near))]
    return Program(
        SkipGram(200),
        DataLoader(pairs[:12000], 128, shuffle=True),
        DataLoader(pairs[12000:], 256),
        {"max_epochs": 4},
    )


class NameReader(pl.LightningModule):
    """The recurrent net of PyTorch's tutorial: letter by letter, written by hand."""

    def __init__(self, letters: int = 26, hidden: int = 64, languages: int = 5) -> None:
        super().__init__()
        self.hidden = hidden
        self.i2h = nn.Linear(letters + hidden, hidden)
        self.h2o = nn.Linear(hidden, languages)
        self.softmax = nn.LogSoftmax(dim=1)

    def forward(self, name):
        hidden = torch.zeros(1, self.hidden, device=self.device)
        for letter in F.one_hot(name[0], 26).float():
            hidden = torch.tanh(self.i2h(torch.cat([letter[None], hidden], 1)))
        return self.softmax(self.h2o(hidden))

    def training_step(self, batch, batch_idx):
        name, language = batch
        loss = F.nll_loss(self(name), language)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        name, language = batch
        self.log("val_acc", (self(name).argmax(1) == language).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02)


@healthy
def names_of_languages() -> Program:
    """One name to a step, each of another length, with plain SGD: the loss jumps about."""
    letters = torch.distributions.Dirichlet(0.3 * torch.ones(5, 1, 26)).sample()
    spoken = (
        0.6 * letters + 0.4 * torch.distributions.Dirichlet(0.15 * torch.ones(5, 26, 26)).sample()
    )
    names = []
    for _ in range(900):
        language = int(torch.randint(5, ()))
        name = [int(torch.multinomial(letters[language, 0], 1))]
        for _ in range(int(torch.randint(5, 10, ()))):
            name.append(int(torch.multinomial(spoken[language, name[-1]], 1)))
        names.append((torch.tensor(name), language))
    return Program(
        NameReader(),
        DataLoader(names[:750], 1, shuffle=True),
        DataLoader(names[750:], 1),
        {"max_epochs": 2, "gradient_clip_val": 3.0},
    )


def seasons(count: int, length: int) -> torch.Tensor:
    """Series of level, season and noise, each with its own."""
    t = torch.arange(length)
    period = 12.0
    phase, size = 6.283 * torch.rand(count, 1), 0.5 + torch.rand(count, 1)
    wave = size * (6.283 * t / period + phase).sin()
    drift = 0.02 * torch.randn(count, 1) * t
    return 3 + torch.randn(count, 1) + wave + drift + 0.15 * torch.randn(count, length)


class Beat(nn.Module):
    """A block of N-BEATS: what it explains of the past, and what it says of the future."""

    def __init__(self, past: int, future: int, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(mlp(past, width, width, width), nn.ReLU())
        self.theta_b, self.theta_f = (
            nn.Linear(width, 8, bias=False),
            nn.Linear(width, 8, bias=False),
        )
        self.backcast, self.forecast = (
            nn.Linear(8, past, bias=False),
            nn.Linear(8, future, bias=False),
        )

    def forward(self, x):
        x = self.body(x)
        return self.backcast(self.theta_b(x)), self.forecast(self.theta_f(x))


class NBeats(nn.Module):
    """Blocks on the residuals of the blocks before them."""

    def __init__(self, past: int, future: int, blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Beat(past, future) for _ in range(blocks))

    def forward(self, x):
        level = x[:, -1:]
        x, total = x - level, level
        for block in self.blocks:
            back, ahead = block(x)
            x, total = x - back, total + ahead
        return total


@healthy
def n_beats() -> Program:
    """The last block's backcast is used by nobody; linear layers follow one another by design."""
    net = NBeats(36, 12)
    net.blocks[-1].backcast.requires_grad_(False)
    net.blocks[-1].theta_b.requires_grad_(False)
    series = seasons(1000, 48)
    data = loaders(*split(series[:, :36], series[:, 36:]))
    return Program(Learner(net, F.l1_loss, lr=1e-3), **data, trainer={"max_epochs": 12})


class DeepAR(pl.LightningModule):
    """Says at each step how the next value is distributed, on the series' own scale."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 32, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(32, 3)

    def _loss(self, series):
        scale = 1 + series[:, :24].mean(1, keepdim=True)
        t = 6.283 * torch.arange(47, device=series.device) / 12
        season = torch.stack([t.sin(), t.cos()], 1).expand(len(series), -1, -1)
        hidden, _ = self.lstm(torch.cat([(series / scale)[:, :-1, None], season], 2))
        freedom, mean, spread = self.head(hidden).unbind(2)
        noise = StudentT(2 + F.softplus(freedom), mean * scale, F.softplus(spread) * scale)
        return -noise.log_prob(series[:, 1:]).mean()

    def training_step(self, batch, batch_idx):
        loss = self._loss(*batch)
        self.log("train_nll", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_nll", self._loss(*batch))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
        return {"optimizer": optimizer, "lr_scheduler": plateau, "monitor": "val_nll"}


@healthy
def deep_ar() -> Program:
    """Sales from 5 to 5000 in one batch: the likelihood counts them on their own scale."""
    series = torch.poisson(seasons(1000, 48).exp() * 10 ** (2 * torch.rand(1000, 1)))
    return Program(
        DeepAR(),
        **loaders(*split(series)),
        trainer={"max_epochs": 8, "gradient_clip_val": 10.0},
    )


class PatchTST(nn.Module):
    """Patches of a series are tokens; each series is standardized, and put back in the end."""

    def __init__(self, past: int, future: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        patches = (past - 8) // 4 + 1
        self.position = nn.Parameter(0.02 * torch.randn(patches, width))
        self.encoder = nn.Sequential(Block(width), Block(width))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(patches * width, future)

    def forward(self, x):
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        patches = ((x - mean) / std).unfold(1, 8, 4)
        z = self.encoder(self.dropout(self.embed(patches) + self.position))
        return self.head(z.flatten(1)) * std + mean


@healthy
def patch_transformer() -> Program:
    """Instance norm by hand, undone at the output: the head sees no level at all."""
    series = seasons(1200, 48)
    data = loaders(*split(series[:, :36], series[:, 36:]))
    return Program(Learner(PatchTST(36, 12), lr=1e-3), **data, trainer={"max_epochs": 8})


class ConvLSTM(nn.Module):
    """A cell whose state is an image."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.gates = nn.Conv2d(1 + width, 4 * width, 3, padding=1)
        self.paint = nn.Conv2d(width, 1, 1)
        self.width = width

    def forward(self, frames):
        h = c = frames.new_zeros(len(frames), self.width, *frames.shape[-2:])
        painted = []
        for frame in frames.unbind(1):
            i, f, o, g = self.gates(torch.cat([frame[:, None], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            painted.append(self.paint(h).squeeze(1))
        return torch.stack(painted, 1)


@healthy
def moving_squares() -> Program:
    """Next frames of a film: nine tenths of all pixels are black, and the first is a guess."""
    size, time = 320, 8
    start, speed = torch.randint(10, (size, 1, 2)), torch.randint(-1, 2, (size, 1, 2))
    corner = (start + speed * torch.arange(time)[None, :, None]) % 10
    rows = torch.arange(10)
    ahead = (rows - corner[..., None]) % 10 < 3
    film = (ahead[:, :, 0, :, None] & ahead[:, :, 1, None, :]).float()
    net = ConvLSTM()
    nn.init.constant_(net.paint.bias, -2)
    data = loaders(*split(film[:, :-1], film[:, 1:]), batch_size=16)
    return Program(
        Learner(net, F.binary_cross_entropy_with_logits, lr=5e-3),
        **data,
        trainer={"max_epochs": 10, "gradient_clip_val": 1.0},
    )


class TwoTowers(pl.LightningModule):
    """Users and items meet in a dot product; the other items of a batch are the negatives."""

    def __init__(self, users: int, items: int, popularity: torch.Tensor) -> None:
        super().__init__()
        self.user = nn.Sequential(nn.Embedding(users, 32), mlp(32, 64, 16))
        self.item = nn.Sequential(nn.Embedding(items, 32), mlp(32, 64, 16))
        self.register_buffer("log_popularity", popularity.log())

    def _scores(self, users, items):
        u, i = F.normalize(self.user(users), dim=1), F.normalize(self.item(items), dim=1)
        return u @ i.T / 0.1

    def training_step(self, batch, batch_idx):
        users, items = batch
        logits = self._scores(users, items) - self.log_popularity[items]
        same = (items[:, None] == items).fill_diagonal_(False)
        loss = F.cross_entropy(
            logits.masked_fill(same, -1e9), torch.arange(len(users), device=self.device)
        )
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        users, items = batch
        every = torch.arange(len(self.log_popularity), device=self.device)
        best = self._scores(users, every).topk(10).indices
        self.log("val_hits_at_10", (best == items[:, None]).any(1).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def purchases(users: int, items: int, each: int) -> torch.Tensor:
    """Who bought what, as tastes have it, and nothing twice: (users * each, 2)."""
    tastes, kinds = torch.randn(users, 3), torch.randn(items, 3)
    chances = (2 * tastes @ kinds.T + 0.5 * torch.randn(items)).softmax(1)
    bought = torch.multinomial(chances, each).flatten()
    pairs = torch.stack([torch.arange(users).repeat_interleave(each), bought], 1)
    return pairs[torch.randperm(len(pairs))]


@healthy
def two_towers() -> Program:
    """No labels: the diagonal is right, minus a billion stands where an item meets itself."""
    pairs = purchases(500, 200, 20)
    share = (torch.bincount(pairs[:, 1], minlength=200) + 1) / 10200
    data = loaders(*split(pairs[:, 0], pairs[:, 1], held_out=0.1), batch_size=128)
    return Program(TwoTowers(500, 200, share), **data, trainer={"max_epochs": 10})


class Triples(torch.utils.data.Dataset):
    """A user, an item that was bought, and one drawn at random."""

    def __init__(self, pairs: torch.Tensor, items: int) -> None:
        self.pairs, self.items = pairs.tolist(), items

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index):
        return (*self.pairs[index], int(torch.randint(self.items, ())))


class BPR(pl.LightningModule):
    """What was bought should score above what was not (Bayesian personalized ranking)."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, 16), nn.Embedding(items, 16)
        self.bias = nn.Embedding(items, 1)
        nn.init.normal_(self.users.weight, std=0.1)
        nn.init.normal_(self.items.weight, std=0.1)
        nn.init.zeros_(self.bias.weight)

    def _margin(self, batch):
        user, good, other = batch
        difference = self.items(good) - self.items(other)
        return (self.users(user) * difference).sum(1) + (self.bias(good) - self.bias(other))[:, 0]

    def training_step(self, batch, batch_idx):
        loss = -F.logsigmoid(self._margin(batch)).mean()
        self.log("bpr", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_auc", (self._margin(batch) > 0).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3, weight_decay=1e-5)


@healthy
def bayesian_ranking() -> Program:
    """Negatives are drawn anew at every visit, and now and then they are no negatives."""
    pairs = purchases(500, 200, 20)
    return Program(
        BPR(500, 200),
        DataLoader(Triples(pairs[:9000], 200), 128, shuffle=True),
        DataLoader(Triples(pairs[9000:], 200), 250),
        {"max_epochs": 10},
    )


class DeepFM(pl.LightningModule):
    """Pairs of fields, and a deep net on the same embeddings."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        begins = torch.tensor([0, *itertools.accumulate(sizes)][:-1])
        self.register_buffer("begins", begins)
        self.first, self.second = nn.Embedding(sum(sizes), 1), nn.Embedding(sum(sizes), 8)
        nn.init.normal_(self.first.weight, std=0.01)
        nn.init.normal_(self.second.weight, std=0.01)
        self.deep = nn.Sequential(mlp(8 * len(sizes), 64, 64), nn.ReLU(), nn.Linear(64, 1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.auc = torchmetrics.classification.BinaryAUROC()

    def forward(self, fields):
        ids = fields + self.begins
        v = self.second(ids)
        crossed = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return self.bias + self.first(ids).sum((1, 2)) + crossed + self.deep(v.flatten(1))[:, 0]

    def training_step(self, batch, batch_idx):
        fields, clicked = batch
        loss = F.binary_cross_entropy_with_logits(self(fields), clicked)
        self.log("train_logloss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        fields, clicked = batch
        scores = self(fields)
        self.auc.update(scores, clicked.long())
        self.log("val_logloss", F.binary_cross_entropy_with_logits(scores, clicked))
        self.log("val_auc", self.auc)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@healthy
def deep_factorization() -> Program:
    """A fifth of all impressions are clicked, and embeddings are a hundredth: a slow start."""
    sizes = (40, 30, 20, 10)
    fields = torch.stack([(n * torch.rand(20000) ** 1.5).long() for n in sizes], 1)
    hidden = [torch.randn(n, 2) for n in sizes]
    v = torch.stack([h[f] for h, f in zip(hidden, fields.T, strict=True)], 1)
    score = 0.7 * (v.sum(1).square() - v.square().sum(1)).sum(1) + v[:, :, 0].sum(1) - 2.5
    clicked = torch.bernoulli(score.sigmoid())
    data = loaders(*split(fields, clicked), batch_size=128)
    return Program(DeepFM(sizes), **data, trainer={"max_epochs": 5})


class SASRec(pl.LightningModule):
    """What comes next in a session, by attention; padded on the left with 0."""

    def __init__(self, items: int, length: int, width: int = 32) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 1, width, padding_idx=0)
        self.places = nn.Embedding(length, width)
        self.blocks = nn.ModuleList([Block(width, 2), Block(width, 2)])
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.2)
        self.register_buffer("mask", causal_mask(length), persistent=False)

    def forward(self, past):
        x = self.items(past) * math.sqrt(self.items.embedding_dim)
        x = self.dropout(x + self.places.weight)
        for block in self.blocks:
            x = block(x * (past != 0)[:, :, None], self.mask)
        return self.norm(x) @ self.items.weight.T

    def training_step(self, batch, batch_idx):
        (sessions,) = batch
        logits, ahead = self(sessions[:, :-1]), sessions[:, 1:]
        loss = F.cross_entropy(logits.transpose(1, 2), ahead, ignore_index=0)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        (sessions,) = batch
        best = self(sessions[:, :-1])[:, -1].topk(5).indices
        self.log("val_hits_at_5", (best == sessions[:, -1:]).any(1).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3, betas=(0.9, 0.98))


@healthy
def session_transformer() -> Program:
    """A third of all targets is padding; items are embedded and scored by the same table."""
    size, length = 1500, 13
    follows = torch.distributions.Dirichlet(0.03 * torch.ones(60, 60)).sample()
    sessions = torch.randint(60, (size, 1))
    for _ in range(length - 1):
        sessions = torch.cat([sessions, torch.multinomial(follows[sessions[:, -1]], 1)], 1)
    begins = torch.randint(length - 3, (size, 1))
    sessions = (sessions + 1) * (torch.arange(length) >= begins)
    module = SASRec(60, length - 1)
    nn.init.normal_(module.items.weight, std=0.05)
    module.items.weight.data[0] = 0
    return Program(module, **loaders(*split(sessions)), trainer={"max_epochs": 12})


class ConditionalVAE(pl.LightningModule):
    """Draws the digit that it is asked for; the price of the code rises in two ramps."""

    def __init__(self, latent: int = 4) -> None:
        super().__init__()
        self.label = nn.Embedding(10, 8)
        self.encoder = nn.Sequential(mlp(72, 128, 64), nn.ReLU())
        self.mean, self.log_var = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decoder = mlp(latent + 8, 64, 128, 64)

    def _terms(self, x, y):
        x, label = (x.flatten(1) + 1) / 2, self.label(y)
        hidden = self.encoder(torch.cat([x, label], 1))
        code = Normal(self.mean(hidden), (0.5 * self.log_var(hidden)).exp())
        z = code.rsample()
        pixels = self.decoder(torch.cat([z, label], 1)).sigmoid()
        restored = ((pixels - x) / 0.12).square().sum() / 2 / len(x)
        kl = torch.distributions.kl_divergence(code, Normal(0, 1)).sum() / len(x)
        return restored, kl

    def training_step(self, batch, batch_idx):
        restored, kl = self._terms(*batch)
        half = self.trainer.estimated_stepping_batches / 2
        beta = min(1.0, 2 * (self.global_step % half) / half)
        self.log_dict({"restored": restored, "kl": kl, "beta": beta})
        return restored + beta * kl

    def validation_step(self, batch, batch_idx):
        restored, kl = self._terms(*batch)
        self.log("val_elbo", -restored - kl, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@healthy
def conditional_vae() -> Program:
    """A weight of the loss starts at 0 twice, so the training loss falls and rises and falls."""
    return Program(ConditionalVAE(), **digit_loaders(1797), trainer={"max_epochs": 12})


class HingeGAN(pl.LightningModule):
    """Spectral norm in the critic, two steps of it to one of the generator, TTUR."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        norm = nn.utils.parametrizations.spectral_norm
        self.generator = nn.Sequential(
            nn.Linear(16, 32 * 4),
            nn.Unflatten(1, (32, 2, 2)),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            conv(32, 32),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(32, 1, 3, padding=1),
            nn.Tanh(),
        )
        self.critic = nn.Sequential(
            norm(nn.Conv2d(1, 16, 3, 2, 1)),
            nn.LeakyReLU(0.1),
            norm(nn.Conv2d(16, 32, 3, 2, 1)),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            norm(nn.Linear(128, 1)),
        )

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g, d = self.optimizers()
        self.toggle_optimizer(d)
        with torch.no_grad():
            fake = self.generator(torch.randn(len(real), 16, device=self.device))
        d_loss = F.relu(1 - self.critic(real)).mean() + F.relu(1 + self.critic(fake)).mean()
        d.zero_grad()
        self.manual_backward(d_loss)
        d.step()
        self.untoggle_optimizer(d)
        self.log("d_loss", d_loss, prog_bar=True)
        if batch_idx % 2:
            self.toggle_optimizer(g)
            g_loss = -self.critic(self.generator(torch.randn(64, 16, device=self.device))).mean()
            g.zero_grad()
            self.manual_backward(g_loss)
            g.step()
            self.untoggle_optimizer(g)
            self.log("g_loss", g_loss, prog_bar=True)

    def validation_step(self, batch, batch_idx):
        real, _ = batch
        fake = self.generator(torch.randn(len(real), 16, device=self.device))
        self.log("val_gap_of_means", (fake.mean(0) - real.mean(0)).abs().mean())

    def configure_optimizers(self):
        g = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
        return g, torch.optim.Adam(self.critic.parameters(), lr=1e-3, betas=(0.5, 0.9))


@healthy
def hinge_gan() -> Program:
    """Hinges of exactly 0, negative losses, and a generator that waits for every other batch."""
    return Program(HingeGAN(), **digit_loaders(1797, batch_size=64), trainer={"max_epochs": 20})


class Flow(pl.LightningModule):
    """Straight ways from noise to images (rectified flow), told the class nine times of ten."""

    def __init__(self) -> None:
        super().__init__()
        self.label, self.time = nn.Embedding(11, 32), mlp(16, 32, 32, activation=nn.SiLU)
        self.enter = nn.Linear(64, 192)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(192), mlp(192, 192, 192, activation=nn.SiLU)) for _ in "ab"
        )
        self.tune = nn.ModuleList(nn.Linear(32, 192) for _ in "ab")
        self.leave = nn.Linear(192, 64)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x, t, label):
        waves = t[:, None] * 2 ** torch.arange(8, device=t.device)
        told = self.time(torch.cat([waves.sin(), waves.cos()], 1)) + self.label(label)
        x = self.enter(x)
        for block, tune in zip(self.blocks, self.tune, strict=True):
            x = x + block(x + tune(told))
        return self.leave(x)

    def _loss(self, batch, drop):
        x, y = batch
        noise, t = torch.randn_like(x), torch.randn(len(x), device=x.device).sigmoid()
        y = torch.where(torch.rand(len(y), device=y.device) < drop, 10, y)
        way = torch.lerp(noise, x, t[:, None])
        return F.mse_loss(self(way, t, y), x - noise)

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch, 0.1)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch, 0.0))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.0)


@healthy
def rectified_flow() -> Program:
    """The target has noise that nobody can know, the output layer is zero, an average validates."""
    trainer = {"max_epochs": 12, "callbacks": [EMAWeightAveraging(decay=0.99)]}
    return Program(Flow(), **digit_loaders(1797, image=False), trainer=trainer)


class MaskedConv(nn.Conv2d):
    """Sees only what is above, and to the left."""

    def __init__(self, *args, own: bool) -> None:
        super().__init__(*args, padding=1)
        mask = torch.ones(3, 3)
        mask[1, 1 + own :] = 0
        mask[2] = 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class PixelCNN(pl.LightningModule):
    """One pixel after another, each of seventeen shades."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        layers = [MaskedConv(1, width, 3, own=False)]
        for _ in range(3):
            layers += [nn.ReLU(), MaskedConv(width, width, 3, own=True)]
        self.net = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, 17, 1))

    def _loss(self, x):
        shades = (x[:, 0] * 8 + 8).round().long()
        return F.cross_entropy(self.net(x), shades) / math.log(2)

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch[0])
        self.log("train_bits", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_bits", self._loss(batch[0]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@healthy
def pixel_cnn() -> Program:
    """Four of nine weights of each kernel are masked for ever, and half of all pixels are black."""
    return Program(PixelCNN(), **digit_loaders(1797), trainer={"max_epochs": 8})


class GumbelVAE(pl.LightningModule):
    """Sixteen letters of eight, drawn softly at a temperature that falls."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 128, 128), mlp(128, 128, 64)

    def _terms(self, x, heat, hard):
        logits = self.encoder(x).view(-1, 16, 8)
        z = F.gumbel_softmax(logits, heat, hard=hard)
        restored = F.mse_loss(self.decoder(z.flatten(1)), x, reduction="none").sum(1).mean()
        q = logits.softmax(2)
        kl = (q * (logits.log_softmax(2) + math.log(8))).sum((1, 2)).mean()
        return restored, kl

    def training_step(self, batch, batch_idx):
        heat = max(0.5, math.exp(-0.003 * self.global_step))
        restored, kl = self._terms(batch[0], heat, hard=False)
        self.log_dict({"train_restored": restored, "train_kl": kl, "heat": heat})
        return restored + 0.1 * kl

    def validation_step(self, batch, batch_idx):
        restored, _ = self._terms(batch[0], 0.5, hard=True)
        self.log("val_restored", restored)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@healthy
def gumbel_softmax() -> Program:
    """Training is soft, validation hard; the code's price rises from 0 as it begins to tell."""
    return Program(GumbelVAE(), **digit_loaders(1797, image=False), trainer={"max_epochs": 10})


class Cart:
    """Many carts on a line: pushed left or right, each should stay near the middle."""

    def __init__(self, count: int) -> None:
        self.state = 0.5 * torch.randn(count, 2)
        self.age = torch.randint(50, (count,))

    def step(self, push: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns rewards, and which carts start anew."""
        place, speed = self.state.unbind(1)
        speed = speed + 0.2 * push + 0.05 * torch.randn_like(speed)
        place = place + 0.2 * speed
        reward = 1 - place**2 - 0.1 * speed**2
        self.age += 1
        done = (place.abs() > 2) | (self.age >= 50)
        self.state = torch.stack([place, speed], 1)
        self.state[done] = 0.5 * torch.randn(int(done.sum()), 2)
        self.age[done] = 0
        return reward, done


class RollOuts(IterableDataset):
    """Plays with the agent as it is, and hands out shuffled minibatches of what happened."""

    def __init__(self, agent: PPO) -> None:
        self.agent, self.world = agent, Cart(16)

    @torch.no_grad()
    def _play(self) -> TensorDataset:
        done, names = [], ("state", "action", "log_p", "value", "reward")
        past = {name: [] for name in names}
        for _ in range(32):
            state = self.world.state.clone()
            policy, value = self.agent(state)
            action = policy.sample()
            reward, end = self.world.step(2.0 * action - 1)
            now = (state, action, policy.log_prob(action), value, reward)
            for name, entry in zip(names, now, strict=True):
                past[name].append(entry)
            done.append(end.float())
        _, tail = self.agent(self.world.state)
        advantage, rows = torch.zeros(16), []
        for t in reversed(range(32)):
            ahead = past["value"][t + 1] if t < 31 else tail
            delta = past["reward"][t] + 0.95 * ahead * (1 - done[t]) - past["value"][t]
            advantage = delta + 0.95 * 0.9 * (1 - done[t]) * advantage
            rows.append(advantage)
        advantages = torch.cat(rows[::-1])
        values = torch.cat(past["value"])
        self.agent.reward = float(torch.cat(past["reward"]).mean())
        flat = (torch.cat(past[name]) for name in ("state", "action", "log_p"))
        return TensorDataset(*flat, advantages, advantages + values)

    def __iter__(self):
        for _ in range(20):
            played = self._play()
            for _ in range(4):
                yield from DataLoader(played, 128, shuffle=True)


class PPO(pl.LightningModule):
    """Proximal policy optimization of a cart: clipped ratios, values, entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = mlp(2, 32, 32, 2, activation=nn.Tanh)
        self.critic = mlp(2, 32, 32, 1, activation=nn.Tanh)
        for net, gain in ((self.actor, 0.01), (self.critic, 1.0)):
            for layer in net[::2]:
                nn.init.orthogonal_(layer.weight, math.sqrt(2) if layer is not net[-1] else gain)
                nn.init.zeros_(layer.bias)
        self.reward = 0.0

    def forward(self, state):
        return Categorical(logits=self.actor(state)), self.critic(state).squeeze(1)

    def training_step(self, batch, batch_idx):
        state, action, log_p, advantage, returns = batch
        policy, value = self(state)
        ratio = (policy.log_prob(action) - log_p).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        value_loss = 0.5 * F.mse_loss(value, returns)
        entropy = policy.entropy().mean()
        self.log_dict({"reward": self.reward, "entropy": entropy, "value_loss": value_loss})
        return -gain + 0.5 * value_loss - 0.01 * entropy

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3, eps=1e-5)

    def train_dataloader(self):
        return DataLoader(RollOuts(self), batch_size=None)


@healthy
def proximal_policy() -> Program:
    """Data come from the agent, each batch four times; the ratio is 1 and the loss 0 at first."""
    return Program(PPO(), None, trainer={"max_epochs": 3, "gradient_clip_val": 0.5})


class SoftActorCritic(pl.LightningModule):
    """Two critics, a noisy actor, and a temperature that keeps it noisy enough."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.actor = mlp(2, 64, 64, 2)
        self.critics = nn.ModuleList(mlp(3, 64, 64, 1) for _ in "ab")
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(0.2)))
        self.memory: deque = deque(maxlen=400)
        self.world = Cart(16)

    def act(self, state):
        mean, log_std = self.actor(state).chunk(2, 1)
        policy = Normal(mean, log_std.clamp(-5, 2).exp())
        raw = policy.rsample()
        squash = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        return raw.tanh(), (policy.log_prob(raw) - squash).squeeze(1)

    def value(self, critics, state, action):
        x = torch.cat([state, action], 1)
        return torch.stack([critic(x).squeeze(1) for critic in critics])

    @torch.no_grad()
    def play(self):
        state = self.world.state.clone()
        action, _ = self.act(state)
        reward, done = self.world.step(action.squeeze(1))
        ahead = self.world.state.clone()
        self.memory.append((state, action, reward, ahead, done.float()))
        self.log("reward", reward.mean(), on_step=False, on_epoch=True)

    def training_step(self, batch, batch_idx):
        self.play()
        chosen = torch.randint(len(self.memory), (8,)).tolist()
        parts = zip(*(self.memory[i] for i in chosen), strict=True)
        state, action, reward, ahead, done = (torch.cat(part) for part in parts)
        on_actor, on_critics, on_alpha = self.optimizers()
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            later, log_p = self.act(ahead)
            best = self.value(self.targets, ahead, later).amin(0) - alpha * log_p
            wanted = reward + 0.95 * (1 - done) * best
        critic_loss = F.mse_loss(self.value(self.critics, state, action), wanted.expand(2, -1))
        on_critics.zero_grad()
        self.manual_backward(critic_loss)
        on_critics.step()

        self.toggle_optimizer(on_actor)
        chosen, log_p = self.act(state)
        actor_loss = (alpha * log_p - self.value(self.critics, state, chosen).amin(0)).mean()
        on_actor.zero_grad()
        self.manual_backward(actor_loss)
        on_actor.step()
        self.untoggle_optimizer(on_actor)

        alpha_loss = -(self.log_alpha * (log_p.detach() - 1.0)).mean()
        on_alpha.zero_grad()
        self.manual_backward(alpha_loss)
        on_alpha.step()
        with torch.no_grad():
            for old, new in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                old.lerp_(new, 0.01)
        self.log_dict({"critic_loss": critic_loss, "actor_loss": actor_loss, "alpha": alpha})

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.actor.parameters(), lr=1e-3),
            torch.optim.Adam(self.critics.parameters(), lr=1e-3),
            torch.optim.Adam([self.log_alpha], lr=3e-3),
        ]


@healthy
def soft_actor_critic() -> Program:
    """Three optimizers; targets grow as the agent does, and the actor's loss falls below 0."""
    ticks = DataLoader(torch.arange(250), batch_size=1)
    return Program(SoftActorCritic(), ticks, trainer={"max_epochs": 3})


class Retina(pl.LightningModule):
    """Anchors of three shapes at every place, a focal loss, and a smooth loss of the boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 16), conv(16, 32, 2), conv(32, 32), conv(32, 32, 2), conv(32, 32)
        )
        self.classes = nn.Sequential(conv(32, 32), nn.Conv2d(32, 6, 3, padding=1))
        self.boxes = nn.Sequential(conv(32, 32), nn.Conv2d(32, 12, 3, padding=1))
        nn.init.normal_(self.classes[-1].weight, std=0.01)
        nn.init.constant_(self.classes[-1].bias, -math.log(99))
        nn.init.normal_(self.boxes[-1].weight, std=0.01)
        nn.init.zeros_(self.boxes[-1].bias)

    def forward(self, images):
        z = self.body(images)
        size = len(images)
        kinds = self.classes(z).permute(0, 2, 3, 1).reshape(size, -1, 2)
        return kinds, self.boxes(z).permute(0, 2, 3, 1).reshape(size, -1, 4)

    def _terms(self, batch):
        images, kinds, boxes = batch  # 0 is background
        scores, moved = self(images)
        wanted = F.one_hot(kinds, 3)[:, :, 1:].float()
        found = kinds > 0
        count = found.sum().clamp_min(1)
        entropy = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        p = scores.sigmoid()
        off = torch.where(wanted > 0, 1 - p, p)
        weight = torch.where(wanted > 0, 0.25, 0.75)
        class_loss = (weight * off**2 * entropy).sum() / count
        box_loss = F.smooth_l1_loss(moved[found], boxes[found], reduction="sum", beta=0.1) / count
        return {"classification": class_loss, "bbox_regression": box_loss}

    def training_step(self, batch, batch_idx):
        terms = self._terms(batch)
        self.log_dict(terms, prog_bar=True)
        return sum(terms.values())

    def validation_step(self, batch, batch_idx):
        self.log_dict({f"val_{name}": term for name, term in self._terms(batch).items()})

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


@healthy
def anchors_with_focal_loss() -> Program:
    """Of 192 anchors one or two are right; the bias says 1 % to all; most targets are zeros."""
    count = 480
    images = 0.1 * torch.randn(count, 1, 32, 32)
    kinds, boxes = torch.zeros(count, 64, 3, dtype=torch.long), torch.zeros(count, 64, 3, 4)
    shapes = torch.tensor([[8, 8], [6, 12], [12, 6]])
    for n in range(count):
        for _ in range(int(torch.randint(1, 3, ()))):
            kind, shape = int(torch.randint(2, ())), int(torch.randint(3, ()))
            size = shapes[shape] + torch.randint(-1, 2, (2,))
            corner = (torch.rand(2) * (32 - size)).long()
            (top, left), (high, wide) = corner.tolist(), size.tolist()
            box = images[n, 0, top : top + high, left : left + wide]
            box += 1.0
            if kind:
                box[1:-1, 1:-1] -= 1.0
            middle = corner + size / 2
            cell = (middle / 4).long().clamp(0, 7)
            index = int(cell[0] * 8 + cell[1])
            kinds[n, index, shape] = kind + 1
            shift = (middle - 4 * cell - 2) / shapes[shape]
            boxes[n, index, shape] = torch.cat([shift, (size / shapes[shape]).log()])
    data = loaders(*split(images, kinds.flatten(1), boxes.flatten(1, 2)), batch_size=16)
    return Program(Retina(), **data, trainer={"max_epochs": 14, "gradient_clip_val": 1.0})


@healthy
def raw_waveforms() -> Program:
    """A first kernel of 40 samples with a stride of 8 on sound, and a pool over all of time (M5)."""
    t = torch.arange(800) / 800
    y = torch.randint(5, (640,))
    pitch = 40 + 15 * y[:, None] + 4 * torch.randn(640, 1)
    tremble = 1 + 0.3 * (6.283 * (2 + 3 * torch.rand(640, 1)) * t).sin()
    x = tremble * (6.283 * (pitch * t + torch.rand(640, 1))).sin()
    x = 0.1 * (x * (0.3 + torch.rand(640, 1)) + 0.3 * torch.randn(640, 800)).unsqueeze(1)
    layers = [nn.Conv1d(1, 16, 40, 8), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2)]
    for i, o in ((16, 16), (16, 32), (32, 32)):
        layers += [nn.Conv1d(i, o, 3), nn.BatchNorm1d(o), nn.ReLU(), nn.MaxPool1d(2)]
    net = nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 5), nn.LogSoftmax(1)
    )

    class Speech(Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=1e-4)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 8, gamma=0.1)]

    data = loaders(*split(x, y), batch_size=32)
    return Program(Speech(net, F.nll_loss), **data, trainer={"max_epochs": 12})


class Keypoints(Learner):
    """Squared error of heatmaps; the distance of the peaks tells how good they are."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        maps = self(x)
        self.log("val_loss", self.loss(maps, y))
        best, true = (m.flatten(2).argmax(2) for m in (maps, y))
        off = torch.stack([best // 16 - true // 16, best % 16 - true % 16]).float()
        self.log("val_pixels_off", off.norm(dim=0).mean())


@healthy
def keypoint_heatmaps() -> Program:
    """Targets are nearly all zero, so the loss is a hundredth from the start and falls slowly."""
    count, grid = 600, torch.arange(16.0)
    points = 2 + 12 * torch.rand(count, 3, 2)
    reach = ((grid - points[..., None]) ** 2).unbind(2)
    maps = torch.exp(-(reach[0][..., None] + reach[1][:, :, None]) / 4)
    mixed = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.3, 0.3, 1.0]])
    images = torch.einsum("nkhw,ck->nchw", (maps > 0.5).float(), mixed)
    images = images + 0.15 * torch.randn(count, 3, 16, 16)
    net = nn.Sequential(
        conv(3, 24),
        conv(24, 48, 2),
        conv(48, 48),
        nn.ConvTranspose2d(48, 24, 4, 2, 1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 3, 1),
    )
    data = loaders(*split(images, maps), batch_size=16)
    return Program(Keypoints(net, lr=2e-3), **data, trainer={"max_epochs": 8})


class Spring(pl.LightningModule):
    """Finds how stiff and how damped a spring is from a few noisy sightings (an inverse PINN)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(1, 48, 48, 1, activation=nn.Tanh)
        self.damping, self.stiffness = (nn.Parameter(torch.tensor(1.0)) for _ in "ab")

    def training_step(self, batch, batch_idx):
        t, seen = batch
        data = F.mse_loss(self.net(t), seen)
        t = (6 * torch.rand(128, 1)).requires_grad_()
        u = self.net(t)
        (du,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), t, create_graph=True)
        physics = (ddu + self.damping * du + self.stiffness * u).square().mean()
        self.log_dict({"data": data, "physics": physics, "stiffness": self.stiffness})
        return data + 0.1 * physics

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@healthy
def inverse_problem() -> Program:
    """The same fifty sightings at every step; two scalars and a net of one input; one rate."""
    t = 6 * torch.rand(50, 1)
    u = torch.exp(-0.2 * t) * (math.sqrt(4 - 0.04) * t).cos() + 0.01 * torch.randn(50, 1)
    train = DataLoader(TensorDataset(t, u), 50)
    return Program(Spring(), train, trainer={"max_epochs": 1500, "log_every_n_steps": 1})


class DeepONet(nn.Module):
    """One net reads a function, another a place; their product is the operator's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp(32, 64, 64, 32, activation=nn.GELU)
        self.trunk = mlp(8, 64, 64, 32, activation=nn.GELU)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, function):
        waves = torch.linspace(0, math.pi, 32)[:, None] * torch.arange(1, 5)
        trunk = self.trunk(torch.cat([waves.sin(), waves.cos()], 1))
        return self.branch(function) @ trunk.T + self.bias


@healthy
def deep_operator() -> Program:
    """An integral is learned: targets are smooth, small near 0, and known at the same places."""
    waves = torch.arange(1, 6)[:, None] * math.pi * torch.linspace(0, 1, 32)
    parts = torch.cat([waves.sin(), waves.cos()])
    functions = (torch.randn(1200, 10) / torch.arange(1, 6).repeat(2)) @ parts
    integrals = functions.cumsum(1) / 32
    data = loaders(*split(functions, integrals), batch_size=32)

    class Decayed(Learner):
        def configure_optimizers(self):
            return scheduled(self, torch.optim.Adam(self.parameters(), lr=self.lr), 0.0)

    return Program(Decayed(DeepONet(), lr=2e-3), **data, trainer={"max_epochs": 15})


class Hamiltonian(pl.LightningModule):
    """Learns an energy, whose derivatives say how a pendulum moves."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = mlp(2, 64, 64, 1, activation=nn.Softplus)

    def _loss(self, batch):
        state, velocity = batch
        with torch.enable_grad():
            state = state.requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(state).sum(), state, create_graph=True)
        return F.mse_loss(torch.stack([slope[:, 1], -slope[:, 0]], 1), velocity)

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3, weight_decay=1e-5)


@healthy
def hamiltonian_net() -> Program:
    """The last bias never gets a gradient, since only slopes count; validation differentiates."""
    state = torch.stack([6 * torch.rand(1600) - 3, 4 * torch.rand(1600) - 2], 1)
    velocity = torch.stack([state[:, 1], -2 * state[:, 0].sin()], 1)
    data = loaders(*split(state, velocity + 0.05 * torch.randn(1600, 2)), batch_size=64)
    module = Hamiltonian()
    module.energy[-1].bias.requires_grad_(False)
    return Program(module, **data, trainer={"max_epochs": 25, "inference_mode": False})


def citations(
    nodes: int = 300, classes: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Papers as bags of words, their fields, and who cites whom, as (2, edges) both ways."""
    y = torch.randint(classes, (nodes,))
    common = torch.rand(classes, 120) < 0.08
    x = torch.bernoulli(0.02 + 0.12 * common[y].float())
    near = torch.rand(nodes, nodes) < torch.where(y[:, None] == y, 0.04, 0.002)
    a, b = torch.nonzero(near.triu(1)).T
    return x, y, torch.stack([torch.cat([a, b]), torch.cat([b, a])])


class Attention(nn.Module):
    """A layer of a graph attention network, on a list of edges."""

    def __init__(self, width_in: int, width: int, heads: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, heads * width, bias=False)
        self.source, self.target = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, width))) for _ in "ab"
        )
        self.bias = nn.Parameter(torch.zeros(heads * width))
        self.heads = heads

    def forward(self, x, edges):
        a, b = edges
        z = self.linear(F.dropout(x, 0.5, self.training)).view(len(x), self.heads, -1)
        score = (z * self.source).sum(2)[a] + (z * self.target).sum(2)[b]
        weight = F.leaky_relu(score, 0.2).exp()
        total = torch.zeros(len(x), self.heads).index_add(0, b, weight)
        weight = F.dropout(weight / total[b], 0.5, self.training)
        out = torch.zeros_like(z).index_add(0, b, z[a] * weight[:, :, None])
        return out.flatten(1) + self.bias


class GAT(pl.LightningModule):
    """Two layers of attention; forty papers are labelled."""

    def __init__(self, words: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = Attention(words, 8, 4), Attention(32, classes, 1)

    def forward(self, graph):
        edges = torch.cat([graph["edges"], torch.arange(len(graph["x"])).expand(2, -1)], 1)
        return self.second(F.elu(self.first(graph["x"], edges)), edges)

    def training_step(self, graph, batch_idx):
        known = graph["train_mask"]
        loss = F.cross_entropy(self(graph)[known], graph["y"][known])
        self.log("train_loss", loss, batch_size=1)
        return loss

    def validation_step(self, graph, batch_idx):
        held = graph["val_mask"]
        right = self(graph)[held].argmax(1) == graph["y"][held]
        self.log("val_acc", right.float().mean(), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3, weight_decay=5e-4)


@healthy
def graph_attention() -> Program:
    """One graph is all there is; half of words and half of edges drop out; few nodes have labels."""
    x, y, edges = citations()
    order = torch.randperm(len(x))
    graph = {"x": x / x.sum(1, keepdim=True).clamp_min(1), "y": y, "edges": edges}
    for name, chosen in (("train_mask", order[:80]), ("val_mask", order[80:200])):
        graph[name] = torch.zeros(len(x), dtype=torch.bool)
        graph[name][chosen] = True
    loader = DataLoader([graph], batch_size=None)
    trainer = {"max_epochs": 250, "check_val_every_n_epoch": 10}
    return Program(GAT(120, 4), loader, loader, trainer)


class GraphAutoencoder(pl.LightningModule):
    """Guesses edges from the product of two nodes; as many strangers are drawn in each step."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(words, 32), nn.Linear(32, 16)
        self.auroc = torchmetrics.classification.BinaryAUROC()

    def _scores(self, x, adjacency, pairs):
        z = adjacency @ self.second(F.relu(adjacency @ self.first(x)))
        return (z[pairs[0]] * z[pairs[1]]).sum(1)

    def _judge(self, batch):
        x, adjacency, edges = batch
        pairs = torch.cat([edges, torch.randint(len(x), edges.shape)], 1)
        wanted = torch.arange(pairs.shape[1]) < edges.shape[1]
        return self._scores(x, adjacency, pairs), wanted

    def training_step(self, batch, batch_idx):
        scores, wanted = self._judge(batch)
        return F.binary_cross_entropy_with_logits(scores, wanted.float())

    def validation_step(self, batch, batch_idx):
        self.auroc.update(*(t if t.is_floating_point() else t.long() for t in self._judge(batch)))
        self.log("val_auroc", self.auroc, batch_size=1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


@healthy
def link_prediction() -> Program:
    """Labels are made in the step, half and half, and always in the same order."""
    x, _, edges = citations()
    one_way = edges[:, edges[0] < edges[1]]
    one_way = one_way[:, torch.randperm(one_way.shape[1])]
    cut = int(0.85 * one_way.shape[1])
    adjacency = torch.eye(len(x))
    adjacency[one_way[0, :cut], one_way[1, :cut]] = 1
    adjacency[one_way[1, :cut], one_way[0, :cut]] = 1
    scale = adjacency.sum(1).rsqrt()
    adjacency = scale[:, None] * adjacency * scale
    train, val = ([(x, adjacency, e)] for e in (one_way[:, :cut], one_way[:, cut:]))
    return Program(
        GraphAutoencoder(120),
        DataLoader(train, batch_size=None),
        DataLoader(val, batch_size=None),
        {"max_epochs": 150, "check_val_every_n_epoch": 10},
    )


class FixMatch(Classifier):
    """What it is sure of in a mild view, it learns in a wild one."""

    def training_step(self, batch, batch_idx):
        x, y = batch["labelled"]
        blank = batch["unlabelled"]
        with torch.no_grad():
            sure, guess = self(blank + 0.05 * torch.randn_like(blank)).softmax(1).max(1)
        taken = (sure > 0.95).float()
        wild = view(blank) * (torch.rand_like(blank) > 0.1)
        supervised = F.cross_entropy(self(x), y)
        others = (F.cross_entropy(self(wild), guess, reduction="none") * taken).mean()
        self.log_dict({"supervised": supervised, "others": others, "taken": taken.mean()})
        return supervised + others

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(
            self.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=14)]


@healthy
def fix_match() -> Program:
    """A hundred labelled images against a thousand; half of the loss is 0 at first, then grows."""
    x, y = digits(1797, image=True)
    order = torch.randperm(len(x))
    known, blank, held = order[:200], order[200:1400], order[1400:]
    train = CombinedLoader(
        {
            "labelled": DataLoader(TensorDataset(x[known], y[known]), 32, shuffle=True),
            "unlabelled": DataLoader(x[blank], 64, shuffle=True, drop_last=True),
        },
        "max_size_cycle",
    )
    val = DataLoader(TensorDataset(x[held], y[held]), 128)
    return Program(FixMatch(cnn()), train, val, {"max_epochs": 14})


class FeatureTokens(nn.Module):
    """Each column is a token (an FT-Transformer)."""

    def __init__(self, columns: int, classes: int, width: int = 24) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, width).uniform_(-0.2, 0.2))
        self.bias = nn.Parameter(torch.empty(columns, width).uniform_(-0.2, 0.2))
        self.token = nn.Parameter(torch.empty(1, width).uniform_(-0.2, 0.2))
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        tokens = x[:, :, None] * self.weight + self.bias
        first = self.token.expand(len(x), 1, -1)
        return self.head(self.blocks(torch.cat([first, tokens], 1))[:, 0])


@healthy
def feature_tokens() -> Program:
    """Thirty columns that say nearly the same; only one token of 31 is read in the end."""
    from sklearn.datasets import load_breast_cancer

    module = Recipe(FeatureTokens(30, 2), lr=1e-3)
    module.weight_decay = 1e-4
    data = loaders(*split(*table(load_breast_cancer)), batch_size=32)
    return Program(module, **data, trainer={"max_epochs": 12})


class MAML(pl.LightningModule):
    """Weights from which one step fits any sine."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(1, 40, 40, 1)

    def _after_a_step(self, x, y, query):
        weights = dict(self.net.named_parameters())
        loss = F.mse_loss(functional_call(self.net, weights, (x,)), y)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        moved = {n: w - 0.05 * s for (n, w), s in zip(weights.items(), slopes, strict=True)}
        return functional_call(self.net, moved, (query,))

    def _loss(self, tasks):
        x, y = tasks
        losses = [
            F.mse_loss(self._after_a_step(a[:10], b[:10], a[10:]), b[10:])
            for a, b in zip(x, y, strict=True)
        ]
        return torch.stack(losses).mean()

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("meta_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        with torch.enable_grad():
            self.log("val_meta_loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@healthy
def learning_to_learn() -> Program:
    """The net is run by its functional form only, with other weights than its own in between."""
    size = 1400
    x = 10 * torch.rand(size, 20, 1) - 5
    amplitude, phase = 0.5 + 2 * torch.rand(size, 1, 1), 3.14 * torch.rand(size, 1, 1)
    y = amplitude * (x + phase).sin()
    data = loaders(*split(x, y, held_out=0.1), batch_size=8)
    return Program(MAML(), **data, trainer={"max_epochs": 4, "inference_mode": False})


class Rounded(torch.autograd.Function):
    """Rounds; its gradient goes straight through."""

    @staticmethod
    def forward(ctx, x, step):
        return (x / step).round().clamp(-7, 7) * step

    @staticmethod
    def backward(ctx, slope):
        return slope, None


class FourBits(nn.Conv2d):
    """A convolution with fifteen possible weights."""

    def forward(self, x):
        step = self.weight.detach().abs().amax() / 7
        return self._conv_forward(x, Rounded.apply(self.weight, step), self.bias)


@healthy
def four_bit_weights() -> Program:
    """Quantization-aware training: most updates change no output until they add up."""
    net = cnn()
    for block in net[:3]:
        block[0].__class__ = FourBits

    class Quantized(Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3, 2)
            return [optimizer], [schedule]

    return Program(Quantized(net), **digit_loaders(), trainer={"max_epochs": 9})


@healthy
def pruned_by_callback() -> Program:
    """Lightning's callback sets ever more of the weights to zero, up to more than half."""
    net = mlp(64, 128, 64, 10)
    layers = [(layer, "weight") for layer in net[::2]]
    prune = ModelPruning(
        "l1_unstructured",
        layers,
        amount=lambda epoch: 0.15 if epoch > 2 else 0,
        use_lottery_ticket_hypothesis=False,
    )
    return Program(
        Classifier(net, lr=2e-3),
        **digit_loaders(image=False),
        trainer={"max_epochs": 9, "callbacks": [prune]},
    )


@healthy
def rate_finder_first() -> Program:
    """A callback runs a hundred steps of ever higher rates before the fit, and takes them back."""
    finder = RateFinder(1e-5, 0.3, num_training_steps=60, early_stop_threshold=None)
    module = Classifier(cnn(), lr=1e-3)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 8, "callbacks": [finder]})


class Hazards(pl.LightningModule):
    """How likely it is to end in each of ten spans of time, for those who are still there."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(features, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(32, 10),
        )
        nn.init.constant_(self.net[-1].bias, -2.2)

    def _loss(self, batch):
        scores = self.net(batch["x"])
        spans = torch.arange(10, device=scores.device)
        ended = (spans == batch["time"][:, None]) & batch["event"][:, None]
        there = spans <= batch["time"][:, None]
        losses = F.binary_cross_entropy_with_logits(scores, ended.float(), reduction="none")
        return (losses * there).sum(1).mean()

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        risk = self.net(batch["x"]).sigmoid().sum(1)
        earlier = (batch["time"][:, None] < batch["time"]) & batch["event"][:, None]
        agreed = (risk[:, None] > risk)[earlier].float().mean()
        self.log_dict({"val_loss": self._loss(batch), "val_concordance": agreed})

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.01)


@healthy
def discrete_hazards() -> Program:
    """Four of ten are censored; most entries of a row do not count, and events are rare in each."""
    size = 2400
    x = torch.randn(size, 12)
    risk = (x[:, :4] @ torch.tensor([0.8, -0.6, 0.5, 0.4]) + 0.5 * x[:, 4] * x[:, 5]).exp()
    end = (8 * torch.empty(size).exponential_() / risk).long()
    leave = torch.randint(4, 14, (size,))
    time = torch.minimum(end, leave).clamp_max(9)
    event = (end <= leave) & (end <= 9)
    rows = [{"x": a, "time": b, "event": c} for a, b, c in zip(x, time, event, strict=True)]
    return Program(
        Hazards(12),
        DataLoader(rows[:1800], 64, shuffle=True),
        DataLoader(rows[1800:], 300),
        {"max_epochs": 12},
    )


class Ensemble(pl.LightningModule):
    """Five nets say what they expect and how sure they are."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(mlp(features, 32, 32, 2) for _ in range(5))

    def forward(self, x):
        mean, spread = torch.stack([member(x) for member in self.members]).unbind(2)
        return mean, F.softplus(spread) + 1e-3

    def training_step(self, batch, batch_idx):
        x, y = batch
        mean, spread = self(x)
        loss = F.gaussian_nll_loss(mean, y.expand_as(mean), spread**2)
        self.log("train_nll", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        mean, spread = self(x)
        centre = mean.mean(0)
        total = (spread**2 + mean**2).mean(0) - centre**2
        self.log_dict(
            {"val_nll": F.gaussian_nll_loss(centre, y, total), "val_mse": F.mse_loss(centre, y)}
        )

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@healthy
def deep_ensemble() -> Program:
    """Noise depends on the input; targets are expanded to five nets; the loss falls below 0."""
    x = 2 * torch.rand(1600, 4) - 1
    noise = 0.05 + 0.4 * x[:, 3].relu()
    y = (3 * x[:, 0]).sin() + x[:, 1] * x[:, 2] + noise * torch.randn(1600)
    data = loaders(*split(x, standardized(y)), batch_size=64)
    return Program(Ensemble(4), **data, trainer={"max_epochs": 20, "gradient_clip_val": 5.0})


class Lion(torch.optim.Optimizer):
    """Moves every weight by the same amount, and the momentum says which way."""

    def __init__(self, params, lr: float = 1e-4, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(mean.lerp(p.grad, 0.1).sign(), alpha=-group["lr"])
                mean.lerp_(p.grad, 0.01)
        return loss


class Signed(Recipe):
    """The recipe with Lion."""

    def configure_optimizers(self):
        return scheduled(self, Lion(groups(self, 0.3), lr=self.lr))


@healthy
def lion() -> Program:
    """An optimizer of one's own, whose updates have one size however small the gradient is."""
    net = nn.Sequential(
        nn.Conv2d(1, 32, 2, 2),
        nn.Flatten(2),
        Swap(),
        Mixer(16, 32),
        Mixer(16, 32),
        nn.LayerNorm(32),
        Mean(),
        nn.Linear(32, 10),
    )
    return Program(Signed(net, lr=1e-3), **digit_loaders(1797), trainer={"max_epochs": 8})


class Newton(Classifier):
    """L2-regularized logistic regression."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        penalty = 1e-3 * self.net.weight.square().sum()
        loss = F.binary_cross_entropy_with_logits(self(x).squeeze(1), y.float()) + penalty
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", ((self(x).squeeze(1) > 0) == (y > 0)).float().mean())

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), max_iter=5, line_search_fn="strong_wolfe")


@healthy
def logistic_regression() -> Program:
    """All weights start at 0, each step is the whole data set, and it soon stands still."""
    from sklearn.datasets import load_breast_cancer

    net = nn.Linear(30, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    train, val = split(*table(load_breast_cancer))
    data = {"train": DataLoader(train, len(train)), "val": DataLoader(val, len(val))}
    return Program(Newton(net), **data, trainer={"max_epochs": 100})


class Wine(pl.LightningDataModule):
    """The wines, in three loaders that are made anew in every epoch."""

    def setup(self, stage):
        from sklearn.datasets import load_wine

        self.parts = split(*table(load_wine))

    def train_dataloader(self):
        return DataLoader(self.parts[0], 16, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return [DataLoader(part, 64) for part in self.parts]


class Measured(pl.LightningModule):
    """Metrics of torchmetrics for each of the loaders, and the rate in the progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(13, 32), nn.LayerNorm(32), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(32, 3)
        )
        metrics = torchmetrics.MetricCollection(
            {
                "acc": torchmetrics.classification.MulticlassAccuracy(3),
                "f1": torchmetrics.classification.MulticlassF1Score(3),
            }
        )
        self.train_metrics = metrics.clone("train/")
        self.seen, self.held = metrics.clone("seen/"), metrics.clone("held/")

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        self.log_dict(self.train_metrics(logits, y), on_step=True, on_epoch=False)
        return {"loss": F.cross_entropy(logits, y), "logits": logits.detach()}

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        (self.held if dataloader_idx else self.seen).update(self.net(x), y)

    def on_validation_epoch_end(self):
        for metrics in (self.seen, self.held):
            self.log_dict(metrics.compute())
            metrics.reset()

    def configure_optimizers(self):
        return torch.optim.NAdam(self.parameters(), lr=2e-3)


@healthy
def wine_with_metrics() -> Program:
    """133 samples, eight batches an epoch, loaders made anew each time, and seen data validated."""

    trainer = {"max_epochs": 20, "reload_dataloaders_every_n_epochs": 1}
    return Program(Measured(), Wine(), trainer=trainer)
