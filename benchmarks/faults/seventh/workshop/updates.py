"""UPD, in models of one's own: weights that start or move otherwise than the paper says."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, images, right


class Branch(nn.Module):
    """A residual block without any norm, that starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.last.weight)

    def forward(self, x):
        return x + self.last(F.relu(self.first(x)))


class Fixup(Paper):
    """Sixteen blocks of that kind."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-4)
        self.first, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
        if fixed:
            self.apply(self.initialized)
        self.blocks = nn.Sequential(*[Branch(64) for _ in range(16)])
        if not fixed:
            self.apply(self.initialized)

    @staticmethod
    def initialized(layer):
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def losses(self, batch):
        x, y = batch
        logits = self.head(self.blocks(self.first(x.flatten(1))))
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}


@fault(
    "UPD104",
    "ACT103",
    "LOS101",
    "GRD101",
    source="https://github.com/yz93/LAVT-RIS/issues/25 and https://arxiv.org/abs/1901.09321 (Fixup: the last layer of each branch starts at zero)",
)
def zeros_lost_to_apply(fixed: bool) -> Program:
    """Each residual branch starts at zero, until self.apply gives all linear layers the same initialization."""
    return Program(Fixup(fixed=fixed), **images(), trainer={"max_epochs": 10})


class SAM(torch.optim.AdamW):
    """Sharpness-aware minimization: the gradient is taken a little uphill."""

    def __init__(self, params, lr: float, rho: float, *, fixed: bool) -> None:
        super().__init__(params, lr=lr)
        self.rho, self.fixed = rho, fixed

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        weights = [p for group in self.param_groups for p in group["params"]]
        old = [p.detach().clone() for p in weights]
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in weights]).norm() + 1e-12
            for p in weights:
                p.add_(p.grad, alpha=self.rho / float(norm))
        with torch.enable_grad():
            closure()
        if self.fixed:
            self.put_back(weights, old)
            super().step()
        else:
            super().step()
            self.put_back(weights, old)
        return loss

    @torch.no_grad()
    def put_back(self, weights, old):
        for p, was in zip(weights, old, strict=True):
            p.copy_(was)


class Sharp(Paper):
    """A small convolutional net with that optimizer."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip
        self.fixed = fixed

    def losses(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        return SAM(self.parameters(), self.lr, 0.05, fixed=self.fixed)


@fault(
    "UPD102",
    "LOS104",
    source="https://github.com/davda54/sam/blob/main/sam.py (second_step: the old weights first, then the step)",
)
def old_weights_return_after_the_step(fixed: bool) -> Program:
    """SAM goes uphill, takes the gradient there, makes its step, and only then gets the old weights back."""
    return Program(Sharp(fixed=fixed), **images(), trainer={"max_epochs": 7})
