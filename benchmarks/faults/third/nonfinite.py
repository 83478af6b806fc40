"""NAN, a third time: where the first number that is none comes from."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from .. import AUTOTRAINER, HUMBATOVA, fault
from .._parts import Program, digits, loaders, mlp, split, standardized
from ..first._parts import meters, reviews, sounds
from ..second._parts import communities, lesions, patches
from ._more_parts import Classify, Task, clouds, conv_block, right, small_cnn


class Assays(Task):
    """Several properties of a molecule, not all of which were measured."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.fixed = mlp(10, 64, 64, 3), fixed

    def step(self, batch):
        x, y = batch
        known = ~y.isnan()
        if self.fixed:
            y = y.nan_to_num()
        error = F.mse_loss(self.net(x), y, reduction="none") * known
        return error.sum() / known.sum(), {}


@fault(
    "NAN101",
    "NAN102",
    source="https://github.com/ecmwf/WeatherGenerator/issues/2723 (NaN * 0 is NaN)",
)
def masked_by_a_product(fixed: bool) -> Program:
    """What was not measured is NaN in the targets, and the loss is multiplied by a mask: NaN times 0 is NaN."""
    x = torch.randn(2000, 10)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs() - x[:, 3], x[:, 4] + x[:, 5] * x[:, 0]], 1)
    y = (y - y.mean(0)) / y.std(0) + 0.1 * torch.randn(2000, 3)
    y[torch.rand(2000, 3) < 0.01] = float("nan")
    return Program(Assays(fixed=fixed), **loaders(*split(x, y)), trainer={"max_epochs": 5})


class Crops(Dataset):
    """Stretches of a recording, each of them standardized."""

    def __init__(self, x, y, *, fixed: bool) -> None:
        self.x, self.y, self.shortest = x, y, 24 if fixed else 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        start, length = torch.randint(0, 24, (2,)).tolist()
        length = max(length, self.shortest) if self.shortest else length + length // 2
        crop = self.x[index][:, start : start + length]
        x = torch.zeros(1, 48)
        x[:, : crop.shape[1]] = crop
        return (x - crop.mean()) / crop.std(), self.y[index]


