"""Graphs, sets, physics, experts, and nets of unusual shape."""

from __future__ import annotations

import copy
import math

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from healthy import healthy
from healthy._parts import (
    Block,
    Classifier,
    Learner,
    digit_loaders,
    loaders,
    mlp,
    split,
    standardized,
)


class GraphNet(pl.LightningModule):
    """Two graph convolutions on a fixed, normalized adjacency."""

    def __init__(self, adjacency: torch.Tensor, features: int, classes: int) -> None:
        super().__init__()
        degree = adjacency.sum(1)
        self.register_buffer("adjacency", adjacency / (degree[:, None] * degree).sqrt())
        self.first, self.second = nn.Linear(features, 32), nn.Linear(32, classes)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        x = F.relu(self.adjacency @ self.first(x))
        return self.adjacency @ self.second(self.dropout(x))

    def training_step(self, batch, batch_idx):
        x, y, known = batch
        loss = F.cross_entropy(self(x)[known], y[known])
        self.log("train_loss", loss, batch_size=1)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y, known = batch
        logits = self(x)[~known]
        self.log("val_loss", F.cross_entropy(logits, y[~known]), batch_size=1)
        self.log("val_acc", (logits.argmax(1) == y[~known]).float().mean(), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2, weight_decay=5e-4)


@healthy
def node_classification() -> Program:
    """Every batch is the same whole graph, in training and in validation; masks tell them apart."""
    y = torch.arange(200) % 4
    likely = torch.where(y[:, None] == y, 0.12, 0.02)
    upper = torch.bernoulli(likely).triu(1)
    adjacency = upper + upper.T + torch.eye(200)
    x = standardized(F.one_hot(y, 8) + torch.randn(200, 8))
    graph = [(x, y, torch.rand(200) < 0.4)]
    loader = DataLoader(graph, batch_size=None)
    module = GraphNet(adjacency, 8, 4)
    return Program(
        module, loader, loader, trainer={"max_epochs": 80, "check_val_every_n_epoch": 10}
    )


class MessagePassing(pl.LightningModule):
    """Counts on graphs of different size, batched as one big graph."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 32)
        self.message, self.update = mlp(64, 32, 32), nn.GRUCell(32, 32)
        self.readout = mlp(32, 32, 1)

    def forward(self, nodes, edges, owner):
        state = self.embed(nodes).relu()
        for _ in range(2):  # the same two modules, again
            message = self.message(torch.cat([state[edges[0]], state[edges[1]]], dim=1))
            state = self.update(torch.zeros_like(state).index_add(0, edges[1], message), state)
        total = torch.zeros(int(owner.max()) + 1, 32).index_add(0, owner, state)
        return self.readout(total / owner.bincount()[:, None]).squeeze(1)

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self(**batch["graph"]), batch["y"])
        self.log("train_loss", loss, batch_size=len(batch["y"]))
        return loss

    def validation_step(self, batch, batch_idx):
        loss = F.mse_loss(self(**batch["graph"]), batch["y"])
        self.log("val_loss", loss, batch_size=len(batch["y"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def collate_graphs(samples):
    """Joins graphs side by side."""
    nodes, edges, owner, offset = [], [], [], 0
    for i, (x, e, _) in enumerate(samples):
        nodes.append(x)
        edges.append(e + offset)
        owner.append(torch.full((len(x),), i))
        offset += len(x)
    graph = {"nodes": torch.cat(nodes), "edges": torch.cat(edges, dim=1), "owner": torch.cat(owner)}
    return {"graph": graph, "y": torch.stack([y for *_, y in samples])}


@healthy
def molecules() -> Program:
    """A nested batch whose first dimension is not the batch size, and modules used twice."""
    samples = []
    for _ in range(480):
        n = int(torch.randint(4, 9, ()))
        kind = torch.randint(4, (n,))
        edges = torch.bernoulli(torch.full((n, n), 0.5)).triu(1).nonzero().T
        edges = torch.cat([edges, edges.flip(0)], dim=1)
        same = (kind[edges[0]] == kind[edges[1]]).float().sum() / n
        samples.append((F.one_hot(kind, 4).float(), edges, same + (kind == 0).float().mean()))
    y = standardized(torch.stack([s[2] for s in samples]))
    samples = [(x, e, t) for (x, e, _), t in zip(samples, y, strict=True)]
    return Program(
        MessagePassing(),
        DataLoader(samples[:384], batch_size=16, shuffle=True, collate_fn=collate_graphs),
        DataLoader(samples[384:], batch_size=32, collate_fn=collate_graphs),
        trainer={"max_epochs": 7},
    )


class AttentionPooling(nn.Module):
    """Scores the instances of a bag and classifies their weighted mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
        self.score = mlp(48, 16, 1, activation=nn.Tanh)
        self.head = nn.Linear(48, 2)

    def forward(self, bag):
        x = self.embed(bag)
        return self.head((self.score(x).softmax(1) * x).sum(1))


