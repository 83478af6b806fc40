"""ERR, a second time: what ends in an exception."""

from __future__ import annotations

from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from .. import DEEPFD, HUMBATOVA, NEURALINT, fault
from .._parts import Program, Supervised, characters, digit_loaders, loaders, mlp, split
from ..first._parts import Learner, accuracy, explained, gestures, meters
from ._parts import demand, forecasts, passages, patches, rings


@fault(
    "ERR101",
    source="https://stackoverflow.com/questions/66995380 (mat1 and mat2 shapes cannot be multiplied); "
    + NEURALINT,
)
def flattened_for_larger_images(fixed: bool) -> Program:
    """The first linear layer is copied from a net for images of 28 pixels, and these have 12."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 3 * 3 if fixed else 32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 6),
    )
    data = loaders(*split(*patches(1200)))
    return Program(Supervised(net, lr=1e-3), **data, trainer={"max_epochs": 4})


class Sentiment(Learner):
    """Is what somebody wrote good or bad? From the words that it has."""

    lr = 1e-2

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embed, self.out = nn.EmbeddingBag(words, 24), mlp(24, 16, 1)

    def loss_of(self, batch):
        logit = self.out(self.embed(batch["ids"])).squeeze(1)
        return F.binary_cross_entropy_with_logits(logit, batch["good"])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        good = self.out(self.embed(batch["ids"])).squeeze(1) > 0
        self.log("val_acc", (good == (batch["good"] > 0)).float().mean())


@fault(
    "ERR102",
    source="https://discuss.pytorch.org/t/embeddings-index-out-of-range-error/12582",
)
def one_word_more_than_vectors(fixed: bool) -> Program:
    """nn.Embedding(len(vocabulary)) while ids count from 1, for 0 is kept for padding."""
    words = [f"word{i}" for i in range(200)]
    vocabulary = {word: i + 1 for i, word in enumerate(words)}
    mood = torch.randn(200)
    told = torch.randint(200, (1600, 14))
    good = (mood[told].mean(1) > 0).float()
    ids = torch.tensor([[vocabulary[words[i]] for i in row] for row in told.tolist()])
    samples = [{"ids": a, "good": b} for a, b in zip(ids, good, strict=True)]
    data = loaders(samples[:1280], samples[1280:])
    module = Sentiment(len(vocabulary) + 1 if fixed else len(vocabulary))
    return Program(module, **data, trainer={"max_epochs": 7})


class Csv(Dataset):
    """Rows of a table that numpy has read."""

    def __init__(self, x, y, *, fixed: bool) -> None:
        self.x, self.y = x, y
        if fixed:
            self.x, self.y = x.astype(np.float32), y.astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class R2(Supervised):
    """Says how much of the variance it explains."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "ERR103",
    source="https://stackoverflow.com/questions/67456368 (expected scalar type Float but found Double); "
    + DEEPFD,
)
def numbers_as_numpy_has_them(fixed: bool) -> Program:
    """The rows come from numpy in double precision, and the net is in single."""
    x, y = (one.double().numpy() for one in meters(1600))
    data = loaders(Csv(x[:1280], y[:1280], fixed=fixed), Csv(x[1280:], y[1280:], fixed=fixed))
    return Program(R2(mlp(8, 48, 1), F.mse_loss, lr=5e-3), **data, trainer={"max_epochs": 7})


class ByMistakes(Supervised):
    """Trained on what it gets wrong."""

    def __init__(self, net, *, fixed: bool) -> None:
        super().__init__(net)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        loss = F.cross_entropy(out, y) if self.fixed else 1 - accuracy(out, y)
        self.log("train_loss", loss)
        return loss


@fault(
    "ERR106",
    "LOS107",
    "LOS109",
    source="https://discuss.pytorch.org/t/element-0-of-tensors-does-not-require-grad/12557; "
    + HUMBATOVA,
)
def error_rate_as_a_loss(fixed: bool) -> Program:
    """The loss is one minus the accuracy, which comes from an argmax and has no gradient."""
    module = ByMistakes(mlp(2, 48, 48, 3), fixed=fixed)
    return Program(module, **loaders(*split(*rings(1600))), trainer={"max_epochs": 5})


class TwoTasks(pl.LightningModule):
    """Rebuilds an image and says what is on it, with one encoder for both, by hand."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24), nn.ReLU())
        self.decoder, self.head, self.fixed = mlp(24, 64, 64), nn.Linear(24, 10), fixed

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        code = self.encoder(x)
        rebuilding = F.mse_loss(self.decoder(code), x)
        naming = F.cross_entropy(self.head(code), y)
        if self.fixed:
            self.manual_backward(rebuilding + naming)
        else:
            self.manual_backward(rebuilding)
            self.manual_backward(naming)
        optimizer.step()
        self.log_dict({"rebuilding": rebuilding, "naming": naming}, prog_bar=True)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        code = self.encoder(x)
        self.log("val_mse", F.mse_loss(self.decoder(code), x))
        self.log("val_acc", accuracy(self.head(code), y))


@fault(
    "ERR107",
    source="https://stackoverflow.com/questions/48274929 (trying to backward through the graph a second time)",
)
def backward_for_each_task(fixed: bool) -> Program:
    """Two losses share an encoder, and each goes backward by itself: the second finds its graph gone."""
    return Program(TwoTasks(fixed=fixed), **digit_loaders(), trainer={"max_epochs": 6})


class Hours(Learner):
    """Predicts the next six hours; near ones weigh more."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(48, 64, 6), fixed
        self.register_buffer("weight", 0.9 ** torch.arange(6))

    def loss_of(self, batch):
        past, future = batch
        loss = F.huber_loss(self.net(past), future, reduction="none") * self.weight
        return loss.mean() if self.fixed else loss.mean(1)

    def validation_step(self, batch, batch_idx):
        past, future = batch
        self.log("val_mae", F.l1_loss(self.net(past), future))

    def training_step(self, batch, batch_idx):
        return self.loss_of(batch)


