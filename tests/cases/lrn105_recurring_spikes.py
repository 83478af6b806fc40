"""Two samples are far brighter than all others: whenever one comes, the weights are thrown about."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F

from cases._parts import Classifier, loader


class Autoencoder(Classifier):
    def __init__(self) -> None:
        encoder = [nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 16), nn.Tanh()]
        decoder = [nn.Linear(16, 48), nn.Tanh(), nn.Linear(48, 64)]
        super().__init__(nn.Sequential(*encoder, *decoder))

    def loss(self, x, y):
        return F.mse_loss(self(x), x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def glaring():
    x, y = digits()
    x[::600] *= 50
    return loader(x, y)


def sick() -> Program:
    return Program(Autoencoder(), glaring(), trainer={"max_epochs": 5})


def healthy() -> Program:
    clipped = {"gradient_clip_val": 0.1}
    return Program(Autoencoder(), glaring(), trainer={"max_epochs": 5, **clipped})