@healthy
def multiple_instances() -> Program:
    """A bag is positive if it holds a nine; the bias of the score cancels in the softmax."""
    x, y = digits(1797)
    nines, others = x[y == 9], x[y != 9]
    bags = others[torch.randint(len(others), (640, 8))]
    positive = torch.rand(640) < 0.5
    bags[positive, 3] = nines[torch.randint(len(nines), (int(positive.sum()),))]
    bags = torch.stack([bag[torch.randperm(8)] for bag in bags])
    module = Classifier(AttentionPooling(), lr=3e-3)
    return Program(
        module, **loaders(*split(bags, positive.long()), batch_size=16), trainer={"max_epochs": 7}
    )


@healthy
def deep_sets() -> Program:
    """Sums over a set of any order; the target is its range."""

    class DeepSet(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = mlp(1, 32, 32), mlp(64, 32, 1)

        def forward(self, x):
            x = self.inner(x)
            return self.outer(torch.cat([x.mean(1), x.amax(1)], dim=1))

    x = torch.randn(1024, 10, 1)
    y = standardized(x.amax(1) - x.amin(1))
    return Program(Learner(DeepSet(), lr=3e-3), **loaders(*split(x, y)), trainer={"max_epochs": 6})


class Experts(nn.Module):
    """Sends each sample to one expert of four, and computes only those that are needed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, 4, bias=False)
        self.experts = nn.ModuleList(mlp(width, 64, width) for _ in range(4))

    def forward(self, x):
        probability = self.router(x).softmax(1)
        weight, chosen = probability.max(1)
        out = torch.zeros_like(x)
        for i in chosen.unique().tolist():
            mine = chosen == i
            out[mine] = weight[mine, None] * self.experts[i](x[mine])
        share = F.one_hot(chosen, 4).float().mean(0)
        self.balance = 4 * (share * probability.mean(0)).sum()
        return x + out


class MoE(Classifier):
    """Adds the load balancing loss of the Switch Transformer."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(64, 32), Experts(32), nn.LayerNorm(32), nn.Linear(32, 10)),
            lr=2e-3,
        )

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 0.02 * self.net[1].balance


@healthy
def mixture_of_experts() -> Program:
    """Small batches: an expert that nobody chose has no gradient in that step."""
    return Program(MoE(), **digit_loaders(image=False, batch_size=8), trainer={"max_epochs": 3})


class PINN(pl.LightningModule):
    """Solves u'' = -u with u(0) = 0, u'(0) = 1 from random points only."""

    def __init__(self) -> None:
        super().__init__()
        self.u = mlp(1, 32, 32, 1, activation=nn.Tanh)

    def training_step(self, t, batch_idx):
        t.requires_grad_()
        u = self.u(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), t, create_graph=True)
        zero = torch.zeros(1, 1, requires_grad=True)
        start = self.u(zero)
        (initial_slope,) = torch.autograd.grad(start, zero, create_graph=True)
        equation = (curvature + u).square().mean()
        initial = start.square() + (initial_slope - 1).square()
        self.log_dict({"equation": equation, "error": (u - t.sin()).abs().mean()})
        return equation + initial.squeeze()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def physics_informed() -> Program:
    """No targets; the loss is made of second derivatives by the inputs."""
    points = DataLoader(torch.rand(6000, 1) * 3, batch_size=32, shuffle=True)
    return Program(PINN(), points, trainer={"max_steps": 180})


class Sine(nn.Module):
    """A SIREN layer with its own initialization."""

    def __init__(self, i: int, o: int, *, first: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(i, o)
        bound = 1 / i if first else math.sqrt(6 / i) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x):
        return (30 * self.linear(x)).sin()


