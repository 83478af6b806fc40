"""STR, a fourth time: layers that are missing, shared, or never asked."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, digits
from ._parts_b import (
    Classifier,
    Learner,
    hits,
    noise,
    r2,
    sales,
    source,
    two_loaders,
    whole,
)

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class Tabular(Learner):
    """Embeddings and an MLP, built from a configuration."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.district, self.heating = nn.Embedding(8, 6), nn.Embedding(5, 4)
        activation = ACTIVATIONS.get(config["activation"], nn.Identity)
        layers: list[nn.Module] = []
        width = 16
        for hidden in config["hidden"]:
            layers += [nn.Linear(width, hidden), activation()]
            width = hidden
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def step(self, batch):
        kinds, x, price = batch
        known = [self.district(kinds[:, 0]), self.heating(kinds[:, 1]), x]
        out = self.net(torch.cat(known, 1)).squeeze(1)
        return F.mse_loss(out, price), {"r2": r2(out, price)}


@fault(
    "STR103",
    "GEN102",
    source=HUMBATOVA + " (a missing activation function)",
)
def unknown_activation_is_none(fixed: bool) -> Program:
    """The configuration says ReLU, the table of activations relu, and what is unknown is the identity."""
    config = {"hidden": [64, 64], "activation": "relu" if fixed else "ReLU"}
    return Program(Tabular(config), **two_loaders(*sales(2400)), trainer={"max_epochs": 7})


def unit(before: int, after: int, size: int, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    padding = dilation * (size // 2)
    conv = nn.Conv2d(before, after, size, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


class Pyramid(Learner):
    """Segments with a small pyramid of dilated convolutions and a branch for the whole image."""

    lr = 3e-3

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(unit(1, 12, 3), unit(12, 12, 3))
        self.near, self.far = unit(12, 12, 1), unit(12, 12, 3, dilation=2)
        self.everywhere = nn.Sequential(nn.AdaptiveAvgPool2d(1), unit(12, 12, 1))
        self.join = nn.Sequential(unit(36, 24, 1), nn.Conv2d(24, 3, 1))

    def step(self, batch):
        image, mask = batch
        x = self.stem(image)
        whole = F.interpolate(self.everywhere(x), size=x.shape[2:])
        logits = self.join(torch.cat([self.near(x), self.far(x), whole], 1))
        inside = mask > 0
        acc = (logits.argmax(1) == mask)[inside].float().mean()
        return F.cross_entropy(logits, mask), {"acc_inside": acc}


@fault(
    "STR104",
    "MOD105",
    "OUT105",
    source="https://github.com/jfzhang95/pytorch-deeplab-xception/issues/41",
)
def pooled_branch_of_a_batch_of_two(fixed: bool) -> Program:
    """Two images to a batch, and a batch norm after pooling each to one pixel: it sees two numbers."""
    size, side = 1000, 12
    kind = torch.arange(size) % 2
    centre = 4 + 5 * torch.rand(size, 2, 1, 1, generator=source(1))
    rows, columns = torch.arange(side)[:, None], torch.arange(side)
    disc = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2) < 7
    bar = (rows == 0) & (kind == 1)[:, None, None]
    image = 1.5 * disc + 2.0 * bar + 0.4 * noise(size, side, side)
    mask = disc * (1 + kind[:, None, None])
    return Program(
        Pyramid(),
        **two_loaders((image / image.std())[:, None], mask, batch_size=16 if fixed else 2),
        trainer={"max_steps": 200, "val_check_interval": 50, "check_val_every_n_epoch": None},
    )


class Echoes(Classifier):
    """Dilated convolutions, each with its norm, that tell how long after a click its echo comes."""

    def __init__(self, *, norms: int) -> None:
        super().__init__(nn.Identity(), lr=3e-3)
        self.start = nn.Conv1d(1, 20, 1)
        self.blocks = nn.ModuleList(
            nn.Conv1d(20, 20, 3, padding=2**i, dilation=2**i) for i in range(4)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, 20) for _ in range(norms))
        self.head = nn.Linear(20, 3)

    def forward(self, sound):
        x = self.start(sound)
        for block, norm in zip(self.blocks, self.norms):  # noqa: B905
            x = x + F.relu(norm(block(x)))
        return self.head(x.amax(2))


@fault(
    "STR105",
    "GRD103",
    "UPD102",
    source="https://docs.python.org/3/library/functions.html#zip (it stops at the shortest; strict= is "
    "for bugs like this one); " + HUMBATOVA + " (the number of layers)",
)
def zip_stops_at_the_shorter(fixed: bool) -> Program:
    """Four blocks and two norms are gone through by zip: the wider two blocks are never called."""
    size = 1200
    kind = torch.arange(size) % 3
    first = 4 + whole(20, size, seed=1)
    later = first + 8 + 5 * kind + whole(2, size, seed=2)
    sound = 0.25 * noise(size, 64, seed=3)
    sound[torch.arange(size), first] += 2.0
    sound[torch.arange(size), later] += 1.5
    data = two_loaders((sound / sound.std())[:, None], kind)
    return Program(Echoes(norms=4 if fixed else 2), **data, trainer={"max_epochs": 6})


class Shared(nn.Module):
    """Three convolutions, and a batch norm after each."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, 20, 3, padding=1) for a in (1, 20, 20))
        one = nn.BatchNorm2d(20)
        norms = [nn.BatchNorm2d(20) for _ in range(3)] if fixed else [one, one, one]
        self.norms = nn.ModuleList(norms)
        self.head = nn.Linear(80, 10)

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(F.relu(norm(conv(x))), 2, ceil_mode=True) if x.shape[2] > 2 else x
        return self.head(x.flatten(1))


@fault(
    "MOD105",
    "GEN105",
    source="https://arxiv.org/abs/1911.09665 (one batch norm for inputs of two distributions)",
)
def one_norm_for_three_places(fixed: bool) -> Program:
    """The same batch norm stands after three convolutions: its running statistics fit none of them."""
    data = two_loaders(*digits(1797, image=True))
    return Program(Classifier(Shared(fixed=fixed)), **data, trainer={"max_epochs": 5})


class Bags(Learner):
    """Says of a bag of cells whether one of them is sick, by attention over its cells."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.cell = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU())
        self.attention = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 1))
        self.head = nn.Linear(24, 1)

    def step(self, batch):
        cells, sick = batch
        seen = self.cell(cells)
        weights = self.attention(seen).softmax(dim=1)
        bag = (weights * seen).sum(1) if self.fixed else seen.mean(1)
        logit = self.head(bag).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logit, sick)
        shown = {"acc": hits(torch.stack([-logit, logit], 1), sick)}
        return loss, shown | {"largest_weight": weights.amax(1).mean()}


@fault(
    "GRD103",
    "UPD102",
    "STR105",
    source="https://arxiv.org/abs/1802.04712 (attention-based multiple instance learning); "
    + HUMBATOVA,
)
def attention_computed_and_not_applied(fixed: bool) -> Program:
    """The weights of the cells are computed and logged, and the bag is the plain mean of its cells."""
    x, y = digits(1797)
    nines = (y == 9).nonzero()[:, 0]
    others = (y != 9).nonzero()[:, 0]
    size = 1400
    sick = torch.arange(size) % 2
    cells = others[whole(len(others), size, 16, seed=1)]
    place = whole(16, size, seed=2)
    one = nines[whole(len(nines), size, seed=3)]
    rows = torch.arange(size)
    cells[rows, place] = torch.where(sick == 1, one, cells[rows, place])
    data = two_loaders(x[cells], sick.float())
    return Program(Bags(fixed=fixed), **data, trainer={"max_epochs": 9})
