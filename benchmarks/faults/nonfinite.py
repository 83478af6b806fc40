"""NAN: the first NaN or infinity of a run."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional as F

from . import HUMBATOVA, TRAINCHECK, fault
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
    standardized,
)


@fault("NAN101", source="https://github.com/Nixtla/neuralforecast/issues/186")
def missing_values_in_the_table(fixed: bool) -> Program:
    """Some cells of the CSV file were empty."""
    x, y = diabetes()
    hole = torch.rand(x.shape) < 0.005
    x = x.masked_fill(hole, 0.0 if fixed else torch.nan)
    module = Supervised(mlp(10, 32, 1), F.mse_loss)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 10})


@fault("NAN101", source="https://github.com/Dobiasd/frugally-deep/pull/384")
def zero_over_zero_in_the_scaler(fixed: bool) -> Program:
    """Pixels that are always blank have a standard deviation of zero."""
    x, y = digits(1797)
    deviation = x.std(0)
    x = (x - x.mean(0)) / (deviation.clamp_min(1e-3) if fixed else deviation)
    return Program(Supervised(mlp(64, 64, 10)), **loaders(*split(x, y)), trainer={"max_epochs": 4})


class Normalizer(nn.Module):
    """Brings every sample to mean 0 and deviation 1."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.pow(2).mean(1, keepdim=True).sqrt() + self.eps)


@fault("NAN102", source="https://github.com/vanvalenlab/deepcell-tf/issues/445")
def blank_image_divided_by_its_norm(fixed: bool) -> Program:
    """A few images are blank, and the net normalizes every image by itself."""
    x, y = digits(1797)
    x[torch.randperm(len(x))[:12]] = -1.0
    net = nn.Sequential(Normalizer(1e-5 if fixed else 0.0), mlp(64, 64, 10))
    return Program(Supervised(net), **loaders(*split(x, y)), trainer={"max_epochs": 4})


class MaskedPolicy(pl.LightningModule):
    """REINFORCE on a contextual bandit where some actions are forbidden, with an entropy bonus."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(8, 32, 4), fixed

    def training_step(self, batch, batch_idx):
        (state,) = batch
        allowed = torch.ones(len(state), 4, dtype=torch.bool)
        allowed[:, 3] = state[:, 0] > 0
        probabilities = self.net(state).masked_fill(~allowed, -torch.inf).softmax(1)
        action = probabilities.multinomial(1).squeeze(1)
        reward = (action == state[:, 1:4].argmax(1)).float()
        if self.fixed:
            entropy = -torch.special.xlogy(probabilities, probabilities.clamp_min(1e-9)).sum(1)
        else:
            entropy = -(probabilities * probabilities.log()).sum(1)
        chosen = probabilities.gather(1, action[:, None]).squeeze(1)
        loss = -(chosen.log() * (reward - 0.3)).mean() - 0.01 * entropy.mean()
        self.log("reward", reward.mean())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault("NAN102", source="https://github.com/pytorch/pytorch/issues/40553")
def entropy_of_masked_actions(fixed: bool) -> Program:
    """Zero times the logarithm of zero, for actions that are masked out."""
    states = TensorDataset(torch.randn(2048, 8))
    return Program(
        MaskedPolicy(fixed),
        DataLoader(states, batch_size=32, shuffle=True),
        trainer={"max_epochs": 2},
    )


class Pairs(pl.LightningModule):
    """Brings pairs of the same digit together, and pushes others apart."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.net, self.eps = mlp(64, 64, 8), eps

    def training_step(self, batch, batch_idx):
        one, other, same = batch
        distance = ((self.net(one) - self.net(other)) ** 2).sum(1).add(self.eps).sqrt()
        loss = torch.where(same, distance**2, F.relu(2 - distance) ** 2).mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@fault("NAN103", source="https://github.com/adambielski/siamese-triplet/issues/18")
def distance_of_a_sample_to_itself(fixed: bool) -> Program:
    """Now and then a pair is one sample twice: the root has no slope at zero."""
    x, y = digits(1024)
    other = torch.randperm(len(x))
    half = torch.rand(len(x)) < 0.5
    for c in range(10):
        members = (y == c).nonzero().squeeze(1)
        mine = members[half[members]]
        other[mine] = members[torch.randint(len(members), (len(mine),))]
    other[:3] = torch.arange(3)
    data = TensorDataset(x, x[other], y == y[other])
    loader = DataLoader(data, batch_size=32, shuffle=True)
    return Program(Pairs(1e-8 if fixed else 0.0), loader, trainer={"max_epochs": 3})


def log_cosh(prediction, target, *, fixed):
    """Square error near zero, square root of the error far away."""
    error = (prediction - target).abs()
    far = (error - 0.5).clamp_min(1e-6) if fixed else error - 0.5
    return torch.where(error > 0.5, far.sqrt() + 0.25, error**2).mean()


@fault("NAN103", source="https://github.com/pytorch/pytorch/issues/187297")
def root_in_the_branch_not_taken(fixed: bool) -> Program:
    """torch.where differentiates both branches, and one of them is the root of a negative."""
    module = Supervised(mlp(10, 32, 1), lambda p, y: log_cosh(p, y, fixed=fixed))
    return Program(module, **loaders(*split(*diabetes())), trainer={"max_epochs": 8})