@healthy
def coordinate_net() -> Program:
    """Memorizes one picture, all of it in every batch; pre-activations are far from 0 on purpose."""
    image = F.interpolate(digits(1, image=True)[0], size=24, mode="bicubic").view(-1, 1)
    axis = torch.linspace(-1, 1, 24)
    points = torch.cartesian_prod(axis, axis)
    net = nn.Sequential(Sine(2, 48, first=True), Sine(48, 48), nn.Linear(48, 1))
    train = DataLoader(TensorDataset(points, image), batch_size=576)
    return Program(Learner(net, lr=1e-3), train, trainer={"max_epochs": 120})


class NeuralODE(nn.Module):
    """Integrates a learned field by Euler's method: one module, used ten times."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.field, self.head = (
            nn.Linear(64, 32),
            mlp(32, 32, 32, activation=nn.Tanh),
            nn.Linear(32, 10),
        )

    def forward(self, x):
        x = self.lift(x)
        for _ in range(10):
            x = x + 0.1 * self.field(x)
        return self.head(x)


@healthy
def neural_ode() -> Program:
    """Module and parameters are used ten times in each forward."""
    return Program(Classifier(NeuralODE()), **digit_loaders(image=False), trainer={"max_epochs": 5})


@healthy
def deep_residual_mlp() -> Program:
    """Some thirty layers, pre-norm: deep, and well initialized."""

    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.LayerNorm(32), mlp(32, 32, 32, activation=nn.GELU))

        def forward(self, x):
            return x + self.body(x)

    net = nn.Sequential(
        nn.Linear(64, 32), *(Branch() for _ in range(16)), nn.LayerNorm(32), nn.Linear(32, 10)
    )
    return Program(
        Classifier(net, lr=1e-3),
        **digit_loaders(image=False, batch_size=64),
        trainer={"max_epochs": 8},
    )


@healthy
def deep_plain_selu() -> Program:
    """Twenty layers without norms or shortcuts: self-normalizing by its initialization."""
    net = mlp(64, *[48] * 20, 10, activation=nn.SELU)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)
    x, y = digits()
    data = split((x - x.mean()) / x.std(), y)
    return Program(
        Classifier(net, lr=5e-4), **loaders(*data, batch_size=32), trainer={"max_epochs": 8}
    )


class FixupBlock(nn.Module):
    """A residual block without norm: zero last layer, scalar biases, a scalar multiplier."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(1))
        self.up, self.down = (
            nn.Linear(width, width, bias=False),
            nn.Linear(width, width, bias=False),
        )
        nn.init.normal_(self.up.weight, std=(2 / width) ** 0.5 * depth**-0.5)
        nn.init.zeros_(self.down.weight)

    def forward(self, x):
        return x + self.scale * self.down(F.relu(self.up(x + self.a)) + self.b) + self.c


@healthy
def fixup() -> Program:
    """Half of the matrices and the whole output layer start at zero; biases are scalars."""
    head = nn.Linear(64, 10)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *(FixupBlock(64, 6) for _ in range(6)), head)
    return Program(
        Classifier(net, lr=2e-3), **digit_loaders(image=False), trainer={"max_epochs": 5}
    )


@healthy
def layer_scale() -> Program:
    """Residual branches are multiplied by 1e-4 at the start, so their gradients are tiny."""
    net = nn.Sequential(
        nn.Unflatten(1, (8, 8)),
        nn.Linear(8, 32),
        *(Block(scale=1e-4) for _ in range(3)),
        nn.LayerNorm(32),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    return Program(
        Classifier(net, lr=3e-3), **digit_loaders(image=False), trainer={"max_epochs": 5}
    )


@healthy
def spectral_norm() -> Program:
    """Weights are parametrized, and power iteration changes buffers in every training forward."""
    net = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(64, 96)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(96, 96)),
        nn.ReLU(),
        nn.Linear(96, 10),
    )
    return Program(
        Classifier(net, lr=5e-3), **digit_loaders(image=False), trainer={"max_epochs": 5}
    )


