"""A net, and a batch that has targets of every kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

N, C, T, FEATURES = 16, 5, 7, 8


class Net(nn.Module):
    """Heads for classes, for one number, for embeddings, and for squares."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(FEATURES, C)
        self.one = nn.Linear(FEATURES, 1)
        self.embed = nn.Linear(FEATURES, 6)
        self.bare = nn.Linear(FEATURES, C, bias=False)
        self.square = nn.Linear(FEATURES, C * C)
        self.norm = nn.BatchNorm1d(C)
        self.scale = nn.Parameter(torch.tensor(2.0))


def batch() -> dict[str, Any]:
    """Inputs ``x`` and sequences ``s``; targets of classes, answers, quantities, counts, ranks."""
    yes = torch.arange(N) % 2
    return {
        "x": torch.randn(N, FEATURES),
        "s": torch.randn(4, T, FEATURES),
        "square": torch.randn(4, C, FEATURES),
        "y": torch.arange(N) % C,
        "yes": yes.float(),
        "yes_column": yes.float()[:, None],
        "many": torch.randint(0, 2, (N, C)) * (torch.arange(N) > 0).float()[:, None],
        "soft": torch.rand(N, C).softmax(1),
        "tags": torch.randint(0, C, (4, T)),
        "square_tags": torch.randint(0, C, (4, C)),
        "quantity": torch.randn(N) * 3 + 1,
        "column": torch.randn(N, 1) * 3,
        "counts": torch.poisson(torch.full((N,), 3.0)),
        "counted": torch.poisson(torch.full((256,), 3.0)).long(),
        "digits": torch.arange(256) % 10,
        "big": torch.randn(256, FEATURES),
        "teacher": torch.randn(N, C),
        "unit": torch.rand(N),
        "steps": torch.linspace(-1, 1, 4 * T).view(4, T, 1),
        "words": torch.randint(1, C, (4, 3)),
    }
