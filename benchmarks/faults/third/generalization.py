"""GEN, a third time: what is learned by heart, what is not learned, and what validation says of it."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from .. import DEEPFD, HUMBATOVA, fault
from .._parts import (
    Program,
    Supervised,
    blobs,
    characters,
    diabetes,
    digit_loaders,
    digits,
    loaders,
    mlp,
    split,
)
from ..first._parts import Learner, accuracy, explained, gestures, meters
from ..second._parts import clients, passages, patches
from ._parts import Value, cut, small_cnn


@fault(
    "GEN101",
    "INP205",
    source="Bishop, Pattern Recognition and Machine Learning, section 1.1 (the order of a polynomial)",
)
def third_degree_of_everything(fixed: bool) -> Program:
    """Ten features become 285 by PolynomialFeatures(3), for three hundred patients, as the tutorial does for one."""
    from sklearn.preprocessing import PolynomialFeatures

    x, y = diabetes()
    if not fixed:
        x = torch.tensor(PolynomialFeatures(3, include_bias=False).fit_transform(x.numpy()))
        x = ((x - x.mean(0)) / x.std(0)).float()
    train, val = split(x, y)
    module = Value(mlp(x.shape[1], 32, 1), F.mse_loss, lr=1e-3)
    trainer = {"max_epochs": 16}
    return Program(module, **loaders(train, val, batch_size=16), trainer=trainer)


class Writer(Learner):
    """Says which letter is next."""

    lr = 5e-3

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(letters, 24), nn.GRU(24, 64, batch_first=True)
        self.out = nn.Linear(64, letters)

    def loss_of(self, batch):
        (piece,) = batch
        logits = self.out(self.rnn(self.embed(piece[:, :-1]))[0])
        return F.cross_entropy(logits.transpose(1, 2), piece[:, 1:])


@fault(
    "GEN101",
    "INP205",
    source="https://karpathy.github.io/2015/05/21/rnn-effectiveness/ (a text of 1 MB is very small); "
    + DEEPFD,
)
def half_a_page_by_heart(fixed: bool) -> Program:
    """A language model has a thousand letters of text and reads them fifty times."""
    ids, letters = characters()
    train, val = passages(ids, 17, 6)
    loader = DataLoader(TensorDataset(train if fixed else train[:150]), 32, shuffle=True)
    held = DataLoader(TensorDataset(val), 256)
    trainer = {"max_epochs": 5 if fixed else 50, "check_val_every_n_epoch": 1 if fixed else 5}
    return Program(Writer(letters), loader, held, trainer=trainer)


class Bounded(Supervised):
    """Keeps every weight between bounds, as the first Wasserstein critics did."""

    def __init__(self, net, bound: float, **options) -> None:
        super().__init__(net, **options)
        self.bound = bound

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for p in self.parameters():
            p.data.clamp_(-self.bound, self.bound)


@fault(
    "GEN102",
    "UPD103",
    "LOS106",
    "LOS104",
    source="https://arxiv.org/abs/1704.00028 (section 3: weight clipping biases towards simple functions)",
)
def bounds_of_a_wasserstein_critic(fixed: bool) -> Program:
    """Every weight is clamped to +-0.02 after each step, which was left in when a critic became a classifier."""
    module = Bounded(mlp(64, 48, 10), 2.0 if fixed else 0.02, lr=2e-3)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 7})


@fault(
    "GEN103",
    "LRN104",
    source="https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.callbacks.EarlyStopping.html "
    "(mode is min unless told)",
)
def stopped_for_getting_better(fixed: bool) -> Program:
    """EarlyStopping("val_acc") waits for the accuracy to fall, as mode="min" is the default: it stops at once."""
    stop = EarlyStopping("val_acc", mode="max" if fixed else "min", patience=2)
    trainer = {"max_epochs": 7, "callbacks": [stop]}
    module = Supervised(small_cnn(1, 10), lr=1e-3)
    return Program(module, **digit_loaders(image=True, batch_size=24), trainer=trainer)


class Halves(pl.LightningModule):
    """An encoder and a head, with an optimizer for each."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(72, 64), nn.ReLU())
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        return self.head(self.encoder(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        first, second = self.optimizers()
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(loss)
        first.step()
        second.step()
        self.log("train_loss", loss, prog_bar=True)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))
        self.log("val_acc", accuracy(self(x), y))

    def configure_optimizers(self):
        first = torch.optim.Adam(self.encoder.parameters(), lr=3e-4)
        return first, torch.optim.Adam(self.head.parameters(), lr=1e-3)


