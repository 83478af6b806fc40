"""STR, a third time: nets that are not put together as their authors think."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, NEURALINT, fault
from .._parts import Program, digit_loaders, loaders, mlp, split
from ..first._parts import gestures, meters, reviews, sounds
from ..second._parts import lesions, patches
from ._more_parts import Classify, Task, households, right


class Tabular(Task):
    """Embeddings of categories beside numbers, with a norm and dropout before the layers."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.kinds = nn.ModuleList(nn.Embedding(k, 4) for k in (6, 10, 4))
        first = [nn.BatchNorm1d(17)] if fixed else [nn.Dropout(0.4), nn.BatchNorm1d(17)]
        second = [nn.BatchNorm1d(64), nn.ReLU()]
        second += [nn.Dropout(0.1)] if fixed else []
        before = [] if fixed else [nn.Dropout(0.4)]
        self.net = nn.Sequential(*first, nn.Linear(17, 64, bias=False), *before, *second)
        self.out = nn.Linear(64, 1)

    def step(self, batch):
        kinds, numbers, spent = batch["kinds"], batch["numbers"], batch["spent"]
        known = [embed(kinds[:, i]) for i, embed in enumerate(self.kinds)]
        out = self.out(self.net(torch.cat([*known, numbers], dim=1))).squeeze(1)
        loss = F.mse_loss(out, spent)
        return loss, {"r2": 1 - loss / spent.var()}


@fault(
    "STR101",
    "MOD105",
    "GEN104",
    source="https://arxiv.org/abs/1801.05134 (the disharmony between dropout and batch normalization)",
)
def embeddings_dropped_then_normed(fixed: bool) -> Program:
    """Of a tabular net's embeddings and layers two fifths are dropped, and what is left is batch-normed."""
    columns = dict(zip(("kinds", "numbers", "spent"), households(2400), strict=True))
    samples = [{k: v[i] for k, v in columns.items()} for i in range(2400)]
    data = loaders(samples[:1920], samples[1920:])
    return Program(Tabular(fixed=fixed), **data, trainer={"max_epochs": 5})


class Rectified(Classify):
    """Three layers, as they are written in many a first program."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(nn.ModuleDict(), lr=2e-3)
        self.fc1, self.fc2, self.fc3 = nn.Linear(8, 48), nn.Linear(48, 48), nn.Linear(48, 2)
        self.fixed = fixed

    def forward(self, x):
        for layer in (self.fc1, self.fc2):
            x = layer(x)
            answer = F.relu(x)
            if self.fixed:
                x = answer
        return self.fc3(x)


@fault(
    "STR103",
    "GEN102",
    source=NEURALINT + "; " + HUMBATOVA,
)
def relu_thrown_away(fixed: bool) -> Program:
    """F.relu(x) without x = ...: what it answers is thrown away, and three layers are one."""
    x, value = meters(2000)
    data = loaders(*split(x, (value[:, 0] > 0).long()))
    trainer = {"max_epochs": 5, "precision": "bf16-mixed"}
    return Program(Rectified(fixed=fixed), **data, trainer=trainer)


class Encoder(nn.Module):
    """A transformer block, written anew."""

    def __init__(self, width: int, *, fixed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 4, batch_first=True)
        middle = nn.GELU() if fixed else nn.Dropout(0.05)
        self.feed = nn.Sequential(nn.Linear(width, 64), middle, nn.Linear(64, width))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return x + self.feed(self.norm2(x))


class Topics(nn.Module):
    """What is a sentence about?"""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(80, 32), nn.Linear(32, 4)
        self.blocks = nn.Sequential(*(Encoder(32, fixed=fixed) for _ in range(2)))

    def forward(self, ids):
        return self.out(self.blocks(self.words(ids)).mean(1))


@fault(
    "STR103",
    source="https://arxiv.org/abs/2103.03404 (attention without its feed-forward nets); "
    + HUMBATOVA,
)
def feed_forward_without_its_middle(fixed: bool) -> Program:
    """The feed-forward part of each transformer block has dropout between its layers, and no activation."""
    module = Classify(Topics(fixed=fixed), lr=1e-3)
    return Program(module, **loaders(*split(*reviews(2000))), trainer={"max_epochs": 4})


class Pyramid(Task):
    """Segments with what is near a pixel and, pooled, what is in the image as a whole."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.near = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=2, dilation=2),
            nn.ReLU(),
        )
        norm = nn.GroupNorm(4, 16) if fixed else nn.BatchNorm2d(16)
        self.whole = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1, bias=False), norm, nn.ReLU()
        )
        self.out = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 1))

    def step(self, batch):
        x, mask = batch
        near = self.near(x)
        logits = self.out(torch.cat([near, self.whole(near).expand_as(near)], dim=1))
        found = (logits > 0) * mask
        iou = found.sum() / ((logits > 0) + mask).clamp(max=1).sum().clamp_min(1)
        return F.binary_cross_entropy_with_logits(logits, mask), {"iou": iou}


