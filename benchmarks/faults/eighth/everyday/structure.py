"""STR, as people meet it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, loaders, rng, standard


class Tabular(Model):
    """Columns of numbers and of categories, as competitions have them."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(3e-3)
        self.shop, self.month = nn.Embedding(8, 4), nn.Embedding(12, 4)
        layers: list[nn.Module] = []
        for inputs in (13, 48):
            layers += [nn.Linear(inputs, 48, bias=False), nn.BatchNorm1d(48)]
            layers += [nn.ReLU()] if fixed else []
        self.net = nn.Sequential(*layers, nn.Linear(48, 1))

    def measure(self, batch):
        numbers, shop, month, returns = batch
        x = torch.cat([numbers, self.shop(shop), self.month(month)], dim=1)
        logits = self.net(x).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logits, returns)
        return loss, {"acc": ((logits > 0) == (returns > 0)).float().mean()}


@fault(
    "STR103",
    "GEN102",
    source="common on Kaggle: Linear, BatchNorm1d, Linear, BatchNorm1d, and no ReLU",
)
def norms_taken_for_activations(fixed: bool) -> Program:
    """Linear layers and batch norms take turns, and no activation comes between: all is linear
    in the end.
    """
    g = rng(16)
    numbers = torch.randn(5000, 5, generator=g)
    shop, month = torch.randint(8, (5000,), generator=g), torch.randint(12, (5000,), generator=g)
    season = torch.cos(month * torch.pi / 6)
    score = numbers[:, 0] * numbers[:, 1] + numbers[:, 2].abs() - 0.8 + season * (shop % 2 * 2 - 1)
    returns = (score + 0.2 * torch.randn(5000, generator=g) > 0).float()
    return Program(
        Tabular(fixed=fixed),
        **loaders(standard(numbers), shop, month, returns, batch_size=32),
        trainer={"max_epochs": 10, "accumulate_grad_batches": 2},
    )
