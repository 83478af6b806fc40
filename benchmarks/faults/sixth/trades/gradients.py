"""GRD in the trades: what the loss says and the weights do not hear."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Categorical
from torch.nn import functional as F

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, dense, hit, rng


class ProximalPolicy(Trade):
    """Learns by a clipped ratio which of four offers to show to whom."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.automatic_optimization = False
        self.actor, self.critic = dense(8, 48, 48, 4), dense(8, 48, 1)
        self.fixed = fixed

    def step(self, batch):
        state, worth = batch
        with torch.no_grad():
            action = Categorical(logits=self.actor(state)).sample()
        reward = worth.gather(1, action[:, None]).squeeze(1)
        old = Categorical(logits=self.actor(state)).log_prob(action)
        if self.fixed:
            old = old.detach()
        value = self.critic(state).squeeze(1)
        gain = (reward - value).detach()
        gain = (gain - gain.mean()) / (gain.std() + 1e-6)
        ratio = (Categorical(logits=self.actor(state)).log_prob(action) - old).exp()
        surrogate = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        return F.mse_loss(value, reward), -surrogate, reward.mean()

    def training_step(self, batch, batch_idx):
        error, loss, reward = self.step(batch)
        for optimizer, part in zip(self.optimizers(), (loss, error), strict=True):
            optimizer.zero_grad()
            self.manual_backward(part)
            optimizer.step()
        self.log_dict({"policy_loss": loss, "value_loss": error, "reward": reward})

    def validation_step(self, batch, batch_idx):
        state, worth = batch
        reward = worth.gather(1, self.actor(state).argmax(1, keepdim=True))
        self.log("val_reward", reward.mean())

    def configure_optimizers(self):
        actor = torch.optim.Adam(self.actor.parameters(), lr=self.lr)
        return actor, torch.optim.Adam(self.critic.parameters(), lr=self.lr)


@fault(
    "GRD103",
    "LOS107",
    "UPD102",
    "LOS104",
    source="https://github.com/nikhilbarhate99/PPO-PyTorch/issues/18 (old_logprobs.detach()), "
    "https://github.com/sidhantls/ppo_lightning/issues/3",
)
def both_parts_of_the_ratio_move(fixed: bool) -> Program:
    """The old log-probabilities keep their graph: the ratio is one, whatever the policy does."""
    g = rng(51)
    state = torch.randn(3000, 8, generator=g)
    worth = state @ torch.randn(8, 4, generator=g) / 8**0.5
    worth = worth + 0.3 * torch.randn(3000, 4, generator=g)
    data = both(state, worth, batch_size=64)
    return Program(ProximalPolicy(fixed=fixed), **data, trainer={"max_epochs": 8})


class Wavenet(Trade):
    """Dilated convolutions with gates that tell instruments apart."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.fixed = fixed
        self.start = nn.Conv1d(1, 16, 3, padding=1)
        steps = [1, 2, 4, 8] * 3
        self.gated = nn.ModuleList(nn.Conv1d(16, 32, 3, padding=d, dilation=d) for d in steps)
        self.out = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 4))

    def step(self, batch):
        x, y = batch
        h = self.start(x)
        for conv in self.gated:
            signal, gate = conv(h).chunk(2, dim=1)
            new = signal.tanh() * gate.sigmoid()
            h = h + new if self.fixed else new
        logits = self.out(h)
        return F.cross_entropy(logits, y), {"acc": hit(logits, y)}


@fault(
    "GRD102",
    "LOS104",
    "GRD104",
    "ACT103",
    "OUT101",
    source="https://arxiv.org/abs/1609.03499 (WaveNet: residual and skip connections around each gate), "
    "https://arxiv.org/abs/1512.03385",
)
def twelve_gates_and_no_way_past(fixed: bool) -> Program:
    """Twelve gated convolutions in a row without a residual: each halves the signal, nothing comes back."""
    g = rng(52)
    y = torch.randint(4, (800,), generator=g)
    weights = torch.tensor([[1, 0, 0], [0.6, 0.6, 0], [0.5, 0, 0.7], [0.4, 0.5, 0.6]])[y]
    pitch = 0.3 + 0.1 * torch.rand(800, 1, generator=g)
    phase = 6.3 * torch.rand(800, 1, generator=g)
    t = torch.arange(64)
    x = sum(weights[:, k : k + 1] * torch.sin((k + 1) * (pitch * t + phase)) for k in range(3))
    x = (1.4 * x + 0.15 * torch.randn(800, 64, generator=g))[:, None]
    return Program(Wavenet(fixed=fixed), **both(x, y), trainer={"max_epochs": 6})
