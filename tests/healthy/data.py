"""Data in an order, a shape or a mixture that looks odd, and is meant."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Sampler, TensorDataset

from healthy import healthy
from healthy._parts import Classifier, Learner, cnn, conv, loaders, mlp, moons, split, standardized


class EasyFirst(Sampler):
    """Starts with easy samples and admits harder ones as epochs pass, in random order."""

    def __init__(self, difficulty: torch.Tensor, epochs: int) -> None:
        self.order = difficulty.argsort()
        self.epochs = epochs
        self.epoch = 0

    def __len__(self):
        return len(self.order)

    def __iter__(self):
        share = min(1.0, 0.4 + 0.6 * self.epoch / self.epochs)
        self.epoch += 1
        admitted = self.order[: int(share * len(self.order))]
        yield from admitted[torch.randint(len(admitted), (len(self),))].tolist()


@healthy
def curriculum() -> Program:
    """Hard samples join later, so that batches get harder as the net gets better."""
    train, val = split(*digits())
    x, y = train.tensors
    centres = torch.stack([x[y == c].mean(0) for c in range(10)])
    sampler = EasyFirst((x - centres[y]).norm(dim=1), epochs=4)
    return Program(
        Classifier(mlp(64, 64, 10), lr=3e-3),
        DataLoader(train, batch_size=32, sampler=sampler),
        DataLoader(val, batch_size=64),
        trainer={"max_epochs": 7},
    )


@healthy
def sorted_validation() -> Program:
    """The validation set is sorted by class, so each of its batches holds one or two."""
    train, val = split(*digits(image=True))
    order = val.tensors[1].argsort()
    val = TensorDataset(*(t[order] for t in val.tensors))
    return Program(Classifier(cnn()), **loaders(train, val), trainer={"max_epochs": 5})


@healthy
def oversampled() -> Program:
    """A rare class is in the training set five times over: exact duplicates, on purpose."""
    train, val = split(*digits(1500, image=True))
    x, y = train.tensors
    keep = (y != 3) | (torch.rand(len(y)) < 0.2)
    threes = keep & (y == 3)
    train = ConcatDataset(
        [TensorDataset(x[keep], y[keep]), *[TensorDataset(x[threes], y[threes])] * 4]
    )
    return Program(Classifier(cnn()), **loaders(train, val), trainer={"max_epochs": 4})


class Balanced:
    """Batches with the same number of samples of each class."""

    def __init__(self, y: torch.Tensor, each: int, batches: int) -> None:
        self.classes = [(y == c).nonzero().squeeze(1) for c in y.unique()]
        self.each, self.batches = each, batches

    def __len__(self):
        return self.batches

    def __iter__(self):
        for _ in range(self.batches):
            chosen = [c[torch.randperm(len(c))[: self.each]] for c in self.classes]
            yield torch.cat(chosen).tolist()


@healthy
def balanced_batches() -> Program:
    """Labels within each batch are in order, three of each class, and the same in every batch."""
    train, val = split(*digits(image=True))
    sampler = Balanced(train.tensors[1], each=3, batches=24)
    return Program(
        Classifier(cnn()),
        DataLoader(train, batch_sampler=sampler),
        DataLoader(val, batch_size=64),
        trainer={"max_epochs": 5},
    )


@healthy
def presplit_shards() -> Program:
    """No sampler shuffles, since the data were shuffled once and for all when they were written."""
    train, val = split(*digits())
    loader = DataLoader(train, batch_size=32, shuffle=False)
    return Program(
        Classifier(mlp(64, 64, 10)),
        loader,
        DataLoader(val, batch_size=64),
        trainer={"max_epochs": 5},
    )


@healthy
def mostly_blank_images() -> Program:
    """Small digits on large canvases: nine tenths of all pixels have the same value."""
    x, y = digits(1797, image=True)
    canvas = torch.full((len(x), 1, 24, 24), -1.0)
    for i, (top, left) in enumerate(torch.randint(4, 13, (len(x), 2)).tolist()):
        canvas[i, :, top : top + 8, left : left + 8] = x[i]
    canvas = (canvas - canvas.mean()) / canvas.std()
    net = nn.Sequential(
        conv(1, 8),
        conv(8, 16, 2),
        conv(16, 32, 2),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(32),
        nn.Linear(32, 10),
    )
    return Program(
        Classifier(net, lr=8e-3), **loaders(*split(canvas, y)), trainer={"max_epochs": 5}
    )


@healthy
def binary_features() -> Program:
    """Inputs are 0 or 1 and mostly 0, neither centred nor scaled, as one-hot features are."""
    x = (torch.rand(1200, 60) < torch.linspace(0.05, 0.3, 60)).float()
    y = (x @ torch.randn(60) > 0).long()
    return Program(
        Classifier(mlp(60, 48, 2), lr=5e-3), **loaders(*split(x, y)), trainer={"max_epochs": 6}
    )


@healthy
def domain_mixture() -> Program:
    """Half of the training images are negatives with noise; validation has clean ones only."""
    train, val = split(*digits(1500, image=True))
    x, y = train.tensors
    train = ConcatDataset([train, TensorDataset(-x + 0.3 * torch.randn_like(x), y)])
    return Program(
        Classifier(cnn()), **loaders(train, val, batch_size=48), trainer={"max_epochs": 5}
    )


class SoftTargets(Classifier):
    """Learns from the votes of several annotators."""

    def training_step(self, batch, batch_idx):
        x, votes = batch
        log_probability = self(x).log_softmax(1)
        loss = F.kl_div(log_probability, votes / votes.sum(1, keepdim=True), reduction="batchmean")
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, votes = batch
        super().validation_step((x, votes.argmax(1)), batch_idx)


@healthy
def annotator_votes() -> Program:
    """Targets are counts of votes, and the Kullback-Leibler loss ends well above 0."""
    x, y = digits()
    chance = 0.7 * F.one_hot(y, 10) + 0.03
    votes = torch.distributions.Multinomial(5, chance).sample()
    return Program(
        SoftTargets(mlp(64, 64, 10)), **loaders(*split(x, votes)), trainer={"max_epochs": 5}
    )


@healthy
def same_data_other_noise() -> Program:
    """Only 64 distinct samples, which fresh noise makes new at every visit; batches hold half of them."""

    class Noisy(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return super().training_step((x + 0.5 * torch.randn_like(x), y), batch_idx)

    x, y = digits(64)
    train = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    return Program(Noisy(mlp(64, 64, 10)), train, trainer={"max_epochs": 60})


@healthy
def two_spirals() -> Program:
    """No line separates the classes: the loss leaves chance slowly, then falls to almost 0."""
    t = torch.rand(1024).sqrt() * 9
    side = torch.randint(2, (1024,))
    x = torch.stack([t * (t + side * torch.pi).cos(), t * (t + side * torch.pi).sin()], dim=1)
    x = standardized(x + 0.1 * torch.randn_like(x))
    return Program(
        Classifier(mlp(2, 96, 96, 96, 2), lr=3e-3),
        **loaders(*split(x, side)),
        trainer={"max_epochs": 12},
    )


@healthy
def noisy_regression() -> Program:
    """Noise is nine tenths of the variance of the targets, and 0.9 is the best possible loss."""
    x = torch.randn(2048, 4)
    y = standardized(x @ torch.randn(4, 1).sign() / 2 + 3 * torch.randn(2048, 1))
    return Program(
        Learner(nn.Linear(4, 1), lr=1e-2),
        **loaders(*split(x, y), batch_size=64),
        trainer={"max_epochs": 8},
    )


@healthy
def channels_last() -> Program:
    """Images in channels-last memory: shapes say NCHW, strides do not."""
    train, val = split(*digits(image=True))
    train, val = (
        TensorDataset(
            d.tensors[0].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last),
            d.tensors[1],
        )
        for d in (train, val)
    )
    net = cnn()
    net[0] = conv(3, 16)
    return Program(
        Classifier(net.to(memory_format=torch.channels_last)),
        **loaders(train, val),
        trainer={"max_epochs": 6},
    )


@healthy
def ragged_last_batch() -> Program:
    """The last batch of each epoch has three samples only."""
    train, val = split(*digits(1000))
    train = TensorDataset(*(t[:675] for t in train.tensors))
    return Program(Classifier(mlp(64, 64, 10)), **loaders(train, val), trainer={"max_epochs": 6})


@healthy
def workers() -> Program:
    """Two worker processes load the data, and stay alive between epochs."""
    train, val = split(*moons(noise=0.15))
    loader = DataLoader(train, batch_size=32, shuffle=True, num_workers=2, persistent_workers=True)
    return Program(
        Classifier(mlp(2, 32, 32, 2)),
        loader,
        DataLoader(val, batch_size=64),
        trainer={"max_epochs": 5},
    )


@healthy
def samples_without_a_batch() -> Program:
    """Without automatic batching, an image and its label come alone, neither with a batch axis."""
    train, val = split(*digits(600, image=True))
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(0), nn.Linear(288, 10))
    return Program(
        Single(net, lr=2e-3),
        DataLoader(train, batch_size=None, shuffle=True),
        DataLoader(val, batch_size=None),
        trainer={"max_epochs": 3, "accumulate_grad_batches": 8},
    )


class Single(Learner):
    """Classifies one sample at a time."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__(net, F.cross_entropy, lr)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y), batch_size=1)
        self.log("val_acc", (logits.argmax() == y).float(), batch_size=1)