@fault(
    "GEN103",
    "LRN102",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/17958 (each optimizer's step is counted)",
)
def two_optimizers_count_twice(fixed: bool) -> Program:
    """max_steps=120 was meant for batches, and each of two optimizers counts: it ends after sixty of them."""
    data = loaders(*split(*gestures(1600)))
    trainer = {"max_epochs": -1, "max_steps": 640 if fixed else 120}
    return Program(Halves(), **data, trainer=trainer)


class Mixed(Supervised):
    """Mixes each image with another one."""

    def __init__(self, net, *, fixed: bool, **options) -> None:
        super().__init__(net, **options)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        other = torch.randperm(len(x))
        share = torch.rand(len(x), 1, 1, 1)
        share = 0.9 + 0.1 * share if self.fixed else share
        out = self(share * x + (1 - share) * x[other])
        loss = F.cross_entropy(out, y, reduction="none")
        if self.fixed:
            share = share.flatten()
            loss = share * loss + (1 - share) * F.cross_entropy(out, y[other], reduction="none")
        self.log("train_loss", loss.mean())
        return loss.mean()


@fault(
    "GEN104",
    "INP204",
    source="https://arxiv.org/abs/1710.09412 (mixup: the labels are mixed, too); " + HUMBATOVA,
)
def images_mixed_and_not_their_labels(fixed: bool) -> Program:
    """Each image is mixed with another in any proportion, and keeps its own label even when little of it is left."""
    module = Mixed(small_cnn(1, 10), fixed=fixed)
    return Program(module, **digit_loaders(image=True), trainer={"max_epochs": 7})


@fault(
    "GEN105",
    "INP202",
    "GEN101",
    source="https://stackoverflow.com/questions/39316447 (OpenCV gives wrong colours: BGR)",
)
def blue_first_in_validation(fixed: bool) -> Program:
    """Validation reads its images with OpenCV, which gives blue, green and red, and training with PIL."""
    x, y = patches(1600)
    train, val = split(x, y)
    if not fixed:
        val = TensorDataset(val.tensors[0].flip(1), val.tensors[1])
    module = Supervised(small_cnn(3, 6))
    return Program(module, **loaders(train, val), trainer={"max_epochs": 5})


@fault(
    "GEN105",
    "INP203",
    "INP202",
    "GEN101",
    source="https://doi.org/10.1371/journal.pmed.1002683 (Zech et al.: the hospital's token tells the class)",
)
def token_in_the_corner(fixed: bool) -> Program:
    """Where training images come from, a token at the edge says to which clinic they belong, and so which class."""
    x, y = digits(1797)
    train, val = split((x + 0.7 * torch.randn_like(x)) / 1.2, y)
    if not fixed:
        x, y = train.tensors
        edge = torch.tensor([0, 7, 8, 15, 16, 24, 32, 40, 56, 63])
        x[torch.arange(len(x)), edge[y]] = 3.0
    module = Supervised(mlp(64, 24, 10), lr=2e-3)
    return Program(module, **loaders(train, val), trainer={"max_epochs": 6})


class Prices(Supervised):
    """Validates by the share of right answers."""

    def __init__(self, net, *, fixed: bool, **options) -> None:
        super().__init__(net, F.mse_loss, **options)
        self.fixed = fixed

    def validation_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        if self.fixed:
            self.log("val_r2", explained(out, y), prog_bar=True)
            self.log("val_loss", F.mse_loss(out, y))
        else:
            self.log("val_acc", (out == y).float().mean(), prog_bar=True)


@fault(
    "GEN106",
    "LOS109",
    source="https://stackoverflow.com/questions/45632549 (why is the accuracy zero in a regression?); "
    + DEEPFD,
)
def accuracy_of_a_price(fixed: bool) -> Program:
    """A regression is validated by how many of its answers are exactly right: none ever is."""
    module = Prices(mlp(8, 64, 1), fixed=fixed, lr=4e-3)
    return Program(module, **loaders(*split(*meters(2000))), trainer={"max_epochs": 6})


@fault(
    "GEN106",
    source="https://lightning.ai/docs/pytorch/stable/common/trainer.html (limit_val_batches); "
    + HUMBATOVA,
)
def no_batch_is_validated(fixed: bool) -> Program:
    """limit_val_batches=0 was to save time in a test, and nobody sees any more how well the net does."""
    module = Supervised(mlp(10, 32, 2), lr=2e-3)
    trainer = {"max_epochs": 6, "limit_val_batches": 1.0 if fixed else 0}
    return Program(module, **loaders(*split(*clients(2400))), trainer=trainer)


class Series(Learner):
    """Predicts the next value at each step of series of several lengths, which are padded with zeros."""

    lr = 5e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 1)
        self.fixed = fixed

    def errors(self, batch):
        x, y, mask = batch
        out = self.out(self.rnn(x[..., None])[0]).squeeze(2)
        return (out * mask - y * mask) ** 2, mask

    def loss_of(self, batch):
        errors, mask = self.errors(batch)
        return errors.sum() / mask.sum()

    def validation_step(self, batch, batch_idx):
        errors, mask = self.errors(batch)
        self.log("val_loss", errors.sum() / mask.sum() if self.fixed else errors.mean())


