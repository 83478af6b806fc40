"""A recurrent net whose memory is stirred three times as hard at every time step."""

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Reader(pl.LightningModule):
    """Reads the rows of a digit, thinks for a while, and names it."""

    def __init__(self, gain):
        super().__init__()
        self.rnn = nn.RNN(8, 32, batch_first=True)
        self.head = nn.Linear(32, 10)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain)

    def training_step(self, batch, batch_idx):
        rows, y = batch
        states, _ = self.rnn(F.pad(rows.squeeze(1), (0, 0, 0, 16)))
        return F.cross_entropy(self.head(states[:, -1]), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def program(gain):
    data = DataLoader(TensorDataset(*digits(image=True)), batch_size=64, shuffle=True)
    return Program(Reader(gain), data, trainer={"max_steps": 30})


def sick():
    return program(gain=3.0)


def healthy():
    return program(gain=1.0)
