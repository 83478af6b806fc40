"""A classifier of digits, small enough for a sweep on a laptop."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Classifier(pl.LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        # By hand, and so NaN as soon as a probability is rounded to 0: high rates do not survive.
        p = self.net(x).softmax(1)
        loss = -(F.one_hot(y, 10) * p.log()).sum(1).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def batches() -> DataLoader:
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 8 - 1
    return DataLoader(TensorDataset(x, torch.tensor(data.target)), batch_size=32, shuffle=True)


def trainer(*callbacks, **options) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    return pl.Trainer(callbacks=list(callbacks), **{**quiet, **options})
