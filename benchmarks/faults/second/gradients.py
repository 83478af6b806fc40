"""GRD, a second time: gradients that explode, vanish, or never arrive."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from .. import AUTOTRAINER, DEEPFD, HUMBATOVA, KARPATHY, fault
from .._parts import Program, Supervised, digit_loaders, digits, loaders, mlp, split
from ..first._parts import Learner, accuracy, explained, gestures, meters, reviews
from ._parts import communities, demand, forecasts, patches


class Adder(Learner):
    """The adding problem: the sum of the two marked numbers of a sequence, by a ReLU network."""

    lr = 1e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 64, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(64, 1)
        if fixed:
            nn.init.eye_(self.rnn.weight_hh_l0)
        else:
            nn.init.normal_(self.rnn.weight_hh_l0, std=0.5)
        nn.init.zeros_(self.rnn.bias_hh_l0)
        nn.init.zeros_(self.rnn.bias_ih_l0)
        nn.init.normal_(self.rnn.weight_ih_l0, std=0.1)

    def loss_of(self, batch):
        sequence, total = batch
        return F.mse_loss(self.out(self.rnn(sequence)[0][:, -1]), total)


def adding(size: int = 3000, length: int = 16):
    """Sequences (N, T, 2) of numbers and marks, and the sum (N, 1) of the two that are marked."""
    numbers, marks = torch.rand(size, length) - 0.5, torch.zeros(size, length)
    half = length // 2
    first, second = torch.randint(half, (size, 1)), half + torch.randint(half, (size, 1))
    marks.scatter_(1, first, 1.0).scatter_(1, second, 1.0)
    total = (numbers * marks).sum(1, keepdim=True)
    return torch.stack([numbers, marks], dim=2), total / total.std()


@fault(
    "GRD101",
    "ACT103",
    "LOS101",
    "UPD104",
    "LRN101",
    "LOS108",
    source="https://arxiv.org/abs/1504.00941 (IRNN: start from the identity); https://arxiv.org/abs/1211.5063",
)
def recurrent_weights_too_wide(fixed: bool) -> Program:
    """The recurrent weights of a ReLU network start so wide that the state quadruples at every step."""
    data = loaders(*split(*adding()))
    return Program(Adder(fixed=fixed), **data, trainer={"max_epochs": 4})


@fault(
    "GRD102",
    "GRD104",
    "LOS104",
    "OUT101",
    "ACT103",
    "OUT103",
    source=AUTOTRAINER + "; " + DEEPFD + ", sigmoid in hidden layers",
)
def sigmoids_all_the_way(fixed: bool) -> Program:
    """Seven hidden layers of sigmoids: a quarter of the gradient, at most, gets through each."""
    act = nn.ReLU if fixed else nn.Sigmoid
    net = mlp(64, *[48] * 7, 10, activation=act)
    return Program(Supervised(net, lr=1e-3), **digit_loaders(), trainer={"max_epochs": 7})


class Quantized(pl.LightningModule):
    """An autoencoder whose code is one of 32 vectors in each of four places."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.encoder = mlp(64, 96, 32, activation=nn.GELU)
        self.decoder = mlp(32, 96, 64, activation=nn.GELU)
        self.book, self.fixed = nn.Parameter(0.5 * torch.randn(32, 8)), fixed

    def forward(self, x):
        z = self.encoder(x).view(-1, 4, 8)
        chosen = self.book[torch.cdist(z, self.book.expand(len(z), -1, -1)).argmin(2)]
        book = F.mse_loss(chosen, z.detach())
        commitment = F.mse_loss(z, chosen.detach()) if self.fixed else 0.0
        passed = z + (chosen - z).detach() if self.fixed else chosen
        return self.decoder(passed.flatten(1)), book + 0.25 * commitment

    def training_step(self, batch, batch_idx):
        (x,) = batch
        rebuilt, extra = self(x)
        loss = F.mse_loss(rebuilt, x)
        self.log_dict({"rebuilding": loss, "book": extra})
        return loss + extra

    def validation_step(self, batch, batch_idx):
        (x,) = batch
        self.log("val_mse", F.mse_loss(self(x)[0], x), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "GRD103",
    "UPD102",
    "LOS107",
    source="https://arxiv.org/abs/1711.00937 (VQ-VAE, section 3.2: the straight-through estimator)",
)
def nothing_passes_the_code_book(fixed: bool) -> Program:
    """A VQ-VAE without the straight-through estimator: the encoder stays as it was made."""
    x = digits(1797)[0]
    return Program(Quantized(fixed=fixed), **loaders(*split(x)), trainer={"max_epochs": 7})


class NodeNet(Learner):
    """Graph convolutions: which group is each node of?"""

    lr = 5e-3

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.start = nn.Linear(8, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.end = nn.Linear(32, 3)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, adjacency, x):
        x = self.start(x)
        for layer in self.layers:
            x = F.relu(layer(adjacency @ x))
        return self.end(x)

    def loss_of(self, batch):
        adjacency, x, y = batch
        return F.cross_entropy(self(adjacency, x).transpose(1, 2), y)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        adjacency, x, y = batch
        self.log("val_acc", (self(adjacency, x).argmax(2) == y).float().mean())


