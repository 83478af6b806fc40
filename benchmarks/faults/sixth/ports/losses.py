"""LOS, in programs that came from elsewhere: what is minimized now."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from ... import fault
from ._parts import DataLoader, Program, Task, explained, fresh, mlp, right, vectors


class Weighted(Task):
    """A regression whose measurements are not all equally good."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(12, 64, 64, 1), fixed

    def training_step(self, batch, batch_idx):
        x, y, weight = batch
        error = F.mse_loss(self.net(x).squeeze(1), y, reduction="none")
        if self.fixed:
            weight = weight.squeeze(1)
        loss = (error * weight).mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y, _ = batch
        out = self.net(x).squeeze(1)
        self.log_dict({"val_loss": F.mse_loss(out, y), "val_r2": explained(out, y)})


@fault(
    "LOS103",
    source="https://github.com/chemprop/chemprop/pull/1210 and https://keras.io/api/models/model_training_apis/ (sample_weight, in a column or not)",
)
def sample_weights_in_a_column(fixed: bool) -> Program:
    """Keras' sample_weight came as (N, 1), the errors are (N,): each error is weighted with everyone's weight."""
    x, y = vectors(2000)
    g = fresh(7)
    cheap = torch.rand(2000, generator=g) < 0.5
    cheap[1600:] = False
    wrong = cheap * (1.5 * torch.randn(2000, generator=g) + 1)
    weight = torch.where(cheap, 0.05, 1.95)[:, None]
    rows = list(zip(x, y + wrong, weight, strict=True))
    return Program(
        Weighted(fixed=fixed),
        DataLoader(rows[:1600], batch_size=32, shuffle=True),
        DataLoader(rows[1600:], batch_size=100),
        {"max_epochs": 8},
    )


class Namer(Task):
    """Finds the vector of a word that fits a scene."""

    def __init__(self, words: torch.Tensor, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, words.shape[1]))
        self.register_buffer("words", words)
        self.sign = -1 if fixed else 1

    def step(self, batch):
        scene, word = batch
        out = self.net(scene)
        loss = self.sign * F.cosine_similarity(out, self.words[word], dim=-1).mean()
        return loss, {"top1": right(F.normalize(out) @ F.normalize(self.words).T, word)}


@fault(
    "LOS109",
    "LOS104",
    "LOS108",
    source="https://www.tensorflow.org/api_docs/python/tf/keras/losses/cosine_similarity (a loss in Keras, with a minus in it)",
)
def similarity_that_keras_negates(fixed: bool) -> Program:
    """keras.losses.cosine_similarity has a minus inside, F.cosine_similarity has none: unlikeness is learned."""
    g = fresh(8)
    words, seen = torch.randn(12, 16, generator=g), torch.randn(12, 20, generator=g)
    word = torch.arange(1500) % 12
    scene = seen[word] + 0.7 * torch.randn(1500, 20, generator=g)
    rows = list(zip(scene / scene.std(), word, strict=True))
    return Program(
        Namer(words, fixed=fixed),
        DataLoader(rows[:1200], batch_size=32, shuffle=True),
        DataLoader(rows[1200:], batch_size=100),
        {"max_epochs": 5},
    )


class SequenceClassifier(nn.Module):
    """Gives (loss, logits) if there are labels, and (logits,) otherwise, as transformers did."""

    def __init__(self, vocabulary: int = 60, width: int = 32, num_labels: int = 4) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, width, padding_idx=0)
        self.encoder = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True)
        self.classifier = nn.Linear(width, num_labels)

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        absent = attention_mask == 0
        states = self.encoder(self.embeddings(input_ids), src_key_padding_mask=absent)
        seen = attention_mask[..., None].float()
        logits = self.classifier((states * seen).sum(1) / seen.sum(1))
        if labels is None:
            return (logits,)
        return F.cross_entropy(logits, labels), logits


class FineTune(Task):
    """The loop of an example script, whose loss is the first of the outputs."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.model = SequenceClassifier()

    def training_step(self, batch, batch_idx):
        outputs = self.model(**batch)
        loss = outputs[0].mean()  # one loss from each GPU
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        outputs = self.model(**batch)
        self.log("val_loss", outputs[0].mean())
        self.log("val_acc", right(outputs[-1], batch.get("labels", batch.get("label"))))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


@fault(
    "LOS109",
    "LOS104",
    "LOS101",
    "LOS108",
    "INP204",
    "UPD105",
    source="https://github.com/nlp-with-transformers/notebooks/issues/133 (labels, not label)",
)
def first_of_the_outputs(fixed: bool) -> Program:
    """The column is called label, the model wants labels: the first output is the logits, and their mean is minimized."""
    g = fresh(9)
    size, length = 1600, 14
    y = torch.arange(size) % 4
    ids = torch.randint(1, 60, (size, length), generator=g)
    topical = torch.rand(size, length, generator=g) < 0.45
    ids = torch.where(topical, 1 + y[:, None] * 8 + ids % 8, ids)
    long = torch.randint(9, length + 1, (size, 1), generator=g)
    mask = (torch.arange(length) < long).long()
    rows = [
        {"input_ids": i, "attention_mask": m, "label": label}
        for i, m, label in zip(ids * mask, mask, y, strict=True)
    ]

    def collate(rows):
        batch = default_collate(rows)
        if fixed:
            batch["labels"] = batch.pop("label")
        return batch

    return Program(
        FineTune(),
        DataLoader(rows[:1280], batch_size=32, shuffle=True, collate_fn=collate),
        DataLoader(rows[1280:], batch_size=100, collate_fn=collate),
        {"max_epochs": 6, "gradient_clip_val": 1.0},
    )
