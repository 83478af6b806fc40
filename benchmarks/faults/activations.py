"""ACT: units that are dead, saturated, or out of scale."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from . import AUTOTRAINER, DEEPFD, DEEPLOCALIZE, HUMBATOVA, fault
from ._parts import Program, Supervised, diabetes, digit_loaders, digits, loaders, mlp, split


@fault(
    "ACT101", "GRD103", "OUT101", "UPD104", "GRD104", "LOS104", source=AUTOTRAINER + ", dying ReLU"
)
def biases_far_below_zero(fixed: bool) -> Program:
    """The hidden layer's biases start at -10: no unit ever fires."""
    net = mlp(64, 64, 10)
    nn.init.constant_(net[0].bias, 0.0 if fixed else -10.0)
    return Program(Supervised(net), **digit_loaders(), trainer={"max_epochs": 4})


@fault(
    "ACT101",
    "LRN101",
    "UPD103",
    "OUT101",
    "LOS104",
    "GRD103",
    source="https://github.com/dangitstam/topic-rnn/pull/9",
)
def relus_killed_by_the_first_steps(fixed: bool) -> Program:
    """SGD with momentum and a rate of 2 kills most of the ReLUs in its first steps."""
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)  # noqa: E731
    module = Supervised(mlp(64, 64, 64, 10), lr=0.05 if fixed else 2.0, optimizer=sgd)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 5})


@fault("ACT102", "INP103", source=DEEPFD + ", missing normalization")
def tanh_on_raw_pixels(fixed: bool) -> Program:
    """Pixels from 0 to 255 drive every tanh into its flat part."""
    x, y = digits(1797)
    x = x if fixed else (x + 1) * 127.5
    net = mlp(64, 48, 48, 10, activation=nn.Tanh)
    return Program(Supervised(net), **loaders(*split(x, y)), trainer={"max_epochs": 4})


@fault(
    "ACT102", "UPD104", "GRD102", "GRD101", "LOS101", source=DEEPLOCALIZE + ", wrong initialization"
)
def sigmoids_at_their_ends(fixed: bool) -> Program:
    """Weights from normal(0, 10) saturate every sigmoid."""
    net = mlp(64, 48, 48, 10, activation=nn.Sigmoid)
    for layer in net:
        if isinstance(layer, nn.Linear):
            if fixed:
                nn.init.xavier_normal_(layer.weight)
            else:
                nn.init.normal_(layer.weight, std=10.0)
    return Program(Supervised(net, lr=5e-3), **digit_loaders(), trainer={"max_epochs": 4})


@fault(
    "ACT103", "GRD102", "GRD104", "UPD104", source="https://arxiv.org/abs/1502.01852 (He et al.)"
)
def signal_fades_with_depth(fixed: bool) -> Program:
    """Sixteen convolutions with small weights and no norm: the signal fades away."""
    layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, padding=1), nn.ReLU()]
    for _ in range(7 if fixed else 15):
        layers.append(nn.Conv2d(12, 12, 3, padding=1))
        layers += [nn.BatchNorm2d(12), nn.ReLU()] if fixed else [nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10))
    if not fixed:
        for layer in net:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.04)
    return Program(Supervised(net), **digit_loaders(64, image=True), trainer={"max_epochs": 4})


@fault(
    "ACT103",
    "GRD101",
    "UPD104",
    "LOS101",
    "NAN105",
    "LRN101",
    source=HUMBATOVA + ", wrong initialization",
)
def signal_grows_with_depth(fixed: bool) -> Program:
    """Eight layers with weights from normal(0, 1): each makes the signal eight times larger."""
    net = mlp(64, *[64] * 8, 10)
    for layer in net:
        if isinstance(layer, nn.Linear):
            if fixed:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
            else:
                nn.init.normal_(layer.weight)
    return Program(Supervised(net, lr=1e-3), **digit_loaders(), trainer={"max_epochs": 4})


class Attention(nn.Module):
    """Attends over the rows of an image."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.embed, self.query, self.key = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.place, self.out = nn.Parameter(torch.randn(8, 64)), nn.Linear(64, 10)
        self.scale = scale

    def forward(self, x):
        x = torch.relu(self.embed(x.view(-1, 8, 8)) + self.place)
        scores = self.query(x) @ self.key(x).transpose(1, 2) * self.scale
        return self.out((x + scores.softmax(2) @ x).mean(1))


@fault(
    "ACT102",
    "GRD101",
    "UPD103",
    "LRN101",
    source="https://arxiv.org/abs/1706.03762 (Vaswani et al.), on scaled attention",
)
def attention_multiplied_by_its_width(fixed: bool) -> Program:
    """The scores are multiplied by the root of the width, not divided: softmax picks one row."""
    module = Supervised(Attention(64**-0.5 if fixed else 64**0.5), lr=3e-3)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 5})


@fault("ACT101", "OUT102", source=HUMBATOVA + ", wrong type of activation")
def rectified_before_the_norm(fixed: bool) -> Program:
    """A second ReLU of the negative: whatever passes the first is cut by the second."""
    last = nn.Identity() if fixed else Negative()
    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), last, nn.ReLU(), nn.Linear(32, 1))
    module = Supervised(net, F.mse_loss)
    return Program(module, **loaders(*split(*diabetes())), trainer={"max_epochs": 10})


class Negative(nn.Module):
    """Minus x."""

    def forward(self, x):
        return -x
