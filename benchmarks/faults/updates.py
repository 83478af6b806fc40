"""UPD: parameters that the optimizer does not have, does not move, moves too far, or starts badly."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from healthy._parts import new_digits, pretrained
from torch import nn
from torch.nn import functional as F

from . import AUTOTRAINER, DEEPFD, HUMBATOVA, TRAINCHECK, fault
from ._parts import (
    DataLoader,
    Program,
    Supervised,
    TensorDataset,
    blobs,
    diabetes,
    digit_loaders,
    digits,
    loaders,
    mlp,
    split,
)


class Stack(nn.Module):
    """Hidden layers, in a list."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        layers = [nn.Linear(64, 64) for _ in range(2)]
        self.layers = nn.ModuleList(layers) if fixed else layers
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.out(x)


@fault("UPD101", source="https://github.com/pytorch/pytorch/issues/666")
def layers_in_a_python_list(fixed: bool) -> Program:
    """Layers in a plain list: nobody knows of their parameters."""
    return Program(Supervised(Stack(fixed)), **digit_loaders(), trainer={"max_epochs": 4})


@fault("UPD101", source="https://github.com/ikostrikov/pytorch-meta-optimizer/issues/11")
def cells_in_a_dict(fixed: bool) -> Program:
    """One net for each modality, in a plain dict."""
    samples = [
        {"left": x[:32], "right": x[32:], "label": y} for x, y in zip(*digits(1797), strict=True)
    ]
    loader = DataLoader(samples, batch_size=32, shuffle=True)
    return Program(Modalities(fixed), loader, trainer={"max_epochs": 3})


class Modalities(pl.LightningModule):
    """Reads both halves of an image with a net of their own."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        nets = {"left": mlp(32, 32, 16), "right": mlp(32, 32, 16)}
        self.nets = nn.ModuleDict(nets) if fixed else nets
        self.out = nn.Linear(32, 10)

    def training_step(self, batch, batch_idx):
        features = [self.nets[side](batch[side]) for side in ("left", "right")]
        loss = F.cross_entropy(self.out(torch.cat(features, dim=1).relu()), batch["label"])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


class HeadOnly(Supervised):
    """Hands the head's parameters to its optimizer."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.net[-1].parameters(), lr=self.lr)


@fault("UPD101", source=TRAINCHECK + ", parameters left out of the optimizer")
def optimizer_of_the_head(fixed: bool) -> Program:
    """The net is trained from scratch, its optimizer has the last layer only."""
    kind = Supervised if fixed else HeadOnly
    return Program(kind(mlp(64, 64, 64, 10)), **digit_loaders(), trainer={"max_epochs": 4})


class NewHead(Supervised):
    """Gets a new head for its new task."""

    def __init__(self, fixed: bool) -> None:
        net = pretrained()
        super().__init__(net, lr=3e-3)
        if fixed:
            self.net[-1] = nn.Linear(32, 5)
        self.prepared = torch.optim.Adam(self.parameters(), lr=3e-3)
        if not fixed:
            self.net[-1] = nn.Linear(32, 5)

    def configure_optimizers(self):
        return self.prepared


@fault("UPD101", source="https://github.com/microsoft/nni/issues/4521")
def head_replaced_after_the_optimizer(fixed: bool) -> Program:
    """The optimizer was made before the head was replaced: it moves the old one."""
    return Program(NewHead(fixed), **new_digits(), trainer={"max_epochs": 5})