@fault(
    "STR104",
    "MOD105",
    source="https://github.com/VainF/DeepLabV3Plus-Pytorch/issues/27 (batch norm after global pooling)",
)
def pooled_to_one_and_normed(fixed: bool) -> Program:
    """The branch that pools the image has a batch norm, and two images to a batch: plus or minus one."""
    data = loaders(*split(*lesions(400)), batch_size=2)
    trainer = {"max_epochs": 2, "accumulate_grad_batches": 4}
    return Program(Pyramid(fixed=fixed), **data, trainer=trainer)


class CopyPaste(nn.Module):
    """Three convolutions over a recording."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, 24, 7, stride=2)
        self.conv2 = nn.Conv1d(24, 24, 5, padding=2)
        self.conv3 = nn.Conv1d(24, 24, 5, padding=2)
        self.out, self.fixed = nn.Linear(24, 3), fixed

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool1d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x) if self.fixed else self.conv2(x))
        return self.out(x.amax(2))


@fault(
    "STR105",
    "GRD103",
    source=HUMBATOVA + " (wrong layers)",
)
def second_layer_called_twice(fixed: bool) -> Program:
    """A line was copied: forward() calls the second layer twice, and the third not at all."""
    module = Classify(CopyPaste(fixed=fixed), lr=1e-3)
    trainer = {"max_epochs": 5, "callbacks": [EarlyStopping("val/loss", patience=2)]}
    return Program(module, **loaders(*split(*sounds(1200))), trainer=trainer)


class Coder(Task):
    """A variational autoencoder."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.body, self.decoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU()), mlp(8, 64, 64)
        self.fc_mu, self.fc_logvar = nn.Linear(64, 8), nn.Linear(64, 8)
        self.fixed = fixed

    def step(self, batch):
        code = self.body(batch[0])
        mu = self.fc_mu(code)
        logvar = self.fc_logvar(code) if self.fixed else self.fc_mu(code)
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)
        error = F.mse_loss(self.decoder(z), batch[0], reduction="none").sum(1).mean()
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
        return error + 0.3 * kl, {"error": error, "kl": kl}


@fault(
    "STR105",
    "GRD103",
    source=HUMBATOVA + " (wrong layers)",
)
def mean_and_variance_from_one_layer(fixed: bool) -> Program:
    """logvar = self.fc_mu(h): a code's variance is tied to its mean, and fc_logvar is never used."""
    return Program(Coder(fixed=fixed), **digit_loaders(), trainer={"max_epochs": 8})


class Head(nn.Module):
    """A backbone and a projection head, on which the classes are told apart."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(k) for k in (16, 32))
        self.head, self.fixed = mlp(288, 48, 6), fixed

    def forward(self, x):
        for i, norm in enumerate(self.norms):
            x = self.body[2 * i](x)
            x = F.relu(norm(x) if self.fixed else x)
        return self.head(x.flatten(1))


@fault(
    "STR105",
    "GRD103",
    source=HUMBATOVA + " (missing normalization layers)",
)
def norms_that_nobody_calls(fixed: bool) -> Program:
    """The batch norms are built, and forward() calls the convolutions without them."""
    module = Classify(Head(fixed=fixed), lr=1e-3)
    return Program(module, **loaders(*split(*patches(1500))), trainer={"max_epochs": 4})


class Projector(Task):
    """Reads a movement and ends in a stack of linear layers."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.rnn = nn.GRU(3, 32, batch_first=True)
        between = [nn.ReLU()] if fixed else []
        self.head = nn.Sequential(nn.Linear(32, 48), *between, nn.Linear(48, 24), *between)
        self.out = nn.Linear(24, 4)

    def step(self, batch):
        x, y = batch
        logits = self.out(self.head(self.rnn(x)[1][0]))
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}


@fault(
    "STR103",
    source=NEURALINT,
)
def three_lines_after_a_gru(fixed: bool) -> Program:
    """Three linear layers in a row end the recurrent net, without anything between them."""
    data = loaders(*split(*gestures(1600)))
    return Program(Projector(fixed=fixed), **data, trainer={"max_epochs": 5})
