"""ERR, a fourth time: the run ends with an exception."""

from __future__ import annotations

import numpy as np
import torch
import torchmetrics
from sklearn.preprocessing import OrdinalEncoder
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from .. import fault
from .._parts import Program, digits
from ._parts_a import Sorter, Trained, dense, dice, feed, small_convnet, tables, tones


class Waves(nn.Module):
    """Convolutions along time."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        layers = [nn.Conv1d(1, 24, 16, stride=4), nn.ReLU(), nn.Conv1d(24, 32, 8, stride=2)]
        self.net = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten())
        self.head, self.fixed = nn.Linear(32, 4), fixed

    def forward(self, x):
        if self.fixed:
            x = x.unsqueeze(1)
        return self.head(self.net(x))


@fault(
    "ERR101",
    source="https://discuss.pytorch.org/t/how-to-apply-1d-convolution-on-data-having-batch-size-1/190653",
)
def sound_without_its_channel(fixed: bool) -> Program:
    """Sounds are (N, length), and Conv1d takes the batch for the channels."""
    x, y = tones(1200)
    x = x / x.std(dim=1, keepdim=True)
    return Program(
        Sorter(Waves(fixed=fixed)),
        **feed(*tables(x, y, held_out=240)),
        trainer={"max_epochs": 6},
    )


class Customers(Trained):
    """Who will come back, by where and how they bought."""

    def __init__(self, kinds: tuple[int, ...], *, fixed: bool) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(k, 6) for k in kinds)
        self.net, self.fixed = dense(6 * len(kinds) + 4, 48, 24, 1), fixed
        self.right = torchmetrics.Accuracy("binary")

    def measure(self, batch):
        row, back = batch
        kinds, numbers = row[:, : len(self.tables)], row[:, len(self.tables) :]
        if self.fixed:
            kinds = kinds.long()
        found = [table(kinds[:, i]) for i, table in enumerate(self.tables)]
        logit = self.net(torch.cat([*found, numbers], dim=1)).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logit, back.float())
        return {"loss": loss, "acc": self.right(logit, back)}


@fault(
    "ERR103",
    source="https://github.com/pytorch/pytorch/issues/116598",
)
def categories_in_a_table_of_floats(fixed: bool) -> Program:
    """Categories and numbers share one float table, and go from there into the embeddings."""
    g = dice(81)
    kinds = torch.stack([torch.randint(k, (2000,), generator=g) for k in (7, 12)], dim=1)
    numbers = torch.randn(2000, 4, generator=g)
    worth = [torch.randn(k, generator=g) for k in (7, 12)]
    score = worth[0][kinds[:, 0]] + worth[1][kinds[:, 1]] + numbers[:, 0] * numbers[:, 1]
    back = (score + 0.4 * torch.randn(2000, generator=g) > score.median()).long()
    rows = torch.cat([kinds.float(), numbers], dim=1)
    return Program(
        Customers((7, 12), fixed=fixed),
        **feed(*tables(rows, back, held_out=400)),
        trainer={"max_epochs": 6},
    )


class Prices(Trained):
    """What a used car costs, by its make and its model, its age and its miles."""

    lr = 3e-3

    def __init__(self, makes: int, models: int) -> None:
        super().__init__()
        self.makes, self.models = nn.Embedding(makes, 6), nn.Embedding(models, 12)
        self.net = dense(20, 48, 24, 1)

    def measure(self, batch):
        car = torch.cat(
            [self.makes(batch["make"]), self.models(batch["model"]), batch["numbers"]], dim=1
        )
        out = self.net(car).squeeze(1)
        error = (out - batch["price"]).abs().mean()
        return {"loss": F.mse_loss(out, batch["price"]), "error": error}


@fault(
    "ERR102",
    source="https://github.com/marcotcr/lime/issues/641, "
    "https://github.com/cpa-analytics/embedding-encoder/pull/12",
)
def model_of_car_never_seen_is_minus_one(fixed: bool) -> Program:
    """The encoder gives -1 to a category it was not fitted on, and validation has one."""
    rng = np.random.default_rng(82)
    n = 2000
    names = np.array([f"{make} {i}" for make in "ABCDE" for i in range(8)])
    model = rng.choice(len(names) - 1, n)
    model[[1700, 1850, 1951]] = len(names) - 1
    table = np.stack([np.array([name[0] for name in names])[model], names[model]], axis=1)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    encoder.fit(table[:1600])
    ids = torch.tensor(encoder.transform(table)).long() + (1 if fixed else 0)
    numbers = torch.tensor(rng.normal(size=(n, 2)), dtype=torch.float32)
    worth = torch.tensor(rng.normal(size=len(names)), dtype=torch.float32)
    price = worth[torch.tensor(model)] - numbers[:, 0] - 0.5 * numbers[:, 1] ** 2
    price = price + 0.3 * torch.tensor(rng.normal(size=n), dtype=torch.float32)
    samples = [
        {"make": i[0], "model": i[1], "numbers": x, "price": y}
        for i, x, y in zip(ids, numbers, price, strict=True)
    ]
    known = [len(kinds) + (1 if fixed else 0) for kinds in encoder.categories_]
    return Program(
        Prices(*known),
        **feed(samples[:1600], samples[1600:]),
        trainer={"max_epochs": 6},
    )


class Folder(Dataset):
    """Images of a folder, one or two of which cannot be read."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, broken: tuple[int, ...]) -> None:
        self.x, self.y, self.broken = x, y, broken

    def __len__(self):
        return len(self.x)

    def read(self, index):
        if index in self.broken:
            raise OSError("image file is truncated")
        return self.x[index]

    def __getitem__(self, index):
        try:
            return self.read(index), self.y[index]
        except OSError:
            return None


