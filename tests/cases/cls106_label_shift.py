"""Training is from a year with many zeros and ones, validation from one with few of them."""

from __future__ import annotations

import torch
from program import Program, digits

from cases._parts import Classifier, loader


def year(
    x: torch.Tensor, y: torch.Tensor, share: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws samples so that each class has its share."""
    drawn = torch.multinomial(share[y], len(y), replacement=True)
    return x[drawn], y[drawn]


def sick() -> Program:
    x, y = digits()
    early = torch.tensor([6.0, 6, 3, 3, 2, 2, 1, 1, 1, 1])
    late = early.flip(0)
    train = loader(*year(x[:724], y[:724], early))
    val = loader(*year(x[724:], y[724:], late), shuffle=False)
    return Program(Classifier(), train, val, trainer={"max_epochs": 2})


def healthy() -> Program:
    x, y = digits()
    early = torch.tensor([6.0, 6, 3, 3, 2, 2, 1, 1, 1, 1])
    train = loader(*year(x[:724], y[:724], early))
    val = loader(*year(x[724:], y[724:], early), shuffle=False)
    return Program(Classifier(), train, val, trainer={"max_epochs": 2})
