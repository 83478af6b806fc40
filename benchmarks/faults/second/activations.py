"""ACT, a second time: units that are dead, shut or out of scale."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from .. import AUTOTRAINER, DEEPFD, KARPATHY, fault
from .._parts import Program, Supervised, characters, loaders, mlp, split, standardized
from ..first._parts import Learner, explained, gestures, meters
from ._parts import UNet, lesions, overlap, passages, patches


class NextLetter(pl.LightningModule):
    """A neural language model as of 2003: six letters, their vectors, a hidden layer."""

    def __init__(self, letters: int, gain: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(letters, 10))
        self.w1 = nn.Parameter(torch.randn(60, 100) * gain)
        self.b1 = nn.Parameter(torch.zeros(100))
        self.w2 = nn.Parameter(torch.randn(100, letters) * 0.01)
        self.b2 = nn.Parameter(torch.zeros(letters))

    def forward(self, ids):
        hidden = torch.tanh(self.table[ids].flatten(1) @ self.w1 + self.b1)
        return hidden @ self.w2 + self.b2

    def training_step(self, batch, batch_idx):
        ids, following = batch
        loss = F.cross_entropy(self(ids), following)
        self.log("loss/train", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        ids, following = batch
        self.log("loss/val", F.cross_entropy(self(ids), following))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@fault(
    "ACT102",
    "UPD104",
    "GRD102",
    source="https://github.com/karpathy/nn-zero-to-hero (makemore, part 3: activations and gradients)",
)
def weights_straight_from_randn(fixed: bool) -> Program:
    """The hidden layer's weights come from randn(60, 100) as they are: its tanh is at +-1 nearly always."""
    ids, letters = characters()
    train, val = (TensorDataset(part[:, :6], part[:, 6]) for part in passages(ids, 7, 1))
    module = NextLetter(letters, (5 / 3) / math.sqrt(60) if fixed else 3.0)
    data = loaders(train, val, batch_size=64)
    return Program(module, **data, trainer={"max_steps": 250, "val_check_interval": 50})


class Segmenter(Learner):
    """Finds lesions, and says how well."""

    lr = 3e-3

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss_of(self, batch):
        x, mask = batch
        return F.binary_cross_entropy_with_logits(self.net(x), mask)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_iou", overlap(self.net(batch[0]), batch[1]))


@fault(
    "ACT101",
    "UPD104",
    "GRD102",
    "GRD104",
    "GRD103",
    "OUT103",
    "OUT101",
    source="https://arxiv.org/abs/1708.02002 (RetinaNet: the prior goes into the last bias alone)",
)
def prior_in_every_bias(fixed: bool) -> Program:
    """The bias of -4.6 for rare positives is set in each convolution, where it is for the last one."""
    net = UNet()
    convolutions = [one for one in net.modules() if isinstance(one, nn.Conv2d)]
    for one in convolutions[-1:] if fixed else convolutions:
        nn.init.constant_(one.bias, -math.log((1 - 0.01) / 0.01))
    data = loaders(*split(*lesions()), batch_size=16)
    return Program(Segmenter(net), **data, trainer={"max_epochs": 7})


