"""The transform of a dataset is a lambda, and its workers are spawned."""

from __future__ import annotations

from program import Program, digits
from torch.utils.data import DataLoader, TensorDataset, default_collate

from cases._parts import Classifier

OPTIONS = {"batch_size": 32, "num_workers": 1, "multiprocessing_context": "spawn"}


def sick() -> Program:
    data = TensorDataset(*digits(128))
    train = DataLoader(data, collate_fn=lambda one: default_collate(one[:]), **OPTIONS)
    return Program(Classifier(), train, trainer={"max_steps": 2})


def healthy() -> Program:
    data = TensorDataset(*digits(128))
    train = DataLoader(data, collate_fn=default_collate, **OPTIONS)
    return Program(Classifier(), train, trainer={"max_steps": 2})
