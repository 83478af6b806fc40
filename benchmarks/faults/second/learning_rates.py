"""LRN, a second time: the rate, and the schedule that moves it."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from .. import AUTOTRAINER, DEEPFD, KARPATHY, fault
from .._parts import Program, Supervised, characters, digit_loaders, digits, loaders, mlp, split
from ..first._parts import Learner, explained, gestures, reviews
from ._parts import clients, demand, forecasts, passages, patches


class Forecaster(pl.LightningModule):
    """An LSTM that forecasts the next hour, and optionally decays its rate."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lstm, self.head = nn.LSTM(1, 32, num_layers=2, batch_first=True), nn.Linear(32, 1)

    def forward(self, past):
        out, _ = self.lstm(past.unsqueeze(-1))
        return self.head(out[:, -1])

    def training_step(self, batch, batch_idx):
        past, future = batch
        loss = F.mse_loss(self(past), future)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        past, future = batch
        guess = self(past)
        self.log("val_loss", F.mse_loss(guess, future))
        self.log("val_r2", explained(guess, future))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


@fault(
    "LRN101",
    "ACT102",
    "GRD101",
    "LOS104",
    "LOS108",
    "UPD103",
    "LRN105",
    source=KARPATHY
    + "; https://stackoverflow.com/questions/46774641 (an LSTM does not learn: rate)",
)
def adam_at_one(fixed: bool) -> Program:
    """An LSTM with Adam at 1, the rate of the Adadelta that it was trained with before."""
    data = loaders(*forecasts(demand(1500)))
    return Program(Forecaster(3e-3 if fixed else 1.0), **data, trainer={"max_epochs": 6})


@fault(
    "LRN102",
    "UPD103",
    "GEN103",
    "UPD102",
    source="https://huggingface.co/docs/transformers/training (learning_rate=2e-5); " + AUTOTRAINER,
)
def rate_for_fine_tuning(fixed: bool) -> Program:
    """The rate of 2e-5 is for fine-tuning what is large and trained; this net is small and new."""
    adamw = lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.01)  # noqa: E731
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 6),
    )
    module = Supervised(net, lr=2e-3 if fixed else 2e-5, optimizer=adamw)
    return Program(module, **loaders(*split(*patches(1500))), trainer={"max_epochs": 5})


class Layerwise(Supervised):
    """Lower layers learn more slowly than higher ones."""

    def __init__(self, net, factor) -> None:
        super().__init__(net)
        self.factor = factor

    def configure_optimizers(self):
        layers = [one for one in self.net if any(True for _ in one.parameters())]
        groups = [
            {"params": layer.parameters(), "lr": self.lr * self.factor(depth)}
            for depth, layer in enumerate(layers, 1)
        ]
        return torch.optim.AdamW(groups)


@fault(
    "LRN103",
    "UPD102",
    "LRN102",
    source="https://arxiv.org/abs/1801.06146 (discriminative fine-tuning: each layer 2.6 times the one below)",
)
def layers_that_get_nothing(fixed: bool) -> Program:
    """depth // 4 for a factor that grows with depth: all layers below the fourth have a rate of zero."""
    net = mlp(64, 64, 64, 64, 10)
    factor = (lambda depth: depth / 4) if fixed else (lambda depth: depth // 4)
    return Program(Layerwise(net, factor), **digit_loaders(), trainer={"max_epochs": 6})


class Stepped(Supervised):
    """Has a scheduler."""

    def __init__(self, net, scheduler, *, interval="epoch", **options) -> None:
        super().__init__(net, **options)
        self.scheduler, self.interval = scheduler, interval

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = {"scheduler": self.scheduler(optimizer), "interval": self.interval}
        return [optimizer], [scheduler]


@fault(
    "LRN104",
    "LRN103",
    "LRN102",
    "GEN103",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/3115 (interval: step or epoch)",
)
def decayed_at_every_step(fixed: bool) -> Program:
    """ExponentialLR(0.8) is meant for epochs, and is stepped with each batch: nothing is left by the fiftieth."""
    schedule = lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)  # noqa: E731
    net = nn.Sequential(nn.EmbeddingBag(80, 24), nn.ReLU(), nn.Linear(24, 4))
    module = Stepped(net, schedule, interval="epoch" if fixed else "step", lr=5e-3)
    data = loaders(*split(*reviews(1800)))
    return Program(module, **data, trainer={"max_epochs": 7})


