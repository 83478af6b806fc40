"""STR: the way a net is built."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, NEURALINT, fault
from .._parts import Program, Supervised, digit_loaders, digits, loaders, split
from ._parts import gestures


@fault(
    "STR101",
    "MOD105",
    source="https://arxiv.org/abs/1801.05134 (Disharmony between dropout and batch normalization)",
)
def dropout_before_each_norm(fixed: bool) -> Program:
    """A third of the values is dropped before each batch norm, whose variances are others without."""
    layers = []
    for before, after in ((64, 64), (64, 64), (64, 64)):
        linear, norm, drop = nn.Linear(before, after), nn.BatchNorm1d(after), nn.Dropout(0.3)
        layers += [linear, norm, nn.ReLU()] if fixed else [linear, nn.ReLU(), drop, norm]
    end = [nn.Dropout(0.3)] if fixed else []
    module = Supervised(nn.Sequential(*layers, *end, nn.Linear(64, 10)))
    return Program(module, **digit_loaders(), trainer={"max_epochs": 6})


@fault("STR103", "GEN102", source=NEURALINT + ", missing activation; " + HUMBATOVA)
def autoencoder_all_linear(fixed: bool) -> Program:
    """An autoencoder of six layers and no activation: four numbers' worth of a linear projection."""
    widths = [64, 96, 48, 4, 48, 96, 64]
    layers = []
    for before, after in pairwise(widths):
        layers.append(nn.Linear(before, after))
        if fixed and after != 64:
            layers.append(nn.GELU())
    x = digits(1797)[0]
    module = Supervised(nn.Sequential(*layers), F.mse_loss, lr=5e-3)
    return Program(module, **loaders(*split(x, x)), trainer={"max_epochs": 8})


@fault(
    "STR104",
    "MOD105",
    "GEN105",
    source="https://arxiv.org/abs/1803.08494 (Group normalization: batch norm on small batches)",
)
def norm_of_one_image(fixed: bool) -> Program:
    """Memory allows for one image at a time, sixteen are accumulated, and each is normed alone."""
    x, y = digits(320, image=True)
    size = 16 if fixed else 1
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    trainer = {"max_epochs": 4, "accumulate_grad_batches": 16 // size}
    data = loaders(*split(x, y), batch_size=size)
    return Program(Supervised(net, lr=5e-3), **data, trainer=trainer)


class Bypassed(nn.Module):
    """A recurrent net whose two directions are fused by a layer."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.ahead, self.back = nn.GRU(3, 24, batch_first=True), nn.GRU(3, 24, batch_first=True)
        self.fuse, self.norm = nn.Linear(48, 24), nn.LayerNorm(24)
        self.out, self.fixed = nn.Linear(24, 4), fixed

    def forward(self, x):
        ahead = self.ahead(x)[1][0]
        if self.fixed:
            back = self.back(x.flip(1))[1][0]
            ahead = torch.relu(self.fuse(torch.cat([ahead, back], dim=1)))
        return self.out(self.norm(ahead))


@fault(
    "STR105",
    "UPD102",
    "GRD103",
    source="https://github.com/inria-thoth/HySUPP/issues/3",
)
def way_back_never_taken(fixed: bool) -> Program:
    """The second direction and the layer that fuses the two were commented out of forward."""
    module = Supervised(Bypassed(fixed), lr=5e-3)
    return Program(module, **loaders(*split(*gestures(1200))), trainer={"max_epochs": 5})