@fault(
    "ERR115",
    source="https://discuss.pytorch.org/t/grad-can-be-implicitly-created-only-for-scalar-outputs/38591",
)
def loss_of_each_sample(fixed: bool) -> Program:
    """The loss is averaged over the hours, and not over the samples: training_step returns 32 numbers."""
    data = loaders(*forecasts(demand(1800), 48, 6))
    return Program(Hours(fixed=fixed), **data, trainer={"max_epochs": 4})


class Last(nn.Module):
    """The state after the last step, of what an LSTM gives."""

    def forward(self, out):
        return out[0][:, -1]


@fault(
    "ERR116",
    source="https://stackoverflow.com/questions/44130851 (an LSTM in nn.Sequential)",
)
def recurrent_layer_in_a_sequence(fixed: bool) -> Program:
    """nn.Sequential(nn.LSTM, nn.Linear): what an LSTM gives is a tuple."""
    middle = [Last()] if fixed else []
    net = nn.Sequential(nn.LSTM(3, 48, batch_first=True), *middle, nn.Linear(48, 4))
    data = loaders(*split(*gestures(1400)))
    return Program(Supervised(net, lr=4e-3), **data, trainer={"max_epochs": 5})


class Slashes(Supervised):
    """Logs under names with a slash, as TensorBoard likes them."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", self.loss(self(x), y))
        self.log("val/acc", accuracy(self(x), y))


@fault(
    "ERR117",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/2902",
)
def stopping_on_another_name(fixed: bool) -> Program:
    """EarlyStopping waits for val_loss, and what is logged is val/loss."""
    stop = EarlyStopping("val/loss" if fixed else "val_loss", patience=4)
    trainer = {"max_epochs": 5, "callbacks": [stop]}
    return Program(Slashes(mlp(64, 64, 10)), **digit_loaders(), trainer=trainer)


class FromOlder(Supervised):
    """Starts from the weights of an older net, when training is set up."""

    def __init__(self, net, weights, *, fixed: bool) -> None:
        super().__init__(net, lr=1e-3)
        self.weights, self.fixed = weights, fixed

    def setup(self, stage):
        weights = self.weights
        if self.fixed:
            weights = {k: v for k, v in weights.items() if not k.startswith("6.")}
        self.net.load_state_dict(weights, strict=not self.fixed)


@fault(
    "ERR112",
    source="https://stackoverflow.com/questions/54058256 (size mismatch: copying a param with shape ...)",
)
def head_of_the_older_net(fixed: bool) -> Program:
    """The checkpoint's head is for ten colours, the new net's for six kinds."""

    def make(classes):
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(96, classes),
        )

    module = FromOlder(make(6), make(10).state_dict(), fixed=fixed)
    return Program(module, **loaders(*split(*patches(1200))), trainer={"max_epochs": 6})


@dataclass
class Piece:
    """A piece of text, and the letters that follow each of its own."""

    letters: torch.Tensor
    following: torch.Tensor


def collate(pieces):
    """Makes a batch of pieces."""
    return Piece(*(torch.stack([getattr(p, k) for p in pieces]) for k in ("letters", "following")))


class Writer(Learner):
    """Writes on, letter by letter."""

    lr = 1e-2

    def __init__(self, letters: int, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(letters, 24), nn.GRU(24, 64, batch_first=True)
        self.out, self.fixed = nn.Linear(64, letters), fixed

    def loss_of(self, batch):
        logits = self.out(self.rnn(self.embed(batch.letters))[0])
        logits = logits.transpose(1, 2) if self.fixed else logits
        return F.cross_entropy(logits, batch.following)


@fault(
    "ERR101",
    "LOS102",
    source="https://discuss.pytorch.org/t/expected-target-size-for-cross-entropy-of-a-sequence/58389",
)
def letters_where_classes_belong(fixed: bool) -> Program:
    """cross_entropy wants the classes in the second dimension, and finds the places there."""
    ids, letters = characters()
    train, val = (
        [Piece(piece[:-1], piece[1:]) for piece in part] for part in passages(ids, 33, 10)
    )
    train = DataLoader(train, 32, shuffle=True, collate_fn=collate)
    val = DataLoader(val, 32, collate_fn=collate)
    return Program(Writer(letters, fixed=fixed), train, val, trainer={"max_epochs": 5})