class TinyGpt(pl.LightningModule):
    """A character model with the schedule of the transformer paper."""

    def __init__(self, letters: int, warmup: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.token, self.place = nn.Embedding(letters, 32), nn.Embedding(24, 32)
        layer = nn.TransformerEncoderLayer(
            32, 4, 96, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 1, nn.LayerNorm(32), enable_nested_tensor=False)
        self.out = nn.Linear(32, letters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(24))

    def loss_of(self, ids):
        x = self.token(ids[:, :-1]) + self.place.weight
        logits = self.out(self.blocks(x, mask=self.mask))
        return F.cross_entropy(logits.transpose(1, 2), ids[:, 1:])

    def training_step(self, batch, batch_idx):
        loss = self.loss_of(batch[0])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        loss = self.loss_of(batch[0])
        self.log_dict({"val_loss": loss, "val_perplexity": loss.exp()})

    def configure_optimizers(self):
        adam = torch.optim.Adam(self.parameters(), lr=1.0, betas=(0.9, 0.98))
        warmup = self.hparams.warmup

        def noam(step):
            step += 1
            peak = 6e-3 * math.sqrt(40)
            return peak * min(step**-0.5, step * warmup**-1.5)

        scheduler = torch.optim.lr_scheduler.LambdaLR(adam, noam)
        return [adam], [{"scheduler": scheduler, "interval": "step"}]


@fault(
    "LRN104",
    "LRN102",
    "GEN103",
    source="https://nlp.seas.harvard.edu/annotated-transformer/ (warm-up of 4,000 steps)",
)
def warming_up_until_the_end(fixed: bool) -> Program:
    """The warm-up of 4,000 steps is the paper's, whose runs had 100,000; this one has two hundred."""
    ids, letters = characters()
    train, val = map(TensorDataset, passages(ids, 25, 3))
    data = loaders(train, val, batch_size=16)
    trainer = {"max_steps": 200, "val_check_interval": 100}
    return Program(TinyGpt(letters, 40 if fixed else 4000), **data, trainer=trainer)


@fault(
    "LRN104",
    "LRN102",
    "GEN103",
    source="https://github.com/Lightning-AI/pytorch-lightning/discussions/9601 (OneCycleLR)",
)
def one_cycle_told_of_batches(fixed: bool) -> Program:
    """OneCycleLR is made for all the steps of the run, and is stepped once in each epoch."""

    def schedule(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.05, total_steps=41 * 6, div_factor=100
        )

    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)  # noqa: E731
    module = Stepped(
        mlp(10, 64, 64, 2), schedule, interval="step" if fixed else "epoch", lr=0.02, optimizer=sgd
    )
    x, y = clients(1740)
    data = loaders(*split(x, y))
    return Program(module, **data, trainer={"max_epochs": 6})


class Restarted(Learner):
    """Forecasts the next hour, with Adam and warm restarts."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.net, self.top = mlp(24, 64, 64, 1), top

    def loss_of(self, batch):
        past, future = batch
        return F.mse_loss(self.net(past), future)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        adam = torch.optim.Adam(self.parameters(), lr=self.top)
        cosine = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(adam, 40, eta_min=1e-4)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


@fault(
    "LRN105",
    "LRN101",
    "GRD101",
    "LRN104",
    "LOS108",
    source="https://arxiv.org/abs/1608.03983 (SGDR: warm restarts)",
)
def restarts_too_warm(fixed: bool) -> Program:
    """Every warm restart sets Adam back to 0.2, and the loss with it to where it began."""
    data = loaders(*forecasts(demand(1800)))
    return Program(Restarted(4e-3 if fixed else 0.2), **data, trainer={"max_epochs": 6})


class Autoencoder(Learner):
    """Squeezes a digit into eight numbers."""

    def __init__(self, lr: float, momentum: float) -> None:
        super().__init__()
        self.net = mlp(64, 96, 8, 96, 64)
        self.lr, self.momentum = lr, momentum

    def loss_of(self, batch):
        (x,) = batch
        return F.mse_loss(self.net(x), x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)


@fault(
    "LRN102",
    "UPD103",
    "GEN103",
    source=DEEPFD + ", SGD at its default rate; https://keras.io/api/optimizers/sgd",
)
def plain_descent_by_default(fixed: bool) -> Program:
    """SGD at 0.001, as it is by default, for an error that is averaged over the pixels."""
    module = Autoencoder(0.3 if fixed else 1e-3, 0.9)
    return Program(module, **loaders(*split(digits(1797)[0])), trainer={"max_epochs": 6})


class Plateau(Supervised):
    """Lowers its rate when things do not get better."""

    def __init__(self, net, monitor: str, interval: str) -> None:
        super().__init__(net, lr=1e-3)
        self.monitor, self.interval = monitor, interval

    def configure_optimizers(self):
        adam = super().configure_optimizers()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.1, patience=2)
        scheduler = {"scheduler": plateau, "monitor": self.monitor, "interval": self.interval}
        return {"optimizer": adam, "lr_scheduler": scheduler}


@fault(
    "LRN104",
    "LRN102",
    "GEN103",
    source="https://discuss.pytorch.org/t/reducelronplateau-usage/65087",
)
def plateau_at_every_batch(fixed: bool) -> Program:
    """The plateau scheduler is told of every batch's loss: noise is no progress, and cuts the rate tenfold."""
    watched = ("val_loss", "epoch") if fixed else ("train_loss", "step")
    net = nn.Sequential(nn.Flatten(), *mlp(72, 48, 4))
    data = loaders(*split(*gestures(1600)))
    return Program(Plateau(net, *watched), **data, trainer={"max_epochs": 6})
