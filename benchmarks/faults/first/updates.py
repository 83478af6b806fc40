"""UPD: what the optimizer does, or does not, to the parameters."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from healthy._parts import pretrained
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, Supervised, digit_loaders, digits, loaders, mlp, split
from ._parts import Learner, accuracy, meters, reviews


class Proxies(nn.Module):
    """Pulls each embedding to the proxy of its class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.proxies = nn.Parameter(0.3 * torch.randn(classes, width))

    def forward(self, x, y):
        return F.cross_entropy(-torch.cdist(x, self.proxies).pow(2), y)


class Metric(Learner):
    """Learns an embedding in the plane, with a loss that has parameters of its own."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.criterion, self.fixed = mlp(64, 64, 3), Proxies(10, 3), fixed

    def loss_of(self, batch):
        x, y = batch
        return self.criterion(self.net(x), y)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, y = batch
        self.log("val_acc", accuracy(-torch.cdist(self.net(x), self.criterion.proxies), y))

    def configure_optimizers(self):
        trained = self if self.fixed else self.net
        return torch.optim.Adam(trained.parameters(), lr=5e-3)


@fault("UPD101", "UPD102", source="https://github.com/ronghuaiyang/arcface-pytorch/issues/20")
def proxies_left_where_they_were(fixed: bool) -> Program:
    """The loss has parameters, too, and the optimizer is given those of the net only."""
    return Program(Metric(fixed), **digit_loaders(), trainer={"max_epochs": 6})


class Adapted(Supervised):
    """A frozen backbone with a head, and an adapter that is put between them."""

    def __init__(self, fixed: bool) -> None:
        super().__init__(pretrained()[:-1].requires_grad_(False), lr=5e-3)
        self.head, self.adapter = nn.Linear(32, 10), None
        if fixed:
            self.adapt()

    def adapt(self) -> None:
        self.adapter = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x):
        x = self.net(x)
        return self.head(x + self.adapter(x))

    def on_train_start(self):
        if self.adapter is None:
            self.adapt()

    def on_train_epoch_start(self):
        self.net.eval()


@fault(
    "UPD101",
    "UPD102",
    source="https://github.com/adapter-hub/adapters/issues/260",
)
def adapter_added_too_late(fixed: bool) -> Program:
    """The adapter is made in on_train_start, when the optimizer has its parameters already."""
    data = digit_loaders(image=True)
    return Program(Adapted(fixed), **data, trainer={"max_epochs": 5})


class TwoOptimizers(pl.LightningModule):
    """An encoder and a head, each with an optimizer of its own, by hand."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.EmbeddingBag(80, 24), nn.ReLU(), nn.Linear(24, 8), nn.ReLU()
        )
        self.head, self.fixed = nn.Linear(8, 4), fixed
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        ids, y = batch
        for_encoder, for_head = self.optimizers()
        for_encoder.zero_grad()
        for_head.zero_grad()
        loss = F.cross_entropy(self.head(self.encoder(ids)), y)
        self.manual_backward(loss)
        if self.fixed:
            for_encoder.step()
        for_head.step()
        self.log("train_loss", loss)

    def validation_step(self, batch, batch_idx):
        ids, y = batch
        self.log("val_acc", accuracy(self.head(self.encoder(ids)), y))

    def configure_optimizers(self):
        parts = (self.encoder, self.head)
        return [torch.optim.Adam(part.parameters(), lr=5e-3) for part in parts]


@fault(
    "UPD102",
    "UPD101",
    source=HUMBATOVA + ", wrong use of optimizers",
)
def second_optimizer_never_steps(fixed: bool) -> Program:
    """Of two optimizers by hand one is never told to step: the encoder stays as it was made."""
    data = loaders(*split(*reviews(1600)))
    return Program(TwoOptimizers(fixed), **data, trainer={"max_epochs": 6})