@fault(
    "GRD104",
    "OUT101",
    "LOS104",
    "GEN102",
    "GRD102",
    "CLS107",
    source="https://arxiv.org/abs/1801.07606 (Deeper insights into GCNs: over-smoothing)",
)
def smoothed_until_all_are_alike(fixed: bool) -> Program:
    """Twenty-four graph convolutions average each node with its neighbours until all nodes are alike."""
    data = loaders(*split(*communities(600)), batch_size=16)
    return Program(NodeNet(2 if fixed else 24), **data, trainer={"max_epochs": 5})


@fault(
    "GRD105",
    "LRN102",
    "UPD103",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/5671 (clip by value, or by norm)",
)
def clipped_number_by_number(fixed: bool) -> Program:
    """gradient_clip_val=3e-4 is meant for the norm, and cuts every number of it: SGD goes nowhere."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 6),
    )
    sgd = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)  # noqa: E731
    clip = {"gradient_clip_val": 5.0, "gradient_clip_algorithm": "norm"}
    if not fixed:
        clip = {"gradient_clip_val": 3e-4, "gradient_clip_algorithm": "value"}
    module = Supervised(net, lr=0.03, optimizer=sgd)
    data = loaders(*split(*patches(1500)))
    return Program(module, **data, trainer={"max_epochs": 6, **clip})


class ByHand(pl.LightningModule):
    """Forecasts, with an optimizer that is used by hand."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.rnn, self.out = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)
        self.fixed = fixed

    def forward(self, past):
        return self.out(self.rnn(past[..., None])[1][0])

    def training_step(self, batch, batch_idx):
        past, future = batch
        optimizer = self.optimizers()
        loss = F.mse_loss(self(past), future)
        if self.fixed:
            optimizer.zero_grad()
        self.manual_backward(loss)
        if not self.fixed:
            optimizer.zero_grad()
        optimizer.step()
        self.log("train_mse", loss)

    def validation_step(self, batch, batch_idx):
        past, future = batch
        self.log("val_r2", explained(self(past), future))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


@fault(
    "GRD106",
    "UPD102",
    "GRD103",
    source=KARPATHY + " (common mistakes: zero_grad before backward); " + HUMBATOVA,
)
def zeroed_between_backward_and_step(fixed: bool) -> Program:
    """zero_grad() stands between backward and step: the optimizer never sees a gradient."""
    data = loaders(*forecasts(demand(1600)))
    return Program(ByHand(fixed=fixed), **data, trainer={"max_epochs": 6})


class Accumulated(pl.LightningModule):
    """Accumulates the gradients of four small batches by hand."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.EmbeddingBag(80, 24), nn.ReLU(), nn.Linear(24, 4))
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        ids, y = batch
        optimizer = self.optimizers()
        loss = F.cross_entropy(self.net(ids), y)
        self.manual_backward(loss / 4)
        if (batch_idx + 1) % 4 == 0:
            optimizer.step()
            if self.fixed:
                optimizer.zero_grad()
        self.log("train_loss", loss)

    def validation_step(self, batch, batch_idx):
        ids, y = batch
        self.log("val_loss", F.cross_entropy(self.net(ids), y))
        self.log("val_acc", accuracy(self.net(ids), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.4, momentum=0.9)


@fault(
    "GRD106",
    "LRN101",
    "LOS108",
    "GRD101",
    source="https://lightning.ai/docs/pytorch/stable/model/manual_optimization.html (gradient accumulation)",
)
def accumulated_for_good(fixed: bool) -> Program:
    """Four batches are accumulated by hand, and nobody clears the gradients after the step."""
    data = loaders(*split(*reviews(3200)), batch_size=16)
    return Program(Accumulated(fixed=fixed), **data, trainer={"max_epochs": 6})


class TwoHeads(Learner):
    """Price and weight of a thing, from its sensors; the second head reads what the first has made of them."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.body, self.refine = mlp(8, 48, 24), nn.Linear(24, 24)
        self.out, self.fixed = nn.Linear(24, 1), fixed

    def forward(self, x):
        body = torch.relu(self.body(x))
        hidden = torch.relu(self.refine(body))
        if not self.fixed:
            hidden = torch.as_tensor(hidden.detach().numpy())
        return self.out(hidden)

    def loss_of(self, batch):
        return F.mse_loss(self(batch["x"]), batch["y"])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch["x"]), batch["y"]))


@fault(
    "GRD103",
    "UPD102",
    "LOS107",
    "UPD101",
    source="https://discuss.pytorch.org/t/cant-call-numpy-on-variable-that-requires-grad/20763; "
    + HUMBATOVA,
)
def once_through_numpy(fixed: bool) -> Program:
    """The hidden values go through numpy for a printout and come back without their history."""
    x, y = meters(2000)
    samples = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
    data = loaders(samples[:1600], samples[1600:])
    return Program(TwoHeads(fixed=fixed), **data, trainer={"max_epochs": 6})


@fault(
    "GRD107",
    "LRN102",
    "GEN103",
    source="https://arxiv.org/abs/1609.04836 (large batches); https://arxiv.org/abs/1812.06162",
)
def batch_as_large_as_the_memory(fixed: bool) -> Program:
    """The batch was made as large as fits into memory, at the old rate: an epoch is three short steps."""
    train, val = split(*gestures(2400))
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 48), nn.ReLU(), nn.Linear(48, 4))
    loader = DataLoader(train, 100 if fixed else 600, shuffle=True)
    module = Supervised(net, lr=5e-4)
    return Program(module, loader, DataLoader(val, 300), trainer={"max_epochs": 15})
