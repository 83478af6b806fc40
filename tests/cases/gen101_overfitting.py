"""A wide net learns a hundred noisy labels by heart, long after the best validation."""

from __future__ import annotations

from lightning.pytorch.callbacks import EarlyStopping
from program import Program

from cases._parts import Classifier, loader, split
from cases._scored import noisy, wide


def sick() -> Program:
    (x, y), val = split()
    train = loader(x[:128], noisy(y[:128], 0.2))
    options = {"max_epochs": 30}
    return Program(
        Classifier(wide(), lr=1e-2), train, loader(*val, shuffle=False, batch_size=256), options
    )


def healthy() -> Program:
    (x, y), val = split()
    train = loader(x[:128], noisy(y[:128], 0.2))
    options = {"max_epochs": 30, "callbacks": [EarlyStopping("val_loss")]}
    return Program(
        Classifier(wide(), lr=1e-2), train, loader(*val, shuffle=False, batch_size=256), options
    )
