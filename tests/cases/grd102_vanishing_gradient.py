"""Eight layers of sigmoids, whose slopes multiply to almost nothing."""

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class DeepNet(pl.LightningModule):
    """Eight layers between pixels and classes."""

    def __init__(self, activation):
        super().__init__()
        self.net = nn.Sequential()
        for _ in range(7):
            self.net.extend([nn.Linear(64, 64), activation()])
        self.net.append(nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def program(activation):
    data = DataLoader(TensorDataset(*digits()), batch_size=64, shuffle=True)
    return Program(DeepNet(activation), data, trainer={"max_steps": 130})


def sick():
    return program(nn.Sigmoid)


def healthy():
    return program(nn.ReLU)