@healthy
def orthogonal_weights() -> Program:
    """One weight stays orthogonal by parametrization; another is symmetric by hand."""

    class Symmetric(nn.Module):
        def forward(self, w):
            return w.triu() + w.triu(1).T

    square = nn.Linear(64, 64)
    nn.utils.parametrize.register_parametrization(square, "weight", Symmetric())
    net = nn.Sequential(
        parametrizations.orthogonal(nn.Linear(64, 64), orthogonal_map="cayley"),
        nn.ReLU(),
        square,
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    return Program(
        Classifier(net, lr=2e-3), **digit_loaders(image=False), trainer={"max_epochs": 5}
    )


class Checkpointed(nn.Module):
    """Computes the middle of the net twice, to save memory."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, 64), nn.Linear(64, 10)
        self.middle = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(64), mlp(64, 64, 64), nn.Dropout(0.1)) for _ in range(3)
        )

    def forward(self, x):
        x = self.enter(x)
        for block in self.middle:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.leave(x)


@healthy
def activation_checkpointing() -> Program:
    """Forward hooks fire a second time in the backward pass; dropout must draw the same mask again."""
    return Program(
        Classifier(Checkpointed(), lr=1e-3), **digit_loaders(image=False), trainer={"max_epochs": 4}
    )


@healthy
def compiled_body() -> Program:
    """A part of the net is compiled (with the eager backend, to be quick)."""
    body = torch.compile(mlp(64, 96, 96), backend="eager")
    net = nn.Sequential(body, nn.ReLU(), nn.Linear(96, 10))
    return Program(Classifier(net), **digit_loaders(image=False), trainer={"max_epochs": 5})


class Recursive(nn.Module):
    """An Albert-like encoder: one block, applied four times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.position = nn.Parameter(torch.randn(8, 32) * 0.1)
        self.block = Block()
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10))

    def forward(self, x):
        x = self.embed(x.squeeze(1)) + self.position
        for _ in range(4):
            x = self.block(x)
        return self.head(x.mean(1))


@healthy
def shared_block() -> Program:
    """One transformer block runs four times in a row; rows of pixels are its tokens."""
    return Program(Classifier(Recursive(), lr=2e-3), **digit_loaders(), trainer={"max_epochs": 6})


class SpectralConvolution(nn.Module):
    """A Fourier layer: complex weights on the lowest frequencies."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(channels, channels, modes, dtype=torch.cfloat) / channels
        )
        self.skip = nn.Conv1d(channels, channels, 1)
        self.modes = modes

    def forward(self, x):
        spectrum = torch.fft.rfft(x)[..., : self.modes]
        mixed = torch.einsum("bim,iom->bom", spectrum, self.weight)
        return torch.fft.irfft(mixed, n=x.shape[-1]) + self.skip(x)


@healthy
def fourier_operator() -> Program:
    """Some parameters are complex; the map to learn is one step of the heat equation."""
    frequency = torch.arange(1, 9.0)
    x = torch.linspace(0, 2 * math.pi, 65)[:-1]
    amplitude = torch.randn(512, 8, 1)
    wave = (frequency[:, None] * x).sin()
    before = standardized((amplitude * wave).sum(1).flatten()).view(512, 1, 64)
    after = (amplitude * (-0.05 * frequency**2).exp()[:, None] * wave).sum(1)
    after = standardized(after.flatten()).view(512, 1, 64)
    net = nn.Sequential(
        nn.Conv1d(1, 8, 1),
        SpectralConvolution(8, 12),
        nn.GELU(),
        SpectralConvolution(8, 12),
        nn.Conv1d(8, 1, 1),
    )
    return Program(
        Learner(net, lr=5e-3),
        **loaders(*split(before, after), batch_size=16),
        trainer={"max_epochs": 6},
    )


class GaussianProcess(pl.LightningModule):
    """Fits the three hyperparameters of a kernel by exact marginal likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.log_length, self.log_scale, self.log_noise = (
            nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(3)
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        kernel = (2 * self.log_scale - (x - x.T).square() / (2 * (2 * self.log_length).exp())).exp()
        kernel = kernel + (2 * self.log_noise).exp() * torch.eye(len(x), dtype=x.dtype)
        factor = torch.linalg.cholesky(kernel)
        fit = torch.cholesky_solve(y, factor)
        loss = (0.5 * y.T @ fit).squeeze() + factor.diagonal().log().sum() + 0.919 * len(x)
        self.log("train_loss", loss / len(x), batch_size=1)
        return loss / len(x)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-2)