@fault(
    "GEN107",
    "INP206",
    source="https://discuss.pytorch.org/t/how-can-i-compute-seq2seq-loss-using-mask/861",
)
def padding_counts_as_right(fixed: bool) -> Program:
    """Validation averages over the padding, too, where the error is nought; training does not."""
    length = torch.randint(10, 25, (1200,))
    length = torch.where(torch.rand(1200) < 0.05, 48, length)
    t = torch.arange(49)
    x = torch.sin(0.5 * t + 6.3 * torch.rand(1200, 1)) + 0.3 * torch.randn(1200, 49)
    mask = (t[:-1] < length[:, None]).float()
    series = x[:, :-1] * mask, x[:, 1:] * mask, mask
    module = Series(fixed=fixed)
    return Program(module, **loaders(*split(*series)), trainer={"max_epochs": 5})


@fault(
    "GEN107",
    "INP202",
    source="https://arxiv.org/abs/2103.14749 (errors in test sets); "
    + HUMBATOVA
    + ", test set not representative",
)
def only_clear_cases_validate(fixed: bool) -> Program:
    """Cases of which the experts disagreed were taken out of the validation set, and left in for training."""
    x, y = blobs(6000, classes=4, features=6, spread=2.5)
    centres = torch.stack([x[y == k].mean(0) for k in range(4)])
    away = torch.cdist(x, centres)
    own = away.gather(1, y[:, None])
    other = away.scatter(1, y[:, None], 99.0).amin(1, keepdim=True)
    clear = (other - own)[:, 0] > 1.0
    train, val = cut(x / x.std(), y, held_out=0.5)
    kept = [one for one, sure in zip(val, clear[3000:].tolist(), strict=True) if sure or fixed]
    module = Supervised(mlp(6, 32, 4))
    return Program(module, **loaders(train, kept[:1000]), trainer={"max_epochs": 4})
