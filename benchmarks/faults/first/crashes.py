"""ERR: what ends in an exception."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from .. import HUMBATOVA, NEURALINT, fault
from .._parts import (
    Program,
    Supervised,
    characters,
    digit_loaders,
    digits,
    loaders,
    mlp,
    scenes,
    split,
)
from ._parts import Learner, batches, gestures, meters, sentences

CRASH = tuple(
    f"ERR{number}" for number in range(101, 118)
)  # the catalogue tells none of them apart


@fault(*CRASH, "STR104", source="https://github.com/pytorch/pytorch/issues/4534")
def one_sample_is_left_over(fixed: bool) -> Program:
    """The last batch has one sample, of which batch norm cannot take a variance."""
    x, y = digits(1217)
    net = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10))
    loader = batches(x, y, drop_last=fixed)
    return Program(Supervised(net), loader, trainer={"max_epochs": 4})


class Squeezed(nn.Module):
    """An MLP with one output, all of whose dimensions of size 1 are dropped."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(8, 32, 1), fixed

    def forward(self, x):
        return self.net(x).squeeze(1) if self.fixed else self.net(x).squeeze()


@fault(
    *CRASH,
    "LOS103",
    source="https://github.com/layumi/Person_reID_baseline_pytorch/issues/77",
)
def squeezed_to_nothing(fixed: bool) -> Program:
    """squeeze() takes the batch away, too, when only one sample is left."""
    x, y = meters(1025)
    positive = (y[:, 0] > 0).float()
    module = Supervised(Squeezed(fixed), F.binary_cross_entropy_with_logits, lr=1e-2)
    return Program(module, batches(x, positive, size=64), trainer={"max_epochs": 8})


class InPlace(nn.Module):
    """A residual net that saves a little memory."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.fixed = fixed

    def forward(self, x):
        x = torch.sigmoid(self.first(x))
        more = torch.relu(self.second(x))
        if self.fixed:
            x = x + more
        else:
            x += more
        return self.out(x)


@fault(
    *CRASH,
    source="https://github.com/lyongo/NWPU-MOC/issues/4",
)
def overwritten_before_its_gradient(fixed: bool) -> Program:
    """x += more overwrites what the backward of the sigmoid needs."""
    return Program(Supervised(InPlace(fixed)), **digit_loaders(), trainer={"max_epochs": 5})


class Carried(Learner):
    """A language model that carries its state from one piece of the text to the next."""

    lr = 1e-2

    def __init__(self, letters: int, fixed: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(letters, 24), nn.GRU(24, 64, batch_first=True)
        self.out, self.state, self.fixed = nn.Linear(64, letters), None, fixed

    def loss_of(self, batch):
        hidden, self.state = self.rnn(self.embed(batch[:, :-1]), self.state)
        if self.fixed:
            self.state = self.state.detach()
        return F.cross_entropy(self.out(hidden).transpose(1, 2), batch[:, 1:])


@fault(
    *CRASH,
    source="https://github.com/MorvanZhou/PyTorch-Tutorial/issues/57",
)
def state_with_its_history(fixed: bool) -> Program:
    """The state of the last batch comes with its graph, which is gone: backward a second time."""
    ids, letters = characters()
    columns = ids[: len(ids) // 16 * 16].view(16, -1)
    pieces = [columns[:, i : i + 33] for i in range(0, columns.shape[1] - 33, 32)]
    loader = DataLoader(pieces, batch_size=None)
    return Program(Carried(letters, fixed), loader, trainer={"max_epochs": 6})


class StartState(nn.Module):
    """An LSTM whose first state is written out."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.rnn, self.out, self.fixed = nn.LSTM(3, 32, batch_first=True), nn.Linear(32, 4), fixed

    def forward(self, x):
        start = torch.zeros(1, len(x) if self.fixed else 32, 32)
        return self.out(self.rnn(x, (start, start))[1][0][-1])


@fault(
    *CRASH,
    source="https://github.com/vietnh1009/Hierarchical-attention-networks-pytorch/issues/12; "
    + NEURALINT,
)
def state_for_thirty_two(fixed: bool) -> Program:
    """The first state is made for 32 sequences, and the last batch has fewer."""
    data = loaders(*split(*gestures(1100)))
    return Program(Supervised(StartState(fixed), lr=5e-3), **data, trainer={"max_epochs": 8})


class SmallUNet(nn.Module):
    """Down, up, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.out = nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, x):
        x = self.down(x)
        return self.out(torch.cat([x, self.up(self.deep(x))], dim=1))


@fault(
    *CRASH,
    source="https://github.com/qubvel-org/segmentation_models.pytorch/issues/93; " + HUMBATOVA,
)
def image_of_odd_size(fixed: bool) -> Program:
    """Images of 17 pixels are halved to 8 and doubled to 16: the skip connection does not fit."""
    x, mask = scenes(400, side=16 if fixed else 17)
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(4.0))
    data = loaders(*split(x, mask[:, None].float()), batch_size=16)
    return Program(Supervised(SmallUNet(), loss), **data, trainer={"max_epochs": 5})


def pad(samples):
    """Makes a batch of sentences of any length."""
    ids, labels = zip(*samples, strict=True)
    return nn.utils.rnn.pad_sequence(ids, batch_first=True), torch.stack(labels)


@fault(*CRASH, source="https://github.com/rasbt/LLMs-from-scratch/issues/365")
def sentences_of_any_length(fixed: bool) -> Program:
    """Sentences of several lengths go through the collate function that stacks."""
    loader = DataLoader(sentences(), 32, shuffle=True, collate_fn=pad if fixed else None)
    net = nn.Sequential(nn.EmbeddingBag(80, 24, padding_idx=0), nn.ReLU(), nn.Linear(24, 4))
    return Program(Supervised(net, lr=1e-2), loader, trainer={"max_epochs": 5})
