"""GRD: gradients that explode, vanish, or never arrive."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, Supervised, digit_loaders, loaders, mlp, split
from ._parts import Learner, gestures, reviews


class Uncertain(Learner):
    """Predicts a mean and how far off it may be."""

    lr = 5e-3

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.floor = mlp(4, 64, 64, 2), 0.1 if fixed else 0.0

    def loss_of(self, batch):
        x, y = batch
        mean, deviation = self.net(x).chunk(2, dim=1)
        deviation = deviation.exp() + self.floor
        return (((y - mean) / deviation) ** 2 / 2 + deviation.log()).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_mse", F.mse_loss(self.net(batch[0])[:, :1], batch[1]))


@fault(
    "GRD101",
    "LRN105",
    "LOS108",
    "LRN101",
    "NAN105",
    source="https://arxiv.org/abs/2203.09168 (Pitfalls of heteroscedastic uncertainty estimation)",
)
def deviation_without_a_floor(fixed: bool) -> Program:
    """Half of the targets are free of noise: the predicted deviation goes to nothing, and divides."""
    x = torch.randn(1600, 4)
    y = x[:, :1] + 0.5 * torch.randn(1600, 1) * (x[:, 1:2] > 0)
    return Program(Uncertain(fixed), **loaders(*split(x, y)), trainer={"max_epochs": 8})


class Reader(nn.Module):
    """Reads a sentence, and answers what its first word was."""

    def __init__(self, forget: float) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(8, 16), nn.LSTM(16, 48, batch_first=True)
        self.out = nn.Linear(48, 4)
        nn.init.constant_(self.rnn.bias_ih_l0[48:96], forget)

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids))[0][:, -1])


@fault(
    "GRD102",
    "LOS104",
    "GRD104",
    "OUT101",
    "OUT103",
    "UPD104",
    "ACT102",
    source="https://proceedings.mlr.press/v37/jozefowicz15.html (a positive bias of the forget gate)",
)
def first_word_forgotten(fixed: bool) -> Program:
    """The forget gates start at -3 where +3 was meant: nothing reaches the end of the sentence."""
    ids = torch.randint(4, 8, (1600, 20))
    ids[:, 0] = torch.arange(1600) % 4
    module = Supervised(Reader(3.0 if fixed else -3.0), lr=1e-2)
    return Program(module, **loaders(*split(ids, ids[:, 0] % 4)), trainer={"max_epochs": 6})


class Stages(nn.Module):
    """A residual net of three stages."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.first, self.second, self.third = self.stage(), self.stage(), self.stage()
        self.out, self.fixed = nn.Linear(16, 10), fixed

    def stage(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )

    def forward(self, x):
        x = self.stem(x)
        x = x + self.first(x)
        y = x + self.second(x)
        x = (y if self.fixed else x) + self.third(y if self.fixed else x)
        return self.out(x.mean((2, 3)))


@fault("GRD103", "STR105", "UPD102", source=HUMBATOVA + ", wrong variable")
def stage_whose_result_is_lost(fixed: bool) -> Program:
    """The second stage's result has a new name, and the third goes on with the old one."""
    module = Supervised(Stages(fixed), lr=5e-3)
    return Program(module, **digit_loaders(image=True), trainer={"max_epochs": 3})


class Adversaries(pl.LightningModule):
    """A generator of rows of a table, and a critic that tells them from real ones."""

    def __init__(self, *, detached: bool = False, cleaned: bool = True) -> None:
        super().__init__()
        self.generator, self.critic = mlp(4, 32, 32, 3), mlp(3, 32, 32, 1)
        self.automatic_optimization = False
        self.detached, self.cleaned = detached, cleaned

    def training_step(self, batch, batch_idx):
        (real,) = batch
        for_generator, for_critic = self.optimizers()
        fake = self.generator(torch.randn(len(real), 4))

        if self.cleaned:
            for_critic.zero_grad()
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        critic_loss = F.binary_cross_entropy_with_logits(self.critic(real), ones)
        critic_loss += F.binary_cross_entropy_with_logits(self.critic(fake.detach()), zeros)
        self.manual_backward(critic_loss)
        for_critic.step()

        for_generator.zero_grad()
        shown = fake.detach() if self.detached else fake
        generator_loss = F.binary_cross_entropy_with_logits(self.critic(shown), ones)
        self.manual_backward(generator_loss)
        for_generator.step()
        self.log_dict({"critic_loss": critic_loss, "generator_loss": generator_loss})

    def validation_step(self, batch, batch_idx):
        (real,) = batch
        fake = self.generator(torch.randn(len(real), 4))
        self.log("off_mean", (fake.mean(0) - real.mean(0)).abs().mean())
        self.log("off_covariance", (fake.T.cov() - real.T.cov()).abs().mean())

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.0, 0.9)),
            torch.optim.Adam(self.critic.parameters(), lr=3e-3, betas=(0.0, 0.9)),
        ]


