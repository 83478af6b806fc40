"""UPD, a fourth time: weights that do not move, hardly move, or start in the wrong place."""

from __future__ import annotations

import itertools

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import HUMBATOVA, fault
from .._parts import Program, digits
from ._parts_b import (
    Classifier,
    Learner,
    dense,
    headlines,
    hits,
    instruments,
    noise,
    r2,
    sales,
    scaled,
    shapes,
    two_loaders,
)


class Listener(Classifier):
    """Temporal convolutions with weight norm, over raw sound."""

    def __init__(self, *, fixed: bool) -> None:
        layers: list[nn.Module] = []
        for i, before in enumerate((1, 16, 24)):
            after = 16 if i == 0 else 24
            layers += [nn.Conv1d(before, after, 9, stride=2, padding=4), nn.LeakyReLU(0.1)]
        super().__init__(
            nn.Sequential(*layers, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(24, 4))
        )
        self.fixed = fixed
        if fixed:
            self.reparametrize()

    def reparametrize(self):
        for module in self.net:
            if isinstance(module, nn.Conv1d):
                weight_norm(module)

    def on_train_start(self):
        if not self.fixed:
            self.reparametrize()


@fault(
    "UPD101",
    "UPD102",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.parametrizations.weight_norm"
    ".html (it replaces the parameter by two others); " + HUMBATOVA,
)
def normed_by_weight_once_it_ran(fixed: bool) -> Program:
    """Weight norm is applied in on_train_start: the optimizer has the weights that it took away."""
    data = two_loaders(*instruments(1200))
    return Program(Listener(fixed=fixed), **data, trainer={"max_epochs": 6})


def encoder(*widths):
    """The layers of an encoder, as a function."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]

    def encode(x):
        for layer in layers:
            x = F.relu(layer(x))
        return x

    return encode


class Appraiser(Learner):
    """The price of a flat, from its categories and its numbers."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.district, self.heating = nn.Embedding(8, 6), nn.Embedding(5, 4)
        if fixed:
            self.encode = nn.Sequential(dense(16, 48, 24), nn.ReLU())
        else:
            self.encode = encoder(16, 48, 24)
        self.head = nn.Linear(24, 1)

    def step(self, batch):
        kinds, x, price = batch
        known = [self.district(kinds[:, 0]), self.heating(kinds[:, 1]), x]
        out = self.head(self.encode(torch.cat(known, 1))).squeeze(1)
        return F.mse_loss(out, price), {"r2": r2(out, price)}


@fault(
    "UPD101",
    "UPD102",
    source="https://discuss.pytorch.org/t/when-should-i-use-nn-modulelist-and-when-should-i-use-"
    "nn-sequential/5463 (layers that the module does not know of)",
)
def layers_within_a_closure(fixed: bool) -> Program:
    """The encoder is a function around its layers, so neither module nor optimizer knows of them."""
    data = two_loaders(*sales(2400))
    return Program(Appraiser(fixed=fixed), **data, trainer={"max_epochs": 6})


