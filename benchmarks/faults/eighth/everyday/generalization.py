"""GEN, as people meet it."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.nn import functional as F

from ... import fault
from ._parts import (
    DataLoader,
    Model,
    Program,
    TensorDataset,
    cut,
    digits,
    explained,
    houses,
    loaders,
    mlp,
    rng,
    standard,
)


class Price(Model):
    """The price of a house, from a row of a table."""

    def __init__(self, *sizes: int, lr: float = 1e-3) -> None:
        super().__init__(lr)
        self.net = mlp(*sizes)

    def measure(self, batch):
        x, price = batch
        out = self.net(x)
        return F.mse_loss(out, price), {"r2": explained(out, price)}


@fault(
    "GEN101",
    "INP205",
    source="common in code reviews: df.sample(frac=0.02), left in from debugging",
)
def two_percent_of_the_table(fixed: bool) -> Program:
    """To debug faster, the training table was thinned to two percent; that line is still there."""
    train, val = cut(*houses(4000))
    x, price = train.tensors
    if not fixed:
        x, price = x[:64], price[:64]
    return Program(
        Price(8, 64, 64, 1, lr=2e-3),
        DataLoader(TensorDataset(x, price), batch_size=32, shuffle=True, drop_last=True),
        DataLoader(val, batch_size=800),
        {"max_steps": 900, "val_check_interval": 100, "check_val_every_n_epoch": None},
    )


@fault(
    "GEN103",
    source="https://lightning.ai/docs/pytorch/stable/common/early_stopping.html (patience counts "
    "validations)",
)
def patience_counted_in_validations(fixed: bool) -> Program:
    """Validation runs every other batch, to see more; two looks without a gain now end the run."""
    stop = EarlyStopping("val_loss", patience=5 if fixed else 1)
    often = {} if fixed else {"val_check_interval": 2}
    return Program(
        Price(8, 64, 64, 1, lr=2e-3),
        **loaders(*houses(2000)),
        trainer={"max_epochs": 16, "callbacks": [stop], **often},
    )


@fault(
    "GEN101",
    "INP203",
    "GEN105",
    "INP202",
    source="common on Kaggle: target encoding without folds",
)
def mean_price_of_the_street_with_its_own(fixed: bool) -> Program:
    """A street is encoded as the mean price of its houses, each with its own price in it."""
    g = rng(4)
    x, price = houses(4000)
    price = standard(price + 0.6 * torch.randn(4000, 1, generator=g))
    street = torch.randint(2200, (4000,), generator=g)
    train, val = cut(torch.arange(4000))
    rows, others = train.tensors[0], val.tensors[0]

    def encoded(of: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(2200).index_add(0, street[by], price[by, 0])
        count = torch.zeros(2200).index_add(0, street[by], torch.ones(len(by)))
        return (total / count.clamp(min=1))[street[of]]

    mean = torch.zeros(4000)
    if fixed:
        for fold in rows.chunk(8):
            mean[fold] = encoded(fold, rows[~torch.isin(rows, fold)])
    else:
        mean[rows] = encoded(rows, rows)
    mean[others] = encoded(others, rows)
    x = torch.cat([x, standard(mean[:, None])], dim=1)
    return Program(
        Price(9, 32, 32, 1),
        DataLoader(TensorDataset(x[rows], price[rows]), batch_size=64, shuffle=True),
        DataLoader(TensorDataset(x[others], price[others]), batch_size=800),
        {"max_epochs": 16},
    )


@fault(
    "GEN102",
    "ACT101",
    source="common in course work: the hidden layer is as wide as the answer",
)
def hidden_layer_as_wide_as_the_answer(fixed: bool) -> Program:
    """The hidden layer was given the size of the answer, one: it can only bend along one
    direction.
    """
    x, price = houses()
    hidden = 64 if fixed else price.shape[1]
    return Program(Price(8, hidden, 1, lr=5e-3), **loaders(x, price), trainer={"max_epochs": 12})


class Autoencoder(Model):
    """Digits, squeezed through ten numbers."""

    def __init__(self) -> None:
        super().__init__(2e-3)
        self.encoder, self.decoder = mlp(64, 64, 10), mlp(10, 64, 64)

    def measure(self, batch):
        (x,) = batch
        out = self.decoder(self.encoder(x))
        return F.mse_loss(out, x), {"mae": F.l1_loss(out, x)}


@fault(
    "GEN103",
    source="https://lightning.ai/docs/pytorch/stable/common/trainer.html#max-steps",
)
def a_hundred_steps_for_a_hundred_epochs(fixed: bool) -> Program:
    """max_steps=100 was meant to be a hundred epochs, and ends the run in its ninth."""
    limit = {"max_epochs": 100} if fixed else {"max_steps": 100}
    data = loaders(digits(1797)[0], batch_size=128)
    return Program(Autoencoder(), **data, trainer=limit)
