"""The gradient of raw targets, in the thousands, is clipped to 1."""

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class InkMeter(pl.LightningModule):
    """Tells how much ink there is in a picture."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def program(scale):
    x, _ = digits()
    ink = x.sum(1, keepdim=True)
    ink = scale * (ink - ink.mean()) / ink.std()
    data = DataLoader(TensorDataset(x, ink), batch_size=64, shuffle=True)
    return Program(InkMeter(), data, trainer={"max_steps": 90, "gradient_clip_val": 1.0})


def sick():
    return program(scale=1000.0)


def healthy():
    return program(scale=1.0)
