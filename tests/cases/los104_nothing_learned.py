"""Inputs and labels were shuffled apart: no label has anything to do with its image."""

from __future__ import annotations

import torch
from program import Program, digits

from cases._parts import Classifier, loader

LEAD = "INP204"  # which finds the cause


def sick() -> Program:
    x, y = digits()
    return Program(Classifier(), loader(x, y[torch.randperm(len(y))]), trainer={"max_epochs": 3})


def healthy() -> Program:
    x, y = digits()
    return Program(Classifier(), loader(x, y), trainer={"max_epochs": 3})
