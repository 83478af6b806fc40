"""LRN, in applied work: rates that were searched for, and schedules that were set up in a hurry."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, digits, explained, feeders, mlp, parted, scored, scores, tickets


class Slides(Model):
    """Recognizes what is on a slide of eight by eight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def shared(self, batch):
        slide, kind = batch
        logits = self.net(slide)
        return F.cross_entropy(logits, kind), {"acc": scored(logits, kind)}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def range_test(module: Model, batches) -> tuple[list[float], list[float]]:
    """Raises the rate with each batch, on a copy, and returns the rates and the smoothed losses."""
    net = copy.deepcopy(module)
    optimizer = torch.optim.Adam(net.parameters())
    rates, losses, smooth = [], [], 0.0
    for i, (slide, kind) in enumerate([*batches, *batches, *batches]):
        rate = 1e-5 * 1.1**i
        optimizer.param_groups[0]["lr"] = rate
        loss = F.cross_entropy(net.net(slide), kind)
        smooth = 0.9 * smooth + 0.1 * loss.item()
        rates.append(rate)
        losses.append(smooth / (1 - 0.9 ** (i + 1)))
        if losses[-1] > 4 * min(losses) or rate > 1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rates, losses


@fault(
    "LRN101",
    "UPD103",
    "ACT101",
    "OUT101",
    source="https://docs.fast.ai/callback.schedule.html#learner.lr_find (the minimum of the curve is to be divided by ten)",
)
def rate_at_the_bottom_of_the_finder(fixed: bool) -> Program:
    """The rate is taken at the very minimum of the finder's curve, just before the loss runs away, not a tenth of it."""
    x, y = digits(1797, image=True)
    data = feeders(*parted(x, y))
    module = Slides()
    rates, losses = range_test(module, data["train"])
    lowest = rates[losses.index(min(losses))]
    module.lr = lowest / 10 if fixed else lowest
    return Program(module, **data, trainer={"max_epochs": 8})


class Returns(Model):
    """What a customer sends back, by plain descent with momentum."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=0.05)
        self.net, self.fixed = mlp(10, 64, 64, 1), fixed

    def shared(self, batch):
        x, y = batch
        out = self.net(x).squeeze(1)
        return F.mse_loss(out, y), {"r2": explained(out, y)}

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        milestones = [0.5, 0.75]
        if self.fixed:
            milestones = [int(part * self.trainer.max_epochs) for part in milestones]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        return [optimizer], [schedule]


@fault(
    "LRN104",
    "LRN101",
    source="https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.MultiStepLR.html (indices of epochs, looked up exactly)",
)
def milestones_in_parts_of_the_run(fixed: bool) -> Program:
    """The rate is to fall at half and at three quarters, and the milestones say 0.5 and 0.75: no epoch is either."""
    data = feeders(*parted(*scores(2000, seed=1)), batch_size=16)
    return Program(Returns(fixed=fixed), **data, trainer={"max_epochs": 12})


class Intent(Model):
    """What a caller wants, by a small transformer."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-3)
        self.words = nn.Embedding(300, 32, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(28, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.intent = nn.Linear(32, 4)
        self.fixed = fixed

    def shared(self, batch):
        text, intent = batch
        padding = text == 0
        states = self.encoder(self.words(text) + self.places, src_key_padding_mask=padding)
        states = states.masked_fill(padding[..., None], 0).sum(1)
        logits = self.intent(states / (~padding).sum(1, keepdim=True))
        return F.cross_entropy(logits, intent), {"acc": scored(logits, intent)}

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.lr, total_steps=steps, pct_start=0.1
        )
        how_often = {"interval": "step", "frequency": 1 if self.fixed else 50}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule} | how_often}


@fault(
    "LRN104",
    "LRN102",
    "GEN103",
    source="https://lightning.ai/docs/pytorch/stable/common/lightning_module.html#configure-optimizers (frequency: steps between two updates of the rate)",
)
def frequency_of_the_log_lines(fixed: bool) -> Program:
    """The schedule counts steps and is moved at every fiftieth, as the logs: it never leaves its warm-up."""
    texts, intent = tickets(2600, seed=5)
    text = torch.stack([F.pad(text, (0, 28 - len(text))) for text in texts])
    data = feeders(*parted(text, intent))
    return Program(Intent(fixed=fixed), **data, trainer={"max_epochs": 6})