class Decay(Learner):
    """Fits what is left of a dose in the blood: how much it was, and how long it stays."""

    lr = 2e-2

    def __init__(self, hour: float) -> None:
        super().__init__()
        self.dose, self.stay = nn.Parameter(torch.ones(())), nn.Parameter(torch.tensor(0.3 * hour))

    def loss_of(self, batch):
        time, left = batch
        return F.mse_loss(self.dose * torch.exp(-time / self.stay), left)


@fault(
    "UPD103",
    "LRN102",
    "UPD102",
    "GEN102",
    "INP103",
    source="https://arxiv.org/abs/1412.6980 (Adam: no step is much longer than the rate)",
)
def stay_in_seconds(fixed: bool) -> Program:
    """Times are in seconds, and so is the constant to be found: thousands, moved by hundredths."""
    hour = 1.0 if fixed else 3600.0
    time = 4 * torch.rand(1600)
    left = 2.5 * torch.exp(-time / 1.4) + 0.05 * torch.randn(1600)
    return Program(Decay(hour), **loaders(*split(hour * time, left)), trainer={"max_epochs": 7})


def knows_small_digits() -> nn.Sequential:
    """A net that has learned the digits from 0 to 4."""
    x, y = digits(1797)
    x, y = x[y < 5], y[y < 5]
    net = mlp(64, 96, 96, 5)
    adam = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(4):
        for part in torch.randperm(len(x)).split(32):
            adam.zero_grad()
            F.cross_entropy(net(x[part]), y[part]).backward()
            adam.step()
    return net


class LowRank(nn.Module):
    """A frozen layer, and a product of two small matrices that is learned beside it."""

    def __init__(self, layer, start, rank: int = 8) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(start(torch.empty(rank, layer.in_features)))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x):
        return self.layer(x) + x @ self.down.T @ self.up.T


@fault(
    "UPD104",
    "GRD103",
    "UPD102",
    "GRD102",
    source="https://arxiv.org/abs/2106.09685 (LoRA: one of the two starts at zero)",
)
def low_rank_of_two_zeros(fixed: bool) -> Program:
    """Both matrices of a LoRA start at zero, and each waits for the other to move."""
    start = nn.init.kaiming_uniform_ if fixed else nn.init.zeros_
    net = knows_small_digits()
    net[-1] = nn.Linear(96, 10)
    for k in (0, 2):
        net[k] = LowRank(net[k], start)
    module = Supervised(net, lr=5e-3)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 5})


class Penalized(Supervised):
    """Keeps its weights small, or so it is meant."""

    def __init__(self, net, sign: float) -> None:
        super().__init__(net, F.mse_loss, lr=1e-2)
        self.sign = sign

    def training_step(self, batch, batch_idx):
        penalty = sum(p.pow(2).sum() for p in self.parameters())
        loss = super().training_step(batch, batch_idx)
        return loss + self.sign * 3e-4 * penalty


@fault(
    "UPD105",
    "LOS108",
    "LOS109",
    "LOS106",
    source="https://github.com/andersbll/nnet/issues/4",
)
def penalty_subtracted(fixed: bool) -> Program:
    """loss - penalty for loss + penalty: the weights are paid to grow."""
    module = Penalized(mlp(8, 64, 64, 1), 1.0 if fixed else -1.0)
    return Program(module, **loaders(*split(*meters(1600))), trainer={"max_epochs": 8})


@fault(
    "UPD106",
    "LRN102",
    "UPD103",
    source="https://www.tensorflow.org/api_docs/python/tf/keras/optimizers/Adam (epsilon 1.0 or 0.1)",
)
def epsilon_of_inception(fixed: bool) -> Program:
    """Adam's epsilon is 1.0, as it was for Inception: what is left are steps a hundredth as long."""
    adam = lambda p, lr: torch.optim.Adam(p, lr=lr, eps=1e-8 if fixed else 1.0)  # noqa: E731
    module = Supervised(mlp(64, 64, 10), optimizer=adam)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 5})
