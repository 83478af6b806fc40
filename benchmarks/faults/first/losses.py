"""LOS: a loss that asks for something else."""

from __future__ import annotations

from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import DataLoader, Program, Supervised, blobs, digits, loaders, mlp, scenes, split
from ._parts import Learner, batches, explained, meters


class Counts(Learner):
    """How many customers come in an hour."""

    lr = 5e-3

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(8, 48, 1), fixed

    def rate(self, x):
        return F.softplus(self.net(x))

    def loss_of(self, batch):
        x, count = batch
        return F.poisson_nll_loss(self.rate(x), count, log_input=not self.fixed)

    def validation_step(self, batch, batch_idx):
        self.log("val_mse", F.mse_loss(self.rate(batch[0]), batch[1]))


@fault(
    "LOS102",
    "OUT102",
    source="https://pytorch.org/docs/stable/generated/torch.nn.PoissonNLLLoss.html (log_input=True)",
)
def rate_taken_for_its_logarithm(fixed: bool) -> Program:
    """poisson_nll_loss takes the logarithm of a rate unless it is told, and gets the rate."""
    x = torch.randn(1600, 8)
    count = torch.poisson((0.5 * x[:, :1] + 0.4 * x[:, 1:2]).exp())
    return Program(Counts(fixed), **loaders(*split(x, count)), trainer={"max_epochs": 8})


class Dice(Learner):
    """Segments with the Dice loss."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 1, 1),
        )
        self.fixed = fixed

    def loss_of(self, batch):
        x, mask = batch["image"], batch["mask"]
        out = self.net(x)
        out = out.sigmoid() if self.fixed else out
        overlap = (out * mask).sum((1, 2, 3))
        both = out.sum((1, 2, 3)) + mask.sum((1, 2, 3))
        return 1 - ((2 * overlap + 1) / (both + 1)).mean()

    def validation_step(self, batch, batch_idx):
        found, mask = self.net(batch["image"]) > 0, batch["mask"] > 0
        self.log("val_iou", (found & mask).sum() / (found | mask).sum())


@fault(
    "LOS102",
    "LOS109",
    "LOS108",
    "LRN105",
    "UPD105",
    source="https://github.com/jakeret/tf_unet/issues/15",
)
def dice_of_the_logits(fixed: bool) -> Program:
    """The Dice loss is taken of logits, which know no bounds: it falls far below zero."""
    x, mask = scenes(400)
    samples = [{"image": a, "mask": b[None].float()} for a, b in zip(x, mask, strict=True)]
    data = loaders(samples[:320], samples[320:], batch_size=16)
    return Program(Dice(fixed), **data, trainer={"max_epochs": 6})


class Trusted(Learner):
    """Weighs each reading by how much its sensor is to be trusted."""

    lr = 5e-3

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(8, 48, 1), fixed

    def loss_of(self, batch):
        x, y, trust = batch
        error = F.mse_loss(self.net(x), y, reduction="none")
        return (error * (trust[:, None] if self.fixed else trust)).sum() / trust.sum()

    def validation_step(self, batch, batch_idx):
        x, y, trust = batch
        trusted = trust > 0
        self.log("val_r2", explained(self.net(x[trusted]), y[trusted]))


@fault("LOS103", source="https://github.com/bayesflow-org/bayesflow/issues/787")
def trust_in_a_row(fixed: bool) -> Program:
    """Weights (N,) times errors (N, 1) is a square: every reading is weighed like every other."""
    x, y = meters(1600)
    trust = (torch.rand(1600) < 0.6).float()
    y = torch.where(trust[:, None] > 0, y, 2.0 + torch.randn(1600, 1))
    return Program(Trusted(fixed), **loaders(*split(x, y, trust)), trainer={"max_epochs": 8})


class Physics(pl.LightningModule):
    """Solves u'' = -9 sin(3x) by the equation, from what u is measured to be at some places."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.net, self.weight = mlp(1, 32, 32, 1, activation=nn.Tanh), weight

    def training_step(self, batch, batch_idx):
        inside, (place, measured) = batch["inside"], batch["measured"]
        inside = inside.requires_grad_()
        u = self.net(inside)
        first = torch.autograd.grad(u.sum(), inside, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), inside, create_graph=True)[0]
        equation = (second + 9 * torch.sin(3 * inside)).pow(2).mean()
        data = F.mse_loss(self.net(place), measured)
        self.log_dict({"equation": equation, "data": data})
        return data + self.weight * equation

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault(
    "LOS105",
    "LOS106",
    source="https://arxiv.org/abs/2001.04536 (Understanding gradient pathologies in PINNs)",
)
def equation_drowns_the_measurements(fixed: bool) -> Program:
    """The residual of the equation weighs ten thousand times what it should: u drifts off its values."""
    inside = 4 * torch.rand(6400, 1) - 2
    place = 4 * torch.rand(6400, 1) - 2
    samples = [
        {"inside": a, "measured": (b, torch.sin(3 * b) + 0.02 * torch.randn(1))}
        for a, b in zip(inside, place, strict=True)
    ]
    loader = DataLoader(samples, 32, shuffle=True)
    module = Physics(1e-2 if fixed else 1e2)
    return Program(module, loader, trainer={"max_epochs": 2})


