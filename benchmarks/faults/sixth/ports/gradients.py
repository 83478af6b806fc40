"""GRD, in programs that came from elsewhere: what reaches the weights."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ... import fault
from ._parts import Program, Task, explained, fresh, handwriting, loaders, mlp, right


class Scaled(Task):
    """A loop with a static loss scale, moved into manual optimization as it stood."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=0.05)
        self.automatic_optimization = False
        self.net, self.fixed, self.scale = mlp(64, 96, 64, 10), fixed, 1024.0

    def unscale(self):
        for p in self.net.parameters():
            p.grad.div_(self.scale)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        self.manual_backward(loss * self.scale)
        if self.fixed:
            self.unscale()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        if not self.fixed:
            self.unscale()
        optimizer.step()
        self.log_dict({"train_loss": loss, "train_acc": right(logits, y)})

    def step(self, batch):
        x, y = batch
        logits = self.net(x)
        return F.cross_entropy(logits, y), {"acc": right(logits, y)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@fault(
    "GRD105",
    "LRN102",
    "UPD103",
    "LOS104",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/9694 and https://github.com/milesial/Pytorch-UNet/issues/468 (clipped before they are unscaled)",
)
def clipped_while_still_scaled(fixed: bool) -> Program:
    """The loss is scaled by 1024, the gradient clipped, and only then divided: no step is longer than a crumb."""
    return Program(Scaled(fixed=fixed), **handwriting(), trainer={"max_epochs": 7})


class Recommender(Task):
    """Chooses one of four offers for a visitor; a critic says what the visitor is worth anyway."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.actor, self.critic = mlp(8, 48, 4), mlp(8, 48, 48, 1)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        visitor, gains = batch
        policy = torch.distributions.Categorical(logits=self.actor(visitor))
        offer = policy.sample()
        gain = gains.gather(1, offer[:, None]).squeeze(1)
        value = self.critic(visitor).squeeze(1)
        advantage = gain - value.detach()
        actor_loss = -(policy.log_prob(offer) * advantage).mean()
        critic_loss = F.mse_loss(value, gain) if self.fixed else advantage.square().mean()
        loss = actor_loss + 0.5 * critic_loss - 0.01 * policy.entropy().mean()
        self.log_dict({"loss": loss, "critic_loss": critic_loss, "gain": gain.mean()})
        return loss

    def validation_step(self, batch, batch_idx):
        visitor, gains = batch
        chances = self.actor(visitor).softmax(1)
        expected = (chances * gains).sum(1)
        value = self.critic(visitor).squeeze(1)
        self.log_dict({"val_gain": expected.mean(), "val_explained": explained(value, expected)})


@fault(
    "GRD103",
    "UPD102",
    "LOS107",
    source="https://github.com/nikhilbarhate99/PPO-PyTorch/issues/35 (the weights of the critic never change because of detach)",
)
def advantage_shared_by_both_losses(fixed: bool) -> Program:
    """The advantage is computed once, detached for the actor, and squared for the critic, which learns nothing."""
    g = fresh(5)
    visitor = torch.randn(4000, 8, generator=g)
    taste = torch.randn(8, 4, generator=g) / 8**0.5
    gains = 2 * visitor[:, :1] + visitor @ taste + 0.3 * torch.randn(4000, 4, generator=g)
    return Program(
        Recommender(fixed=fixed),
        **loaders(visitor, gains, batch_size=64),
        trainer={"max_epochs": 8},
    )
