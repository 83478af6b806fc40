"""UPD, in programs that came from elsewhere: how weights start, and how they move."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Program, Task, fresh, handwriting, loaders, pictograms, right


class Dense(nn.Module):
    """A layer whose kernel is (inputs, outputs), so that checkpoints of Keras fit."""

    def __init__(self, inputs: int, outputs: int, *, fixed: bool) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.kernel.T if fixed else self.kernel)

    def forward(self, x):
        return x @ self.kernel + self.bias


class Reuters(Task):
    """Topics of news, by which words they have."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-3)
        widths = (400, 64, 256, 6)
        layers = [Dense(a, b, fixed=fixed) for a, b in itertools.pairwise(widths)]
        self.net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def step(self, batch):
        words, topic = batch
        logits = self.net(words)
        return F.cross_entropy(logits, topic), {"acc": right(logits, topic)}


@fault(
    "UPD104",
    "LOS101",
    "ACT103",
    "GRD101",
    source="https://github.com/pytorch/pytorch/pull/130122 and https://github.com/jihunchoi/lsoftmax-pytorch/issues/3 (fan_in of a transposed weight)",
)
def fan_of_the_other_side(fixed: bool) -> Program:
    """Kernels are (inputs, outputs) as in Keras, and kaiming_normal_ counts the outputs as the fan."""
    g = fresh(16)
    topic = torch.arange(3000) % 6
    chance = 0.06 * (0.9 * torch.randn(6, 400, generator=g)).exp()
    words = torch.bernoulli(chance[topic].clamp(max=0.9), generator=g)
    words = (words - words.mean()) / words.std()
    return Program(Reuters(fixed=fixed), **loaders(words, topic), trainer={"max_epochs": 4})


class AdamWOfThePaper(torch.optim.Adam):
    """Adam, and the decay of the paper's algorithm beside it."""

    def __init__(self, params, lr: float, decay: float, *, by_rate: bool) -> None:
        super().__init__(params, lr=lr)
        self.decay, self.by_rate = decay, by_rate

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                factor = group["lr"] if self.by_rate else 1.0
                for p in group["params"]:
                    p.mul_(1 - factor * self.decay)
        return loss


class Fitted(Task):
    """Digits by convolutions, with an optimizer of one's own."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(256, 64), nn.GELU(), nn.Linear(64, 10),
        )  # fmt: skip
        self.fixed = fixed

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        return AdamWOfThePaper(self.parameters(), self.lr, 0.05, by_rate=self.fixed)


@fault(
    "LOS106",
    "UPD103",
    "GEN102",
    "OUT101",
    source="https://github.com/tensorflow/addons/issues/2282 and https://github.com/egg-west/AdamW-pytorch/issues/1 (decay that is not multiplied with the learning rate)",
)
def decay_by_the_letter_of_the_paper(fixed: bool) -> Program:
    """The paper's decay is not multiplied by the rate, PyTorch's is: its 0.05 now takes a twentieth at each step."""
    return Program(Fitted(fixed=fixed), **handwriting(image=True), trainer={"max_epochs": 6})


class Net(nn.Module):
    """Convolutions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.backbone(x))


class Wrapped(Task):
    """The net of the old loop, wrapped; its groups go by name."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-2)
        self.model, self.fixed = Net(), fixed

    def step(self, batch):
        image, kind = batch
        logits = self.model(image)
        return F.cross_entropy(logits, kind), {"acc": right(logits, kind)}

    def configure_optimizers(self):
        named = dict((self.model if self.fixed else self).named_parameters())
        backbone = [p for n, p in named.items() if n.startswith("backbone.")]
        head = [p for n, p in named.items() if "head." in n]
        groups = [{"params": backbone, "lr": 0.5 * self.lr}, {"params": head}]
        return torch.optim.AdamW(groups, lr=self.lr)


@fault(
    "UPD101",
    "UPD102",
    "GEN102",
    source="https://github.com/Lightning-AI/litgpt/pull/753 (names of parameters in a LightningModule have the prefix of the attribute)",
)
def names_with_the_prefix_of_the_wrapper(fixed: bool) -> Program:
    """Groups are found by name; in the LightningModule names begin with model., and the backbone is in none."""
    return Program(Wrapped(fixed=fixed), **loaders(*pictograms()), trainer={"max_epochs": 7})
