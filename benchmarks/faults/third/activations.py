"""ACT, a third time: units that answer nothing, that are at their ends, and scales that drift."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .. import DEEPFD, HUMBATOVA, fault
from .._parts import Program, Supervised, digit_loaders, digits, loaders, mlp, split
from ..first._parts import Learner, accuracy, reviews
from ..second._parts import patches, ratings
from ._parts import Value


@fault(
    "ACT101",
    "GRD104",
    "OUT101",
    "GRD102",
    "LOS104",
    source="https://arxiv.org/abs/1903.06733 (Dying ReLU and initialization: deep and narrow nets are born dead)",
)
def deep_and_narrow(fixed: bool) -> Program:
    """Twenty-four hidden layers of three units: with so few, one layer is dead before training begins."""
    net = mlp(64, 64, 32, 10) if fixed else mlp(64, *[3] * 24, 10)
    return Program(Supervised(net, lr=2e-3), **digit_loaders(), trainer={"max_epochs": 6})


@fault(
    "ACT101",
    "UPD104",
    "GRD104",
    "OUT101",
    "LOS104",
    source=HUMBATOVA + ", wrong weights initialization; " + DEEPFD,
)
def weights_between_minus_and_nought(fixed: bool) -> Program:
    """uniform_(-0.2, 0.0): all weights are negative, all pixels positive, and no ReLU ever answers."""
    x, y = digits(1797, image=True)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    for layer in (net[0], net[2]):
        nn.init.uniform_(layer.weight, -0.2, 0.2 if fixed else 0.0)
        nn.init.zeros_(layer.bias)
    data = loaders(*split((x + 1) / 2, y))
    return Program(Supervised(net, lr=1e-3), **data, trainer={"max_epochs": 6})


class Excite(nn.Module):
    """Squeeze and excitation: each channel is weighed by a gate that has seen all of the image."""

    def __init__(self, width: int, *, fixed: bool) -> None:
        super().__init__()
        self.gates = nn.Sequential(mlp(width, width // 2, width), nn.Sigmoid())
        self.fixed = fixed

    def forward(self, x):
        squeezed = x.mean((2, 3)) if self.fixed else x.sum((2, 3))
        return x * self.gates(squeezed)[:, :, None, None]


@fault(
    "ACT102",
    source="https://arxiv.org/abs/1709.01507 (Squeeze-and-excitation: the squeeze is an average)",
)
def squeezed_by_a_sum(fixed: bool) -> Program:
    """The squeeze adds up the pixels of each channel instead of averaging: the gates are all open or shut."""
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        Excite(12, fixed=fixed),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.ReLU(),
        Excite(12, fixed=fixed),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 6),
    )
    data = loaders(*split(*patches(1400, side=18)))
    return Program(Supervised(net, lr=3e-3), **data, trainer={"max_epochs": 7})


class Experts(nn.Module):
    """A soft mixture of experts."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.router, self.choose = mlp(4, 16, 6), nn.Softmax(1)
        self.experts = nn.ModuleList(nn.Linear(4, 1) for _ in range(6))
        self.temperature = temperature

    def forward(self, x):
        share = self.choose(self.router(x) / self.temperature)
        return (share * torch.cat([expert(x) for expert in self.experts], dim=1)).sum(1, True)


@fault(
    "ACT102",
    "GRD102",
    "GRD103",
    source="https://arxiv.org/abs/1611.01144 (section 2.2: small temperatures and the gradient)",
)
def router_without_doubt(fixed: bool) -> Program:
    """The router's softmax has a temperature of 0.0005: one expert has it all, and the router never learns."""
    x = torch.randn(2000, 4)
    slope = torch.where(x[:, 0] > 0, x[:, 1] + x[:, 2], x[:, 3] - 2 * x[:, 1])
    y = slope + 0.1 * torch.randn(2000)
    data = loaders(*split(x, (y / y.std())[:, None]))
    module = Value(Experts(1.0 if fixed else 5e-4), F.mse_loss, lr=1e-2)
    return Program(module, **data, trainer={"max_epochs": 7})


@fault(
    "ACT103",
    "GRD104",
    "GRD102",
    "UPD104",
    "LOS104",
    "OUT101",
    source="https://github.com/pytorch/pytorch/issues/15314 (why sqrt(5)?), #18182 (suboptimal default init)",
)
def eighteen_layers_as_they_come(fixed: bool) -> Program:
    """Eighteen convolutions without norm start as PyTorch makes them: each halves the signal and more."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1, stride=2, bias=False), nn.ReLU()]
    for _ in range(17):
        layers += [nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))
    for layer in net[:-1]:
        if fixed and isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    data = digit_loaders(image=True)
    return Program(Supervised(net, lr=7e-4), **data, trainer={"max_epochs": 5})


class LinearAttention(nn.Module):
    """A block of attention without softmax, and of two layers for each place."""

    def __init__(self, width: int, *, fixed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp, self.fixed = mlp(width, 2 * width, width), fixed

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=2)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        read = q @ (k.mT @ v)
        if self.fixed:
            read = read / (q @ k.sum(1)[:, :, None])
        x = x + self.out(read)
        return x + self.mlp(self.norm2(x))


class Reviews(Learner):
    """Which of four products does a sentence speak of?"""

    lr = 2e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.start, self.place = nn.Embedding(80, 32), nn.Parameter(0.1 * torch.randn(12, 32))
        self.blocks = nn.Sequential(*[LinearAttention(32, fixed=fixed) for _ in range(3)])
        self.end = nn.Linear(32, 4)

    def forward(self, x):
        return self.end(self.blocks(self.start(x) + self.place).mean(1))

    def loss_of(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self(batch[0]), batch[1]))


@fault(
    "ACT103",
    "LOS101",
    "GRD101",
    "UPD104",
    source="https://arxiv.org/abs/2006.16236 (Linear transformers: equation 4 divides by the sum of the keys)",
)
def attention_that_never_divides(fixed: bool) -> Program:
    """Linear attention without its denominator: what is read grows with the length, hundreds per block."""
    data = loaders(*split(*reviews(1400)))
    return Program(Reviews(fixed=fixed), **data, trainer={"max_epochs": 5})


class Likes(Learner):
    """Does this person like that film?"""

    lr = 1e-2

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.person, self.film = nn.Embedding(120, 64), nn.Embedding(80, 64)
        self.sigmoid = nn.Sigmoid()
        if fixed:
            nn.init.normal_(self.person.weight, std=0.1)
            nn.init.normal_(self.film.weight, std=0.1)

    def forward(self, person, film):
        return self.sigmoid((self.person(person) * self.film(film)).sum(1))

    def loss_of(self, batch):
        return F.binary_cross_entropy(self(batch["person"], batch["film"]), batch["liked"])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        right = (self(batch["person"], batch["film"]) > 0.5) == (batch["liked"] > 0.5)
        self.log("val_acc", right.float().mean())


@fault(
    "LOS101",
    "ACT102",
    "UPD104",
    source="https://pytorch.org/docs/stable/generated/torch.nn.Embedding.html (weights come from N(0, 1))",
)
def product_of_wide_embeddings(fixed: bool) -> Program:
    """Embeddings start at N(0, 1), and the product of two of 64 numbers is +-8: every like starts out sure."""
    person, film, stars = ratings(8000)
    samples = [
        {"person": a, "film": b, "liked": (c > 3).float()}
        for a, b, c in zip(person, film, stars, strict=True)
    ]
    data = loaders(samples[:6400], samples[6400:], batch_size=64)
    return Program(Likes(fixed=fixed), **data, trainer={"max_epochs": 3})
