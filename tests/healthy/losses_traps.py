"""Losses that look wrong and are not."""

from __future__ import annotations

import torch
from program import Program, digits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from healthy import healthy
from healthy._parts import Classifier, digit_loaders, mlp


class Slow(Classifier):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@healthy
def slow_descent() -> Program:
    """After the whole run the net is hardly better than a guess, and on its way."""
    data = digit_loaders(image=False)
    return Program(Slow(mlp(64, 64, 10), lr=2e-3), **data, trainer={"max_epochs": 3})


class Quantiles(Classifier):
    """Each of nine quantiles against the target: all pairs, on purpose."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        error = y[:, None] - self(x)
        huber = F.smooth_l1_loss(self(x), y[:, None].expand(-1, 9), reduction="none")
        share = torch.arange(1, 10) / 10
        return ((share - (error < 0).float()).abs() * huber).mean()


@healthy
def nine_quantiles() -> Program:
    """The classes of digits serve as quantities, in floating point."""
    x, y = digits()
    data = DataLoader(TensorDataset(x, (y.float() - 4.5) / 2.9), batch_size=32, shuffle=True)
    return Program(Quantiles(mlp(64, 64, 9)), data, trainer={"max_epochs": 4})


class Forgetful(Classifier):
    """Learns nine classes, and unlearns the last one."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores, last = self(x), y == 9
        unlearned = F.cross_entropy(scores, torch.where(last, y, -100)).nan_to_num().clamp(max=4)
        return F.cross_entropy(scores, torch.where(last, -100, y)) - 0.1 * unlearned


@healthy
def unlearning() -> Program:
    """A loss that is maximized beside one that is minimized."""
    return Program(
        Forgetful(mlp(64, 64, 10)), **digit_loaders(image=False), trainer={"max_epochs": 4}
    )


class Sparse(Classifier):
    """Weights are penalized, and few of them are needed."""

    def training_step(self, batch, batch_idx):
        penalty = sum(p.abs().sum() for p in self.net.parameters())
        return super().training_step(batch, batch_idx) + 2e-3 * penalty


@healthy
def sparse_weights() -> Program:
    """The penalty is larger than the loss, and pulls about as hard."""
    return Program(Sparse(mlp(64, 64, 10)), **digit_loaders(image=False), trainer={"max_epochs": 5})


class OneHot(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self(x).softmax(1), F.one_hot(y, 10).float())


@healthy
def brier_score() -> Program:
    """A squared error for classes, as it should be: of their probabilities."""
    return Program(OneHot(mlp(64, 64, 10)), **digit_loaders(image=False), trainer={"max_epochs": 4})
