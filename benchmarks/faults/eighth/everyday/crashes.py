"""ERR, as people meet it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, accuracy, explained, houses, loaders, mlp, textures, vision


class Counted(Model):
    """Says how large it is before it trains."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(2e-3)
        self.net, self.fixed = vision(), fixed

    def measure(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": accuracy(logits, y)}

    def configure_optimizers(self):
        parameters = filter(lambda p: p.requires_grad, self.parameters())
        if self.fixed:
            parameters = list(parameters)
        self.size = sum(p.numel() for p in parameters)
        return torch.optim.Adam(parameters, lr=self.lr)


@fault(
    "ERR118",
    source="common on forums: optimizer got an empty parameter list",
)
def parameters_used_up_by_counting(fixed: bool) -> Program:
    """The parameters come out of a filter, counting them uses it up, and nothing is left to
    optimize.
    """
    x, y = textures(1200)
    data = loaders((x - x.mean()) / x.std(), y)
    return Program(Counted(fixed=fixed), **data, trainer={"max_epochs": 8})


class Running(Model):
    """Goes down the mean of the latest losses, which is smoother."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(2e-3)
        self.net, self.running, self.fixed = mlp(8, 48, 48, 1), 0.0, fixed

    def measure(self, batch):
        x, price = batch
        out = self.net(x)
        return F.mse_loss(out, price), {"r2": explained(out, price)}

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.running = 0.9 * self.running + 0.1 * (loss.detach() if self.fixed else loss)
        self.log("running_loss", self.running)
        return loss if self.fixed else self.running


@fault(
    "ERR107",
    source="https://stackoverflow.com/questions/48274929 (Trying to backward through the graph a "
    "second time)",
)
def running_loss_sent_backward(fixed: bool) -> Program:
    """The running loss is returned in place of the batch's: it holds the graph of the batch
    before.
    """
    return Program(Running(fixed=fixed), **loaders(*houses()), trainer={"max_epochs": 8})
