"""Models that make, compress or explain data."""

from __future__ import annotations

import copy
import math

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from healthy import healthy
from healthy._parts import Learner, cnn, conv, digit_loaders, loaders, mlp, moons, pretrained, split


def blanks(size: int = 1024, batch_size: int = 64) -> DataLoader:
    """Shuffled points of the two moons, without labels."""
    return DataLoader(moons(size)[0], batch_size=batch_size, shuffle=True)


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The sliced Wasserstein distance of two clouds of equally many points."""
    angle = torch.linspace(0, math.pi, 16)
    sides = torch.stack([angle.cos(), angle.sin()])
    return ((a @ sides).sort(0).values - (b @ sides).sort(0).values).abs().mean()


class Autoencoder(pl.LightningModule):
    """Squeezes images through eight numbers; the batch has labels, which nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            conv(1, 16, stride=2), conv(16, 32, stride=2), nn.Flatten(), nn.Linear(128, 8)
        )
        self.decoder = nn.Sequential(mlp(8, 128, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        loss = F.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        self.log("val_loss", F.mse_loss(self.decoder(self.encoder(x)), x))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@healthy
def autoencoder() -> Program:
    """Input and target are the same tensor; tanh meets targets of exactly -1 and 1."""
    return Program(Autoencoder(), **digit_loaders(), trainer={"max_epochs": 7})


class VAE(pl.LightningModule):
    """Bernoulli pixels, Gaussian code."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.encoder = mlp(64, 128, 2 * latent, activation=nn.SiLU)
        self.decoder = mlp(latent, 128, 64, activation=nn.SiLU)

    def _encode(self, x):
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1).mean()
        return mean + (0.5 * log_var).exp() * torch.randn_like(mean), kl

    def _loss(self, x):
        z, kl = self._encode(x)
        pixels = F.binary_cross_entropy_with_logits(self.decoder(z), (x + 1) / 2, reduction="none")
        return pixels.sum(1).mean() + kl

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch[0])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch[0]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@healthy
def vae() -> Program:
    """The loss is a sum over pixels, noise is drawn in validation too, and it ends far from 0."""
    return Program(VAE(), **digit_loaders(image=False), trainer={"max_epochs": 7})


class TermwiseVAE(VAE):
    """Logs what its code costs beside how well it restores."""

    def _terms(self, x):
        z, kl = self._encode(x)
        return F.mse_loss(self.decoder(z), x), kl

    def training_step(self, batch, batch_idx):
        restored, kl = self._terms(batch[0])
        return restored + 0.01 * kl

    def validation_step(self, batch, batch_idx):
        restored, kl = self._terms(batch[0])
        self.log_dict({"val_rec_loss": restored, "val_kl_loss": kl})


@healthy
def code_that_costs_more() -> Program:
    """One term of the loss rises from 0 in validation, as the code says more and more."""
    return Program(TermwiseVAE(), **digit_loaders(image=False), trainer={"max_epochs": 10})


class GaussianVAE(VAE):
    """Gaussian pixels with a learned variance, one for all; its KL term is warmed up."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def _loss(self, x):
        z, kl = self._encode(x)
        likelihood = torch.distributions.Normal(self.decoder(z), self.log_scale.exp()).log_prob(x)
        weight = min(1.0, self.global_step / 60)
        return weight * kl - likelihood.sum(1).mean()

    def configure_optimizers(self):
        nets = [*self.encoder.parameters(), *self.decoder.parameters()]
        return torch.optim.Adam(
            [{"params": nets}, {"params": [self.log_scale], "lr": 2e-2}], lr=3e-3
        )


@healthy
def gaussian_vae() -> Program:
    """The negative ELBO of a density crosses 0 (once pixels are known well) and goes on falling."""
    phase = 6.283 * torch.rand(1024, 1) + torch.linspace(0, 6.283, 64)
    waves = 1.4 * phase.sin() + 0.1 * torch.randn(1024, 64)
    return Program(GaussianVAE(), **loaders(*split(waves)), trainer={"max_epochs": 8})


class GAN(pl.LightningModule):
    """Alternates generator and discriminator by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = mlp(8, 64, 64, 2)
        self.discriminator = mlp(2, 128, 128, 1, activation=lambda: nn.LeakyReLU(0.2))

    def sample(self, size):
        return self.generator(torch.randn(size, 8, device=self.device))

    def judge(self, x):
        return self.discriminator(x + 0.2 * torch.randn_like(x))  # instance noise

    def training_step(self, real, batch_idx):
        g, d = self.optimizers()

        self.toggle_optimizer(g)
        verdict = self.judge(self.sample(len(real)))
        g_loss = F.binary_cross_entropy_with_logits(verdict, torch.ones_like(verdict))
        g.zero_grad()
        self.manual_backward(g_loss)
        g.step()
        self.untoggle_optimizer(g)

        self.toggle_optimizer(d)
        truth, lie = self.judge(real), self.judge(self.sample(len(real)).detach())
        d_loss = (
            F.binary_cross_entropy_with_logits(truth, torch.ones_like(truth))
            + F.binary_cross_entropy_with_logits(lie, torch.zeros_like(lie))
        ) / 2
        d.zero_grad()
        self.manual_backward(d_loss)
        d.step()
        self.untoggle_optimizer(d)
        self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, prog_bar=True)

    def validation_step(self, real, batch_idx):
        self.log("val_distance", distance(self.sample(len(real)), real))

    def configure_optimizers(self):
        g = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.99))
        d = torch.optim.Adam(self.discriminator.parameters(), lr=3e-3, betas=(0.5, 0.99))
        return g, d


@healthy
def gan() -> Program:
    """Neither loss falls: the two nets hold each other near log 2."""
    val = DataLoader(moons(512)[0], batch_size=512)
    return Program(GAN(), blanks(), val, trainer={"max_epochs": 9})


class WGAN(GAN):
    """Three critic steps to each generator step, with a gradient penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminator = mlp(2, 128, 128, 1, activation=nn.SiLU)

    def training_step(self, real, batch_idx):
        g, d = self.optimizers()
        fake = self.sample(len(real)).detach()
        mix = torch.lerp(fake, real, torch.rand(len(real), 1)).requires_grad_()
        (slope,) = torch.autograd.grad(self.discriminator(mix).sum(), mix, create_graph=True)
        penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
        d_loss = self.discriminator(fake).mean() - self.discriminator(real).mean() + penalty
        d.zero_grad()
        self.manual_backward(d_loss)
        d.step()
        self.log("d_loss", d_loss)

        if batch_idx % 3 == 2:
            g_loss = -self.discriminator(self.sample(len(real))).mean()
            g.zero_grad()
            self.manual_backward(g_loss)
            g.step()
            self.log("g_loss", g_loss)

    def configure_optimizers(self):
        g = torch.optim.Adam(self.generator.parameters(), lr=2e-3, betas=(0.0, 0.9))
        d = torch.optim.Adam(self.discriminator.parameters(), lr=1e-2, betas=(0.0, 0.9))
        return g, d


@healthy
def wgan_gp() -> Program:
    """The critic is differentiated twice; its loss is negative; leftover gradients get zeroed later."""
    val = DataLoader(moons(512)[0], batch_size=512)
    return Program(WGAN(), blanks(), val, trainer={"max_epochs": 14})


class Coupling(nn.Module):
    """Scales and shifts one half of the features by functions of the other."""

    def __init__(self, *, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        self.net = mlp(1, 32, 32, 2, activation=nn.SiLU)
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x, log_det):
        a, b = x.flip(1).chunk(2, dim=1) if self.flip else x.chunk(2, dim=1)
        log_scale, shift = self.net(a).chunk(2, dim=1)
        log_scale = log_scale.tanh()
        x = torch.cat([a, b * log_scale.exp() + shift], dim=1)
        return x, log_det + log_scale.sum(1)


class Flow(pl.LightningModule):
    """A RealNVP: exact density by changes of variables."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Coupling(flip=i % 2 == 1) for i in range(depth))
        self.register_buffer("zero", torch.zeros(()))

    def log_prob(self, x):
        log_det = self.zero
        for layer in self.layers:
            x, log_det = layer(x, log_det)
        return log_det - (0.5 * x**2).sum(1) - math.log(2 * math.pi)

    def training_step(self, batch, batch_idx):
        loss = -self.log_prob(batch).mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", -self.log_prob(batch).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def normalizing_flow() -> Program:
    """Starts as the identity: the last layer of every coupling is zero. No targets at all."""
    val = DataLoader(moons(256)[0], batch_size=256)
    return Program(Flow(), blanks(batch_size=64), val, trainer={"max_epochs": 10})


class Diffusion(pl.LightningModule):
    """Predicts the noise that was added (DDPM with 50 steps)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(10, 96, 96, 2, activation=nn.SiLU)
        alpha = torch.cumprod(1 - torch.linspace(1e-3, 0.2, 50), 0)
        self.register_buffer("signal", alpha.sqrt())
        self.register_buffer("noise", (1 - alpha).sqrt())

    def _loss(self, x):
        t = torch.randint(50, (len(x),))
        noise = torch.randn_like(x)
        noisy = self.signal[t, None] * x + self.noise[t, None] * noise
        wave = (t[:, None] / 50 * torch.tensor([1.0, 2.0, 4.0, 8.0])) * math.pi
        return F.mse_loss(self.net(torch.cat([noisy, wave.sin(), wave.cos()], dim=1)), noise)

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@healthy
def diffusion() -> Program:
    """The target is fresh noise, and the loss settles early on a high and noisy level."""
    val = DataLoader(moons(2048)[0], batch_size=512)
    return Program(Diffusion(), blanks(2048, 128), val, trainer={"max_epochs": 12})


class StyleTransfer(Learner):
    """Gives images the texture of one picture, judged by a frozen net that gradients flow through."""

    def __init__(self, critic: nn.Module, style: torch.Tensor) -> None:
        net = nn.Sequential(
            conv(1, 16, norm=lambda channels: nn.InstanceNorm2d(channels, affine=True)),
            conv(16, 16, norm=lambda channels: nn.InstanceNorm2d(channels, affine=True)),
            nn.Conv2d(16, 1, 3, padding=1),
        )
        super().__init__(net, lr=5e-3)
        self.critic = critic.eval().requires_grad_(False)
        self.register_buffer("style", self._gram(self.critic(style)).mean(0))

    def train(self, mode=True):
        super().train(mode)
        self.critic.eval()
        return self

    @staticmethod
    def _gram(features):
        flat = features.flatten(2)
        return flat @ flat.mT / flat.shape[2]

    def training_step(self, batch, batch_idx):
        x, _ = batch
        features = self.critic(self(x))
        content = F.mse_loss(features, self.critic(x))
        style = F.mse_loss(self._gram(features), self.style.expand(len(x), -1, -1))
        self.log_dict({"content": content, "style": style})
        return content + 3 * style


@healthy
def style_transfer() -> Program:
    """A frozen critic stays in eval mode for ever; instance norm; two losses that pull apart."""
    critic = pretrained()[:2]
    stripes = torch.arange(8.0).sin().sign().expand(1, 1, 8, 8)
    return Program(
        StyleTransfer(critic, stripes), digit_loaders()["train"], trainer={"max_epochs": 5}
    )


class VectorQuantizer(nn.Module):
    """Replaces each vector by its nearest code; the gradient goes straight through."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.codes = nn.Embedding(codes, width)
        nn.init.normal_(self.codes.weight, std=0.3)

    def forward(self, z):
        nearest = self.codes(torch.cdist(z.detach(), self.codes.weight).argmin(-1))
        loss = F.mse_loss(nearest, z.detach()) + 0.25 * F.mse_loss(z, nearest.detach())
        return z + (nearest - z).detach(), loss


class VQVAE(pl.LightningModule):
    """Four codes of sixteen to an image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(mlp(64, 128, 32, activation=nn.SiLU), nn.Unflatten(1, (4, 8)))
        self.quantizer = VectorQuantizer(16, 8)
        self.decoder = nn.Sequential(nn.Flatten(), mlp(32, 128, 64, activation=nn.SiLU))

    def _losses(self, x):
        z, commitment = self.quantizer(self.encoder(x))
        return F.mse_loss(self.decoder(z), x), commitment

    def training_step(self, batch, batch_idx):
        reconstruction, commitment = self._losses(batch[0])
        self.log("reconstruction", reconstruction)
        return reconstruction + commitment

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._losses(batch[0])[0])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@healthy
def vq_vae() -> Program:
    """Half of the graph is detached on purpose, and codes that nobody chose get no gradient."""
    return Program(VQVAE(), **digit_loaders(image=False), trainer={"max_epochs": 7})


class MixtureDensity(Learner):
    """Predicts a mixture of three Gaussians for a target with several answers."""

    def __init__(self) -> None:
        super().__init__(
            mlp(1, 64, 64, 9, activation=nn.Tanh), self.negative_log_likelihood, lr=3e-3
        )

    @staticmethod
    def negative_log_likelihood(output, y):
        logits, mean, log_scale = output.chunk(3, dim=1)
        normal = torch.distributions.Normal(mean, log_scale.clamp(-4, 2).exp())
        return -(logits.log_softmax(1) + normal.log_prob(y)).logsumexp(1).mean()


@healthy
def mixture_density() -> Program:
    """A likelihood of sharp peaks: the loss goes below 0."""
    y = torch.rand(1024, 1) * 2 - 1
    x = y + 0.5 * (2 * math.pi * y).sin() + 0.03 * torch.randn(1024, 1)
    x = (x - x.mean()) / x.std()
    return Program(MixtureDensity(), **loaders(*split(x, y)), trainer={"max_epochs": 10})


class Denoiser(Learner):
    """Removes fresh noise; predicts the residual, from zero."""

    def __init__(self) -> None:
        body = nn.Sequential(conv(1, 16), conv(16, 16), nn.Conv2d(16, 1, 3, padding=1))
        nn.init.zeros_(body[-1].weight)
        super().__init__(body)

    def forward(self, x):
        return x + self.net(x)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        loss = F.l1_loss(self(x + 0.5 * torch.randn_like(x)), x)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        self.log("val_loss", F.l1_loss(self(x + 0.5 * torch.randn_like(x)), x))


@healthy
def residual_denoiser() -> Program:
    """The last layer is zero at the start, so all layers before it get no gradient at step 0."""
    return Program(Denoiser(), **digit_loaders(), trainer={"max_epochs": 5})


class SemiSupervisedTeacher(pl.LightningModule):
    """Consistency training: a slow copy of the net, never trained itself, makes the targets."""

    def __init__(self) -> None:
        super().__init__()
        self.student = cnn()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        labelled = y >= 0
        logits = self.student(x + 0.2 * torch.randn_like(x))
        with torch.no_grad():
            target = self.teacher(x + 0.2 * torch.randn_like(x)).softmax(1)
        supervised = F.cross_entropy(
            logits, y, ignore_index=-1, reduction="sum"
        ) / labelled.sum().clamp_min(1)
        consistency = F.mse_loss(logits.softmax(1), target)
        return supervised + min(1.0, self.global_step / 50) * consistency

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.05)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.teacher(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.student.parameters(), lr=3e-3)


@healthy
def semi_supervised_teacher() -> Program:
    """Two thirds of the labels are -1, for unknown; frozen parameters change all the time."""
    train, val = split(*digits(image=True))
    train.tensors[1][torch.rand(len(train)) < 0.67] = -1
    return Program(SemiSupervisedTeacher(), **loaders(train, val), trainer={"max_epochs": 7})