class Gan(pl.LightningModule):
    """A GAN of points, by hand."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic, self.fixed = mlp(8, 32, 2), mlp(2, 32, 1), fixed

    def training_step(self, batch, batch_idx):
        (real,) = batch
        for_generator, for_critic = self.optimizers()
        fake = self.generator(torch.randn(len(real), 8))
        loss = F.softplus(self.critic(fake.detach())) + F.softplus(-self.critic(real))
        for_critic.zero_grad()
        self.manual_backward(loss.mean())
        for_critic.step()
        loss = F.softplus(-self.critic(fake)).mean()
        for_generator.zero_grad()
        self.manual_backward(loss)
        for_generator.step()

    def configure_optimizers(self):
        options = {"lr": 1e-3, "betas": (0.5, 0.99)}
        generator = self.generator.parameters() if self.fixed else self.parameters()
        return (
            torch.optim.Adam(generator, **options),
            torch.optim.Adam(self.critic.parameters(), **options),
        )


@fault("UPD101", source="https://github.com/soumith/ganhacks/issues/29")
def generator_moves_the_critic(fixed: bool) -> Program:
    """The generator's optimizer got self.parameters(): it trains the critic to be fooled."""
    points = torch.randn(2000, 2) * 0.2 + torch.tensor([1.0, -1.0])
    loader = DataLoader(TensorDataset(points), batch_size=64, shuffle=True)
    return Program(Gan(fixed), loader, trainer={"max_epochs": 4})


class MadeAnew(Supervised):
    """Projects with a layer that its forward makes."""

    def __init__(self, fixed: bool) -> None:
        super().__init__(mlp(64, 64, 64))
        self.fixed = fixed
        if fixed:
            self.out = nn.Linear(64, 10)

    def forward(self, x):
        out = self.out if self.fixed else nn.Linear(64, 10)
        return out(self.net(x).relu())


@fault("UPD101", "LOS104", "OUT103", source=HUMBATOVA + ", layer created in forward")
def layer_made_in_forward(fixed: bool) -> Program:
    """The last layer is a new one in every forward pass."""
    return Program(MadeAnew(fixed), **digit_loaders(), trainer={"max_epochs": 4})


@fault(
    "UPD104",
    "GRD103",
    "OUT101",
    "LOS104",
    "UPD102",
    source="https://github.com/yz93/LAVT-RIS/issues/25",
)
def all_weights_zero(fixed: bool) -> Program:
    """All weights and biases start at zero: only the last bias ever moves."""
    net = mlp(64, 64, 10)
    if not fixed:
        for p in net.parameters():
            nn.init.zeros_(p)
    return Program(Supervised(net), **digit_loaders(), trainer={"max_epochs": 4})


@fault("UPD104", "OUT101", "LOS104", source=DEEPFD + ", constant initialization")
def all_weights_alike(fixed: bool) -> Program:
    """All weights start at 0.01: all units of a layer stay the same one."""
    net = mlp(64, 64, 64, 10)
    if not fixed:
        for p in net.parameters():
            nn.init.constant_(p, 0.01)
    return Program(Supervised(net), **digit_loaders(), trainer={"max_epochs": 4})