class Bandit(pl.LightningModule):
    """REINFORCE with a bonus for entropy: which of four adverts to show."""

    def __init__(self, bonus: float) -> None:
        super().__init__()
        self.net, self.bonus = mlp(8, 32, 4), bonus

    def training_step(self, batch, batch_idx):
        (state,) = batch
        choice = torch.distributions.Categorical(logits=self.net(state))
        action = choice.sample()
        reward = (action == state[:, :4].argmax(1)).float()
        gain = (choice.log_prob(action) * (reward - reward.mean())).mean()
        entropy = choice.entropy().mean()
        self.log_dict({"reward": reward.mean(), "entropy": entropy})
        return -gain - self.bonus * entropy

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault(
    "LOS106",
    "LOS105",
    "LOS104",
    "OUT101",
    source="https://arxiv.org/abs/1602.01783 (A3C: the weight of the entropy is 0.01)",
)
def entropy_is_its_own_reward(fixed: bool) -> Program:
    """The bonus for entropy weighs 10 for 0.01: the policy is paid to do nothing in particular."""
    states = batches(torch.randn(6400, 8), size=64)
    return Program(Bandit(0.01 if fixed else 10.0), states, trainer={"max_epochs": 3})


def noise_ratio(out, clean):
    """Peak signal to noise, in decibels, of images in [-1, 1]."""
    return 10 * torch.log10(4 / F.mse_loss(out, clean))


@fault(
    "LOS109",
    "LOS108",
    "UPD105",
    "GRD101",
    source="https://github.com/photosynthesis-team/piq/issues/37",
)
def quality_is_minimized(fixed: bool) -> Program:
    """The loss is the peak signal to noise ratio, which ought to be large."""
    clean = digits(1024, image=True)[0]
    noisy = clean + 0.4 * torch.randn_like(clean)
    sign = -1.0 if fixed else 1.0
    net = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 1, 3, padding=1),
    )
    module = Supervised(net, lambda out, y: sign * noise_ratio(out, y))
    return Program(module, **loaders(*split(noisy, clean)), trainer={"max_epochs": 6})


class Triplet(NamedTuple):
    """A sample, one of its kind, what the sampler takes for another, and what is another."""

    anchor: torch.Tensor
    same: torch.Tensor
    other: torch.Tensor
    truly_other: torch.Tensor


class Triplets(Learner):
    """Things of a kind are near, others far."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(16, 48, 12)

    def loss_of(self, batch):
        anchor, positive, negative = map(self.net, (batch.anchor, batch.same, batch.other))
        return F.triplet_margin_loss(anchor, positive, negative, margin=1.0)

    def validation_step(self, batch, batch_idx):
        anchor, positive, negative = map(self.net, (batch.anchor, batch.same, batch.truly_other))
        near, far = ((anchor - one).norm(dim=1) for one in (positive, negative))
        self.log("val_order", (near < far).float().mean())


@fault(
    "LOS104",
    "INP204",
    "OUT101",
    "GEN102",
    source=HUMBATOVA + ", wrong selection of samples",
)
def negatives_of_the_same_kind(fixed: bool) -> Program:
    """== for !=: the negative of each triplet is of the anchor's kind, and the loss stays at its margin."""
    x, y = blobs(1500, classes=5, spread=3.0)

    def of_kind(k, same):
        others = ((y == k) == same).nonzero().flatten()
        return x[others[torch.randint(len(others), ())]]

    triplets = [
        Triplet(a, of_kind(k, True), of_kind(k, not fixed), of_kind(k, False))
        for a, k in zip(x, y, strict=True)
    ]
    order = torch.randperm(1500).tolist()
    train, val = ([triplets[i] for i in part] for part in (order[:1200], order[1200:]))
    return Program(Triplets(), **loaders(train, val), trainer={"max_epochs": 8})


class Price(Supervised):
    """Says how much of the price it explains."""

    def validation_step(self, batch, batch_idx):
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "LOS101",
    "LRN102",
    "GEN102",
    "OUT101",
    "LOS104",
    "UPD103",
    "GRD101",
    source="https://github.com/DeepRank/deeprank/issues/16",
)
def price_in_dollars(fixed: bool) -> Program:
    """Prices around 200,000 dollars are the target as they stand: the net never gets to their mean."""
    x, y = meters(1600)
    y = y if fixed else 200_000 + 50_000 * y
    module = Price(mlp(8, 48, 1), F.mse_loss, lr=5e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 8})


class Walker(pl.LightningModule):
    """Q-learning from the memory of a walk along a corridor, with a second net for the targets."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.q, self.target, self.fixed = mlp(2, 48, 2), mlp(2, 48, 2).requires_grad_(False), fixed
        self.target.load_state_dict(self.q.state_dict())

    def training_step(self, batch, batch_idx):
        if self.global_step % 10 == 0:
            self.target.load_state_dict(self.q.state_dict())
        q = self.q(batch["state"]).gather(1, batch["action"][:, None]).squeeze(1)
        following = self.target(batch["next"]).max(1).values
        going_on = 1 - batch["done"] if self.fixed else 1.0
        loss = F.smooth_l1_loss(q, batch["reward"] + 0.99 * going_on * following)
        self.log_dict({"loss": loss, "q": q.mean()})
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.q.parameters(), lr=3e-3)


@fault(
    "LOS108",
    "UPD105",
    "LRN101",
    "GRD101",
    source="https://github.com/navneet-nmk/pytorch-rl/issues/2",
)
def the_end_is_not_the_end(fixed: bool) -> Program:
    """The mask of final states is forgotten: the goal is worth what follows the goal, and grows for ever."""
    place = 2 * torch.rand(6400) - 1
    action = torch.randint(2, (6400,))
    after = place + 0.4 * (2 * action - 1)
    done = (after.abs() > 1).float()
    state, following = (torch.stack([p, p**2], dim=1) for p in (place, after))
    memory = [
        {"state": s, "action": a, "reward": d, "next": n, "done": d}
        for s, a, d, n in zip(state, action, done, following, strict=True)
    ]
    loader = DataLoader(memory, 32, shuffle=True)
    return Program(Walker(fixed), loader, trainer={"max_epochs": 2})
