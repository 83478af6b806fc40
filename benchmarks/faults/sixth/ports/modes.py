"""MOD, in programs that came from elsewhere: who says that it is training now."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Program, Task, digits, handwriting, loaders, mlp, pictograms, right


class FunctionalNet(nn.Module):
    """Rewritten line by line from a Haiku module, with its flag."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 24, 3, padding=1), nn.Conv2d(24, 32, 3, padding=1)
        self.out = nn.Linear(128, 10)
        self.rate = 0.4

    def forward(self, x, is_training: bool = True):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.dropout(x, self.rate, is_training)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.dropout(x.flatten(1), self.rate, is_training)
        return self.out(x)


class Ported(Task):
    """Calls it the same way in both loops."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = FunctionalNet(), fixed

    def step(self, batch):
        x, y = batch
        logits = self.net(x, is_training=self.training) if self.fixed else self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}


@fault(
    "MOD106",
    "MOD102",
    source="https://github.com/google-deepmind/dm-haiku/issues/154 (is_training is an argument) and https://github.com/Coderx7/SimpleNet/issues/2 (functional dropout in evaluation)",
)
def is_training_unless_told_otherwise(fixed: bool) -> Program:
    """The flag of the Haiku module is true by default, and eval() does not reach it: dropout while validating."""
    return Program(Ported(fixed=fixed), **handwriting(image=True), trainer={"max_epochs": 6})


class Transfer(Task):
    """A frozen stem that keeps its statistics, and a new head."""

    def __init__(self, stem: nn.Module, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.fixed = fixed
        self.stem = stem.requires_grad_(False).eval()
        self.head = nn.Sequential(
            nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)
        )

    def train(self, mode: bool = True):
        if self.fixed:
            super().train(mode)
        if hasattr(self, "stem"):
            self.stem.eval()
        return self

    def step(self, batch):
        x, y = batch
        logits = self.head(self.stem(x))
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.head.parameters(), lr=self.lr)


@fault(
    "MOD102",
    "MOD105",
    source="https://github.com/roytseng-tw/Detectron.pytorch/issues/104 (train() overridden to keep norms frozen: training is still True after eval())",
)
def train_overridden_without_its_parent(fixed: bool) -> Program:
    """train() is overridden to keep the stem in eval, and calls no super(): eval() leaves the head in training."""
    x, y = digits(1797)
    torch.manual_seed(11)
    stem = nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 64))
    teacher = nn.Sequential(stem, nn.ReLU(), mlp(64, 10))
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for i in range(120):
        rows = torch.arange(32) + 32 * (i % 15)
        optimizer.zero_grad()
        F.cross_entropy(teacher(x[rows]), y[rows]).backward()
        optimizer.step()
    return Program(
        Transfer(stem, fixed=fixed), **loaders(x[480:], y[480:]), trainer={"max_epochs": 8}
    )


class Microscope(Task):
    """A frozen net, and a small head on top of it for another microscope."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(lr=3e-3)
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 5))

    def step(self, batch):
        image, kind = batch
        logits = self.head(self.backbone(image))
        return F.cross_entropy(logits, kind), {"acc": right(logits, kind)}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.head.parameters(), lr=self.lr)


class MicroscopeOfLightning1(Microscope):
    """Keeps the norms as they are, in each epoch."""

    def on_epoch_start(self):
        self.backbone.eval()


class MicroscopeOfLightning2(Microscope):
    """Keeps the norms as they are, in each epoch."""

    def on_train_epoch_start(self):
        self.backbone.eval()


@fault(
    "MOD103",
    "MOD105",
    source="https://github.com/Lightning-AI/pytorch-lightning/pull/11578 and https://github.com/weecology/DeepForest/issues/345 (on_epoch_start, deprecated in 1.6, unknown to 2.0)",
)
def hook_of_an_older_lightning(fixed: bool) -> Program:
    """on_epoch_start put the frozen net in eval; since 2.0 nobody calls it, and the net's statistics wander."""
    torch.manual_seed(17)
    backbone = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    teacher = nn.Sequential(backbone, nn.Linear(32, 5))
    optimizer = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    image, kind = pictograms(1280, seed=18)
    for i in range(120):
        rows = torch.arange(32) + 32 * (i % 40)
        optimizer.zero_grad()
        F.cross_entropy(teacher(image[rows]), kind[rows]).backward()
        optimizer.step()
    image, kind = pictograms(800, seed=19)
    data = loaders(0.7 * image - 0.2, kind, batch_size=8)
    kept = MicroscopeOfLightning2 if fixed else MicroscopeOfLightning1
    return Program(kept(backbone), **data, trainer={"max_epochs": 4})