def rows() -> dict:
    """Loaders of three correlated measurements."""
    x = torch.randn(2000, 3) @ torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, 0.7], [0.0, 0.0, 0.7]])
    return loaders(*split(x), batch_size=64)


@fault(
    "GRD103",
    "UPD102",
    "LOS107",
    source="https://github.com/nikhilsinghmus/image2reverb/issues/37",
)
def generator_judged_detached(fixed: bool) -> Program:
    """The fakes are detached for the generator's own loss, too: it never hears of the critic."""
    return Program(Adversaries(detached=not fixed), **rows(), trainer={"max_epochs": 16})


@fault(
    "GRD106",
    source="https://github.com/Hsintien-Ng/idinvert_pytorch-reproduced/issues/1",
)
def critic_that_is_never_cleaned(fixed: bool) -> Program:
    """Nobody clears the critic's gradients: it learns from all the past and from its adversary."""
    return Program(Adversaries(cleaned=fixed), **rows(), trainer={"max_epochs": 16})


@fault(
    "GRD105",
    "LRN102",
    "UPD103",
    source="https://github.com/facebookresearch/Mask2Former/issues/148",
)
def clipped_for_another_loss(fixed: bool) -> Program:
    """gradient_clip_val=0.005 comes from a config whose loss was a thousand times smaller."""
    net = nn.Sequential(nn.Conv1d(3, 24, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)  # noqa: E731
    module = Supervised(net.append(nn.Linear(24, 4)), lr=0.05, optimizer=sgd)
    x, y = gestures(1200)
    return Program(
        module,
        **loaders(*split(x.mT.contiguous(), y)),
        trainer={"max_epochs": 6, "gradient_clip_val": 1.0 if fixed else 0.005},
    )


class Centred(nn.Module):
    """Embeds words, centres their vectors, and averages them."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.embed, self.hidden, self.out = (
            nn.Embedding(80, 24),
            nn.Linear(24, 24),
            nn.Linear(24, 4),
        )
        self.over = 2 if fixed else 1

    def forward(self, ids):
        x = self.hidden(self.embed(ids).relu())
        x = x - x.mean(self.over, keepdim=True)
        return self.out(x.mean(1))


@fault(
    "GRD104",
    "GRD102",
    "OUT103",
    "OUT101",
    "LOS104",
    "GRD103",
    source=HUMBATOVA + ", wrong dimension",
)
def centred_and_then_averaged(fixed: bool) -> Program:
    """The words are centred over the sentence and then averaged over it: what is left is zero."""
    module = Supervised(Centred(fixed), lr=5e-3)
    data = loaders(*split(*reviews(1600)), batch_size=16)
    return Program(module, **data, trainer={"max_epochs": 6, "accumulate_grad_batches": 2})


@fault(
    "GRD107",
    "LRN101",
    "LRN105",
    source="https://arxiv.org/abs/1812.06162 (An empirical model of large-batch training)",
)
def one_sample_to_a_step(fixed: bool) -> Program:
    """batch_size=1 is left from debugging: each step follows the noise of a single sample."""
    sgd = torch.optim.SGD
    module = Supervised(mlp(64, 64, 10), lr=0.05, optimizer=sgd)
    data = digit_loaders(32 if fixed else 1)
    return Program(module, **data, trainer={"max_steps": 400})
