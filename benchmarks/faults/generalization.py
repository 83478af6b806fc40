"""GEN: fits too well, too badly, or somewhere else than it is validated."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from . import DEEPFD, HUMBATOVA, UMLAUT, fault
from ._parts import Program, Supervised, TensorDataset, diabetes, digits, loaders, mlp, split


@fault("GEN101", source=UMLAUT + ", overfitting")
def wide_net_on_eighty_samples(fixed: bool) -> Program:
    """Wide layers and eighty samples with noisy labels; the fix is data, decay and a smaller net."""
    x = torch.randn(1600, 20)
    y = ((x[:, 0] + x[:, 1] + 1.5 * torch.randn(1600)) > 0).long()
    held = TensorDataset(x[1200:], y[1200:])
    train = TensorDataset(x[:1200], y[:1200]) if fixed else TensorDataset(x[:80], y[:80])
    module = Supervised(
        mlp(20, 8, 2) if fixed else mlp(20, 256, 256, 2), lr=1e-2 if fixed else 1e-3
    )
    data = loaders(train, held, batch_size=64 if fixed else 16)
    return Program(module, **data, trainer={"max_epochs": 6 if fixed else 50})


@fault("GEN101", source=DEEPFD + ", overfitting")
def regression_learned_by_heart(fixed: bool) -> Program:
    """A big net fits the noise of a small table, for far too long."""
    x, y = diabetes()
    train, val = split(x, y)
    net = nn.Linear(10, 1) if fixed else mlp(10, 256, 256, 1)
    module = Supervised(net, F.mse_loss, lr=5e-3 if fixed else 2e-3)
    return Program(module, **loaders(train, val), trainer={"max_epochs": 25 if fixed else 30})


@fault("GEN102", "STR103", "LOS104", source=DEEPFD + ", too small a net")
def linear_net_on_rings(fixed: bool) -> Program:
    """Which ring a point lies on is not linear in its coordinates; the net is."""
    radius = torch.where(torch.arange(1600) % 2 == 0, 1.0, 2.0)
    angle = 6.28 * torch.rand(1600)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    x = x + 0.1 * torch.randn_like(x)
    net = mlp(2, 32, 32, 2) if fixed else nn.Linear(2, 2)
    module = Supervised(net, lr=1e-2)
    data = loaders(*split(x, torch.arange(1600) % 2))
    return Program(module, **data, trainer={"max_epochs": 8})


@fault("GEN102", "GEN104", "MOD105", source=HUMBATOVA + ", wrong regularization")
def nothing_survives_the_dropout(fixed: bool) -> Program:
    """Dropout of 0.95 in both hidden layers."""
    p = 0.1 if fixed else 0.95
    net = nn.Sequential(
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(64, 10),
    )
    data = loaders(*split(*digits(1797)))
    return Program(Supervised(net), **data, trainer={"max_epochs": 6})


class Augmented(Supervised):
    """Adds noise to its training inputs."""

    def __init__(self, net, noise: float) -> None:
        super().__init__(net)
        self.noise = noise

    def training_step(self, batch, batch_idx):
        x, y = batch
        return super().training_step((x + self.noise * torch.randn_like(x), y), batch_idx)


@fault(
    "GEN104",
    "GEN102",
    "INP202",
    source="https://github.com/gpleiss/efficient_densenet_pytorch/issues/51",
)
def augmentation_too_strong(fixed: bool) -> Program:
    """Noise six times the signal in training, none in validation."""
    module = Augmented(mlp(64, 64, 10), 0.1 if fixed else 4.0)
    data = loaders(*split(*digits(1797)))
    return Program(module, **data, trainer={"max_epochs": 8})


@fault("GEN105", "CLS106", source=HUMBATOVA + ", wrong label map")
def classes_numbered_otherwise(fixed: bool) -> Program:
    """The validation folder was listed in another order: its classes have other numbers."""
    train, val = split(*digits(1797))
    if not fixed:
        val = TensorDataset(val.tensors[0], (val.tensors[1] + 3) % 10)
    return Program(Supervised(mlp(64, 64, 10)), **loaders(train, val), trainer={"max_epochs": 5})


@fault("GEN105", "INP202", source="https://github.com/fastai/fastai/issues/3281")
def validation_images_transposed(fixed: bool) -> Program:
    """Another library reads the validation images: rows and columns are exchanged."""
    train, val = split(*digits(1797))
    if not fixed:
        flipped = val.tensors[0].view(-1, 8, 8).flip(2).transpose(1, 2).flatten(1)
        val = TensorDataset(flipped, val.tensors[1])
    return Program(Supervised(mlp(64, 64, 10)), **loaders(train, val), trainer={"max_epochs": 5})
