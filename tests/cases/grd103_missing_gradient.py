"""The features are detached on their way to the head, so that the encoder never learns."""

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Classifier(pl.LightningModule):
    """An encoder, and a head on its features."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def features(self, x):
        return self.encoder(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.features(x)), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Detached(Classifier):
    def features(self, x):
        return self.encoder(x).detach()


def program(module):
    data = DataLoader(TensorDataset(*digits()), batch_size=64, shuffle=True)
    return Program(module, data, trainer={"max_steps": 60})


def sick():
    return program(Detached())


def healthy():
    return program(Classifier())
