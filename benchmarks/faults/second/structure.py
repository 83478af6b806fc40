"""STR, a second time: the way a net is built."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, NEURALINT, fault
from .._parts import Program, Supervised, digits, loaders, mlp, split
from ..first._parts import Learner, explained, meters, reviews
from ._parts import UNet, lesions, overlap, patches, rings


@fault(
    "STR101",
    "MOD105",
    source="https://arxiv.org/abs/1801.05134 (Disharmony between dropout and batch normalization)",
)
def dropout_within_each_block(fixed: bool) -> Program:
    """Half of the values are dropped between a convolution's ReLU and the next block's batch norm."""
    layers: list[nn.Module] = []
    for before, after in ((3, 24), (24, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        layers += [] if fixed else [nn.Dropout(0.5)]
        layers += [nn.BatchNorm2d(after)]
        layers += [nn.MaxPool2d(2)] if after == 24 else []
    end = [nn.Dropout(0.5)] if fixed else []
    net = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), *end, nn.Linear(128, 6))
    return Program(
        Supervised(net, lr=1e-3), **loaders(*split(*patches(1400))), trainer={"max_epochs": 4}
    )


class Tabular(Supervised):
    """Says how much of the variance it explains."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "STR103",
    "GEN102",
    source="https://stackoverflow.com/questions/58190149 (why a non-linear activation); "
    + NEURALINT,
)
def layers_and_nothing_between(fixed: bool) -> Program:
    """Three linear layers with dropout between them, and no activation: a regression line."""
    act = nn.ReLU if fixed else nn.Identity
    net = nn.Sequential(
        nn.Linear(8, 64),
        act(),
        nn.Dropout(0.05),
        nn.Linear(64, 64),
        act(),
        nn.Dropout(0.05),
        nn.Linear(64, 1),
    )
    data = loaders(*split(*meters(2400)))
    return Program(Tabular(net, F.mse_loss), **data, trainer={"max_epochs": 5})


@fault(
    "STR103",
    "GEN102",
    "LOS104",
    source=HUMBATOVA + ", missing activation function; https://playground.tensorflow.org (linear)",
)
def activation_built_and_not_called(fixed: bool) -> Program:
    """forward() forgets to call the activation that __init__ has made."""
    return Program(
        Supervised(Rings(fixed=fixed), lr=5e-3),
        **loaders(*split(*rings(2000))),
        trainer={"max_epochs": 5},
    )


class Rings(nn.Module):
    """Three linear layers, and an activation."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.activation, self.fixed = nn.SiLU(), fixed

    def forward(self, x):
        if self.fixed:
            return self.third(self.activation(self.second(self.activation(self.first(x)))))
        return self.third(self.second(self.first(x)))


class Read(Learner):
    """Reads digits, with batch norm."""

    lr = 3e-3

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def loss_of(self, batch):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, y = batch
        self.log("val_acc", (self.net(x).argmax(1) == y).float().mean())


@fault(
    "STR104",
    "MOD105",
    "GRD107",
    "GEN105",
    source="https://arxiv.org/abs/1803.08494 (Group normalization: batch norm with two samples)",
)
def two_samples_to_a_norm(fixed: bool) -> Program:
    """batch_size=2, for a small machine: batch norm makes its statistics of two samples, plus and minus one."""
    x, y = digits(1797, image=True)
    size = 32 if fixed else 2
    data = loaders(*split(x, y), batch_size=size)
    trainer = {"max_steps": 250, "val_check_interval": 40 if fixed else 125}
    trainer["limit_val_batches"] = 8 if fixed else 120
    return Program(Read(), **data, trainer=trainer)


class Mixer(nn.Module):
    """A block that mixes words and then features, in the way of a transformer."""

    def __init__(self, width: int, length: int, *, fixed: bool) -> None:
        super().__init__()
        self.norm1, self.words = nn.LayerNorm(width), nn.Linear(length, length)
        self.norm2, self.features = nn.LayerNorm(width), mlp(width, 2 * width, width)
        self.fixed = fixed

    def forward(self, x):
        x = x + self.words(self.norm1(x).mT).mT
        if self.fixed:
            x = x + self.features(self.norm2(x))
        return x


class Mixed(nn.Module):
    """Two mixers over a sentence."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(80, 32)
        self.blocks = nn.Sequential(*(Mixer(32, 12, fixed=fixed) for _ in range(2)))
        self.out = nn.Linear(32, 4)

    def forward(self, ids):
        return self.out(self.blocks(self.embed(ids)).mean(1))


@fault(
    "STR105",
    "UPD102",
    "GRD103",
    source=HUMBATOVA
    + ", missing layer; https://github.com/Lightning-AI/pytorch-lightning/issues/17212",
)
def half_of_each_block(fixed: bool) -> Program:
    """The second half of each mixer block is built and never called in forward()."""
    data = loaders(*split(*reviews(2000)))
    return Program(Supervised(Mixed(fixed=fixed)), **data, trainer={"max_epochs": 4})


class Supervision(nn.Module):
    """A U-Net with a second output from its bottom, for deep supervision."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = UNet(8, norm=True), fixed
        self.deep = nn.Sequential(nn.Conv2d(16, 1, 1), nn.Upsample(scale_factor=2))

    def forward(self, x):
        top = self.net.down(x)
        bottom = self.net.bottom(top)
        out = self.net.end(torch.cat([top, self.net.up(bottom)], dim=1))
        return (out, self.deep(bottom)) if self.fixed and self.training else (out,)


class Deep(Learner):
    """Segments with deep supervision."""

    lr = 4e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = Supervision(fixed=fixed)

    def loss_of(self, batch):
        x, mask = batch
        return sum(F.binary_cross_entropy_with_logits(out, mask) for out in self.net(x))

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_iou", overlap(self.net(batch[0])[0], batch[1]))


@fault(
    "STR105",
    "UPD102",
    "GRD103",
    source="https://discuss.pytorch.org/t/unused-model-parameters-affect-optimization-for-adam/27563",
)
def second_output_never_asked_for(fixed: bool) -> Program:
    """A head for deep supervision is built, and nothing asks for what it says."""
    data = loaders(*split(*lesions()), batch_size=16)
    return Program(Deep(fixed=fixed), **data, trainer={"max_epochs": 5})


@fault(
    "STR102",
    source="https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py (bias=False before a norm)",
)
def biases_taken_away_again(fixed: bool) -> Program:
    """Each convolution has a bias that the batch norm behind it takes away again."""
    layers: list[nn.Module] = []
    for before, after in ((3, 24), (24, 32)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=not fixed),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 6))
    return Program(
        Supervised(net, lr=1e-3), **loaders(*split(*patches(1400))), trainer={"max_epochs": 4}
    )
