"""STR: what the module tree alone gives away."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from . import DEEPFD, HUMBATOVA, NEURALINT, fault
from ._parts import Program, Supervised, diabetes, digit_loaders, digits, loaders, mlp, split


@fault(
    "STR101",
    "MOD105",
    source="https://arxiv.org/abs/1801.05134 (Li et al., dropout and batch norm)",
)
def dropout_before_batch_norm(fixed: bool) -> Program:
    """Dropout feeds a batch norm, whose statistics differ between the modes."""
    drop, norm = nn.Dropout(0.5), nn.BatchNorm1d(64)
    if fixed:
        middle = [nn.Linear(64, 64), norm, nn.ReLU(), drop]
    else:
        middle = [drop, nn.Linear(64, 64), norm, nn.ReLU()]
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *middle, nn.Linear(64, 10))
    return Program(Supervised(net), **digit_loaders(), trainer={"max_epochs": 4})


@fault("STR103", source=NEURALINT + ", missing activation")
def linear_after_linear(fixed: bool) -> Program:
    """Three linear layers without anything between."""
    net = mlp(64, 128, 64, 10, activation=nn.ReLU if fixed else nn.Identity)
    return Program(Supervised(net), **digit_loaders(), trainer={"max_epochs": 4})


class Plain(nn.Module):
    """Convolutions, then a classifier."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 32, 3)
        self.hidden, self.out = nn.Linear(512, 64), nn.Linear(64, 10)
        self.fixed = fixed

    def forward(self, x):
        activation = F.relu if self.fixed else (lambda x: x)
        x = activation(self.one(x))
        x = activation(self.two(x))
        return self.out(activation(self.hidden(x.flatten(1))))


@fault("STR103", source=DEEPFD + ", missing activation")
def convolutions_without_activation(fixed: bool) -> Program:
    """Convolutions and linear layers in a row, no activation in forward."""
    return Program(Supervised(Plain(fixed)), **digit_loaders(image=True), trainer={"max_epochs": 3})


@fault("STR104", "MOD105", source="https://github.com/pytorch/pytorch/issues/7716")
def batch_norm_over_two(fixed: bool) -> Program:
    """Batch norm with batches of two samples."""
    net = nn.Sequential(
        nn.Linear(64, 64),
        nn.LayerNorm(64) if fixed else nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    data = loaders(*split(*digits(600)), batch_size=2)
    return Program(Supervised(net, lr=1e-3), **data, trainer={"max_epochs": 1})


class Unfinished(nn.Module):
    """Has a refinement stage."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = mlp(10, 32, 32), nn.Linear(32, 1)
        self.refine = mlp(32, 32, 32)

    def forward(self, x):
        return self.out(self.first(x).relu())


class Finished(Unfinished):
    """Uses its refinement stage."""

    def forward(self, x):
        h = self.first(x).relu()
        return self.out(h + self.refine(h))


@fault("STR105", "GRD103", "UPD102", source=HUMBATOVA + ", missing layer in forward")
def stage_never_called(fixed: bool) -> Program:
    """A stage was added to __init__ and not to forward."""
    module = Supervised(Finished() if fixed else Unfinished(), F.mse_loss)
    return Program(module, **loaders(*split(*diabetes())), trainer={"max_epochs": 10})
