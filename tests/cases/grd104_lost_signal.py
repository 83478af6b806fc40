"""A recurrent net that has read the digit long before it is asked."""

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Reader(pl.LightningModule):
    """Reads the rows of a digit, and then forty blank ones."""

    def __init__(self, pool):
        super().__init__()
        self.rnn = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, 10)
        self.pool = pool

    def training_step(self, batch, batch_idx):
        rows, y = batch
        states, _ = self.rnn(F.pad(rows.squeeze(1), (0, 0, 0, 40)))
        return F.cross_entropy(self.head(self.pool(states)), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def last(states):
    return states[:, -1]


def highest(states):
    return states.amax(1)


def program(pool):
    data = DataLoader(TensorDataset(*digits(image=True)), batch_size=16, shuffle=True)
    return Program(Reader(pool), data, trainer={"max_steps": 130})


def sick():
    return program(last)


def healthy():
    return program(highest)
