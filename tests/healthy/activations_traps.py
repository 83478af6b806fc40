"""Units that rest, gates that are shut, and samples that look at each other: all on purpose."""

from __future__ import annotations

import torch
from program import Program
from torch import nn
from torch.nn import functional as F

from . import healthy
from ._parts import Classifier, Learner, digit_loaders, mlp


class SparseAutoencoder(Learner):
    """A wide dictionary of which few entries are used for any sample, and some for none."""

    def __init__(self, most: int | None) -> None:
        super().__init__(nn.Linear(64, 1024), lr=1e-3)
        self.decode, self.most = nn.Linear(1024, 64), most

    def training_step(self, batch, batch_idx):
        x, _ = batch
        code = F.relu(self.net(x))
        penalty = 0.01 * code.sum(1).mean()
        if self.most is not None:
            kept = code.topk(self.most, 1)
            code, penalty = torch.zeros_like(code).scatter(1, kept.indices, kept.values), 0.0
        return F.mse_loss(self.decode(code), x) + penalty

    def validation_step(self, batch, batch_idx):
        pass


@healthy
def sparse_autoencoder() -> Program:
    """Its penalty silences most of its units for most samples."""
    return Program(SparseAutoencoder(None), **digit_loaders(image=False), trainer={"max_epochs": 5})


@healthy
def top_k_autoencoder() -> Program:
    """Only eight of 1024 units may answer a sample."""
    return Program(SparseAutoencoder(8), **digit_loaders(image=False), trainer={"max_epochs": 5})


class Squeezed(nn.Module):
    """Squeeze and excitation, whose gates are all open and at the flat end at first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3)
        self.gate, self.head = nn.Linear(16, 16), nn.Linear(16, 10)
        nn.init.constant_(self.gate.bias, 8.0)

    def forward(self, x):
        hidden = F.relu(self.first(x))
        hidden = hidden * self.gate(hidden.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head(F.relu(self.second(hidden)).mean((2, 3)))


@healthy
def open_gates() -> Program:
    """A sigmoid that says 1 to everything, and multiplies what it says it to."""
    return Program(Classifier(Squeezed()), **digit_loaders(), trainer={"max_epochs": 5})


class TanhGelu(nn.Module):
    """GELU as BERT and GPT-2 write it, with a tanh that is flat for most inputs."""

    def forward(self, x):
        return 0.5 * x * (1.0 + torch.tanh(0.797885 * (x + 0.044715 * x**3)))


@healthy
def gelu_by_hand() -> Program:
    """Its tanh is a gate, though it is not multiplied with before 1 is added."""
    net = mlp(64, 64, 64, 10, activation=TanhGelu)
    nn.init.normal_(net[0].weight, std=0.5)
    return Program(
        Classifier(net, lr=1e-3), **digit_loaders(image=False), trainer={"max_epochs": 5}
    )


class Plain(nn.Module):
    """Thirty residual blocks without any norm: the scale grows, and nothing suffers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp(64, 64, 64) for _ in range(30))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@healthy
def unnormed_residuals() -> Program:
    """Thirty residual blocks without a norm between them."""
    return Program(
        Classifier(Plain(), lr=1e-3), **digit_loaders(image=False), trainer={"max_epochs": 4}
    )


class Intersample(nn.Module):
    """Attention between the samples of a batch, as SAINT and NPT have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.attend = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x):
        rows = self.embed(x).unsqueeze(0)
        return self.head(F.relu(rows + self.attend(rows, rows, rows)[0]).squeeze(0))


@healthy
def attention_between_samples() -> Program:
    """Every answer depends on the whole batch, on purpose."""
    return Program(
        Classifier(Intersample()), **digit_loaders(image=False), trainer={"max_epochs": 4}
    )


class Crowded(nn.Module):
    """Minibatch discrimination: features of how near the other samples are."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.project, self.head = mlp(64, 64, 32), nn.Linear(32, 8), nn.Linear(33, 10)

    def forward(self, x):
        features = F.relu(self.body(x))
        kernel = self.project(features)
        near = (kernel[:, None] - kernel[None]).abs().sum(2).neg().exp().sum(1, keepdim=True)
        return self.head(torch.cat([features, near], 1))


@healthy
def minibatch_discrimination() -> Program:
    """Distances to all other samples are an input to the head."""
    return Program(Classifier(Crowded()), **digit_loaders(image=False), trainer={"max_epochs": 4})


class WithoutLabels(Learner):
    """An autoencoder whose batches bring labels that it has no use for."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 32, 64), lr=3e-3)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return (self(x) - x).square().mean()

    def validation_step(self, batch, batch_idx):
        pass


@healthy
def labels_unused() -> Program:
    """All that is in the batch besides the targets is ignored: the targets are the input."""
    return Program(WithoutLabels(), **digit_loaders(image=False), trainer={"max_epochs": 4})
