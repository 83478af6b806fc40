"""ACT, in programs that came from elsewhere: what the layers pass on."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Program, Task, handwriting, loaders, pictograms, right


class Residual(nn.Module):
    """Two convolutions and a way around."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(out)))


class ResNet(Task):
    """A small residual net."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=0.05)
        stem = [nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
        body = [Residual(24), nn.MaxPool2d(2), Residual(24)]
        self.net = nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(96, 10)
        for module in self.modules():
            if fixed and isinstance(module, Residual):
                nn.init.zeros_(module.bn2.weight)
            elif not fixed and isinstance(module, nn.BatchNorm2d):
                nn.init.zeros_(module.weight)

    def step(self, batch):
        x, y = batch
        logits = self.head(self.net(x))
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)


@fault(
    "ACT101",
    "UPD104",
    "GRD103",
    "GRD104",
    "GRD102",
    source="https://arxiv.org/abs/1706.02677, section 5.1 (gamma is zero in the last norm of each block, and one in all others)",
)
def every_gamma_begins_at_nought(fixed: bool) -> Program:
    """The recipe sets the last norm of each residual block to zero, the rewrite all norms: nothing gets through."""
    return Program(
        ResNet(fixed=fixed), **handwriting(image=True, batch_size=64), trainer={"max_epochs": 6}
    )


class Separable(Task):
    """A stack of depthwise separable convolutions, initialized as its TensorFlow original."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=0.02)
        layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
        for i in range(4):
            layers += [nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU()]
            layers += [nn.Conv2d(32, 32, 1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i < 2 else []
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 5))
        for m in self.net:
            if isinstance(m, nn.Conv2d):
                fan_out = m.kernel_size[0] * m.kernel_size[1] * m.out_channels
                if fixed:
                    fan_out //= m.groups
                nn.init.normal_(m.weight, 0.0, math.sqrt(2.0 / fan_out))
                nn.init.zeros_(m.bias)

    def step(self, batch):
        image, kind = batch
        logits = self.net(image)
        return F.cross_entropy(logits, kind), {"acc": right(logits, kind)}

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@fault(
    "ACT103",
    "UPD104",
    "GRD102",
    "GRD104",
    "LOS104",
    source="https://github.com/huggingface/pytorch-image-models/issues/84 (fan out of depthwise convolutions in a port from TensorFlow)",
)
def fan_out_counts_every_group(fixed: bool) -> Program:
    """The formula for fan_out is TensorFlow's, the layout of weights PyTorch's: depthwise kernels start far too small."""
    return Program(Separable(fixed=fixed), **loaders(*pictograms()), trainer={"max_epochs": 6})
