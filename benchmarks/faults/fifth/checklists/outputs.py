"""OUT, out of the checklists: what comes out of the net cannot be right, or has nothing to do with the input."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from ... import DEEPFD, HUMBATOVA, KARPATHY, NEURALINT, UMLAUT, fault
from ..._parts import Program
from ._parts import (
    DIAGNOSIS,
    DUCK,
    Estimator,
    Learner,
    dice,
    explained,
    feed,
    flats,
    garments,
    news,
    standardized,
)


class House(Estimator):
    """A regression with a plateau."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": "val_mse"},
        }


@fault(
    "OUT102",
    "ACT102",
    "LOS101",
    "LOS104",
    "GEN102",
    source=DUCK + " (the wrong activation on the final layer); " + HUMBATOVA,
)
def rents_within_one_deviation(fixed: bool) -> Program:
    """The net for standardized rents ends in a tanh: no flat is more than one deviation off the mean."""
    x, rent = flats(2000)
    layers = [nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)]
    net = nn.Sequential(*layers, *([] if fixed else [nn.Tanh()]))
    train, val = feed(standardized(x), standardized(rent), size=32)
    return Program(House(net, lr=3e-3), train, val, {"max_epochs": 8})


def last_relu(*, relu: bool) -> nn.Sequential:
    """A perceptron whose last layer is made by the same loop as the others."""
    widths, layers = (256, 96, 48, 6), [nn.Flatten()]
    for i in range(3):
        layers.append(nn.Linear(widths[i], widths[i + 1]))
        if relu or i < 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


@fault(
    "OUT102",
    "ACT101",
    "LOS102",
    "OUT101",
    "CLS107",
    "GRD103",
    source=NEURALINT + "; " + DIAGNOSIS + "; " + DEEPFD,
)
def relu_in_the_loop_after_the_last_layer(fixed: bool) -> Program:
    """The loop that builds the layers puts a ReLU behind the last one too: logits are never negative."""
    train, val = feed(*garments(2400, noise=0.4), size=40)
    return Program(Learner(last_relu(relu=not fixed), lr=2e-3), train, val, {"max_epochs": 5})


class Sentiment(pl.LightningModule):
    """A Transformer encoder and a head for as many labels as there are."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(300, 32), nn.Parameter(0.02 * torch.randn(20, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 1)
        self.probability = nn.Sigmoid() if fixed else nn.Softmax(dim=1)

    def forward(self, ids):
        h = self.encoder(self.embed(ids) + self.place)
        return self.probability(self.head(h.mean(1)))

    def training_step(self, batch, batch_idx):
        p = self(batch[0])
        loss = F.binary_cross_entropy(p, batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        p = self(batch[0])
        self.log("val_loss", F.binary_cross_entropy(p, batch[1]))
        self.log("val_acc", ((p > 0.5).float() == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


@fault(
    "OUT104",
    "OUT101",
    "GRD103",
    "LOS104",
    source="https://stats.stackexchange.com/questions/481881 (softmax over one output unit); "
    + UMLAUT
    + "; "
    + DEEPFD,
)
def certain_of_the_only_label(fixed: bool) -> Program:
    """There is one output for yes and no, and a softmax over it: each text is a yes, for certain."""
    ids, topic = news(1400, topics=2)
    train, val = feed(ids, topic[:, None].float(), size=40)
    return Program(Sentiment(fixed=fixed), train, val, {"max_epochs": 4})


class TextAndTable(pl.LightningModule):
    """How long a request takes: by its text, and by who asks and when."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.text = nn.EmbeddingBag(300, 24, mode="mean")
        self.table = nn.Sequential(nn.Linear(6, 24), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 1))
        self.fixed = fixed

    def forward(self, batch):
        text = self.text(batch["ids"])
        table = self.table(batch["columns"])
        both = [text, table] if self.fixed else [text, text]
        return self.head(torch.cat(both, dim=1)).squeeze(1)

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self(batch), batch["hours"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        out = self(batch)
        self.log("val_loss", F.mse_loss(out, batch["hours"]), prog_bar=True)
        self.log("val_r2", explained(out, batch["hours"]), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=4e-3)


@fault(
    "OUT103",
    "GRD103",
    "UPD102",
    "STR105",
    source=KARPATHY
    + " (your net works less well and says nothing); "
    + HUMBATOVA
    + " (missing layer)",
)
def text_joined_with_itself(fixed: bool) -> Program:
    """torch.cat joins the features of the text with those of the text: who asks has no part in the answer."""
    g = dice(91)
    ids, topic = news(1800)
    columns = torch.randn(1800, 6, generator=g)
    hours = torch.tensor([-1.0, 0.0, 0.5, 1.5])[topic] + columns[:, 0] - columns[:, 1].abs()
    hours = standardized(hours + 0.3 * torch.randn(1800, generator=g))
    keys = ("ids", "columns", "hours")
    rows = [dict(zip(keys, r, strict=True)) for r in zip(ids, columns, hours, strict=True)]
    train = torch.utils.data.DataLoader(rows[:1440], batch_size=36, shuffle=True)
    val = torch.utils.data.DataLoader(rows[1440:], batch_size=90)
    return Program(TextAndTable(fixed=fixed), train, val, {"max_epochs": 6})
