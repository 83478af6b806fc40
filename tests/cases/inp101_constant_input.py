"""The array for the images was allocated, and nobody filled it."""

from __future__ import annotations

import torch
from program import Program, digits

from cases._parts import Classifier, loader


def sick() -> Program:
    x, y = digits()
    images = torch.zeros_like(x)
    return Program(Classifier(), loader(images, y), trainer={"max_epochs": 2})


def healthy() -> Program:
    x, y = digits()
    images = torch.zeros_like(x)
    images.copy_(x)
    return Program(Classifier(), loader(images, y), trainer={"max_epochs": 2})
