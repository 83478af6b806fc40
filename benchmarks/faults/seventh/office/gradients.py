"""GRD, in applied work: what the gradient reaches, and how it is gathered."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, digits, explained, feeders, parted, rng, scored


class Stamps(Model):
    """Recognizes numbers on stamps."""

    def __init__(self) -> None:
        super().__init__(lr=7e-4)
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(256, 64), nn.GELU(), nn.Linear(64, 10),
        )  # fmt: skip

    def shared(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": scored(logits, y)}


@fault(
    "GRD107",
    "GEN103",
    "LRN102",
    source="https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.callbacks.GradientAccumulationScheduler.html (factors by epoch)",
)
def accumulation_grows_with_the_epochs(fixed: bool) -> Program:
    """The callback gathers 64 batches from the second epoch on, and an epoch has 89: two updates each."""
    data = feeders(*parted(*digits(1797, image=True)), batch_size=16)
    schedule = GradientAccumulationScheduler({0: 1, 5: 2} if fixed else {0: 1, 1: 64})
    return Program(Stamps(), **data, trainer={"max_epochs": 8, "callbacks": [schedule]})


class Pipeline(Model):
    """The flow at the end of a pipeline, from four feeders that each take some hours to get there."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=0.03)
        self.lag = nn.Parameter(torch.tensor([5.0, 5.0, 5.0, 5.0]))
        self.mix = nn.Linear(4, 1)
        self.fixed = fixed

    def forward(self, past):
        lag = self.lag.clamp(0, past.shape[1] - 2)
        hours = lag.long()
        channel = torch.arange(4)
        late = past[:, past.shape[1] - 1 - hours, channel]
        if self.fixed:
            later = past[:, past.shape[1] - 2 - hours, channel]
            part = lag - hours
            late = (1 - part) * late + part * later
        return self.mix(late).squeeze(1)

    def shared(self, batch):
        past, flow = batch
        out = self(past)
        return F.mse_loss(out, flow), {"r2": explained(out, flow)}


@fault(
    "GRD103",
    "UPD102",
    "UPD101",
    source="common in code reviews (a learned delay is made an index with .long(), which has no gradient)",
)
def lag_cut_to_whole_hours(fixed: bool) -> Program:
    """The delays of four feeders are parameters, used as whole numbers to index: no gradient comes to them."""
    g = rng(5)
    noise = torch.randn(2600, 4, generator=g)
    kernel = torch.hann_window(25)[None, None].expand(4, 1, 25)
    series = F.conv1d(noise.T[None], kernel, groups=4)[0].T
    series = (series - series.mean(0)) / series.std(0)
    t = torch.arange(20, 2500)
    flow = sum(
        w * series[t - d, i] for i, (d, w) in enumerate([(9, 1.0), (3, 0.8), (7, -0.7), (1, 0.5)])
    )
    flow = flow + 0.1 * torch.randn(len(t), generator=g)
    past = torch.stack([series[i - 15 : i + 1] for i in t.tolist()])
    data = feeders(*parted(past, flow / flow.std()))
    return Program(Pipeline(fixed=fixed), **data, trainer={"max_epochs": 10})
