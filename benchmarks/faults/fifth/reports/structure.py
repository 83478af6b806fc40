"""STR, after reports: layers that are there and do nothing, or are not there."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F

from ... import HUMBATOVA, fault
from ..._parts import Program, digits
from ._parts import Classify, Regress, Task, accuracy, customers, cut, loaders, rng, shuffled


class Order(Task):
    """Says which of two words comes first in a sentence."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.words = nn.Embedding(40, 32)
        self.pos_embed = nn.Parameter(0.5 * torch.randn(1, 10, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.layers, self.head, self.fixed = (
            nn.TransformerEncoder(layer, 2),
            nn.Linear(32, 2),
            fixed,
        )

    def step(self, batch):
        ids, y = batch
        h = self.words(ids)
        if self.fixed:
            h = h + self.pos_embed
        logits = self.head(self.layers(h).mean(1))
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}


@fault(
    "GRD103",
    "STR105",
    "UPD102",
    "LOS104",
    source="https://github.com/engichang1467/Open-Rig3R/pull/43 (pos_embed is not reaching the blocks: a "
    "parameter the model never read)",
)
def pos_embed_that_is_never_added(fixed: bool) -> Program:
    """The positions are a parameter that forward forgets to add: the order of the words is not known."""
    g = rng(101)
    ids = torch.randint(4, 40, (1400, 10), generator=g)
    places = torch.rand(1400, 10, generator=g).argsort(1)[:, :2]
    ids.scatter_(1, places, torch.tensor([[1, 2]]).expand(1400, 2))
    y = (places[:, 0] < places[:, 1]).long()
    return Program(Order(fixed=fixed), **loaders(*cut(ids, y)), trainer={"max_epochs": 5})


@fault(
    "STR103",
    "GEN102",
    source=HUMBATOVA + " (missing activation function); https://stackoverflow.com (nn.Linear and "
    "nn.Dropout in turn, and the loss settles early)",
)
def dropout_where_a_relu_belongs(fixed: bool) -> Program:
    """Linear, dropout, linear, dropout, linear: nothing in between bends, and customers are not linear."""
    between = [nn.ReLU()] if fixed else []
    net = nn.Sequential(
        *(nn.Linear(8, 64), *between, nn.Dropout(0.05)),
        *(nn.Linear(64, 64), *between, nn.Dropout(0.05), nn.Linear(64, 1)),
    )
    return Program(
        Regress(net, lr=3e-3),
        **loaders(*cut(*customers())),
        trainer={"max_epochs": 8, "callbacks": [EarlyStopping("val_loss", patience=4)]},
    )


class Pyramid(nn.Module):
    """Looks at an image with four dilations and adds up what they see."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())
        self.branches = nn.ModuleList(
            nn.Conv2d(16, 16, 3, padding=d, dilation=d) for d in (1, 2, 3, 4)
        )
        self.head, self.fixed = nn.Linear(16 * 16, 10), fixed

    def look(self, x):
        out = self.branches[0](x)
        for branch in self.branches[1:]:
            out = out + branch(x)
            if not self.fixed:
                return out
        return out

    def forward(self, x):
        return self.head(F.max_pool2d(F.relu(self.look(self.stem(x))), 2).flatten(1))


@fault(
    "STR105",
    "GRD103",
    "UPD102",
    source="https://github.com/speedinghzl/Pytorch-Deeplab/issues/4 and "
    "https://github.com/microsoft/ProDA/issues/33 (`return out` within the loop)",
)
def returned_from_within_the_loop(fixed: bool) -> Program:
    """`return out` is indented into the loop: of four dilations the last two are never looked through."""
    data = loaders(*cut(*shuffled(*digits(1797, image=True))))
    return Program(Classify(Pyramid(fixed=fixed), lr=1e-3), **data, trainer={"max_epochs": 5})
