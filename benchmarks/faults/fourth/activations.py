"""ACT, a fourth time: units that never fire, that are stuck, or that are no units at all."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from .. import fault
from .._parts import Program, digits
from ._parts_b import (
    Classifier,
    Learner,
    dense,
    hits,
    noise,
    r2,
    scaled,
    shapes,
    two_loaders,
    whole,
)


class Dictionary(Learner):
    """A sparse autoencoder of what a trained net has in its hidden layer."""

    lr = 3e-3

    def __init__(self, *, sparsity: float) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.decoder = nn.Linear(96, 48)
        self.encoder = nn.Linear(48, 96)
        with torch.no_grad():
            self.encoder.weight.copy_(F.normalize(torch.randn(96, 48), dim=1))
            self.decoder.weight.copy_(self.encoder.weight.T)
            self.encoder.bias.zero_()
            self.decoder.bias.zero_()

    def step(self, batch):
        (x,) = batch
        features = F.relu(self.encoder(x - self.decoder.bias))
        again = self.decoder(features)
        error = (again - x).square().sum(1).mean()
        loss = error + self.sparsity * features.sum(1).mean()
        active = (features > 0).sum(1).float().mean()
        return loss, {"r2": r2(again, x), "active": active}


@fault(
    "LOS106",
    "ACT101",
    "LOS105",
    source="https://transformer-circuits.pub/2023/monosemantic-features (dead neurons in sparse "
    "autoencoders); https://github.com/decoderesearch/SAELens/issues/202",
)
def features_that_never_fire(fixed: bool) -> Program:
    """The L1 term of a sparse autoencoder weighs so much that features go silent for good."""
    x, y = digits(1797)
    net = dense(64, 48, 10)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for i in range(150):
        chosen = whole(len(x), 64, seed=i)
        optimizer.zero_grad()
        F.cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimizer.step()
    with torch.no_grad():
        hidden = scaled(net[0](x))
    data = two_loaders(hidden)
    return Program(Dictionary(sparsity=0.3 if fixed else 10.0), **data, trainer={"max_epochs": 6})


@fault(
    "STR103",
    "GEN102",
    "ACT101",
    source="https://github.com/PantoMatrix/PantoMatrix/issues/52 (nn.LeakyReLU(True) should be "
    "nn.LeakyReLU(inplace=True))",
)
def true_taken_for_a_slope(fixed: bool) -> Program:
    """nn.LeakyReLU(True), as in nn.ReLU(True): the slope below zero is one, and the net a line."""

    def activation():
        return nn.LeakyReLU(inplace=True) if fixed else nn.LeakyReLU(True)

    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        activation(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(512, 64),
        activation(),
        nn.Linear(64, 4),
    )
    data = two_loaders(*shapes(2000))
    return Program(Classifier(net, lr=2e-3), **data, trainer={"max_epochs": 6})


class PerCustomer(pl.LightningModule):
    """A small net makes the weights of another, one set of weights for each kind of customer."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.kind = nn.Embedding(6, 12)
        self.widths = [(10, 48), (48, 48), (48, 48), (48, 1)]
        self.makers = nn.ModuleList(nn.Linear(12, a * b) for a, b in self.widths)
        self.biases = nn.ParameterList(torch.zeros(b) for _, b in self.widths)
        if fixed:
            for maker, (a, _) in zip(self.makers, self.widths, strict=True):
                nn.init.normal_(maker.weight, std=(2 / (12 * a)) ** 0.5)
                nn.init.zeros_(maker.bias)

    def forward(self, kind, x):
        code = self.kind(kind)
        for i, (a, b) in enumerate(self.widths):
            weight = self.makers[i](code).view(-1, a, b)
            x = torch.bmm(x[:, None], weight)[:, 0] + self.biases[i]
            if b > 1:
                x = F.relu(x)
        return x[:, 0]

    def training_step(self, batch, batch_idx):
        kind, x, spent = batch
        loss = F.mse_loss(self(kind, x), spent)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        kind, x, spent = batch
        out = self(kind, x)
        self.log_dict({"val_loss": F.mse_loss(out, spent), "val_r2": r2(out, spent)})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@fault(
    "ACT103",
    "LOS101",
    "GRD101",
    "UPD104",
    source="https://openreview.net/forum?id=H1lma24tPB (principled weight initialization for "
    "hypernetworks)",
)
def weights_made_by_a_net(fixed: bool) -> Program:
    """The layer that makes the weights is initialized like any other, and they come out too large."""
    kind, x = whole(6, 3000, seed=1), noise(3000, 10, seed=2)
    taste = noise(6, 10, seed=3)
    spent = (taste[kind] * x).sum(1) + (x[:, 0] * x[:, 1]) + 0.2 * noise(3000, seed=4)
    data = two_loaders(kind, x, scaled(spent))
    return Program(PerCustomer(fixed=fixed), **data, trainer={"max_epochs": 4})


