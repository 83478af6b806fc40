"""ReduceLROnPlateau lowers the learning rate by a metric, and nobody has said which."""

from __future__ import annotations

from typing import Any

import torch
from program import Program
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cases._parts import Classifier, loader, split


class Careful(Classifier):
    def __init__(self, **options: str) -> None:
        super().__init__()
        self.options = options

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        scheduler = {"scheduler": ReduceLROnPlateau(optimizer), **self.options}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def careful(**options: str) -> Program:
    train, val = split()
    return Program(
        Careful(**options), loader(*train), loader(*val, shuffle=False), {"max_epochs": 1}
    )


def sick() -> Program:
    return careful()


def healthy() -> Program:
    return careful(monitor="val_loss")