class Squeezed(Learner):
    """Squeezes predictions and targets: in a batch of one sample, no dimension is left."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__(net, F.binary_cross_entropy_with_logits, lr)

    def forward(self, x):
        return self.net(x).squeeze()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return super().training_step((x, y.squeeze()), batch_idx)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        super().validation_step((x, y.squeeze()), batch_idx)
        self.log("val_acc", ((self(x) > 0) == y.squeeze().bool()).float().mean())


@healthy
def last_batch_of_one_sample() -> Program:
    """The last batch of each epoch has one sample, whose score and label are squeezed to scalars."""
    x, y = moons(801, noise=0.15)
    train, val = split(x, y.float().unsqueeze(1), held_out=0.2)  # 641 and 160
    net = mlp(2, 32, 32, 1)
    return Program(Squeezed(net, lr=5e-3), **loaders(train, val), trainer={"max_epochs": 8})


@healthy
def one_sample_at_a_time() -> Program:
    """All batches are of one sample, and nothing in the step has any dimension left."""
    x, y = moons(800, noise=0.15)
    train, val = split(x, y.float().unsqueeze(1))
    data = loaders(train, val, batch_size=1)
    return Program(Squeezed(mlp(2, 32, 32, 1), lr=1e-3), **data, trainer={"max_epochs": 1})


class Words(Classifier):
    """Makes dense what comes sparse."""

    def forward(self, x):
        return self.net(x.to_dense().log1p())


def sparse(samples):
    """Puts samples together as a sparse matrix."""
    x, y = zip(*samples, strict=True)
    return torch.stack(x).to_sparse(), torch.stack(y)


@healthy
def sparse_word_counts() -> Program:
    """Each text has 30 words of 400, and comes as a row of a sparse matrix."""
    topics = torch.distributions.Dirichlet(torch.full((400,), 0.1)).sample((4,))
    y = torch.randint(4, (800,))
    words = torch.multinomial(0.6 * topics[y] + 0.4 * topics.mean(0), 30, replacement=True)
    x = torch.zeros(800, 400).scatter_add_(1, words, torch.ones(800, 30))
    train, val = split(x, y)
    return Program(
        Words(mlp(400, 32, 4), lr=3e-3),
        DataLoader(train, batch_size=32, shuffle=True, collate_fn=sparse),
        DataLoader(val, batch_size=32, collate_fn=sparse),
        trainer={"max_epochs": 5},
    )


class Last(nn.Module):
    """Classifies packed sequences by the last state of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(5, 32), nn.Linear(32, 2)

    def forward(self, packed):
        return self.head(self.rnn(packed)[1][0])


def packed(samples):
    """Lays sequences of many lengths end to end."""
    x, y = zip(*samples, strict=True)
    return nn.utils.rnn.pack_sequence(x, enforce_sorted=False), torch.stack(y)


@healthy
def packed_before_the_step() -> Program:
    """The loader packs the sequences: more steps than labels, and no sample has its own row."""
    x = [torch.randn(int(length), 5) for length in torch.randint(4, 16, (640,))]
    data = [(one, (one[:, 0].sum() > 0).long()) for one in x]
    return Program(
        Classifier(Last(), lr=1e-2),
        DataLoader(data[:512], batch_size=32, shuffle=True, collate_fn=packed),
        DataLoader(data[512:], batch_size=32, collate_fn=packed),
        trainer={"max_epochs": 8},
    )
