"""LRN, in recipes from papers: rates that belong to something else."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, digits, feed, images, mlp, right


class SimCLR(Paper):
    """Two noisy views of a digit are to find each other."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=0.05 if fixed else 4.8, cosine=True)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 64),
        )  # fmt: skip
        self.projector = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))

    def view(self, x):
        shift = int(torch.randint(-1, 2, ()))
        return x.roll(shift, 3) + 0.3 * torch.randn_like(x)

    def losses(self, batch):
        x, y = batch
        h = self.encoder(torch.cat([self.view(x), self.view(x)]))
        z = F.normalize(self.projector(h), dim=1)
        scores = (z @ z.T / 0.2).fill_diagonal_(-1e4)
        n = len(x)
        partner = (torch.arange(2 * n, device=x.device) + n) % (2 * n)
        near = F.normalize(h[:n], dim=1)
        near = (near @ near.T).fill_diagonal_(-2.0).argmax(1)
        return F.cross_entropy(scores, partner), {"knn": (y[near] == y).float().mean()}

    def configure_optimizers(self):
        rates = {"lr": self.lr, "momentum": 0.9, "weight_decay": 1e-6}
        return self.scheduled(torch.optim.SGD(self.parameters(), **rates))


@fault(
    "LRN101",
    "LOS108",
    "GRD101",
    "LOS104",
    "OUT101",
    "ACT101",
    "UPD103",
    source="https://arxiv.org/abs/2002.05709 (SimCLR: a rate of 4.8, for LARS)",
)
def rate_of_lars_for_plain_descent(fixed: bool) -> Program:
    """The rate of the paper, 4.8, was one for LARS, which divides by gradients; here it is that of plain SGD."""
    return Program(SimCLR(fixed=fixed), **images(batch_size=64), trainer={"max_epochs": 16})


class Adapter(nn.Module):
    """A frozen linear layer, and a learned change of rank 8."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, 8, bias=False)
        self.up = nn.Linear(8, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.layer(x) + 2 * self.up(self.down(x))


class Adapted(Paper):
    """A net that knows digits, to read them upside down."""

    def __init__(self, net: nn.Sequential, *, fixed: bool) -> None:
        super().__init__(lr=3e-3 if fixed else 2e-5)
        self.net = nn.Sequential(
            Adapter(net[0]), nn.ReLU(), Adapter(net[2]), nn.ReLU(), nn.Linear(128, 10)
        )

    def losses(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)


@fault(
    "LRN102",
    "GEN102",
    "GEN103",
    "UPD103",
    source="https://thinkingmachines.ai/blog/lora/ (LoRA wants ten times the rate of full fine-tuning)",
)
def adapters_at_the_rate_of_everything(fixed: bool) -> Program:
    """Adapters of low rank and a new head are trained at 2e-5, which is for fine-tuning all of a large net."""
    x, y = digits(1797)
    net = mlp(64, 128, 128, 10)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(150):
        some = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        F.cross_entropy(net(x[some]), y[some]).backward()
        optimizer.step()
    return Program(Adapted(net, fixed=fixed), **feed(x.flip(1), y), trainer={"max_epochs": 8})


class Swapped(Paper):
    """Puts averaged weights in for validation, and the others back."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-3)
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        self.average, self.backup, self.fixed = None, None, fixed

    def losses(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        now = self.net.state_dict()
        if self.average is None:
            self.average = copy.deepcopy(now)
        for name, mean in self.average.items():
            mean.lerp_(now[name], 0.1)

    def on_validation_start(self):
        if self.average is not None:
            if self.fixed or self.backup is None:
                self.backup = copy.deepcopy(self.net.state_dict())
            self.net.load_state_dict(self.average)

    def on_validation_end(self):
        if self.backup is not None:
            self.net.load_state_dict(self.backup)


@fault(
    "LRN105",
    "UPD102",
    "GEN102",
    source="https://github.com/atomistic-machine-learning/schnetpack/pull/785 and https://github.com/PKU-YuanGroup/Open-Sora-Plan/issues/186 (stored weights that come back wrong, or not at all)",
)
def backup_that_is_taken_once(fixed: bool) -> Program:
    """Averaged weights are put in for validation; what is put back is a copy from the first time, for ever."""
    return Program(Swapped(fixed=fixed), **images(), trainer={"max_epochs": 12})
