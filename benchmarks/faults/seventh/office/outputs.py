"""OUT, in applied work: what a forecast can say, and whom it depends on."""

from __future__ import annotations

from torch.nn import functional as F

from ... import fault
from ._parts import DataLoader, Model, Program, feeders, mlp, parted, scores


class Ranks(Model):
    """The rank of an applicant, a number that is scaled in the end."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=4e-3)
        self.net = mlp(10, 64, 64, 1)
        self.fixed = fixed

    def forward(self, x):
        out = self.net(x).squeeze(1)
        return out if self.fixed else 3 * out / out.detach().abs().max()

    def shared(self, batch):
        x, y = batch
        out = self(x)
        error = F.mse_loss(out, y)
        return error, {"rmse": error.sqrt()}


@fault(
    "OUT105",
    "GEN105",
    "GEN101",
    source="common in code reviews (scores are divided by the largest of the batch, and later asked for one by one)",
)
def scaled_by_the_best_of_the_batch(fixed: bool) -> Program:
    """Scores are divided by the largest of their batch; in use applicants come a few at a time, so one is always best."""
    train, val = parted(*scores(2000, seed=5))
    data = feeders(train, val)
    data["val"] = DataLoader(val, batch_size=4)
    return Program(Ranks(fixed=fixed), **data, trainer={"max_epochs": 12})
