"""OUT, a second time: outputs that cannot be, that do not listen, or that listen to the neighbours."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from .. import HUMBATOVA, NEURALINT, fault
from .._parts import Program, Supervised, digits, loaders, mlp, split
from ..first._parts import Learner, explained, reviews
from ._parts import clients, demand, forecasts, patches, ratings


class SimSiam(pl.LightningModule):
    """Two noisy looks at a digit are to have the same representation, and nothing pushes others apart."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 96, bias=False), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 32)
        )
        self.predictor = nn.Sequential(
            nn.Linear(32, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32)
        )
        self.fixed = fixed

    def loss_of(self, batch):
        x, _ = batch
        one, other = (self.encoder(x + 0.2 * torch.randn_like(x)) for _ in range(2))
        targets = [z.detach() if self.fixed else z for z in (other, one)]
        guesses = [self.predictor(z) for z in (one, other)]
        pairs = zip(guesses, targets, strict=True)
        return -sum(F.cosine_similarity(p, z).mean() for p, z in pairs) / 2

    def training_step(self, batch, batch_idx):
        loss = self.loss_of(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        z = F.normalize(self.encoder(x), dim=1)
        self.log("val_spread", z.std(0).mean() * z.shape[1] ** 0.5)
        nearest = (z @ z.T - 9 * torch.eye(len(z))).argmax(1)
        self.log("val_neighbour_acc", (y[nearest] == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


@fault(
    "OUT101",
    "GRD104",
    "OUT103",
    "LOS109",
    source="https://arxiv.org/abs/2011.10566 (SimSiam: without stop-gradient it collapses)",
)
def siamese_without_a_stop(fixed: bool) -> Program:
    """The target of SimSiam is not detached: the representations of all digits become one."""
    train, val = split(*digits(1797))
    return Program(
        SimSiam(fixed=fixed),
        DataLoader(train, 64, shuffle=True, drop_last=True),
        DataLoader(val, len(val)),
        trainer={"max_epochs": 10},
    )


class Stars(Learner):
    """How many stars, of five, does somebody give to something?"""

    lr = 2e-2

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(120, 8), nn.Embedding(80, 8)
        self.liked, self.fixed = nn.Embedding(80, 1), fixed
        for one in (self.user, self.item, self.liked):
            nn.init.normal_(one.weight, std=0.3)

    def forward(self, user, item):
        alike = (self.user(user) * self.item(item)).sum(1)
        x = torch.sigmoid(alike + self.liked(item).squeeze(1))
        return 1 + 4 * x if self.fixed else x

    def loss_of(self, batch):
        return F.mse_loss(self(*batch[:2]), batch[2])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_mae", F.l1_loss(self(*batch[:2]), batch[2]))


@fault(
    "OUT102",
    "ACT102",
    "OUT101",
    "LOS104",
    source="https://forums.fast.ai/t/lesson-5-sigmoid-range-y-range/25063 (y_range of a recommender)",
)
def five_stars_from_a_sigmoid(fixed: bool) -> Program:
    """Stars go from one to five, and the net ends in a sigmoid, which goes from nought to one."""
    data = loaders(*split(*ratings(6400, 120, 80)), batch_size=64)
    return Program(Stars(fixed=fixed), **data, trainer={"max_epochs": 4})


class Attended(nn.Module):
    """A transformer that reads sentences of several lengths; 0 is padding."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.word = nn.Embedding(80, 32, padding_idx=0)
        self.norm, self.attend = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.start, self.fixed = nn.Parameter(torch.randn(1, 1, 32) / 4), fixed
        self.out = mlp(32, 32, 4)

    def forward(self, ids):
        x = self.norm(self.word(ids))
        real = ids > 0
        query = self.start.expand(len(ids), -1, -1)
        read, _ = self.attend(query, x, x, key_padding_mask=~real if self.fixed else real)
        return self.out(read.squeeze(1))


@fault(
    "OUT103",
    "GRD104",
    "OUT101",
    "LOS104",
    "GRD103",
    "INP206",
    source="https://discuss.pytorch.org/t/how-to-add-padding-mask-to-nn-transformerencoder-module/63390 (True is not attended)",
)
def mask_that_says_what_to_read(fixed: bool) -> Program:
    """key_padding_mask is True for words: attention skips just these, and reads the padding."""
    ids, y = reviews(2400)
    length = torch.randint(8, 12, (2400, 1))
    ids = torch.where(torch.arange(12) < length, ids, 0)
    module = Supervised(Attended(fixed=fixed), lr=3e-3)
    return Program(module, **loaders(*split(ids, y)), trainer={"max_epochs": 5})


@fault(
    "OUT104",
    "LOS102",
    "GRD103",
    "LOS104",
    source="https://stackoverflow.com/questions/69294656 (cross entropy with one output); "
    + NEURALINT,
)
def cross_entropy_of_one_logit(fixed: bool) -> Program:
    """cross_entropy is given one logit and a target of 0.0 or 1.0: the softmax of one is 1, the loss 0."""
    x, y = clients(2000)
    loss = F.binary_cross_entropy_with_logits if fixed else F.cross_entropy
    data = loaders(*split(x, y.float()[:, None]))
    return Program(Binary(mlp(10, 48, 1), loss), **data, trainer={"max_epochs": 6})


class Binary(Supervised):
    """Says how often the sign of its logit is right."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", ((self(batch[0]) > 0) == (batch[1] > 0)).float().mean())


class Windowed(nn.Module):
    """A transformer over the windows of a sensor."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 32), nn.Parameter(0.5 * torch.randn(12, 32))
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, norm_first=True, batch_first=fixed
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(32, 4)

    def forward(self, x):
        return self.out(self.body(self.embed(x) + self.place)[:, 0])


@fault(
    "OUT105",
    "INP104",
    source="https://discuss.pytorch.org/t/nn-transformerencoderlayer-batch-first/120126",
)
def attending_to_the_neighbours(fixed: bool) -> Program:
    """TransformerEncoderLayer without batch_first: each sample attends to the others of its batch."""
    y = torch.arange(2000) % 4
    x = torch.randn(2000, 12, 8)
    place = torch.randint(1, 12, (2000,))
    x[torch.arange(2000), place, :4] = 0.5 * torch.randn(2000, 4) + 2.0 * torch.eye(4)[y]
    x[torch.arange(2000), place, 7] = 3.0
    module = Supervised(Windowed(fixed=fixed), lr=2e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 4})


class Likely(nn.Module):
    """Ends in the logarithm of a softmax."""

    def __init__(self, over: int) -> None:
        super().__init__()
        self.over = over
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(96, 6),
        )

    def forward(self, x):
        return F.log_softmax(self.body(x), dim=self.over)


@fault(
    "OUT105",
    "LOS102",
    "LOS101",
    source="https://discuss.pytorch.org/t/implicit-dimension-choice-for-softmax-warning/12314; "
    + HUMBATOVA,
)
def softmax_down_the_batch(fixed: bool) -> Program:
    """log_softmax(dim=0): it is the images of a batch that share out each class among them."""
    data = loaders(*split(*patches(1500)))
    module = Supervised(Likely(1 if fixed else 0), F.nll_loss, lr=1e-3)
    return Program(module, **data, trainer={"max_epochs": 5})


class Rates(Supervised):
    """Says how much of the variance it explains."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "OUT102",
    "ACT101",
    "GEN102",
    source="https://stackoverflow.com/questions/55170460 (a ReLU after the last layer of a regression); "
    + NEURALINT,
)
def changes_that_are_never_negative(fixed: bool) -> Program:
    """The net that predicts by how much the demand changes ends in a ReLU, as all its layers do."""
    parts = []
    for part in forecasts(demand(1600), 24, 3):
        past, future = part.tensors
        parts.append(TensorDataset(past, 2 * (future[:, 2:] - past[:, -1:])))
    layers = [nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)]
    net = nn.Sequential(*layers) if fixed else nn.Sequential(*layers, nn.ReLU())
    data = loaders(*parts)
    return Program(Rates(net, F.mse_loss), **data, trainer={"max_epochs": 6})
