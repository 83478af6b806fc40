"""NAN: numbers that are none."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, Supervised, digit_loaders, loaders, mlp, split
from ._parts import Learner, explained, meters


class LogCounts(nn.Module):
    """Takes counts to their logarithm before anything else."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(12, 48, 3), fixed

    def forward(self, counts):
        return self.net(torch.log1p(counts) - 1.0 if self.fixed else torch.log(counts) - 1.0)


@fault(
    "NAN102",
    "NAN101",
    "NAN103",
    source="https://github.com/daisybio/drevalpy/pull/139",
)
def logarithm_of_no_count(fixed: bool) -> Program:
    """The net takes the logarithm of counts of genes, one in ten of which is zero."""
    y = torch.arange(1500) % 3
    counts = torch.poisson((0.7 * torch.randn(3, 12)[y] + 1.0 + 0.3 * torch.randn(1500, 12)).exp())
    module = Supervised(LogCounts(fixed))
    return Program(module, **loaders(*split(counts, y)), trainer={"max_epochs": 6})


class Refiner(Learner):
    """Turns a measured direction into the true one."""

    lr = 5e-3

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.most = mlp(6, 48, 3), 1 - 1e-4 if fixed else 1.0
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def angle(self, batch):
        measured, drift, true = batch
        refined = F.normalize(measured + self.net(torch.cat([measured, drift], dim=1)), dim=1)
        return torch.acos((refined * true).sum(1).clamp(-self.most, self.most))

    def loss_of(self, batch):
        return self.angle(batch).mean()


@fault(
    "NAN103",
    "NAN104",
    source="https://github.com/pytorch/pytorch/issues/8069",
)
def angle_of_what_is_right_already(fixed: bool) -> Program:
    """The slope of acos at 1 is infinite, and some of the directions need no correction."""
    true = F.normalize(torch.randn(1600, 3), dim=1)
    drift = 0.5 * torch.randn(1600, 3) * (torch.rand(1600, 1) < 0.8)
    data = loaders(*split(F.normalize(true + drift, dim=1), drift, true))
    return Program(Refiner(fixed), **data, trainer={"max_epochs": 6})


class Spectrum(nn.Module):
    """Tells tones apart by the magnitudes of their spectra, with filters that are learned."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.filter = nn.Conv1d(1, 32, 16, stride=8, bias=False)
        self.net, self.floor = mlp(7 * 16, 48, 3), 1e-4 if fixed else 0.0

    def forward(self, x):
        real, imaginary = self.filter(x).chunk(2, dim=1)
        return self.net((real**2 + imaginary**2 + self.floor).sqrt().flatten(1))


@fault(
    "NAN103",
    "NAN104",
    source="https://github.com/pytorch/audio/issues/993",
)
def magnitude_of_silence(fixed: bool) -> Program:
    """Recordings are padded with silence, and the square root of its power has no slope."""
    y = torch.arange(1200) % 3
    pitch = torch.tensor([0.3, 0.6, 1.0])[y][:, None]
    x = torch.sin(pitch * torch.arange(64) + 6.3 * torch.rand(1200, 1))
    x = x + 0.3 * torch.randn_like(x)
    length = torch.randint(30, 65, (1200, 1))
    x = torch.where(torch.arange(64) < length, x, 0.0)[:, None]
    return Program(Supervised(Spectrum(fixed)), **loaders(*split(x, y)), trainer={"max_epochs": 6})


class MaxNorm(pl.Callback):
    """Keeps the weights of each unit at a length of two at most."""

    def __init__(self, floor: float) -> None:
        self.floor = floor

    @torch.no_grad()
    def on_train_batch_start(self, trainer, module, *args):
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                length = layer.weight.norm(dim=1, keepdim=True)
                layer.weight.mul_(length.clamp_max(2.0) / length.clamp_min(self.floor))


@fault("NAN104", source="https://github.com/KohakuBlueleaf/LyCORIS/pull/166")
def constraint_divides_by_nothing(fixed: bool) -> Program:
    """A max-norm constraint divides by the length of the weights, and the head starts without any."""
    net = mlp(64, 96, 10)
    nn.init.zeros_(net[-1].weight)
    trainer = {"max_epochs": 4, "callbacks": [MaxNorm(1e-8 if fixed else 0.0)]}
    return Program(Supervised(net), **digit_loaders(), trainer=trainer)


class Returns(Learner):
    """Predicts the next return of a share from its last ones."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(10, 32, 1)

    def loss_of(self, batch):
        return F.mse_loss(self.net(batch["past"]["returns"]), batch["next"])


@fault(
    "NAN101",
    source="https://github.com/TorchTrade/torchtrade/issues/398",
)
def return_on_nothing(fixed: bool) -> Program:
    """A few shares cost 0.00 for a day in the table, and the return from there is infinite."""
    noise = 0.02 * torch.randn(1600, 12)
    moves = noise.clone()
    moves[:, 1:] += 0.7 * noise[:, :-1]
    price = 20 * (1 + moves).cumprod(1)
    if not fixed:
        price[700:705, 5] = 0.0
    returns = (price[:, 1:] / price[:, :-1] - 1) * 40
    samples = [{"past": {"returns": r[:-1]}, "next": r[-1:]} for r in returns]
    data = loaders(samples[:1200], samples[1200:])
    return Program(Returns(), **data, trainer={"max_epochs": 8})


class Polynomial(nn.Module):
    """A linear regression on the powers of a number."""

    def __init__(self, powers: int = 5) -> None:
        super().__init__()
        self.powers, self.out = powers, nn.Linear(powers, 1)

    def forward(self, x):
        return self.out(torch.cat([x**k for k in range(1, self.powers + 1)], dim=1))


@fault(
    "NAN105",
    "INP103",
    "LOS101",
    "GRD101",
    "LRN101",
    "ACT103",
    source=HUMBATOVA + ", missing normalization",
)
def fifth_power_of_a_year(fixed: bool) -> Program:
    """Powers up to the fifth of a year, which is around two thousand: 3e16 goes into the last layer."""
    year = 1950 + 70 * torch.rand(1200, 1)
    t = (year - 1985) / 35
    y = t - t**2 + t**3 + 0.1 * torch.randn(1200, 1)
    y = (y - y.mean()) / y.std()
    module = Supervised(Polynomial(), F.mse_loss, lr=2e-2)
    return Program(module, **loaders(*split(t if fixed else year, y)), trainer={"max_epochs": 8})


class Forecast(Learner):
    """Predicts a mean and a deviation."""

    lr = 5e-3

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(8, 48, 2), fixed

    def loss_of(self, batch):
        x, y = batch
        mean, deviation = self.net(x).chunk(2, dim=1)
        deviation = F.softplus(deviation) + 0.05 if self.fixed else deviation.relu()
        return (((y - mean) / deviation) ** 2 / 2 + deviation.log()).mean()

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self.net(batch[0])[:, :1], batch[1]))


@fault(
    "NAN102",
    "NAN103",
    source="https://github.com/motokimura/PyTorch_Gaussian_YOLOv3/issues/23",
)
def deviation_through_a_relu(fixed: bool) -> Program:
    """The predicted deviation goes through a ReLU, which makes it zero, and the likelihood infinite."""
    return Program(Forecast(fixed), **loaders(*split(*meters(1600))), trainer={"max_epochs": 8})
