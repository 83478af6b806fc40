"""ERR: runs that end with an exception."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from . import HUMBATOVA, NEURALINT, fault
from ._parts import Program, Supervised, blobs, diabetes, digit_loaders, digits, loaders, mlp, split

# Any ERR rule that explains the exception will do; what was known before it may lead as well.
SHAPE = ("ERR101", "ERR102", "ERR103", "ERR104", "ERR105", "ERR106")


@fault(*SHAPE, source=NEURALINT + ", wrong size of a layer")
def flattened_size_wrong(fixed: bool) -> Program:
    """The linear layer expects another image size."""
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72 if fixed else 128, 10),
    )
    return Program(Supervised(net), **digit_loaders(image=True), trainer={"max_epochs": 3})


@fault("CLS105", *SHAPE, source="https://github.com/pytorch/pytorch/issues/15666")
def labels_count_from_one(fixed: bool) -> Program:
    """Labels 1..10 for ten outputs: "Target 10 is out of bounds"."""
    x, y = digits(1797)
    data = loaders(*split(x, y if fixed else y + 1))
    return Program(Supervised(mlp(64, 64, 10)), **data, trainer={"max_epochs": 3})


@fault(*SHAPE, "CLS105", source=HUMBATOVA + ", wrong data type")
def labels_as_floats(fixed: bool) -> Program:
    """Class numbers as floats in a cross entropy: "expected scalar type Long"."""
    x, y = blobs()
    data = loaders(*split(x, y if fixed else y.float()))
    return Program(Supervised(mlp(16, 32, 4)), **data, trainer={"max_epochs": 3})


@fault(*SHAPE, source=HUMBATOVA + ", wrong data type")
def features_in_double(fixed: bool) -> Program:
    """NumPy's float64 goes into float32 layers."""
    x, y = diabetes()
    data = loaders(*split(x if fixed else x.double(), y))
    return Program(Supervised(mlp(10, 32, 1), F.mse_loss), **data, trainer={"max_epochs": 3})


@fault(*SHAPE, source="https://github.com/pytorch/pytorch/issues/122959")
def grey_images_for_three_channels(fixed: bool) -> Program:
    """A net for colour images gets grey ones."""
    net = nn.Sequential(
        nn.Conv2d(1 if fixed else 3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )
    return Program(Supervised(net), **digit_loaders(image=True), trainer={"max_epochs": 3})


@fault(*SHAPE, "CLS105", source=HUMBATOVA + ", index out of range")
def token_beyond_the_vocabulary(fixed: bool) -> Program:
    """An embedding of 30 words, and a token 30."""
    tokens = torch.randint(31, (800, 6))
    net = nn.Sequential(nn.Embedding(31 if fixed else 30, 8), nn.Flatten(), nn.Linear(48, 3))
    data = loaders(*split(tokens, tokens[:, 0] % 3))
    return Program(Supervised(net, lr=1e-2), **data, trainer={"max_epochs": 4})


@fault(*SHAPE, "LOS102", source=NEURALINT + ", wrong activation for the loss")
def logits_into_binary_cross_entropy(fixed: bool) -> Program:
    """binary_cross_entropy without a sigmoid: "all elements of input should be between 0 and 1"."""
    x, y = blobs(800, classes=2)
    net = mlp(16, 32, 1)
    if fixed:
        net.append(nn.Sigmoid())
    data = loaders(*split(x, y.float()[:, None]))
    return Program(Supervised(net, F.binary_cross_entropy), **data, trainer={"max_epochs": 3})
