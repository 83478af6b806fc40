"""Learning rates, schedules and losses that look wrong and are not."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from healthy import healthy
from healthy._parts import Classifier, Learner, cnn, digit_loaders, loaders, mlp, split


class WarmedUpByHand(Classifier):
    """Lightning's own recipe: the rate of each step is set just before it."""

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        for group in optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (self.global_step + 1) / 400)
        super().optimizer_step(epoch, batch_idx, optimizer, closure)


@healthy
def long_warm_up_by_hand() -> Program:
    """No scheduler tells that the rate is still a fiftieth of its peak at step 8."""
    return Program(
        WarmedUpByHand(mlp(64, 64, 10), lr=3e-3),
        **digit_loaders(image=False),
        trainer={"max_epochs": 8},
    )


class Stairs(Classifier):
    """Four epochs of warm-up, ten times as much in each, stepped once an epoch."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        return [optimizer], [
            lr_scheduler.LambdaLR(optimizer, lambda epoch: 10.0 ** min(epoch - 3, 0))
        ]


@healthy
def warm_up_in_stairs() -> Program:
    """For the whole first epoch the rate is a thousandth of its peak, and does not rise."""
    data = digit_loaders(batch_size=8, image=False)
    return Program(Stairs(mlp(64, 64, 10)), **data, trainer={"max_epochs": 6})


class HeldBack(Classifier):
    """The body rests for two epochs while the head learns."""

    def configure_optimizers(self):
        body, head = self.net[0], self.net[2]
        optimizer = torch.optim.AdamW(
            [{"params": body.parameters()}, {"params": head.parameters()}], lr=self.lr
        )
        factors = [lambda epoch: float(epoch >= 2), lambda epoch: 1.0]
        return [optimizer], [lr_scheduler.LambdaLR(optimizer, factors)]


@healthy
def group_held_back_at_zero() -> Program:
    """A group trains with rate 0 for a third of the run, because its schedule says so."""
    return Program(
        HeldBack(mlp(64, 64, 10)), **digit_loaders(image=False), trainer={"max_epochs": 6}
    )


class EverHarder(Classifier):
    """Puts more and more weight on the loss."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + self.global_step)


@healthy
def loss_that_rises_by_design() -> Program:
    """The weight of the loss grows two hundredfold; Adam does not care."""
    return Program(
        EverHarder(mlp(64, 64, 10)), **digit_loaders(image=False), trainer={"max_epochs": 8}
    )


@healthy
def polishing_with_batches_of_one() -> Program:
    """A trained net, Adam at 1e-5, and losses that differ by a factor of a million."""
    x, y = digits(512)
    net = mlp(64, 64, 10)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    data = DataLoader(TensorDataset(x, y), batch_size=1, shuffle=True)
    return Program(Classifier(net, lr=1e-5), data, trainer={"max_steps": 300})


@healthy
def narrow_valley() -> Program:
    """Features differ in scale by a hundred: descent is slow, and a higher rate would diverge."""
    scale = torch.logspace(-2, 0, 10)
    x = torch.randn(1024, 10) * scale

    class Descent(Learner):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.3)

    y = (x / scale).sum(1, keepdim=True)
    return Program(Descent(nn.Linear(10, 1)), **loaders(*split(x, y)), trainer={"max_epochs": 8})


@healthy
def hard_batches() -> Program:
    """Every twentieth batch is mislabelled: the loss jumps for one step, and the weights do not."""
    x, y = digits()
    batches = list(zip(x.split(32), y.split(32), strict=True))

    class Disturbed(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            if self.global_step % 20 == 19:
                y = (y + 5) % 10
            return super().training_step((x, y), batch_idx)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.03)

    return Program(
        Disturbed(mlp(64, 64, 10)),
        DataLoader(batches, batch_size=None, shuffle=True),
        trainer={"max_epochs": 8},
    )


class Player(Classifier):
    """Plays in a room of its own while it learns."""

    class Room:
        def __init__(self) -> None:
            self.visits: list[int] = []

        def step(self, action: int) -> float:
            self.visits.append(action)
            return len(self.visits) / 1000

    def __init__(self) -> None:
        super().__init__(cnn())
        self.room = self.Room()

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.room.step(batch_idx)

    def on_train_end(self):
        if len(self.room.visits) != self.global_step:
            raise RuntimeError("Somebody else has played in my room.")


@healthy
def environment_in_the_step() -> Program:
    """The step moves an object that nobody can put back; running it again would disturb the run."""
    return Program(Player(), **digit_loaders(), trainer={"max_epochs": 3})