@fault(
    "NAN101",
    source=HUMBATOVA,
)
def crop_of_no_length(fixed: bool) -> Program:
    """A random crop may have no length at all, and the mean and the deviation of nothing are NaN."""
    train, val = split(*sounds(1200))
    net = nn.Sequential(
        nn.Conv1d(1, 24, 7, padding=3),
        nn.ReLU(),
        nn.Conv1d(24, 32, 7, padding=3, stride=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    sets = (Crops(*part.tensors, fixed=fixed) for part in (train, val))
    return Program(Classify(net), **loaders(*sets), trainer={"max_epochs": 5})


class Diagnosis(Task):
    """The binary cross entropy as it is written in the book."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-2)
        self.net, self.fixed = mlp(4, 32, 32, 1), fixed

    def step(self, batch):
        x, y = batch
        out = self.net(x).squeeze(1)
        p = out.sigmoid()
        loss = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        if self.fixed:
            loss = F.binary_cross_entropy_with_logits(out, y)
        return loss, {"acc": ((p > 0.5) == (y > 0.5)).float().mean()}


@fault(
    "NAN102",
    "NAN103",
    source="https://stackoverflow.com/questions/33712178 (NaN loss: 0 * log(0)); " + AUTOTRAINER,
)
def cross_entropy_by_the_book(fixed: bool) -> Program:
    """-(y log p + (1 - y) log(1 - p)) by hand: the first p of exactly one makes it 0 times minus infinity."""
    x = torch.randn(2000, 4)
    y = (x[:, 0] + x[:, 1] ** 2 > 0.7).float()
    module, data = Diagnosis(fixed=fixed), loaders(*split(x, y))
    return Program(module, **data, trainer={"max_epochs": 6})


class Attention(nn.Module):
    """One layer of attention, whose softmax is written out."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.words, self.qk = nn.Embedding(80, 64), nn.Linear(64, 128)
        self.out, self.fixed = nn.Linear(64, 4), fixed

    def forward(self, ids):
        x = self.words(ids)
        q, k = self.qk(x * 8).chunk(2, 2)
        scores = q @ k.mT
        if self.fixed:
            scores = scores / 64
            scores = scores - scores.amax(2, keepdim=True)
        weight = scores.exp()
        return self.out((weight / weight.sum(2, keepdim=True) @ x).mean(1))


@fault(
    "NAN102",
    "NAN103",
    source="https://stackoverflow.com/questions/42599498 (a numerically stable softmax)",
)
def softmax_written_out(fixed: bool) -> Program:
    """exp(scores) / exp(scores).sum() of scores that are not scaled: beyond 88 the exponential is infinite."""
    module = Classify(Attention(fixed=fixed), lr=2e-3)
    return Program(module, **loaders(*split(*reviews(1600))), trainer={"max_epochs": 4})


class Graph(Task):
    """Two layers of a graph net, normalized as in the paper."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 32)
        self.out, self.fixed = nn.Linear(32, 3), fixed

    def step(self, batch):
        edges, x, y = batch["edges"], batch["x"], batch["y"]
        if self.fixed:
            edges = edges + torch.eye(edges.shape[1])
        scale = edges.sum(2).pow(-0.5)
        edges = scale[:, :, None] * edges * scale[:, None]
        x = F.relu(edges @ self.first(x))
        logits = self.out(F.relu(edges @ self.second(x)) + x).mT
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}


@fault(
    "NAN102",
    source="https://github.com/stellargraph/stellargraph/issues/1015 (the degree of isolated nodes)",
)
def nodes_without_neighbours(fixed: bool) -> Program:
    """Self-loops are forgotten: the degree of a lonely node is 0, and its inverse root infinite."""
    adjacency, x, y = communities(500)
    edges = (adjacency > 0).float() * (1 - torch.eye(24))
    alone = torch.rand(500, 24) < 0.003
    edges = edges * ~alone[:, :, None] * ~alone[:, None]
    samples = [{"edges": e, "x": n, "y": k} for e, n, k in zip(edges, x, y, strict=True)]
    data = loaders(samples[:400], samples[400:], batch_size=16)
    return Program(Graph(fixed=fixed), **data, trainer={"max_epochs": 6})


class Spectral(nn.Module):
    """Tells clouds of points apart by the deviations along their axes."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.lift, self.out = mlp(3, 16, 12), mlp(12, 48, 3)
        self.fixed = fixed

    def forward(self, x):
        x = self.lift(x)
        x = x - x.mean(1, keepdim=True)
        values = torch.linalg.eigvalsh(x.mT @ x / x.shape[1])
        return self.out((values.clamp_min(0) + 1e-4 if self.fixed else values).sqrt())


@fault(
    "NAN102",
    source="https://github.com/pytorch/pytorch/issues/25972 (negative eigenvalues of a symmetric matrix)",
)
def covariance_of_few_points(fixed: bool) -> Program:
    """Ten points span nine of twelve dimensions: rounding makes eigenvalues of 0 negative, before a root."""
    data = loaders(*split(*clouds(1800, points=10)))
    return Program(Classify(Spectral(fixed=fixed)), **data, trainer={"max_epochs": 6})


class Bilinear(nn.Module):
    """Products of all pairs of channels, and a root of each that keeps its sign."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_block(3, 16), conv_block(16, 12, pool=False))
        self.out, self.fixed = nn.Linear(144, 6), fixed

    def forward(self, x):
        x = self.body(x).flatten(2)
        pairs = (x @ x.mT / x.shape[2]).flatten(1)
        root = (pairs.abs() + 1e-3).sqrt() if self.fixed else pairs.abs().sqrt()
        return self.out(F.normalize(pairs.sign() * root, dim=1) * 4)


@fault(
    "NAN103",
    source="https://github.com/jnhwkim/cbp/issues/1 (the gradient of the signed square root)",
)
def signed_root_of_pairs(fixed: bool) -> Program:
    """Bilinear pooling takes sign(x) * sqrt(|x|), whose slope where x is 0 is infinity times nothing."""
    data = loaders(*split(*patches(1500)))
    return Program(Classify(Bilinear(fixed=fixed)), **data, trainer={"max_epochs": 4})


class Careful(Classify):
    """Leaves a batch out when its loss is not finite."""

    def training_step(self, batch, batch_idx):
        loss, _ = self.step(batch)
        if not loss.isfinite():
            return None
        self.log("train/loss", loss)
        return loss


@fault(
    "NAN101",
    "NAN104",
    source="https://github.com/pytorch/pytorch/issues/88474 (the step is skipped, the running mean is NaN)",
)
def skipped_too_late(fixed: bool) -> Program:
    """One image is broken; its loss is skipped, but the running statistics of the norms have seen it."""
    train, val = split(*digits(1797, image=True))
    x, y = train.tensors
    if fixed:
        x, y = x[1:], y[1:]
    else:
        x = x.clone()
        x[0, 0, 3, 3] = float("inf")
    data = loaders(torch.utils.data.TensorDataset(x, y), val)
    return Program(Careful(small_cnn()), **data, trainer={"max_epochs": 4})


class Gated(nn.Module):
    """Residual branches that fade in: their gates start at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(8, 64), nn.Linear(64, 1)
        self.branches = nn.ModuleList(mlp(64, 64, 64) for _ in range(2))
        self.gates = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        x = F.relu(self.first(x))
        for gate, branch in zip(self.gates, self.branches, strict=True):
            x = x + gate * branch(x)
        return self.out(x)


class Normed(Task):
    """Divides the gradient of each parameter by its length before a step."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-2)
        self.net, self.floor = Gated(), 1e-3 if fixed else 0.0

    def step(self, batch):
        x, y = batch
        out = self.net(x)
        loss = F.mse_loss(out, y)
        return loss, {"r2": 1 - loss / y.var()}

    def on_before_optimizer_step(self, optimizer):
        for parameter in self.parameters():
            parameter.grad.div_(parameter.grad.norm() + self.floor)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": decay}


@fault(
    "NAN103",
    "NAN104",
    source="https://arxiv.org/abs/2003.04887 (ReZero: gates that start at zero); " + HUMBATOVA,
)
def gradients_over_their_length(fixed: bool) -> Program:
    """Gradients are divided by their lengths, and behind a gate that starts at zero this is 0 / 0."""
    module = Normed(fixed=fixed)
    return Program(module, **loaders(*split(*meters(2000))), trainer={"max_epochs": 6})


class Imitator(Task):
    """Imitates an expert with a Gaussian that is squashed by a tanh, as in soft actor-critic."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.edge = mlp(5, 64, 64, 4), 0.97 if fixed else 1.0

    def step(self, batch):
        state, action = batch["observation"]["state"], batch["action"]
        mean, scale = self.net(state).chunk(2, 1)
        policy = torch.distributions.Normal(mean, F.softplus(scale) + 0.05)
        action = action.clamp(-self.edge, self.edge)
        likely = policy.log_prob(action.atanh()) - (1 - action**2).log()
        return -likely.sum(1).mean(), {"error": (mean.tanh() - action).abs().mean()}


@fault(
    "NAN102",
    source="https://github.com/rlworkgroup/garage/pull/2129 (the likelihood of an action at the edge)",
)
def actions_at_the_edge(fixed: bool) -> Program:
    """The expert sometimes steers to the stop: atanh(1) is infinite, and so is the likelihood."""
    state = torch.randn(1800, 5)
    steer = torch.stack([state[:, 0] * state[:, 1], state[:, 2] - 0.5 * state[:, 3]], 1)
    action = (0.5 * steer + 0.1 * torch.randn(1800, 2)).clamp(-1, 1)
    samples = [
        {"observation": {"state": s}, "action": a} for s, a in zip(state, action, strict=True)
    ]
    data = loaders(samples[:1440], samples[1440:])
    return Program(Imitator(fixed=fixed), **data, trainer={"max_epochs": 5})


class Coupling(nn.Module):
    """One affine coupling of a flow, whose last layer starts at zero, as in Glow."""

    def __init__(self, flip: bool, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.flip, self.fixed = mlp(1, 48, 48, 2), flip, fixed
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x):
        a, b = x.flip(1).chunk(2, 1) if self.flip else x.chunk(2, 1)
        scale, shift = self.net(a).chunk(2, 1)
        scale = scale.tanh().exp() if self.fixed else scale
        x = torch.cat([a, b * scale + shift], 1)
        return (x.flip(1) if self.flip else x), scale.abs().log().squeeze(1)


class Flow(Task):
    """The density of two half moons."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.layers = nn.ModuleList(Coupling(i % 2 == 1, fixed=fixed) for i in range(6))

    def step(self, batch):
        (x,), volume = batch, 0.0
        for layer in self.layers:
            x, change = layer(x)
            volume = volume + change
        return (0.5 * x**2 + 0.919).sum(1).mean() - volume.mean(), {}


@fault(
    "NAN102",
    source="https://arxiv.org/abs/1807.03039 (Glow: the last layer of a coupling starts at zero); "
    "https://github.com/rosinality/glow-pytorch (the scale is a sigmoid of what it gives)",
)
def flow_from_a_scale_of_zero(fixed: bool) -> Program:
    """The scale of a coupling is its net's output as it is, which starts at zero: log 0 in the first step."""
    from sklearn.datasets import make_moons

    x = torch.tensor(make_moons(2000, noise=0.1, random_state=0)[0], dtype=torch.float32)
    data = loaders(*split((x - x.mean(0)) / x.std(0)), batch_size=64)
    return Program(Flow(fixed=fixed), **data, trainer={"max_epochs": 10})


class Dice(Task):
    """Segments by the overlap of each class in each image."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1)]
        self.net, self.smooth = nn.Sequential(*layers), 1.0 if fixed else 0.0

    def step(self, batch):
        x, mask = batch
        logits = self.net(x)
        # Only what is within the mask's box counts, as the rest was not annotated.
        box = mask.amax(2, keepdim=True) * mask.amax(3, keepdim=True)
        p = logits.softmax(1)[:, 1:] * box
        both, sizes = (p * mask).sum((1, 2, 3)), (p + mask).sum((1, 2, 3))
        dice = (2 * both + self.smooth) / (sizes + self.smooth)
        return (1 - dice).mean() + F.cross_entropy(logits, mask[:, 0].long()), {"dice": dice.mean()}


@fault(
    "NAN102",
    source="https://github.com/Project-MONAI/MONAI/issues/120 (Dice of an empty mask)",
)
def overlap_of_nothing(fixed: bool) -> Program:
    """A few scans have no lesion, and the overlap of nothing with nothing is 0 / 0."""
    x, mask = lesions(640)
    healthy = torch.rand(640) < 0.02
    x[healthy], mask[healthy] = torch.randn(int(healthy.sum()), 1, 16, 16), 0.0
    data = loaders(*split(x, mask), batch_size=16)
    return Program(Dice(fixed=fixed), **data, trainer={"max_epochs": 4})


class Watch(pl.Callback):
    """Gives the weights of each column of the first layer the same deviation."""

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        weight = pl_module.net[0].weight.data
        spread = weight.std(0)
        weight.div_(spread.clamp_min(0.1) / 0.1 if self.fixed else spread / 0.1)


@fault(
    "NAN104",
    source=HUMBATOVA,
)
def weights_standardized_by_column(fixed: bool) -> Program:
    """A callback divides each column of weights by its deviation, and pruned columns have none."""
    x, y = digits(1797)
    x, net = standardized(x), mlp(64, 64, 10)
    with torch.no_grad():
        net[0].weight[:, x.std(0) == 0] = 0.0
    trainer = {"max_epochs": 6, "callbacks": [Watch(fixed=fixed)]}
    return Program(Classify(net), **loaders(*split(x, y)), trainer=trainer)
