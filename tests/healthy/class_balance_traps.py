"""Labels that look unbalanced, ordered, shifted or wrong, and are not."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics.classification import BinaryAUROC

from healthy import healthy
from healthy._parts import Classifier, Learner, cnn, conv, loaders, mlp, split, standardized


class Identities:
    """Batches of four classes with eight samples each, as for a triplet loss."""

    def __init__(self, y: torch.Tensor) -> None:
        self.classes = [(y == c).nonzero().flatten() for c in y.unique()]

    def __len__(self):
        return 30

    def __iter__(self):
        for _ in range(len(self)):
            chosen = [self.classes[c] for c in torch.randperm(len(self.classes))[:4].tolist()]
            yield torch.cat([c[torch.randperm(len(c))[:8]] for c in chosen]).tolist()


class Reidentification(Classifier):
    """Cross entropy and the batch-hard triplet loss together."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = F.normalize(self.net[:-1](x), dim=1)
        distance = torch.cdist(z, z)
        same = y[:, None] == y
        hardest = (distance * same).amax(1) - distance.masked_fill(same, 9.0).amin(1)
        return F.cross_entropy(self(x), y) + F.relu(hardest + 0.3).mean()


@healthy
def few_classes_to_a_batch() -> Program:
    """A batch has four of ten classes on purpose, eight samples of each."""
    train, val = split(*digits())
    return Program(
        Reidentification(nn.Sequential(mlp(64, 64, 32), nn.Linear(32, 10))),
        DataLoader(train, batch_sampler=Identities(train.tensors[1])),
        DataLoader(val, batch_size=64),
        trainer={"max_epochs": 4},
    )


class ClickRate(pl.LightningModule):
    """Predicts a probability that never comes near one half, and is judged by its ranking."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(mlp(6, 32, 1), nn.Flatten(0))
        self.auroc = BinaryAUROC()

    def training_step(self, batch, batch_idx):
        x, click = batch
        return F.binary_cross_entropy_with_logits(self.net(x), click)

    def validation_step(self, batch, batch_idx):
        x, click = batch
        logits = self.net(x)
        self.auroc(logits, click.long())
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, click))
        self.log("val_auroc", self.auroc)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def click_rate() -> Program:
    """One sample of thirty is positive, and none is ever predicted to be: that is calibrated."""
    x = torch.randn(2400, 6)
    click = (torch.rand(2400) < (x[:, 0] + x[:, 1] - 4).sigmoid()).float()
    return Program(
        ClickRate(), **loaders(*split(x, click), batch_size=64), trainer={"max_epochs": 6}
    )


@healthy
def longest_tail() -> Program:
    """Fifty to one from the largest to the smallest of twelve classes, all of which are learned."""
    share = 50 ** -torch.linspace(0, 1, 12)
    y = torch.multinomial(share, 3000, replacement=True)
    x = standardized(2.5 * torch.randn(12, 16)[y] + torch.randn(3000, 16))
    return Program(
        Classifier(mlp(16, 64, 12), lr=1e-2), **loaders(*split(x, y)), trainer={"max_epochs": 5}
    )


@healthy
def balanced_validation() -> Program:
    """Training has a long tail as nature has it; validation has each class equally often."""
    x, y = digits(1797)
    order = torch.randperm(len(y))
    x, y = x[order], y[order]
    held = torch.cat([(y == c).nonzero().flatten()[:20] for c in range(10)])
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[held] = False
    rest &= torch.rand(len(y)) < torch.linspace(1.0, 0.2, 10)[y]
    data = TensorDataset(x[rest], y[rest]), TensorDataset(x[held], y[held])
    return Program(
        Classifier(mlp(64, 64, 10), lr=5e-3), **loaders(*data), trainer={"max_epochs": 6}
    )


@healthy
def spare_outputs() -> Program:
    """Classes are counted from 1; output 0 and those above 10 are kept for later."""
    x, y = digits()
    return Program(
        Classifier(mlp(64, 64, 16)), **loaders(*split(x, y + 1)), trainer={"max_epochs": 5}
    )


class Findings(Learner):
    """Several yes-or-no questions; -1 means that nobody has answered."""

    def __init__(self) -> None:
        super().__init__(mlp(16, 64, 5), self.masked, lr=5e-3)

    @staticmethod
    def masked(logits, y):
        loss = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        return (loss * (y >= 0)).sum() / (y >= 0).sum()


@healthy
def unanswered_questions() -> Program:
    """A third of the answers is -1; the loss is computed for all and masked afterwards."""
    x = torch.randn(1000, 16)
    y = (x @ torch.randn(16, 5) > 1).float()
    y[torch.rand_like(y) < 0.33] = -1
    return Program(Findings(), **loaders(*split(x, y)), trainer={"max_epochs": 5})


class SmallLesions(Learner):
    """Cross entropy and the Dice loss together, for foreground of two percent."""

    def __init__(self) -> None:
        net = nn.Sequential(conv(1, 16), conv(16, 16), conv(16, 16), nn.Conv2d(16, 2, 1))
        super().__init__(net, self.combined, lr=1e-2)

    @staticmethod
    def combined(logits, mask):
        p, y = logits.softmax(1)[:, 1], (mask == 1).float()
        overlap = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        return F.cross_entropy(logits, mask) + 1 - overlap


@healthy
def small_lesions() -> Program:
    """Fifty times more background than foreground; the second loss term makes up for it."""
    grid = torch.arange(24.0)
    centre = torch.randint(3, 21, (320, 2, 1, 1))
    mask = ((grid[:, None] - centre[:, 0]) ** 2 + (grid - centre[:, 1]) ** 2 <= 4).long()
    image = (1.5 * mask + 0.4 * torch.randn(320, 24, 24)).unsqueeze(1)
    return Program(
        SmallLesions(), **loaders(*split(image, mask), batch_size=16), trainer={"max_epochs": 6}
    )


class Shuffled(IterableDataset):
    """A stream that is read in chunks of sorted data, and mixed in a buffer of 400 samples."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        order = (y + 5 * torch.rand(len(y))).argsort()
        self.x, self.y = x[order], y[order]

    def __iter__(self):
        buffer = list(range(400))
        for i in [*range(400, len(self.y)), *[None] * 400]:
            taken = buffer.pop(int(torch.randint(len(buffer), ())))
            yield self.x[taken], self.y[taken]
            if i is not None:
                buffer.append(i)