class Attention(nn.Module):
    """Self-attention, written out."""

    def __init__(self, width: int, fixed: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.fixed = nn.Linear(width, 3 * width), nn.Linear(width, width), fixed

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scale = math.sqrt(q.shape[-1])
        scores = q @ k.transpose(-2, -1)
        scores = scores / scale if self.fixed else scores * scale * scale
        return self.out(scores.softmax(-1) @ v)


class SeriesTransformer(nn.Module):
    """Reads the lines of a log with two blocks of attention."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 48), nn.Parameter(0.5 * torch.randn(20, 48))
        self.attend = nn.ModuleList(Attention(48, fixed) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(2))
        self.end = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 4))

    def forward(self, x):
        x = self.embed(x) + self.place
        for attend, norm in zip(self.attend, self.norms, strict=True):
            x = x + attend(norm(x))
        return self.end(x.mean(1))


@fault(
    "ACT102",
    "GRD102",
    "GRD101",
    "ACT103",
    source="https://nlp.seas.harvard.edu/annotated-transformer/ (why the scores are divided by sqrt(d))",
)
def scores_times_the_width(fixed: bool) -> Program:
    """Attention scores are multiplied by d and not divided by its root: each softmax is all on one place."""
    y = torch.arange(2000) % 4
    x = torch.randn(2000, 20, 8)
    alarm = torch.randint(20, (2000,))
    x[torch.arange(2000), alarm, :4] = 0.5 * torch.randn(2000, 4) + 2.0 * torch.eye(4)[y]
    x[torch.arange(2000), alarm, 7] = 3.0
    module = Supervised(SeriesTransformer(fixed), lr=1e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 6})


class Deep(nn.Module):
    """Residual blocks on a table, none of them normalized."""

    def __init__(self, depth: int, fixed: bool) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(8, 64), nn.Linear(64, 1)
        self.blocks = nn.ModuleList(mlp(64, 64, 64) for _ in range(depth))
        for block in self.blocks:
            nn.init.kaiming_normal_(block[0].weight)
            nn.init.kaiming_normal_(block[2].weight)
            if fixed:
                nn.init.zeros_(block[2].weight)

    def forward(self, x):
        x = self.start(x)
        for block in self.blocks:
            x = x + block(x)
        return self.end(x)


class TableRegression(Supervised):
    """Says how much of the variance it explains."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "ACT103",
    "LOS101",
    "GRD101",
    "UPD104",
    "LRN101",
    source="https://arxiv.org/abs/1901.09321 (Fixup: residual learning without normalization)",
)
def twelve_blocks_added_up(fixed: bool) -> Program:
    """Each of twelve residual blocks adds twice what it gets: the last one answers in hundreds."""
    module = TableRegression(Deep(12, fixed), F.mse_loss, lr=1e-3)
    return Program(module, **loaders(*split(*meters(2400))), trainer={"max_epochs": 5})


@fault(
    "ACT103",
    "GRD102",
    "GRD104",
    "UPD104",
    "OUT101",
    "LOS104",
    "OUT103",
    source="https://cs231n.github.io/neural-networks-2/#init (small random numbers); " + DEEPFD,
)
def small_random_numbers(fixed: bool) -> Program:
    """Seven convolutions start from 0.01 * randn: each shrinks what it gets, and nothing is left."""
    layers: list[nn.Module] = []
    for k, (before, after) in enumerate([(3, 24)] + [(24, 24)] * 6):
        conv = nn.Conv2d(before, after, 3, stride=2 if k in (2, 4) else 1, padding=1)
        if fixed:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        else:
            nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 6))
    data = loaders(*split(*patches(1200)))
    return Program(Supervised(net, lr=1e-3), **data, trainer={"max_epochs": 6})


class Plant(pl.LightningModule):
    """Predicts how much a plant yields, from its sensors, with SGD."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 1)

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self.head(self.net(batch["sensors"])), batch["yield"])
        self.log("mse", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        guess = self.head(self.net(batch["sensors"]))
        self.log("val_r2", explained(guess, batch["yield"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)


@fault(
    "ACT101",
    "LRN101",
    "GRD104",
    "OUT101",
    "OUT103",
    "GRD101",
    source="https://cs231n.github.io/neural-networks-1/#actfun (ReLU units can die); "
    + AUTOTRAINER,
)
def killed_by_the_first_steps(fixed: bool) -> Program:
    """SGD at 0.5 with momentum: the first steps push all ReLUs below zero, from where none returns."""
    x, y = meters(2000)
    samples = [{"sensors": a, "yield": b} for a, b in zip(x, y, strict=True)]
    return Program(
        Plant(0.02 if fixed else 0.5),
        DataLoader(samples[:1600], 32, shuffle=True),
        DataLoader(samples[1600:], 200),
        trainer={"max_epochs": 6},
    )


class Controls(nn.Module):
    """An LSTM cell that is unrolled by hand over a window."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.inward, self.out = nn.Linear(3, 4 * 32), nn.Linear(32, 4)
        self.across = nn.Linear(32, 4 * 32, bias=False)
        nn.init.normal_(self.inward.weight, std=gain / math.sqrt(3))
        nn.init.normal_(self.across.weight, std=1 / math.sqrt(32))

    def forward(self, x):
        h = c = x.new_zeros(len(x), 32)
        for t in range(x.shape[1]):
            i, f, o, g = (self.inward(x[:, t]) + self.across(h)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


@fault(
    "ACT102",
    "UPD104",
    "INP103",
    "GRD102",
    source=KARPATHY + "; https://cs231n.github.io/neural-networks-1/#actfun (saturated gates)",
)
def gates_full_open_or_shut(fixed: bool) -> Program:
    """The gates of a hand-written LSTM start forty times too wide: all of them are shut or full open."""
    x, y = gestures(1600)
    x = standardized(x.flatten(0, 1)).view_as(x)
    module = Supervised(Controls(1.0 if fixed else 40.0), lr=4e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 6})
