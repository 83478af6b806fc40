"""GRD: gradients that explode, vanish, never come, or are not those of the last step."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from . import AUTOTRAINER, DEEPFD, HUMBATOVA, NEURALINT, fault
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
    scenes,
    split,
    waves,
)


class Residual(nn.Module):
    """x + f(norm(x))."""

    def __init__(self, width: int, norm: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.net = mlp(width, width, width)
        if gain != 1.0:
            for layer in (self.net[0], self.net[2]):
                nn.init.xavier_normal_(layer.weight, gain)

    def forward(self, x):
        return x + self.net(self.norm(x))


@fault("GRD102", "ACT102", "GRD104", source=AUTOTRAINER + ", vanishing gradient")
def fourteen_sigmoid_layers(fixed: bool) -> Program:
    """A deep net of sigmoids; the fix is residual blocks."""
    if fixed:
        blocks = [Residual(48) for _ in range(6)]
        net = nn.Sequential(nn.Linear(64, 48), *blocks, nn.LayerNorm(48), nn.Linear(48, 10))
    else:
        net = mlp(64, *[48] * 14, 10, activation=nn.Sigmoid)
    return Program(Supervised(net), **digit_loaders(), trainer={"max_epochs": 4})


@fault("GRD102", "ACT103", "GRD104", "UPD104", source=DEEPFD + ", improper weight initialization")
def tiny_weights_in_a_deep_net(fixed: bool) -> Program:
    """Ten layers that start at normal(0, 0.01)."""
    net = mlp(64, *[64] * 9, 10)
    for layer in net:
        if isinstance(layer, nn.Linear):
            if fixed:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    module = Supervised(net, lr=1e-3)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 4})


class Recurrent(nn.Module):
    """A plain recurrent net that reads a wave and says which one it was."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, 32, batch_first=True, nonlinearity="tanh" if fixed else "relu")
        if not fixed:
            nn.init.normal_(self.rnn.weight_hh_l0, std=2 / 32**0.5)
        self.out = nn.Linear(32, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


@fault(
    "GRD101",
    "UPD104",
    "ACT103",
    "NAN102",
    "NAN103",
    "LRN101",
    source="https://github.com/pytorch/pytorch/issues/2623",
)
def recurrent_net_without_clipping(fixed: bool) -> Program:
    """A recurrent ReLU net with a spectral radius of two, over 40 steps."""
    module = Supervised(Recurrent(fixed), lr=3e-3)
    options = {"gradient_clip_val": 1.0} if fixed else {}
    data = loaders(*split(*waves(length=40)))
    return Program(module, **data, trainer={"max_epochs": 5, **options})


@fault("GRD101", "ACT103", "UPD104", "LOS101", source=AUTOTRAINER + ", exploding gradient")
def residual_sums_that_double(fixed: bool) -> Program:
    """Twenty residual blocks without any norm and with large weights: each block doubles."""
    blocks = [Residual(48, fixed, 1.0 if fixed else 1.8) for _ in range(20)]
    last = nn.LayerNorm(48) if fixed else nn.Identity()
    net = nn.Sequential(nn.Linear(64, 48), *blocks, last, nn.Linear(48, 10))
    module = Supervised(net, lr=1e-3)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 4})