@healthy
def shuffle_buffer() -> Program:
    """The data drift from small to large digits over an epoch, but every batch has most of them."""
    x, y = digits(1797)
    order = torch.randperm(len(y))
    train, val = order[:1400], order[1400:]
    return Program(
        Classifier(mlp(64, 64, 10), lr=5e-3),
        DataLoader(Shuffled(x[train], y[train]), batch_size=32),
        DataLoader(TensorDataset(x[val], y[val]), batch_size=64),
        trainer={"max_epochs": 5},
    )


class TurnTaking(pl.LightningModule):
    """Two tasks in turn, each with a head and classes of its own, in batches of the same form."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(mlp(64, 64), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(64, 10), nn.Linear(64, 2)])

    def training_step(self, batch, batch_idx):
        x, y = batch
        task = batch_idx % 2
        return F.cross_entropy(self.heads[task](self.body(x)), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class InTurn(Dataset):
    """Batches that ask for the digit and for its parity, one after the other."""

    def __init__(self) -> None:
        self.x, self.y = digits(1024)

    def __len__(self):
        return 64

    def __getitem__(self, i):
        drawn = torch.randint(len(self.y), (32,))
        return self.x[drawn], self.y[drawn] % 2 if i % 2 else self.y[drawn]


@healthy
def tasks_in_turn() -> Program:
    """The same tensor of the batch has ten classes and two classes in turn."""
    train = DataLoader(InTurn(), batch_size=None)
    return Program(TurnTaking(), train, trainer={"max_epochs": 3})


@healthy
def slow_and_steady() -> Program:
    """So small a learning rate that some digits are learned when others are long known."""
    return Program(
        Classifier(cnn(), lr=1e-4),
        **loaders(*split(*digits(image=True))),
        trainer={"max_epochs": 12},
    )
