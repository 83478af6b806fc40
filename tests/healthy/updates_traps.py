"""Parameters and layers that look forgotten and are not, and orders of layers that are meant."""

from __future__ import annotations

import copy

import torch
from program import Program, digits, fit
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from . import healthy
from ._parts import Classifier, Learner, digit_loaders, loaders, mlp, split


def trained_body() -> nn.Sequential:
    """Returns the first layers of a classifier that has been trained."""
    module = Classifier(mlp(64, 64, 32, 10))
    fit(Program(module, digit_loaders(image=False)["train"], trainer={"max_epochs": 3}))
    return module.net[:-1]


class HeadOnly(Classifier):
    def __init__(self, body: nn.Module) -> None:
        super().__init__(nn.Linear(32, 10))
        self.body = body

    def forward(self, x):
        return self.net(self.body(x))

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=5e-3)


@healthy
def frozen_by_omission() -> Program:
    """A trained body requires gradients, gets them, and is in no optimizer on purpose."""
    return Program(
        HeadOnly(trained_body()), **digit_loaders(image=False), trainer={"max_epochs": 4}
    )


class HiddenTeacher(Classifier):
    """Keeps its average in a list, so that no checkpoint holds it."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 10))
        self.teacher = [copy.deepcopy(self.net)]

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits, goal = self(x), self.teacher[0](x + 0.1 * torch.randn_like(x)).softmax(1)
        return F.cross_entropy(logits, y) + F.mse_loss(logits.softmax(1), goal)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            pairs = zip(self.teacher[0].parameters(), self.net.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 0.05)


@healthy
def teacher_in_a_list() -> Program:
    """The teacher gets gradients that nobody uses, and is moved by hand."""
    return Program(HiddenTeacher(), **digit_loaders(image=False), trainer={"max_epochs": 4})


class Adversarial(Learner):
    """An autoencoder whose code is pressed into a normal distribution by a critic."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.automatic_optimization = False
        self.encoder, self.decoder = mlp(64, 64, 8), mlp(8, 64, 64)
        self.critic = mlp(8, 32, 1)

    def forward(self, x):
        return self.decoder(self.encoder(x))

    def training_step(self, batch, batch_idx):
        x = batch[0]
        both, critic, encoder = self.optimizers()
        self._step(both, F.mse_loss(self(x), x))
        real, fake = self.critic(torch.randn(len(x), 8)), self.critic(self.encoder(x).detach())
        self._step(critic, F.softplus(-real).mean() + F.softplus(fake).mean())
        self._step(encoder, 0.1 * F.softplus(-self.critic(self.encoder(x))).mean())

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.mse_loss(self(batch[0]), batch[0]))

    def _step(self, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self):
        parts = [
            [*self.encoder.parameters(), *self.decoder.parameters()],
            self.critic.parameters(),
            self.encoder.parameters(),
        ]
        return [torch.optim.Adam(part, lr=2e-3) for part in parts]


@healthy
def adversarial_autoencoder() -> Program:
    """Two optimizers hold the encoder, each for a loss of its own."""
    return Program(Adversarial(), **digit_loaders(image=False), trainer={"max_epochs": 4})


class TwoStages(Learner):
    """Adam first, then LBFGS, on all parameters."""

    def __init__(self) -> None:
        super().__init__(mlp(1, 32, 32, 1, activation=nn.Tanh))
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()[self.current_epoch >= 6]

        def closure():
            optimizer.zero_grad()
            loss = F.mse_loss(self(x), y)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.parameters(), lr=5e-3),
            torch.optim.LBFGS(self.parameters(), line_search_fn="strong_wolfe"),
        ]


@healthy
def adam_then_lbfgs() -> Program:
    """Two optimizers hold everything, one after the other."""
    x = torch.linspace(-1, 1, 512)[:, None]
    data = loaders(*split(x, (3 * x).sin()), batch_size=384)
    return Program(TwoStages(), **data, trainer={"max_epochs": 10})


@healthy
def linear_on_purpose() -> Program:
    """A factorized layer, a separable convolution, a fusion, and a wide residual block."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Conv2d(32, 32, 3, padding=1, bias=False) for _ in "ab")
            self.norm1, self.norm2, self.drop = (
                nn.BatchNorm2d(32),
                nn.BatchNorm2d(32),
                nn.Dropout(0.3),
            )

        def forward(self, x):
            y = self.drop(self.first(self.norm1(x).relu()))
            return x + self.second(self.norm2(y).relu())

    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 32, 1), nn.ReLU(),
        Wide(),
        nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(128, 16, bias=False), nn.Linear(16, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip
    return Program(Classifier(net, lr=3e-3), **digit_loaders(), trainer={"max_epochs": 4})


class Attentive(nn.Module):
    """Attention without any norm: what a layer gives goes to three linear layers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(8, 32)
        self.q, self.k, self.v = (nn.Linear(32, 32, bias=False) for _ in "qkv")
        self.out = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.lift(x.view(-1, 8, 8))
        weight = (self.q(x) @ self.k(x).mT / 6).softmax(-1)
        return self.head((x + self.out(weight @ self.v(x))).mean(1))


@healthy
def plain_attention() -> Program:
    """Linear layers in a row, of which the products are what it is about."""
    return Program(
        Classifier(Attentive(), lr=3e-3), **digit_loaders(image=False), trainer={"max_epochs": 4}
    )


class Functional(nn.Module):
    """Uses the weights of layers that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 32)
        self.head = parametrizations.weight_norm(nn.Linear(32, 10))
        self.reverse = nn.Linear(32, 64, bias=False)
        self.blocks = [self.layer, self.head]

    def forward(self, x):
        hidden = F.linear(x, self.layer.weight, self.layer.bias).relu()
        back = F.linear(hidden, self.reverse.weight)
        return self.blocks[1](hidden + 0.1 * F.linear(back - x, self.reverse.weight.mT))


@healthy
def layers_used_by_their_weights() -> Program:
    """Never called, and in use; a list names layers that are registered as well."""
    return Program(
        Classifier(Functional(), lr=3e-3), **digit_loaders(image=False), trainer={"max_epochs": 4}
    )


class Segmenter(Learner):
    """Batches of a single image, normed over its positions."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))


@healthy
def one_image_to_a_batch() -> Program:
    """A batch norm has 64 values of each channel, though the batch is of one."""
    x = digits(400, image=True)[0]
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1),
    )
    data = loaders(*split(x + 0.3 * torch.randn_like(x), x), batch_size=1)
    return Program(Segmenter(net, lr=2e-3), **data, trainer={"max_epochs": 1})
