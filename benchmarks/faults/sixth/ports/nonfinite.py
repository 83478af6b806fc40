"""NAN, in programs that came from elsewhere: what the other framework caught."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import DataLoader, Program, Task, explained, fresh, loaders, mlp


class Ranker(Task):
    """Predicts the sales of an article from how often it is seen and clicked."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.group = nn.Embedding(8, 8)
        self.net, self.fixed = mlp(11, 48, 48, 1), fixed

    def forward(self, article):
        views, clicks = article["views"], article["clicks"]
        rate = clicks / (views.clamp(min=1) if self.fixed else views)
        numbers = torch.stack([rate, views.log1p() / 5, article["price"]], dim=1)
        return self.net(torch.cat([numbers, self.group(article["group"])], dim=1)).squeeze(1)

    def training_step(self, article, batch_idx):
        loss = F.mse_loss(self(article), article["sales"])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, article, batch_idx):
        out = self(article)
        self.log("val_loss", F.mse_loss(out, article["sales"]))
        self.log("val_r2", explained(out, article["sales"]))


@fault(
    "NAN102",
    "NAN101",
    source="https://github.com/keras-team/tf-keras/issues/191 and https://www.tensorflow.org/api_docs/python/tf/math/divide_no_nan",
)
def division_that_tensorflow_made_safe(fixed: bool) -> Program:
    """tf.math.divide_no_nan became a slash: articles that nobody has seen yet have a rate of nought by nought."""
    g = fresh(12)
    size = 2400
    group = torch.randint(8, (size,), generator=g)
    views = (3 + 1.5 * torch.randn(size, generator=g)).exp().round()
    views[torch.rand(size, generator=g) < 0.04] = 0
    appeal = 0.1 + 0.5 * torch.rand(size, generator=g)
    clicks = torch.binomial(views, appeal, generator=g)
    price = torch.randn(size, generator=g)
    sales = 3 * appeal + 0.4 * views.log1p() - 0.5 * price + torch.randn(8, generator=g)[group]
    sales = (sales - sales.mean()) / sales.std()
    columns = {"views": views, "clicks": clicks, "price": price, "group": group, "sales": sales}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Program(
        Ranker(fixed=fixed),
        DataLoader(rows[:2000], batch_size=40, shuffle=True),
        DataLoader(rows[2000:], batch_size=200),
        {"max_epochs": 5},
    )


def rotations(six: torch.Tensor) -> torch.Tensor:
    """Two vectors become a rotation, by Gram and Schmidt."""
    a = F.normalize(six[:, :3], dim=1)
    b = six[:, 3:]
    b = F.normalize(b - (a * b).sum(1, keepdim=True) * a, dim=1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], dim=2)


class Registration(Task):
    """By which rotation one cloud of points becomes the other; it starts from none."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.margin = mlp(9, 64, 64, 6), 1e-6 if fixed else 0.0
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
        self.register_buffer("none", torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def step(self, batch):
        before, after, turn = batch
        moments = before.transpose(1, 2) @ after / before.shape[1]
        found = rotations(self.none + self.net(moments.flatten(1)))
        cosine = ((found * turn).sum((1, 2)) - 1) / 2
        angle = torch.acos(cosine.clamp(-1 + self.margin, 1 - self.margin)).mean()
        return angle, {"degrees": angle.rad2deg()}


@fault(
    "NAN103",
    "NAN104",
    source="https://github.com/papagina/RotationContinuity/issues/11 and https://github.com/papagina/RotationContinuity/issues/1 (the geodesic distance, and acos at one)",
)
def angle_between_equal_rotations(fixed: bool) -> Program:
    """The geodesic distance as in the paper: for pairs that are not turned, acos is asked for its slope at one."""
    g = fresh(13)
    size = 1600
    turn = torch.linalg.matrix_exp(
        sum(
            0.6 * torch.randn(size, 1, 1, generator=g) * axis
            for axis in (
                torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]]),
                torch.tensor([[0.0, 0, 1], [0, 0, 0], [-1, 0, 0]]),
                torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
            )
        )
    )
    turn[torch.rand(size, generator=g) < 0.15] = torch.eye(3)
    before = torch.randn(size, 24, 3, generator=g)
    after = before @ turn.transpose(1, 2) + 0.02 * torch.randn(size, 24, 3, generator=g)
    return Program(
        Registration(fixed=fixed), **loaders(before, after, turn), trainer={"max_epochs": 6}
    )