class GeneralizedMean(nn.Module):
    """GeM pooling over the positions of a feature map."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps, self.power = eps, nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        x = x.clamp_min(self.eps) if self.eps else x
        return x.pow(self.power).mean((2, 3)).pow(1 / self.power)


@fault("NAN103", source="https://github.com/facebookresearch/multigrain/issues/5")
def pooled_root_of_a_dead_map(fixed: bool) -> Program:
    """GeM pooling without its floor: a channel that is zero everywhere has an infinite slope."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        GeneralizedMean(1e-6 if fixed else 0.0),
        nn.Linear(32, 10),
    )
    return Program(Supervised(net), **digit_loaders(image=True), trainer={"max_epochs": 4})


class Attention(nn.Module):
    """One head that pools a padded sequence of vectors."""

    def __init__(self, width: int, classes: int, fixed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, width, padding_idx=0)
        self.score, self.out, self.fixed = nn.Linear(width, 1), nn.Linear(width, classes), fixed

    def forward(self, tokens):
        x = self.embed(tokens)
        blocked = tokens == 0
        if self.fixed:
            blocked = blocked & (tokens != 0).any(1, keepdim=True)
        weights = self.score(x).squeeze(2).masked_fill(blocked, -torch.inf).softmax(1)
        return self.out((weights[..., None] * x).sum(1))


@fault("NAN102", source="https://github.com/pytorch/pytorch/issues/41508")
def attention_over_nothing_but_padding(fixed: bool) -> Program:
    """A few sentences are empty, so that all of their scores are masked."""
    tokens = torch.randint(1, 30, (1200, 12))
    tokens[torch.arange(12) >= torch.randint(8, 13, (1200, 1))] = 0
    tokens[torch.randperm(1200)[:10]] = 0
    y = (tokens[:, :, None] % 5 == torch.arange(5)).sum(1).argmax(1)
    module = Supervised(Attention(32, 5, fixed), lr=1e-2)
    return Program(module, **loaders(*split(tokens, y)), trainer={"max_epochs": 5})


@fault("NAN104", source="https://github.com/pytorch/pytorch/issues/40497")
def adam_without_epsilon(fixed: bool) -> Program:
    """Pixels that are always zero have no gradient, and Adam divides it by its root: 0 / 0."""
    x, y = digits(1797)
    adam = lambda p, lr: torch.optim.Adam(p, lr=lr, eps=1e-8 if fixed else 0.0)  # noqa: E731
    module = Supervised(mlp(64, 64, 10), optimizer=adam)
    return Program(module, **loaders(*split((x + 1) / 2, y)), trainer={"max_epochs": 4})


class Average(pl.Callback):
    """Pulls the weights towards their running average, as of the middle of the run."""

    def __init__(self, fixed: bool) -> None:
        self.fixed, self.average, self.count = fixed, None, 0

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step < 60 or trainer.global_step % 10:
            return
        with torch.no_grad():
            weights = [p.detach().clone() for p in module.parameters()]
            self.average = self.average or [torch.zeros_like(w) for w in weights]
            for mean, weight in zip(self.average, weights, strict=True):
                mean.mul_(0.9).add_(0.1 * weight)
            correction = 1 - 0.9 ** (self.count + 1 if self.fixed else self.count)
            self.count += 1
            for p, mean in zip(module.parameters(), self.average, strict=True):
                p.mul_(0.8).add_(0.2 * mean / correction)


@fault("NAN104", source=TRAINCHECK)
def average_corrected_by_zero(fixed: bool) -> Program:
    """A callback that averages the weights divides by 1 - 0.9 ** 0."""
    return Program(
        Supervised(mlp(64, 64, 10)),
        **digit_loaders(),
        trainer={"max_epochs": 4, "callbacks": [Average(fixed)]},
    )


class Uncertain(pl.LightningModule):
    """Predicts a mean and a deviation, by maximum likelihood."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(10, 32, 2), fixed

    def loss(self, batch):
        mean, raw = self.net(batch["x"]).chunk(2, dim=1)
        deviation = F.softplus(raw) + 1e-2 if self.fixed else F.relu(raw)
        return (deviation.log() + 0.5 * ((batch["y"] - mean) / deviation) ** 2).mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("NAN102", source=HUMBATOVA + ", wrong loss function calculation")
def deviation_of_zero(fixed: bool) -> Program:
    """A ReLU makes the predicted deviation zero, and the likelihood takes its logarithm."""
    train, val = split(*diabetes())
    as_dict = [[{"x": x, "y": y} for x, y in part] for part in (train, val)]
    return Program(Uncertain(fixed), **loaders(*as_dict), trainer={"max_epochs": 8})


class BatchScaled(nn.Module):
    """Standardizes its features over the batch, by hand."""

    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0) + 1e-5)


@fault("NAN102", source="https://github.com/ziwei-jiang/PGGAN-PyTorch/issues/1")
def deviation_of_a_batch_of_one(fixed: bool) -> Program:
    """The last batch of the epoch has a single sample, which has no standard deviation."""
    x, y = blobs(1025)
    net = nn.Sequential(nn.Linear(16, 32), BatchScaled(), nn.ReLU(), nn.Linear(32, 4))
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, drop_last=fixed)
    return Program(Supervised(net), loader, trainer={"max_epochs": 3})


class Reader(pl.LightningModule):
    """Reads lines of digits with CTC."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net = nn.GRU(8, 32, batch_first=True)
        self.out, self.fixed = nn.Linear(32, 6), fixed

    def training_step(self, batch, batch_idx):
        x, y, length = batch
        scores = self.out(self.net(x)[0]).log_softmax(2).transpose(0, 1)
        steps = torch.full((len(x),), x.shape[1])
        loss = F.ctc_loss(scores, y, steps, length, zero_infinity=self.fixed)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault("NAN102", "NAN103", source="https://github.com/pytorch/pytorch/issues/31557")