class Reader(Classifier):
    """The topic of a headline, with the fused optimizer where there is one."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(nn.Identity(), lr=4e-3)
        self.fixed = fixed
        self.words = nn.Embedding(202, 10, padding_idx=0)
        self.conv = nn.Conv1d(10, 32, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, ids):
        x = F.relu(self.conv(self.words(ids).transpose(1, 2)))
        return self.head(x.amax(2))

    def configure_optimizers(self):
        parameters = self.parameters()
        if self.fixed:
            parameters = list(parameters)
            device = parameters[0].device
        else:
            device = next(parameters).device
        return torch.optim.AdamW(parameters, lr=self.lr, fused=device.type == "cuda")


@fault(
    "UPD101",
    "UPD102",
    source="https://github.com/pytorch/pytorch/issues/2954 (parameters() is an iterator, and what is "
    "taken from it is gone)",
)
def first_weight_lost_to_a_glance(fixed: bool) -> Program:
    """next(parameters).device takes the word vectors out of the iterator that the optimizer gets."""
    data = two_loaders(*headlines(2400))
    return Program(Reader(fixed=fixed), **data, trainer={"max_epochs": 5})


class Discriminative(Classifier):
    """A rate of its own for each layer, as for fine-tuning a pretrained net."""

    decay = 0.1

    def configure_optimizers(self):
        layers = [m for m in self.net if any(True for _ in m.parameters(recurse=False))]
        groups = [
            {"params": layer.parameters(), "lr": self.lr * self.decay**depth}
            for depth, layer in enumerate(reversed(layers))
        ]
        return torch.optim.Adam(groups)


@fault(
    "UPD103",
    "LRN102",
    "GEN102",
    "GEN103",
    source="https://arxiv.org/abs/1801.06146 (discriminative rates, for a net that is pretrained)",
)
def a_tenth_for_each_layer_down(fixed: bool) -> Program:
    """A net from scratch gets rates for fine-tuning, a tenth for each layer down: 1e-7 at the bottom."""
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(384, 48),
        nn.ReLU(),
        nn.Linear(48, 4),
    )
    model = Discriminative(net, lr=1e-3)
    if fixed:
        model.decay = 1.0
    data = two_loaders(*shapes(1800))
    return Program(model, **data, trainer={"max_epochs": 7})


def start(module: nn.Module, *, fixed: bool) -> None:
    """Initial values, after the DCGAN tutorial."""
    norms = (nn.BatchNorm2d,) if fixed else (nn.Conv2d, nn.BatchNorm2d)
    if isinstance(module, norms):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(module.bias)


@fault(
    "UPD104",
    "ACT103",
    "LOS101",
    source="https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html (weights_init: a mean "
    "of one is for the norms)",
)
def convolutions_started_as_norms(fixed: bool) -> Program:
    """The initial values of the norms, one give or take 0.02, go to the convolutions as well."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(384, 10),
    )
    net.apply(lambda m: start(m, fixed=fixed))
    data = two_loaders(*digits(1797, image=True))
    return Program(Classifier(net, lr=1e-3), **data, trainer={"max_epochs": 5})


class Averaging(pl.LightningModule):
    """Validates with the moving average of its weights."""

    def __init__(self, *, decay: float) -> None:
        super().__init__()
        self.net = dense(64, 128, 64, 10)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.average.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.log_dict({"train_loss": loss, "train_acc": hits(logits, y)}, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.average.update_parameters(self.net)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.average(x)
        self.log_dict({"val_loss": F.cross_entropy(logits, y), "val_acc": hits(logits, y)})

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net.parameters(), lr=2e-3)


@fault(
    "GEN105",
    "MOD105",
    source="https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage (num_updates "
    "lowers the decay early on); https://github.com/End2End-Diffusion/REPA-E/issues/20",
)
def average_of_ten_thousand_steps(fixed: bool) -> Program:
    """Validation uses a moving average of ten thousand steps, in a run of three hundred."""
    data = two_loaders(*digits(1797))
    return Program(Averaging(decay=0.98 if fixed else 0.9999), **data, trainer={"max_epochs": 7})


class Accumulating(pl.LightningModule):
    """Collects the gradients of several batches by hand."""

    def __init__(self, *, batches: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.batches = batches
        self.net = dense(10, 64, 64, 1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = F.mse_loss(self.net(x), y)
        self.manual_backward(loss / self.batches)
        if (batch_idx + 1) % self.batches == 0:
            optimizer.step()
            optimizer.zero_grad()
        self.log("train_loss", loss, prog_bar=True)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        out = self.net(x)
        self.log_dict({"val_loss": F.mse_loss(out, y), "val_r2": r2(out, y)})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault(
    "UPD102",
    "GRD106",
    "LOS104",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/4653 (batches left over when "
    "accumulating), and the example of manual optimization",
)
def not_enough_batches_to_step(fixed: bool) -> Program:
    """The optimizer steps at each 64th batch of an epoch, by hand, and an epoch has sixty."""
    x = noise(2400, 10, seed=1)
    y = x[:, :1] * x[:, 1:2] + x[:, 2:3] + torch.sin(2 * x[:, 3:4]) + 0.2 * noise(2400, 1, seed=2)
    data = two_loaders(x, scaled(y))
    return Program(Accumulating(batches=4 if fixed else 64), **data, trainer={"max_epochs": 10})
