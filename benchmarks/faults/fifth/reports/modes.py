"""MOD, after reports: modes that were set for one reason and have another effect."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from ... import fault
from ..._parts import Program, digits
from ._parts import Classify, Task, accuracy, cells, conv, cut, loaders, rng, shuffled


def norm(width: int, *, tracks: bool) -> nn.BatchNorm2d:
    """A batch norm that keeps its statistics, or does not."""
    return nn.BatchNorm2d(width, track_running_stats=tracks)


@fault(
    "MOD105",
    "OUT105",
    "MOD102",
    "GEN105",
    source="https://discuss.pytorch.org/t/model-eval-gives-incorrect-loss-for-model-with-batchnorm-layers/7561 "
    "(set track_running_stats=False)",
)
def statistics_no_longer_tracked(fixed: bool) -> Program:
    """track_running_stats=False, as the forum says; validation comes folder by folder, and norms take each for itself."""
    x, y = shuffled(*digits(1797, image=True))
    train, val = cut(x, y)
    order = val.tensors[1].argsort(stable=True)
    val = TensorDataset(*(t[order] for t in val.tensors))
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), norm(16, tracks=fixed), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1, bias=False), norm(32, tracks=fixed)),
        *(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)),
    )
    data = loaders(train, val)
    data["val"] = torch.utils.data.DataLoader(val, 32)
    return Program(Classify(net, lr=1e-3), **data, trainer={"max_epochs": 5})


class Frozen(Task):
    """A head upon a body that is to stay what it is."""

    def __init__(self, body: nn.Module, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.body, self.head, self.fixed = (
            body.requires_grad_(False).eval(),
            nn.Linear(128, 5),
            fixed,
        )

    def on_train_epoch_start(self):
        self.train()
        if self.fixed:
            self.body.eval()

    def step(self, batch):
        x, y = batch
        logits = self.head(self.body(x))
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=self.lr)


@fault(
    "MOD103",
    source="https://github.com/pgniewko/gt-pyg/issues/112 (freeze() is undone by the next "
    "model.train()); https://github.com/chemprop/chemprop/pull/952",
)
def train_called_by_old_habit(fixed: bool) -> Program:
    """The frozen body was put into eval, and self.train() at each epoch, an old habit, takes it out."""
    x, y = shuffled(*digits(1797, image=True))
    low = y < 5
    body = nn.Sequential(conv(1, 16, nn.MaxPool2d(2)), conv(16, 32, nn.MaxPool2d(2)), nn.Flatten())
    head, g = nn.Linear(128, 5), rng(71)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(120):
        at = torch.randint(int(low.sum()), (32,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(head(body(x[low][at])), y[low][at]).backward()
        optimizer.step()
    data = loaders(*cut(x[~low], y[~low] - 5))
    return Program(Frozen(body, fixed=fixed), **data, trainer={"max_epochs": 6})


class Detector(nn.Module):
    """Gives losses while it trains and boxes else, as the detectors of torchvision do."""

    def __init__(self) -> None:
        super().__init__()
        pools = [nn.MaxPool2d(2), nn.MaxPool2d(2)]
        self.body = nn.Sequential(conv(1, 16, pools[0]), conv(16, 32, pools[1]), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 4))

    def losses(self, image, box):
        out = self.head(self.body(image))
        return {
            "middle": F.smooth_l1_loss(out[:, :2], box[:, :2]),
            "size": F.smooth_l1_loss(out[:, 2:], box[:, 2:]),
        }

    def forward(self, image, box=None):
        if self.training:
            return self.losses(image, box)
        return self.head(self.body(image))


class Detect(Task):
    """Training and validation of the detector."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.detector, self.fixed = Detector(), fixed

    def training_step(self, batch, batch_idx):
        losses = self.detector(*batch)
        self.log_dict(losses)
        return sum(losses.values())

    def validation_step(self, batch, batch_idx):
        if self.fixed:
            losses = self.detector.losses(*batch)
        else:
            self.detector.train()
            losses = self.detector(*batch)
        self.log("val_loss", sum(losses.values()), prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)]


@fault(
    "MOD102",
    "MOD105",
    source="https://github.com/wdoppenberg/ellipse-rcnn/issues/13 (self.train(True) in validation, "
    "because only then there are losses); https://github.com/pytorch/vision/issues/1350",
)
def detector_asked_for_its_validation_loss(fixed: bool) -> Program:
    """Only in train mode does the detector give losses: validation_step sets it, dropout, norms and all."""
    image, _, box = cells(800)
    data = loaders(*cut(image, (box - 8) / 4))
    return Program(Detect(fixed=fixed), **data, trainer={"max_epochs": 5})