@fault("UPD104", "ACT103", "LOS101", "GRD101", source=DEEPFD + ", wrong initialization")
def weights_of_standard_normal(fixed: bool) -> Program:
    """torch.randn for the weights of a convolutional net."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    if not fixed:
        for p in net.parameters():
            nn.init.normal_(p)
    return Program(Supervised(net), **digit_loaders(image=True), trainer={"max_epochs": 4})


@fault("UPD102", "LRN102", "UPD103", source="https://github.com/pytorch/pytorch/issues/40497")
def steps_lost_in_half_precision(fixed: bool) -> Program:
    """Weights in bfloat16 and a rate of 2e-5: most steps are rounded away."""
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr)  # noqa: E731
    module = Supervised(mlp(64, 64, 10), lr=0.1 if fixed else 2e-5, optimizer=sgd)
    precision = "bf16-mixed" if fixed else "bf16-true"
    return Program(module, **digit_loaders(), trainer={"max_epochs": 4, "precision": precision})


class Teacher(pl.Callback):
    """Keeps an average of the weights."""

    def __init__(self, fixed: bool) -> None:
        self.fixed, self.average = fixed, None

    def on_train_batch_end(self, trainer, module, *args):
        weights = list(module.parameters())
        if self.average is None:
            self.average = [p.detach().clone() for p in weights]
        with torch.no_grad():
            for mean, p in zip(self.average, weights, strict=True):
                if self.fixed:
                    mean.lerp_(p, 0.05)
                else:
                    p.copy_(mean)


@fault("UPD102", "LOS104", "LRN102", source=TRAINCHECK + ", weights overwritten")
def average_copied_the_wrong_way(fixed: bool) -> Program:
    """The average is copied into the weights, not the weights into the average."""
    return Program(
        Supervised(mlp(64, 64, 10)),
        **digit_loaders(),
        trainer={"max_epochs": 4, "callbacks": [Teacher(fixed)]},
    )


@fault(
    "UPD106",
    "LRN102",
    "GEN102",
    "UPD102",
    "LOS104",
    "GRD103",
    source=HUMBATOVA + ", wrongly frozen layers",
)
def everything_frozen_but_a_bias(fixed: bool) -> Program:
    """A loop that should freeze the backbone froze all but the last bias."""
    net = pretrained()
    net[-1] = nn.Linear(32, 5)
    for name, p in net.named_parameters():
        p.requires_grad_(fixed or name.endswith("5.bias"))
    return Program(Supervised(net, lr=3e-3), **new_digits(), trainer={"max_epochs": 5})


class Wasserstein(pl.LightningModule):
    """A critic without any constraint."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.critic, self.fixed = mlp(2, 32, 1), fixed

    def training_step(self, batch, batch_idx):
        (real,) = batch
        fake = torch.randn_like(real)
        loss = self.critic(fake).mean() - self.critic(real).mean()
        if self.fixed:
            point = (real + torch.rand(len(real), 1) * (fake - real)).requires_grad_()
            (slope,) = torch.autograd.grad(self.critic(point).sum(), point, create_graph=True)
            loss = loss + 10 * (slope.norm(dim=1) - 1).pow(2).mean()
        self.log("critic_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@fault(
    "UPD105",
    "LOS108",
    source="https://arxiv.org/abs/1701.07875 (Wasserstein GAN), on the constraint",
)
def critic_without_a_bound(fixed: bool) -> Program:
    """A Wasserstein critic without clipping or penalty: weights and scores run away."""
    points = torch.randn(4000, 2) * 0.3 + torch.tensor([2.0, -2.0])
    loader = DataLoader(TensorDataset(points), batch_size=64, shuffle=True)
    return Program(Wasserstein(fixed), loader, trainer={"max_epochs": 5})


@fault(
    "UPD103",
    "LRN101",
    "LOS108",
    "UPD105",
    "LOS104",
    source=AUTOTRAINER + ", wrong optimizer parameters",
)
def momentum_above_one(fixed: bool) -> Program:
    """momentum=1.05: every step is larger than the one before."""
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9 if fixed else 1.05)  # noqa: E731
    module = Supervised(mlp(16, 32, 4), lr=0.01, optimizer=sgd)
    return Program(module, **loaders(*split(*blobs(1600, spread=2.0))), trainer={"max_epochs": 4})


@fault("UPD102", "UPD101", "GRD103", source=HUMBATOVA + ", parameter of a copy")
def optimizer_of_a_copy(fixed: bool) -> Program:
    """The optimizer was built from a deep copy of the net (made for EMA)."""
    return Program(Copied(fixed), **loaders(*split(*diabetes())), trainer={"max_epochs": 10})


class Copied(Supervised):
    """Trains a net, and keeps a copy of it."""

    def __init__(self, fixed: bool) -> None:
        super().__init__(mlp(10, 32, 1), F.mse_loss)
        self.copied = mlp(10, 32, 1)
        self.copied.load_state_dict(self.net.state_dict())
        self.copied.requires_grad_(not fixed)
        self.fixed = fixed

    def configure_optimizers(self):
        net = self.net if self.fixed else self.copied
        return torch.optim.Adam(net.parameters(), lr=2e-3)
