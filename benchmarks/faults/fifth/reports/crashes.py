"""ERR, after reports: what stops the run, most often on its first day."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ..._parts import Program, digits
from ._parts import (
    Classify,
    Task,
    cardio,
    cells,
    conv,
    customers,
    cut,
    loaders,
    mlp,
    shuffled,
)

# Which of them explains these, its name will say.
ANY = tuple(f"ERR{number}" for number in range(101, 126))


class OnTheFly(Task):
    """An autoencoder whose methods make their layers when they are called."""

    def encoder(self, x):
        z = torch.relu(nn.Linear(64, 32)(x))
        return nn.Linear(32, 10)(z)

    def decoder(self, z):
        x = torch.relu(nn.Linear(10, 32)(z))
        return nn.Linear(32, 64)(x)

    def step(self, batch):
        loss = F.mse_loss(self.decoder(self.encoder(batch[0])), batch[0])
        return loss, {"rmse": loss.detach().sqrt()}


class MadeOnce(OnTheFly):
    """The same with layers that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = mlp(64, 32, 10), mlp(10, 32, 64)

    def encoder(self, x):
        return self.down(x)

    def decoder(self, z):
        return self.up(z)


@fault(
    *ANY,
    "UPD101",
    "UPD106",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/6554 and 2282 (optimizer "
    "got an empty parameter list)",
)
def every_layer_made_when_called(fixed: bool) -> Program:
    """All layers are made within methods: the optimizer gets an empty parameter list and refuses."""
    module = MadeOnce() if fixed else OnTheFly()
    return Program(module, **loaders(*cut(*shuffled(*digits(1797)))), trainer={"max_epochs": 6})


class Lanes(Task):
    """Classes of pixels: ground, the rim of a cell, and the cell."""

    def __init__(self) -> None:
        super().__init__(lr=3e-3)
        self.net = nn.Sequential(conv(1, 12), conv(12, 16), conv(16, 16), nn.Conv2d(16, 2, 1))

    def step(self, batch):
        image, mask = batch
        logits = self.net(image)
        loss = F.cross_entropy(logits, mask)
        return loss, {"acc": (logits.argmax(1) == mask).float().mean()}


@fault(
    "ERR101",
    "LOS102",
    source="https://github.com/milesial/Pytorch-UNet/issues/226 (only batches of spatial targets "
    "supported (3D tensors) but got targets of size [1, 1, 187, 621])",
)
def mask_with_a_channel_of_its_own(fixed: bool) -> Program:
    """The mask is loaded as an image of one channel: cross_entropy wants none."""
    image, mask, _ = cells(480)
    target = mask.long() if fixed else mask[:, None].long()
    return Program(Lanes(), **loaders(*cut(image, target), 16), trainer={"max_epochs": 4})


class Rhythm(nn.Module):
    """An LSTM that reads a heart."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.head(out[:, -1])


@fault(
    "ERR101",
    "INP104",
    source="https://discuss.pytorch.org (input.size(-1) must be equal to input_size. Expected 1, "
    "got 40); https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html",
)
def series_without_a_feature_axis(fixed: bool) -> Program:
    """A univariate series is (N, length), and the LSTM wants (N, length, 1)."""
    x, y = cardio(1200)
    data = loaders(*cut(x if fixed else x.squeeze(2), y))
    return Program(Classify(Rhythm(), lr=5e-3), **data, trainer={"max_epochs": 9})


class Spending(pl.LightningModule):
    """A regression that returns a dictionary, as in the old days."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.net, self.key = mlp(8, 64, 64, 1), key

    def forward(self, x):
        return self.net(x).flatten()

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log("mse", loss, prog_bar=True)
        return {self.key: loss}

    def validation_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log_dict({"val_loss": loss, "val_r2": 1 - loss / y.var()})
        return {"val_loss": loss}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    *ANY,
    "LOS107",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/3041 and 7750 (no `loss` in "
    "the dictionary that training_step returns)",
)
def loss_under_another_key(fixed: bool) -> Program:
    """training_step returns {"train_loss": loss}, and Lightning looks for "loss"."""
    module = Spending("loss" if fixed else "train_loss")
    return Program(module, **loaders(*cut(*customers())), trainer={"max_epochs": 6})


class Churn(Task):
    """Will the customer stay?"""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.criterion, self.fixed = mlp(8, 64, 64, 1), nn.BCEWithLogitsLoss(), fixed

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        if self.fixed:
            logits = logits.squeeze(1)
        loss = self.criterion(logits, y)
        return loss, {"acc": ((logits.flatten() > 0) == (y > 0.5)).float().mean()}


@fault(
    "ERR101",
    "LOS103",
    source="the ValueError of BCEWithLogitsLoss (Target size (torch.Size([32])) must be the same as "
    "input size (torch.Size([32, 1]))), which all of https://discuss.pytorch.org asks about",
)
def column_of_logits_for_a_row_of_labels(fixed: bool) -> Program:
    """The last layer has one unit, so logits are (N, 1), and labels are (N,)."""
    x, spent = customers()
    data = loaders(*cut(x, (spent > 0).float()))
    return Program(Churn(fixed=fixed), **data, trainer={"max_epochs": 6})


class Variational(Task):
    """A variational autoencoder, as in the examples, with a sigmoid at its end."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        self.encoder, self.decoder = mlp(64, 96, 16), mlp(8, 96, 64)

    def step(self, batch):
        x = batch[0]
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp()
        out = torch.sigmoid(self.decoder(z))
        error = F.binary_cross_entropy(out, x, reduction="none").sum(1).mean()
        divergence = (mu**2 + logvar.exp() - logvar - 1).sum(1).mean() / 2
        return error + divergence, {"mse": F.mse_loss(out.detach(), x)}


@fault(
    *ANY,
    "LOS102",
    "OUT102",
    "CLS105",
    source="https://github.com/pytorch/examples/tree/main/vae with Normalize(0.5, 0.5) before it (all "
    "elements of target should be between 0 and 1)",
)
def normalized_to_minus_one_for_a_vae(fixed: bool) -> Program:
    """Normalize(0.5, 0.5) is left in the transforms: binary_cross_entropy takes no target below nought."""
    x, y = shuffled(*digits(1797))
    data = loaders(*cut((x + 1) / 2 if fixed else x, y))
    return Program(Variational(), **data, trainer={"max_epochs": 6})
