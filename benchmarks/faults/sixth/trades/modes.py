"""MOD in the trades: training and validation are not the same net."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, digits_at_random, hit, rng


class Averaged(Trade):
    """A convolutional net that is validated by the moving average of its weights."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.fixed = fixed
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
        self.average = copy.deepcopy(self.net).requires_grad_(requires_grad=False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.log_dict({"train_loss": loss, "train_acc": hit(logits, y)})
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.net.parameters(), strict=True):
                old.lerp_(new, 0.05)
            if self.fixed:
                for old, new in zip(self.average.buffers(), self.net.buffers(), strict=True):
                    old.copy_(new)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.average(x)
        self.log_dict({"val_loss": F.cross_entropy(logits, y), "val_acc": hit(logits, y)})

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.lr)
        steps = self.trainer.estimated_stepping_batches
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": falling, "interval": "step"}]


@fault(
    "MOD105",
    "GEN105",
    source="https://github.com/CuriousAI/mean-teacher/issues/9, "
    "https://github.com/facebookresearch/moco/issues/70 (buffers of batch norm in the average)",
)
def average_keeps_the_statistics_of_its_birth(fixed: bool) -> Program:
    """Only parameters are averaged, not the buffers: the net that validates norms by a mean of 0 and a variance of 1."""
    x, y = digits_at_random(image=True)
    return Program(Averaged(fixed=fixed), **both(x, y), trainer={"max_epochs": 5})


class LockedDropout(nn.Module):
    """One mask for all words of a sentence."""

    def __init__(self, p: float, *, fixed: bool) -> None:
        super().__init__()
        self.p, self.fixed = p, fixed

    def forward(self, x):
        if self.fixed and not self.training:
            return x
        mask = x.new_empty(len(x), 1, x.shape[2]).bernoulli_(1 - self.p)
        return x * mask / (1 - self.p)


class LanguageModel(Trade):
    """An LSTM that says which word comes next."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.words, self.rnn = nn.Embedding(30, 32), nn.LSTM(32, 64, batch_first=True)
        self.drop, self.out = LockedDropout(0.5, fixed=fixed), nn.Linear(64, 30)

    def step(self, batch):
        (ids,) = batch
        h = self.rnn(self.drop(self.words(ids[:, :-1])))[0]
        logits = self.out(self.drop(h)).transpose(1, 2)
        return F.cross_entropy(logits, ids[:, 1:]), {"acc": hit(logits, ids[:, 1:])}


@fault(
    "MOD106",
    "MOD105",
    "MOD102",
    source="https://github.com/salesforce/awd-lstm-lm/issues/72 (variational dropout not disabled at evaluation)",
)
def locked_dropout_that_never_lets_go(fixed: bool) -> Program:
    """A dropout of one's own, with one mask for a sentence, does not ask whether the net is in training."""
    g = rng(91)
    after = torch.randint(30, (30, 3), generator=g)
    ids = torch.randint(30, (1500, 16), generator=g)
    for t in range(1, 16):
        ids[:, t] = after[
            ids[:, t - 1],
            torch.multinomial(torch.tensor([0.7, 0.2, 0.1]).repeat(1500, 1), 1, generator=g)[:, 0],
        ]
    return Program(
        LanguageModel(fixed=fixed), **both(ids), trainer={"max_epochs": 6, "gradient_clip_val": 1.0}
    )
