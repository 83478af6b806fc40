"""Manual optimization in which nobody zeroes the gradients."""

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Manual(pl.LightningModule):
    """Does by hand what Lightning does otherwise."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def zero(self, optimizer):
        optimizer.zero_grad()

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = F.cross_entropy(self.net(x), y)
        self.zero(optimizer)
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class Forgetful(Manual):
    def zero(self, optimizer):
        pass


def program(module):
    data = DataLoader(TensorDataset(*digits()), batch_size=64, shuffle=True)
    return Program(module, data, trainer={"max_steps": 40})


def sick():
    return program(Forgetful())


def healthy():
    return program(Manual())