class Selector(Learner):
    """Chooses eight of sixty-four sensors by relaxed samples, and classifies by those."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.choice = nn.Parameter(0.01 * torch.randn(8, 64))
        self.net = dense(8, 96, 96, 10)

    @property
    def temperature(self):
        if not self.fixed:
            return 0.01
        done = self.trainer.global_step / max(self.trainer.estimated_stepping_batches, 1)
        return 5.0 * (0.1 / 5.0) ** done

    def step(self, batch):
        x, y = batch
        if self.training:
            chosen = F.gumbel_softmax(self.choice.expand(len(x), -1, -1), tau=self.temperature)
            logits = self.net((chosen @ x[..., None])[..., 0])
        else:
            logits = self.net(x[:, self.choice.argmax(1)])
        return F.cross_entropy(logits, y), {"acc": hits(logits, y)}

    def configure_optimizers(self):
        groups = [
            {"params": [self.choice], "lr": 5e-2},
            {"params": self.net.parameters(), "lr": 3e-3},
        ]
        return torch.optim.Adam(groups)


@fault(
    "ACT102",
    "GRD101",
    "GRD102",
    "GRD107",
    source="https://arxiv.org/abs/1901.09346 (concrete autoencoders: a temperature that is low from "
    "the start)",
)
def cold_from_the_start(fixed: bool) -> Program:
    """The temperature of the relaxed choice is 0.01 from the first step, and was to be lowered to it."""
    data = two_loaders(*digits(1797))
    return Program(Selector(fixed=fixed), **data, trainer={"max_epochs": 9})


class Spike(torch.autograd.Function):
    """A step, with the slope of a fast sigmoid on the way back."""

    @staticmethod
    def forward(ctx, voltage):
        ctx.save_for_backward(voltage)
        return (voltage > 0).float()

    @staticmethod
    def backward(ctx, slope):
        (voltage,) = ctx.saved_tensors
        return slope / (1 + 5 * voltage.abs()) ** 2


class SpikingNet(nn.Module):
    """Leaky neurons that see the same image for eight moments, and spike."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 100), nn.Linear(100, 60)
        self.readout, self.fixed = nn.Linear(60, 10), fixed

    def fire(self, voltage):
        if self.fixed:
            return Spike.apply(voltage - 0.5)
        return (voltage > 0.5).float()

    def forward(self, x):
        low = x.new_zeros(len(x), 100)
        high = x.new_zeros(len(x), 60)
        total = 0.0
        for _ in range(8):
            low = 0.8 * low + self.first(x)
            spikes = self.fire(low)
            low = low - 0.5 * spikes
            high = 0.8 * high + self.second(spikes)
            again = self.fire(high)
            high = high - 0.5 * again
            total = total + self.readout(again)
        return total / 8


@fault(
    "GRD103",
    "UPD102",
    "GRD102",
    source="https://arxiv.org/abs/1901.09948 (surrogate gradients: the derivative of a spike is zero)",
)
def spikes_without_a_slope(fixed: bool) -> Program:
    """The neurons of a spiking net compare with a threshold, and no surrogate slope stands in for it."""
    data = two_loaders(*digits(1797))
    return Program(Classifier(SpikingNet(fixed=fixed), lr=2e-3), **data, trainer={"max_epochs": 6})


class Compressor(Learner):
    """An autoencoder with a narrow middle."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        last = [] if fixed else [nn.ReLU()]
        self.encoder = nn.Sequential(
            nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, 4), *last
        )
        self.decoder = dense(4, 32, 96, 64)

    def step(self, batch):
        x, _ = batch
        again = self.decoder(self.encoder(x))
        return F.mse_loss(again, x), {"r2": r2(again, x)}


@fault(
    "ACT101",
    "GEN102",
    source="https://github.com/greenelab/tybalt/pull/58 (a ReLU on the code leaves zeroed latent features)",
)
def code_of_rectified_units(fixed: bool) -> Program:
    """The code of the autoencoder has four numbers, and a ReLU after them: some are zero for good."""
    data = two_loaders(*digits(1797))
    return Program(Compressor(fixed=fixed), **data, trainer={"max_epochs": 8})