@healthy
def gaussian_process() -> Program:
    """Three scalars in float64, one full batch for ever, a likelihood that goes below 0."""
    x = torch.rand(60, 1, dtype=torch.float64) * 6
    y = (2 * x).sin() + 0.05 * torch.randn_like(x)
    train = DataLoader(TensorDataset(x, y), batch_size=60)
    return Program(GaussianProcess(), train, trainer={"max_epochs": 100})


class Auxiliary(pl.LightningModule):
    """A second head halfway up helps in training, and is not computed in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = (
            nn.Sequential(mlp(64, 64), nn.ReLU()),
            nn.Sequential(mlp(64, 64), nn.ReLU()),
        )
        self.head, self.auxiliary_head = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x):
        middle = self.lower(x)
        logits = self.head(self.upper(middle))
        return (logits, self.auxiliary_head(middle)) if self.training else logits

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits, auxiliary = self(x)
        loss, extra = F.cross_entropy(logits, y), F.cross_entropy(auxiliary, y)
        self.log_dict({"loss": loss, "auxiliary_loss": extra})
        return loss + 0.3 * extra

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@healthy
def auxiliary_head() -> Program:
    """Forward returns another structure in training than in validation."""
    return Program(Auxiliary(), **digit_loaders(image=False), trainer={"max_epochs": 5})


class NearestNeighbours(nn.Module):
    """Sorts points by distance, where that to oneself and to padding is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.edge, self.head = mlp(6, 32, 32), nn.Linear(32, 3)

    def forward(self, cloud):
        padding = cloud.isinf().any(2)
        cloud = cloud.masked_fill(padding[..., None], 0.0)
        far = torch.eye(cloud.shape[1], dtype=torch.bool) | padding[:, None, :]
        distance = torch.cdist(cloud, cloud).masked_fill(far, torch.inf)
        nearest = distance.topk(4, largest=False).indices
        neighbour = cloud[torch.arange(len(cloud))[:, None, None], nearest]
        edges = torch.cat(
            [cloud[:, :, None].expand_as(neighbour), neighbour - cloud[:, :, None]], dim=3
        )
        features = self.edge(edges).amax(2).masked_fill(padding[..., None], -torch.inf)
        return self.head(features.amax(1))


@healthy
def point_clouds() -> Program:
    """Clouds are padded with +inf, and distances are infinite; none of it reaches the loss."""
    kind = torch.randint(3, (480,))
    direction = F.normalize(torch.randn(480, 24, 3), dim=2)
    line = direction * torch.tensor([2.0, 0.2, 0.2])
    disc = F.normalize(direction * torch.tensor([1.0, 1.0, 0.1]), dim=2) * 1.3
    clouds = torch.stack([direction, line, disc])[kind, torch.arange(480)] + 0.05 * torch.randn(
        480, 24, 3
    )
    clouds = standardized(clouds.flatten()).view_as(clouds)
    clouds[torch.arange(24) >= torch.randint(14, 25, (480, 1))] = torch.inf
    return Program(
        Classifier(NearestNeighbours(), lr=5e-3),
        **loaders(*split(clouds, kind), batch_size=16),
        trainer={"max_epochs": 5},
    )


class ExponentialAverage(Classifier):
    """Keeps an average of its weights in a copy by hand, and validates with it."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 96, 10))
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.1)

    def forward(self, x):
        return self.net(x) if self.training else self.average(x)


@healthy
def own_weight_average() -> Program:
    """Validation uses a frozen copy that training never calls."""
    return Program(ExponentialAverage(), **digit_loaders(image=False), trainer={"max_epochs": 5})


class GatedMemory(nn.Module):
    """A hand-written recurrent cell with sigmoid gates, biased open."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gate, self.content = nn.Linear(inputs, width), nn.Linear(inputs + width, width)
        nn.init.constant_(self.gate.bias, -2.0)
        self.start = nn.Parameter(torch.zeros(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        state = self.start.expand(len(x), -1)
        for row in x.squeeze(1).unbind(1):
            keep = self.gate(row).sigmoid()
            state = torch.lerp(state, self.content(torch.cat([row, state], dim=1)).tanh(), keep)
        return self.head(state)


@healthy
def gated_memory() -> Program:
    """Gates start nearly closed: their sigmoids are in the flat region, and learn to open."""
    return Program(
        Classifier(GatedMemory(8, 64), lr=5e-3), **digit_loaders(), trainer={"max_epochs": 6}
    )
