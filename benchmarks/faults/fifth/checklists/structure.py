"""STR, out of the checklists: the net is built differently from what its drawing says."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from ... import NEURALINT, UMLAUT, fault
from ..._parts import Program
from ._parts import DIAGNOSIS, REASONS, Estimator, dice, feed, friedman, hits, standardized


def quadratic(size: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """A robot's arm: two angles and a load (N, 6), and where the hand is, (N, 2)."""
    g = dice(101)
    angle = 3 * torch.rand(size, 2, generator=g) - 1.5
    load = torch.rand(size, 1, generator=g)
    far = torch.stack(
        [angle[:, 0].cos() + angle.sum(1).cos(), angle[:, 0].sin() + angle.sum(1).sin()]
    )
    far = far.T - 0.2 * load * angle
    other = torch.randn(size, 3, generator=g)
    return standardized(torch.cat([angle, load, other], dim=1)), standardized(far)


@fault(
    "STR103",
    "GEN102",
    source=UMLAUT + " (missing activation functions); " + NEURALINT + "; " + DIAGNOSIS,
)
def arm_of_four_linear_layers(fixed: bool) -> Program:
    """Four layers with dropouts between them and no activation: the angles of an arm enter as a sum."""
    layers: list[nn.Module] = []
    for before, after in ((6, 64), (64, 64), (64, 64)):
        layers += [nn.Linear(before, after), *([nn.ReLU()] if fixed else []), nn.Dropout(0.02)]
    net = nn.Sequential(*layers, nn.Linear(64, 2))
    train, val = feed(*quadratic(), size=32)
    return Program(Estimator(net, lr=2e-3), train, val, {"max_epochs": 7})


class Order(pl.LightningModule):
    """A Transformer that says which of two marks in a sequence comes first."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(12, 32)
        self.positions = nn.Embedding(10, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head, self.fixed = nn.Linear(32, 2), fixed

    def forward(self, ids):
        h = self.tokens(ids)
        if self.fixed:
            h = h + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.encoder(h).mean(1))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", hits(logits, batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


@fault(
    "STR105",
    "GRD103",
    "UPD102",
    "LOS104",
    "GEN102",
    source="the error of DistributedDataParallel (parameters that were not used in producing loss); "
    + REASONS
    + ", no. 22: check for frozen layers or variables",
)
def positions_made_and_never_added(fixed: bool) -> Program:
    """The positions are embedded in __init__ and forgotten in forward: the Transformer sees a bag."""
    g = dice(102)
    ids = torch.randint(2, 12, (2000, 10), generator=g)
    places = torch.rand(2000, 10, generator=g).argsort(1)[:, :2]
    ids.scatter_(1, places, torch.tensor([[0, 1]]).expand(2000, 2))
    y = (places[:, 0] < places[:, 1]).long()
    train, val = feed(ids, y, size=40)
    return Program(Order(fixed=fixed), train, val, {"max_epochs": 5})


@fault(
    "MOD105",
    "GEN104",
    "STR101",
    source="https://stackoverflow.com/q/48393438 (dropout on a regression); "
    + UMLAUT
    + " (dropout in the last layer); https://arxiv.org/abs/1905.05928",
)
def dropout_on_the_answer(fixed: bool) -> Program:
    """A dropout of 0.3 is the last layer of a regression: three answers of ten are nought, the others too large."""
    layers = [nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)]
    net = nn.Sequential(*layers, *([] if fixed else [nn.Dropout(0.3)]))
    train, val = feed(*friedman(1800), size=40)
    return Program(Estimator(net, lr=4e-3), train, val, {"max_epochs": 7})