class TwoHeads(pl.LightningModule):
    """Classifies digits, and should tell odd from even as well."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.body, self.digit, self.parity = mlp(64, 64, 32), nn.Linear(32, 10), nn.Linear(32, 2)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        features = F.relu(self.body(x))
        loss = F.cross_entropy(self.digit(features), y)
        parity = F.cross_entropy(self.parity(features), y % 2)
        self.log("parity_loss", parity)
        return loss + 0.5 * parity if self.fixed else loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("GRD103", "UPD102", source=HUMBATOVA + ", missing loss term")
def loss_of_a_head_forgotten(fixed: bool) -> Program:
    """The second loss is computed and logged, but never added."""
    x, y = digits(1797)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    return Program(TwoHeads(fixed), loader, trainer={"max_epochs": 3})


class Transfer(pl.LightningModule):
    """A convolutional encoder and a head on its features."""

    def __init__(self, cut: str) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten()
        )
        self.head, self.cut = nn.Linear(16, 10), cut

    def forward(self, x):
        if self.cut == "no_grad":
            with torch.no_grad():
                features = self.encoder(x)
        elif self.cut == "numpy":
            features = torch.from_numpy(self.encoder(x).detach().numpy())
        else:
            features = self.encoder(x)
        return self.head(features.detach() if self.cut == "detach" else features)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch["image"]), batch["label"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch["image"])
        self.log("val_loss", F.cross_entropy(logits, batch["label"]))
        self.log("val_acc", (logits.argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def image_dicts():
    """Loaders of dicts with an image and a label."""
    parts = split(*digits(1797, image=True))
    return loaders(*[[{"image": x, "label": y} for x, y in part] for part in parts])


@fault("GRD103", "UPD102", source="https://github.com/rballester/tntorch/issues/3")
def features_detached(fixed: bool) -> Program:
    """A detach() from the days of the frozen encoder."""
    return Program(Transfer("" if fixed else "detach"), **image_dicts(), trainer={"max_epochs": 5})


@fault("GRD103", "UPD102", "MOD104", source=HUMBATOVA + ", wrong use of no_grad")
def encoder_under_no_grad(fixed: bool) -> Program:
    """The encoder is called under no_grad, and meant to be trained."""
    return Program(Transfer("" if fixed else "no_grad"), **image_dicts(), trainer={"max_epochs": 5})


@fault("GRD103", "UPD102", source=NEURALINT)
def features_through_numpy(fixed: bool) -> Program:
    """Features leave torch for a moment and lose their graph."""
    return Program(Transfer("" if fixed else "numpy"), **image_dicts(), trainer={"max_epochs": 5})


class Codebook(pl.LightningModule):
    """An autoencoder with a code of signs."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.encoder, self.decoder, self.fixed = mlp(64, 64, 24), mlp(24, 64, 64), fixed

    def training_step(self, batch, batch_idx):
        (x,) = batch
        raw = torch.tanh(self.encoder(x))
        code = torch.where(raw > 0, 1.0, -1.0)
        if self.fixed:
            code = raw + (code - raw).detach()
        loss = F.mse_loss(self.decoder(code), x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("GRD103", "UPD102", source="https://github.com/pytorch/pytorch/issues/1339")
def hard_decision_in_the_middle(fixed: bool) -> Program:
    """A threshold has no gradient; the fix lets it straight through."""
    loader = DataLoader(TensorDataset(digits(1797)[0]), batch_size=32, shuffle=True)
    return Program(Codebook(fixed), loader, trainer={"max_epochs": 5})


class ByHand(pl.LightningModule):
    """Manual optimization of a classifier."""

    def __init__(self, order: str, accumulate: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.order, self.accumulate = mlp(64, 64, 10), order, accumulate

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        x, y = batch
        if self.order == "each":
            optimizer.zero_grad()
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        self.manual_backward(loss / self.accumulate)
        if self.order == "early":
            optimizer.zero_grad()
        if (batch_idx + 1) % self.accumulate == 0:
            optimizer.step()
            if self.order == "right":
                optimizer.zero_grad()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def digit_stream():
    """Shuffled batches of digits to train on."""
    return DataLoader(TensorDataset(*digits(1797)), batch_size=32, shuffle=True)


@fault("GRD106", source="https://github.com/Adversarial-Deep-Learning/code-soup/issues/69")
def gradients_never_zeroed(fixed: bool) -> Program:
    """The manual loop forgets zero_grad()."""
    module = ByHand("right" if fixed else "never")
    return Program(module, digit_stream(), trainer={"max_epochs": 3})


@fault("GRD106", "GRD103", "UPD102", source=NEURALINT + ", zero_grad at the wrong place")
def gradients_zeroed_before_the_step(fixed: bool) -> Program:
    """zero_grad() comes between backward() and step()."""
    module = ByHand("right" if fixed else "early")
    return Program(module, digit_stream(), trainer={"max_epochs": 3})


@fault("GRD106", source="https://github.com/Lightning-AI/pytorch-lightning/issues/17957")
def accumulation_thrown_away(fixed: bool) -> Program:
    """Gradients of four batches should add up, but each batch zeroes those before it."""
    module = ByHand("right" if fixed else "each", accumulate=4)
    return Program(module, digit_stream(), trainer={"max_epochs": 5})


class Gan(pl.LightningModule):
    """A GAN of points on a ring, by hand."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = mlp(8, 32, 32, 2), mlp(2, 32, 32, 1, activation=nn.SiLU)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        (real,) = batch
        for_generator, for_critic = self.optimizers()
        fake = self.generator(torch.randn(len(real), 8))

        loss = F.softplus(-self.critic(fake)).mean()
        for_generator.zero_grad()
        self.manual_backward(loss)
        for_generator.step()
        self.log("generator_loss", loss)

        if self.fixed:
            for_critic.zero_grad()
        real_loss = F.softplus(-self.critic(real)).mean()
        loss = real_loss + F.softplus(self.critic(fake.detach())).mean()
        self.manual_backward(loss)
        for_critic.step()
        self.log("critic_loss", loss)

    def configure_optimizers(self):
        return (
            torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.99)),
            torch.optim.Adam(self.critic.parameters(), lr=1e-3, betas=(0.5, 0.99)),
        )


@fault("GRD106", source="https://github.com/speechbrain/speechbrain/issues/1492")
def critic_keeps_old_gradients(fixed: bool) -> Program:
    """The critic's gradients are never zeroed: the generator's pass adds to them, too."""
    angle = 6.28 * torch.rand(2000, 1)
    ring = torch.cat([angle.cos(), angle.sin()], dim=1)
    loader = DataLoader(TensorDataset(ring), batch_size=64, shuffle=True)
    return Program(Gan(fixed), loader, trainer={"max_epochs": 4})


@fault("GRD105", "LRN102", source="https://github.com/RUCAIBox/RecBole/issues/1396")
def clipped_to_nothing(fixed: bool) -> Program:
    """SGD whose gradient is clipped to a norm of 1e-4."""
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)  # noqa: E731
    module = Supervised(mlp(64, 64, 10), lr=0.05, optimizer=sgd)
    options = {"max_epochs": 4, "gradient_clip_val": 1.0 if fixed else 1e-4}
    return Program(module, **digit_loaders(), trainer=options)


@fault(
    "GRD103",
    "OUT101",
    "ACT101",
    "OUT102",
    "LOS104",
    "GRD104",
    "UPD104",
    source=HUMBATOVA + ", wrong activation of the output",
)
def output_clamped_to_zero(fixed: bool) -> Program:
    """Outputs are clamped to [0, 1], and all of them start below."""
    net = mlp(10, 32, 1)
    nn.init.constant_(net[-1].bias, -3.0 if not fixed else 0.5)
    x, y = diabetes()
    y = (y - y.min()) / (y.max() - y.min())
    bounded = nn.Sequential(net, nn.Identity() if fixed else nn.Hardtanh(0.0, 1.0))
    module = Supervised(bounded, F.mse_loss)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 10})


@fault("GRD104", "OUT103", "OUT101", "GRD103", "LOS104", source=HUMBATOVA + ", wrong layer size")
def norm_over_a_single_feature(fixed: bool) -> Program:
    """LayerNorm over one feature is zero, whatever comes in."""
    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    if not fixed:
        net.append(nn.LayerNorm(1))
    module = Supervised(net, F.mse_loss)
    return Program(module, **loaders(*split(*diabetes())), trainer={"max_epochs": 10})


class UNet(pl.LightningModule):
    """A U-Net of two levels whose deep supervision has lost its way."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out, self.fixed = nn.Conv2d(16 if fixed else 8, 2, 3, padding=1), fixed

    def forward(self, x):
        skip = self.down(x)
        up = self.up(self.deep(skip)).relu()
        return self.out(torch.cat([skip, up], dim=1) if self.fixed else skip)

    def training_step(self, batch, batch_idx):
        x, mask = batch
        loss = F.cross_entropy(self(x), mask.long(), torch.tensor([1.0, 4.0]))
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault("GRD103", "UPD102", source=HUMBATOVA + ", missing connection")
def skip_without_the_way_up(fixed: bool) -> Program:
    """A U-Net whose output takes the skip connection only: the deep path is computed for nothing."""
    loader = DataLoader(TensorDataset(*scenes()), batch_size=16, shuffle=True)
    return Program(UNet(fixed), loader, trainer={"max_epochs": 5})


@fault("GRD103", "GRD102", "ACT102", "OUT101", "UPD104", "LOS104", "LOS101", source=DEEPFD)
def saturated_sigmoid_with_square_error(fixed: bool) -> Program:
    """A sigmoid and a square error whose logits start at several hundred: nothing flows back."""
    x, y = blobs(1000, classes=2)
    target = y[:, None].float()
    net = mlp(16, 64, 1)
    if not fixed:
        nn.init.normal_(net[0].weight, std=20.0)
        nn.init.normal_(net[-1].weight, std=20.0)
    if fixed:
        module = Supervised(net, F.binary_cross_entropy_with_logits)
    else:
        module = Supervised(nn.Sequential(net, nn.Sigmoid()), F.mse_loss)
    return Program(module, **loaders(*split(x, target)), trainer={"max_epochs": 5})
