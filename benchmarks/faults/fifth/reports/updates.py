"""UPD, after reports: weights that are not moved, or cannot move apart."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from ... import HUMBATOVA, fault
from ..._parts import Program
from ._parts import Task, accuracy, cardio, customers, cut, loaders, mlp, texts


class Prompted(Task):
    """An encoder of sentences with a prompt before the words."""

    def __init__(self) -> None:
        super().__init__(lr=4e-3)
        self.words, self.prompt = nn.Embedding(100, 32), nn.Parameter(0.1 * torch.randn(2, 32))
        self.encoder, self.head = nn.GRU(32, 48, batch_first=True), nn.Linear(48, 4)

    def step(self, batch):
        ids, y = batch
        words = torch.cat([self.prompt.expand(len(ids), -1, -1), self.words(ids)], 1)
        logits = self.head(self.encoder(words)[0].max(1).values)
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)


class PromptedTwice(Prompted):
    """The same, with what is left of the second stage of training."""

    def configure_optimizers(self):
        return torch.optim.AdamW([self.prompt, *self.head.parameters()], lr=self.lr)


@fault(
    "UPD101",
    "UPD102",
    source="https://github.com/zjunlp/KnowPrompt/issues/22 (two configure_optimizers: only the second "
    "one works)",
)
def second_configure_optimizers_wins(fixed: bool) -> Program:
    """configure_optimizers is there twice; the later one, of the second stage, has the prompt and the head alone."""
    module = Prompted() if fixed else PromptedTwice()
    return Program(module, **loaders(*cut(*texts(1500))), trainer={"max_epochs": 5})


class ByHand(pl.LightningModule):
    """Descends by hand, as the first chapter of a course does."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.rate, self.fixed = mlp(8, 64, 64, 1), 0.1, fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.zero_grad()
        loss = F.mse_loss(self.net(x).squeeze(1), y)
        self.manual_backward(loss)
        with torch.no_grad():
            for weight in self.net.parameters():
                if self.fixed:
                    weight -= self.rate * weight.grad  # noqa: PLW2901
                else:
                    weight = weight - self.rate * weight.grad  # noqa: PLW2901
        self.log("train_loss", loss)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self.net(x).squeeze(1), y)
        self.log_dict({"val_loss": loss, "val_r2": 1 - loss / y.var()})

    def configure_optimizers(self):
        return None


@fault(
    "UPD102",
    "UPD101",
    "LOS104",
    "UPD106",
    source=HUMBATOVA
    + "; https://github.com/Lightning-AI/pytorch-lightning/issues/7128 (a step by hand, "
    "and the forward pass does not change)",
)
def name_bound_anew_and_no_weight_moved(fixed: bool) -> Program:
    """`weight = weight - rate * weight.grad` gives a new tensor the old name: the net stays as it was."""
    data = loaders(*cut(*customers()))
    return Program(ByHand(fixed=fixed), **data, trainer={"max_epochs": 7})


class Rhythms(Task):
    """Reads a heart: convolutions, then a GRU."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=4e-3)
        self.beats = nn.Sequential(nn.Conv1d(1, 16, 5, stride=2, padding=2), nn.Tanh())
        self.gru, self.head = nn.GRU(16, 32, batch_first=True), nn.Linear(32, 3)
        for name, weight in self.named_parameters():
            meant = "bias" in name or "norm" in name
            if meant if fixed else "bias" or "norm" in name:  # noqa: SIM222
                nn.init.zeros_(weight)

    def step(self, batch):
        x, y = batch
        beats = self.beats(x.transpose(1, 2)).transpose(1, 2)
        logits = self.head(self.gru(beats)[0][:, -1])
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}


@fault(
    "UPD104",
    "OUT101",
    "LOS104",
    "GRD102",
    source="https://stackoverflow.com/questions/15112125 (`a or b in name` is always true); "
    + HUMBATOVA
    + " (wrong initialization of weights)",
)
def bias_or_norm_is_always_true(fixed: bool) -> Program:
    """`if "bias" or "norm" in name` is true of every name, so every weight begins at zero, not the biases alone."""
    data = loaders(*cut(*cardio(1200)))
    return Program(Rhythms(fixed=fixed), **data, trainer={"max_epochs": 6})