def line_too_short_for_its_text(fixed: bool) -> Program:
    """Some lines have fewer steps than their text needs: CTC's loss is infinite."""
    y = torch.randint(1, 6, (640, 5))
    y[1::2, 1] = y[1::2, 0] % 5 + 1
    x = torch.randn(640, 8, 8) * 0.3
    for i in range(5):
        x[torch.arange(640), i + 1, y[:, i]] += 2
    y[:6] = torch.tensor([1, 1, 1, 1, 1])  # repeats need blanks between: nine steps
    length = torch.full((640,), 5)
    loader = DataLoader(TensorDataset(x, y, length), batch_size=32, shuffle=True)
    return Program(Reader(fixed), loader, trainer={"max_epochs": 4})


class Tagger(pl.LightningModule):
    """Tags the tokens that somebody has labelled; the others are -100."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = nn.Sequential(nn.Embedding(40, 24), mlp(24, 32, 4)), fixed

    def training_step(self, batch, batch_idx):
        tokens, tags = batch
        logits = self.net(tokens).flatten(0, 1)
        if self.fixed:
            total = F.cross_entropy(logits, tags.flatten(), reduction="sum")
            loss = total / (tags != -100).sum().clamp_min(1)
        else:
            loss = F.cross_entropy(logits, tags.flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault("NAN102", source="https://github.com/pytorch/pytorch/issues/75181")
def batch_without_any_label(fixed: bool) -> Program:
    """Labels are rare: now and then a batch has none, and the mean over nothing is NaN."""
    tokens = torch.randint(40, (960, 6))
    tags = (tokens % 4).masked_fill(torch.rand(960, 6) > 0.12, -100)
    loader = DataLoader(TensorDataset(tokens, tags), batch_size=6, shuffle=True)
    return Program(Tagger(fixed), loader, trainer={"max_epochs": 1})


@fault("NAN102", "INP103", source=HUMBATOVA + ", missing scaling")
def exponential_of_raw_features(fixed: bool) -> Program:
    """A Poisson regression on raw features: the exponential overflows."""
    x = torch.rand(1000, 6) * torch.tensor([1.0, 5.0, 100.0, 2000.0, 3.0, 1.0])
    rate = (0.5 + x[:, 2] / 50 - x[:, 1] / 5).exp()
    y = torch.poisson(rate)[:, None]
    loss = lambda raw, y: (raw.exp() - y * raw).mean()  # noqa: E731
    x = standardized(x) if fixed else x
    module = Supervised(mlp(6, 32, 1), loss)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 6})


class HalfSum(pl.LightningModule):
    """Sums up squared features over all positions, in half precision."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.conv, self.out, self.fixed = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16, 1), fixed

    def training_step(self, batch, batch_idx):
        image, mask = batch
        with torch.autocast("cpu", torch.float16):
            features = self.conv(image * 8).half()
            if self.fixed:
                pooled = features.float().pow(2).mean((2, 3)).div(50)
            else:
                pooled = features.pow(2).sum((2, 3))
        area = mask.float().mean((1, 2))[:, None]
        loss = F.mse_loss(self.out(pooled.float()), area * 10)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("NAN102", "NAN103", "NAN105", source="https://github.com/pytorch/pytorch/issues/40497")
def sum_beyond_half_precision(fixed: bool) -> Program:
    """A sum of squares over the image passes 65,504, the largest number of float16."""
    loader = DataLoader(TensorDataset(*scenes(512, 32)), batch_size=32, shuffle=True)
    return Program(HalfSum(fixed), loader, trainer={"max_epochs": 4})


@fault("NAN106", source="https://github.com/NVIDIA/apex/issues/318")
def scaler_that_grows_each_step(fixed: bool) -> Program:
    """The loss scale doubles after every good step, so that every other step overflows."""
    options = {} if fixed else {"init_scale": 2.0**24, "growth_interval": 1, "growth_factor": 8.0}
    scaler = torch.amp.GradScaler("cpu", **(options or {"init_scale": 2.0**10}))
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    return Program(
        Supervised(mlp(64, 64, 10)),
        **digit_loaders(),
        trainer={"max_epochs": 3, "plugins": [plugin]},
    )
