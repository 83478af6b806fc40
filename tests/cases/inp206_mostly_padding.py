"""Sequences of about six tokens are all padded to the 48 that the model could take."""

from __future__ import annotations

from functools import partial

import lightning.pytorch as pl
import torch
from program import Program
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader


class Bag(pl.LightningModule):
    """Classifies by the mean of the embeddings of what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.head = nn.Linear(16, 2)

    def training_step(self, batch, batch_idx):
        mask = batch["attention_mask"].unsqueeze(2)
        mean = (self.embed(batch["input_ids"]) * mask).sum(1) / mask.sum(1)
        return F.cross_entropy(self.head(mean), batch["labels"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def sentences() -> list[tuple[torch.Tensor, int]]:
    """Words above 20 are typical of class 1."""
    labels = torch.randint(2, (512,)).tolist()
    return [(torch.randint(1, 30, (4 + i % 5,)) + 10 * y, y) for i, y in enumerate(labels)]


def collate(samples: list[tuple[torch.Tensor, int]], length: int | None = None) -> dict:
    words = [words for words, _ in samples]
    length = length or max(map(len, words))
    ids = torch.stack([F.pad(one, (0, length - len(one))) for one in words])
    labels = torch.tensor([label for _, label in samples])
    return {"input_ids": ids, "attention_mask": (ids > 0).float(), "labels": labels}


def sick() -> Program:
    train = DataLoader(
        sentences(), batch_size=32, shuffle=True, collate_fn=partial(collate, length=48)
    )
    return Program(Bag(), train, trainer={"max_epochs": 4})


def healthy() -> Program:
    train = DataLoader(sentences(), batch_size=32, shuffle=True, collate_fn=collate)
    return Program(Bag(), train, trainer={"max_epochs": 4})