def whole_ones(batch):
    """Leaves out what could not be read."""
    return default_collate([sample for sample in batch if sample is not None])


@fault(
    "ERR113",
    source="https://github.com/pytorch/pytorch/issues/1137, "
    "https://github.com/Megvii-BaseDetection/YOLOX/issues/1523",
)
def nothing_for_a_truncated_image(fixed: bool) -> Program:
    """What cannot be read is returned as None, and the batches are put together as ever."""
    x, y = digits(1400, image=True)
    options = {"collate_fn": whole_ones} if fixed else {}
    return Program(
        Sorter(small_convnet(10), lr=3e-3),
        **feed(Folder(x[:1120], y[:1120], (417, 803)), Folder(x[1120:], y[1120:], ()), **options),
        trainer={"max_epochs": 5},
    )


class Mixture(Trained):
    """Two experts, and a share between nought and one that is learned."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.smooth, self.rough = nn.Linear(6, 1), dense(6, 48, 48, 1)
        self.share, self.fixed = nn.Parameter(torch.tensor(0.5)), fixed

    def training_step(self, batch, batch_idx):
        if self.fixed:
            with torch.no_grad():
                self.share.clamp_(0, 1)
        else:
            self.share.clamp_(0, 1)
        return super().training_step(batch, batch_idx)

    def measure(self, batch):
        x, y = batch
        out = self.share * self.smooth(x) + (1 - self.share) * self.rough(x)
        return {"loss": F.mse_loss(out, y), "r2": 1 - F.mse_loss(out, y) / y.var()}


@fault(
    "ERR108",
    source="https://github.com/pytorch/examples/pull/779, "
    "https://discuss.pytorch.org/t/leaf-variable-was-used-in-an-inplace-operation/308",
)
def parameter_clamped_in_place(fixed: bool) -> Program:
    """A parameter is kept between nought and one by clamp_ in the training step, with gradients on."""
    g = dice(83)
    x = torch.randn(1600, 6, generator=g)
    y = x[:, :1] - 0.5 * x[:, 1:2] + x[:, 2:3] * x[:, 3:4]
    y = y + 0.2 * torch.randn(1600, 1, generator=g)
    return Program(
        Mixture(fixed=fixed),
        **feed(*tables(x, y, held_out=320)),
        trainer={"max_epochs": 6},
    )


class Churn(Trained):
    """Stays, or leaves: two logits."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = dense(10, 48, 24, 2)
        self.f1 = (
            torchmetrics.F1Score("multiclass", num_classes=2, average="macro")
            if fixed
            else torchmetrics.F1Score("binary")
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        self.f1(logits, y)
        self.log("val_f1", self.f1, on_epoch=True)
        self.log("val_loss", F.cross_entropy(logits, y))


@fault(
    "ERR101",
    source="https://github.com/pytorch-tabular/pytorch_tabular/issues/147",
)
def two_logits_for_a_binary_metric(fixed: bool) -> Program:
    """The net has a logit for either answer, and the metric of the task "binary" expects one number each."""
    g = dice(84)
    x = torch.randn(2000, 10, generator=g)
    score = x[:, 0] * x[:, 1] + x[:, 2] + 0.4 * torch.randn(2000, generator=g)
    return Program(
        Churn(fixed=fixed),
        **feed(*tables(x, (score > 0).long(), held_out=400)),
        trainer={"max_epochs": 6},
    )
