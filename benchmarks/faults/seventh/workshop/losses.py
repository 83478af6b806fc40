"""LOS, in models of one's own: terms that the paper has otherwise."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, digits, feed, generator, images, mlp


class Diffusion(Paper):
    """Predicts the noise that was mixed into a point of the plane."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(4, 96, 96, 2, act=nn.SiLU), fixed

    def mixed(self, x, level):
        """The point after `level` of all the noise, and the noise."""
        noise = torch.randn_like(x)
        return (level * math.pi / 2).cos() * x + (level * math.pi / 2).sin() * noise, noise

    def losses(self, batch):
        (x,) = batch
        level = torch.rand(len(x), 1, device=x.device)
        noise = torch.randn_like(x)
        noisy, mixed_in = self.mixed(x, level)
        angle = level * math.pi / 2
        out = self.net(torch.cat([noisy, angle.sin(), angle.cos()], dim=1))
        loss = F.mse_loss(out, mixed_in if self.fixed else noise)
        return loss, {}


@fault(
    "LOS104",
    "INP204",
    "OUT101",
    "GEN102",
    source="common in code reviews",
)
def noise_drawn_again_for_the_target(fixed: bool) -> Program:
    """q_sample draws noise of its own, and the loss compares with another draw, which nobody can know."""
    g = generator(1)
    turn = 6.28 * torch.rand(3000, 1, generator=g)
    ring = torch.cat([turn.cos(), turn.sin()], dim=1) * 1.4
    points = ring + 0.05 * torch.randn(3000, 2, generator=g)
    return Program(
        Diffusion(fixed=fixed), **feed(points, batch_size=64), trainer={"max_epochs": 14}
    )


class Coupling(nn.Module):
    """An affine coupling layer, and the logarithm of the volume it makes of 1."""

    def __init__(self, flip: bool) -> None:
        super().__init__()
        self.net, self.flip = mlp(1, 48, 48, 2, act=nn.Tanh), flip

    def forward(self, x):
        a, b = x.flip(1).chunk(2, dim=1) if self.flip else x.chunk(2, dim=1)
        scale, shift = self.net(a).chunk(2, dim=1)
        b = b * scale.exp() + shift
        return torch.cat([b, a] if self.flip else [a, b], dim=1), scale.squeeze(1)


class Flow(Paper):
    """A normalizing flow from the plane to a Gaussian."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.layers = nn.ModuleList(Coupling(bool(i % 2)) for i in range(6))
        self.sign = 1 if fixed else -1

    def losses(self, batch):
        (z,) = batch
        volume = 0.0
        for layer in self.layers:
            z, grown = layer(z)
            volume = volume + grown
        surprise = 0.5 * z.square().sum(1) + math.log(2 * math.pi)
        return (surprise - self.sign * volume).mean(), {"true_nll": (surprise - volume).mean()}


@fault(
    "LOS108",
    "LOS109",
    "UPD105",
    "OUT101",
    source="https://github.com/VincentStimper/normalizing-flows/issues/27 and https://github.com/ikostrikov/pytorch-flows/issues/16 (the sign of a log-determinant)",
)
def volume_counted_the_wrong_way(fixed: bool) -> Program:
    """The log-determinant has the sign of the other direction: squeezing everything to a point pays for ever."""
    from sklearn.datasets import make_moons

    x = torch.tensor(make_moons(3000, noise=0.08, random_state=2)[0], dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    return Program(
        Flow(fixed=fixed),
        **feed(x, batch_size=64),
        trainer={"max_epochs": 12, "gradient_clip_val": 5.0},
    )


class Textured(Paper):
    """An autoencoder that is to keep content and texture, after Gatys et al."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3, cosine=True)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 24),
        )  # fmt: skip
        self.decoder = mlp(24, 128, 64)
        self.eye = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU())
        self.eye.requires_grad_(False)
        self.fixed = fixed

    def gram(self, image):
        features = self.eye(image).flatten(2)
        gram = features @ features.transpose(1, 2)
        return gram / features[0].numel() if self.fixed else gram

    def losses(self, batch):
        image, _ = batch
        out = self.decoder(self.encoder(image)).view_as(image)
        content = F.mse_loss(out, image)
        style = F.mse_loss(self.gram(out), self.gram(image))
        return content + 3e5 * style, {"content": content, "style": style}


@fault(
    "LOS105",
    "LOS109",
    source="https://pytorch.org/tutorials/advanced/neural_style_tutorial.html (why the Gram matrix is divided by its number of elements)",
)
def gram_matrix_not_divided(fixed: bool) -> Program:
    """The Gram matrix is not divided by channels times pixels: its weight of 300,000, which was meant for the quotient, makes it everything."""
    return Program(Textured(fixed=fixed), **images(), trainer={"max_epochs": 16})


class VICReg(Paper):
    """Two views of a digit are to have the same representation, and that is not to collapse."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3, cosine=True)
        self.encoder, self.projector = mlp(64, 256, 64), mlp(64, 128, 32)
        self.fixed = fixed

    def seen(self, x):
        """A view: noise, and some pixels missing."""
        return (x + 0.1 * torch.randn_like(x)) * (torch.rand_like(x) > 0.1)

    def losses(self, batch):
        x, y = batch
        h = self.encoder(torch.cat([self.seen(x), self.seen(x)]))
        one, other = self.projector(h).chunk(2)
        spread, common = 0.0, 0.0
        for z in (one, other):
            deviation = (z.var(0) + 1e-4).sqrt()
            spread = spread + F.relu((1 - deviation) if self.fixed else (deviation - 1)).mean()
            centred = z - z.mean(0)
            moments = (centred.T @ centred / (len(z) - 1)).square()
            common = common + (moments.sum() - moments.diagonal().sum()) / z.shape[1]
        loss = 25 * F.mse_loss(one, other) + 25 * spread / 2 + common
        near = torch.cdist(h[: len(x)], h[len(x) :])
        near = near.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), math.inf)
        knn = (y[near.argmin(1)] == y).float().mean()
        return loss, {"knn": knn, "std": one.std(0).mean()}


@fault(
    "OUT101",
    "LOS109",
    "GRD104",
    "LOS104",
    source="https://arxiv.org/abs/2105.04906 (VICReg: the hinge is max(0, 1 - std))",
)
def variance_pushed_below_one(fixed: bool) -> Program:
    """The hinge of the variance is the wrong way round: it allows what it is there to prevent, collapse."""
    x, y = digits(1797)
    return Program(VICReg(fixed=fixed), **feed(x, y, batch_size=64), trainer={"max_epochs": 28})
