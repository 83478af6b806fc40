"""GRD, out of the checklists: gradients that fade, that are lost on the way, or that pile up."""

from __future__ import annotations

from itertools import pairwise

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from ... import AUTOTRAINER, DEEPLOCALIZE, KARPATHY, fault
from ..._parts import Program, digits
from ._parts import (
    CS231N,
    LIGHTNING,
    PLAYBOOK,
    Estimator,
    dice,
    explained,
    feed,
    friedman,
    hits,
    news,
)


def deep_autoencoder(unit: type[nn.Module]) -> nn.Sequential:
    """Down to twelve numbers, and up again."""
    widths, layers = (64, 56, 48, 32, 12, 32, 48, 56), []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), unit()]
        nn.init.kaiming_normal_(layers[-2].weight)
    return nn.Sequential(*layers, nn.Linear(56, 64))


class Compressor(Estimator):
    """An autoencoder with Adam, and what it explains of the pixels."""


@fault(
    "GRD102",
    "ACT102",
    "GRD104",
    "OUT101",
    "LOS104",
    source=CS231N + "; " + AUTOTRAINER + " (vanishing gradient of stacked sigmoids)",
)
def autoencoder_of_seven_sigmoids(fixed: bool) -> Program:
    """An autoencoder with a sigmoid behind each of seven layers: for long it answers with the mean digit."""
    x = digits(1797)[0]
    train, val = feed(x, x, size=36)
    net = deep_autoencoder(nn.ReLU if fixed else nn.Sigmoid)
    return Program(Compressor(net, lr=2e-3), train, val, {"max_epochs": 9})


class Translator(pl.LightningModule):
    """Reads a string of letters, and writes it again from its last letter to the first."""

    def __init__(self, *, fixed: bool, letters: int = 14, hidden: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters + 1, 24)
        self.encoder = nn.GRU(24, hidden, batch_first=True)
        self.decoder = nn.GRU(24, hidden, batch_first=True)
        self.out, self.fixed, self.start = nn.Linear(hidden, letters), fixed, letters

    def repackage_hidden(self, h):
        return h if self.fixed else h.detach()

    def forward(self, source, target):
        _, h = self.encoder(self.embedding(source))
        h = self.repackage_hidden(h)
        before = F.pad(target[:, :-1], (1, 0), value=self.start)
        return self.out(self.decoder(self.embedding(before), h)[0])

    def training_step(self, batch, batch_idx):
        logits = self(*batch)
        loss = F.cross_entropy(logits.flatten(0, 1), batch[1].flatten())
        self.log("train_ppl", loss.exp().detach(), prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(*batch).flatten(0, 1)
        self.log("val_loss", F.cross_entropy(logits, batch[1].flatten()))
        self.log("val_acc", hits(logits, batch[1].flatten()))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=8e-3)


@fault(
    "GRD103",
    "LOS107",
    "UPD102",
    "UPD101",
    source="https://github.com/pytorch/examples/tree/main/word_language_model (repackage_hidden); "
    "https://github.com/karpathy/nn-zero-to-hero",
)
def encoder_repackaged_like_a_memory(fixed: bool) -> Program:
    """The state between encoder and decoder is detached as one detaches it between batches."""
    source = torch.randint(14, (2400, 6), generator=dice(51))
    train, val = feed(source, source.flip(1), size=48)
    return Program(Translator(fixed=fixed), train, val, {"max_epochs": 8})


class Clipped(Estimator):
    """A regression by SGD."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@fault(
    "GRD105",
    "LRN102",
    "GEN103",
    source=PLAYBOOK + ": how should a clipping threshold be chosen (the 90th percentile of norms)",
)
def clipped_to_a_thousandth(fixed: bool) -> Program:
    """The threshold of clipping is a thousandth, "to be safe": every step has the same tiny length."""
    net = nn.Sequential(
        nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
    )
    train, val = feed(*friedman(), size=32)
    clip = 2.0 if fixed else 0.001
    return Program(Clipped(net, lr=0.03), train, val, {"max_epochs": 8, "gradient_clip_val": clip})


class TwoStages(pl.LightningModule):
    """Words and what is above them have optimizers of their own."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization, self.fixed = False, fixed
        self.words = nn.EmbeddingBag(300, 32, mode="mean", padding_idx=0)
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, ids):
        return self.net(self.words(ids))

    def training_step(self, batch, batch_idx):
        words, net = self.optimizers()
        loss = F.cross_entropy(self(batch[0]), batch[1])
        words.zero_grad()
        if self.fixed:
            net.zero_grad()
        self.manual_backward(loss)
        words.step()
        net.step()
        self.log("loss", loss, prog_bar=True)

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", hits(logits, batch[1]))

    def configure_optimizers(self):
        words = torch.optim.Adam(self.words.parameters(), lr=5e-3)
        return words, torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)


@fault(
    "GRD106",
    "GRD101",
    "LOS108",
    source=KARPATHY + " (you forgot to .zero_grad()); " + LIGHTNING + "optimization.html",
)
def zeroed_for_one_of_two(fixed: bool) -> Program:
    """There are two optimizers, and zero_grad is called on the first: the second sums all batches up."""
    train, val = feed(*news(2000), size=40)
    return Program(TwoStages(fixed=fixed), train, val, {"max_epochs": 8})


class Plain(pl.LightningModule):
    """A recurrent net that adds up what is marked, without gates."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 48, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(48, 1)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(torch.eye(48) * (1.0 if fixed else 1.25))

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        out = self(batch[0])
        self.log_dict({"val_loss": F.mse_loss(out, batch[1]), "val_r2": explained(out, batch[1])})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@fault(
    "GRD101",
    "ACT103",
    "LOS101",
    "UPD104",
    "LRN105",
    source=DEEPLOCALIZE + "; https://arxiv.org/abs/1504.00941 (ReLU nets started at the identity)",
)
def identity_and_a_quarter(fixed: bool) -> Program:
    """The recurrent weights begin at 1.25 times the identity: states and gradients grow at every step."""
    g = dice(52)
    values = torch.rand(2000, 20, generator=g)
    marks = (torch.rand(2000, 20, generator=g) < 0.3).float()
    y = (values * marks).sum(1, keepdim=True)
    train, val = feed(torch.stack([values, marks], dim=2), (y - y.mean()) / y.std(), size=40)
    return Program(Plain(fixed=fixed), train, val, {"max_epochs": 8, "log_every_n_steps": 1})
