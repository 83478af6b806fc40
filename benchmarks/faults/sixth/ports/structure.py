"""STR, in programs that came from elsewhere: what the new class makes of the old one."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import DataLoader, Program, Task, givers, loaders, pictograms, right


class Giver(Task):
    """Who gives, by a small BERT."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.words, self.places = nn.Embedding(30, 32), nn.Embedding(10, 32)
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 6)
        self.fixed = fixed
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, ids):
        x = self.words(ids)
        if self.fixed:
            x = x + self.places(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.encoder(x)[:, 0]))

    def step(self, batch):
        ids, giver = batch
        logits = self(ids)
        return F.cross_entropy(logits, giver), {"acc": right(logits, giver)}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


@fault(
    "STR105",
    "GRD103",
    "UPD102",
    source="https://docs.pytorch.org/tutorials/beginner/transformer_tutorial.html (nn.TransformerEncoder knows no positions); https://github.com/d2l-ai/d2l-en/pull/2121 (positions of a BERT that are not learned)",
)
def places_are_made_and_not_added(fixed: bool) -> Program:
    """BERT's embeddings added the positions; around nn.TransformerEncoder the table is made, and nobody asks it."""
    return Program(
        Giver(fixed=fixed), **loaders(*givers(2600), batch_size=64), trainer={"max_epochs": 8}
    )


class Normed(Task):
    """Convolutions with batch norm."""

    def __init__(self) -> None:
        super().__init__(lr=5e-3)
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 64, bias=False),
            nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5),
        )  # fmt: skip

    def step(self, batch):
        image, kind = batch
        logits = self.net(image)
        return F.cross_entropy(logits, kind), {"acc": right(logits, kind)}


@fault(
    "STR104",
    "MOD105",
    "GRD107",
    "GEN105",
    source="https://github.com/pytorch/pytorch/issues/2584 and https://github.com/fundamentalvision/BEVFormer/issues/136 (norms see the batch of one GPU)",
)
def share_of_one_in_sixteen_devices(fixed: bool) -> Program:
    """The loader divides the batch by the sixteen devices of the cluster, on a single one: norms see two images."""
    data = loaders(*pictograms(1500))
    devices = 1 if fixed else 16
    train = DataLoader(data["train"].dataset, batch_size=32 // devices, shuffle=True)
    return Program(Normed(), train, data["val"], {"max_steps": 260, "val_check_interval": 30})
