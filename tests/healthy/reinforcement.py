"""Agents that make their own data."""

from __future__ import annotations

import copy
from collections import deque

import lightning.pytorch as pl
import torch
from program import Program
from torch import nn
from torch.distributions import Categorical
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from healthy import healthy
from healthy._parts import mlp


class Grid:
    """Walkers on a 4x4 grid, from the upper left corner to a reward of 1 in the lower right."""

    size = 4
    moves = torch.tensor([[0, 1], [1, 0], [0, -1], [-1, 0]])

    def __init__(self, walkers: int) -> None:
        self.position = torch.zeros(walkers, 2, dtype=torch.long)

    def observe(self) -> torch.Tensor:
        return F.one_hot(self.position, self.size).flatten(1).float()

    def step(self, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Moves all walkers, starts those anew that arrived, and returns (reward, arrived)."""
        self.position = (self.position + self.moves[action]).clamp(0, self.size - 1)
        arrived = (self.position == self.size - 1).all(1)
        self.position = self.position * ~arrived[:, None]
        return arrived.float() - 0.02, arrived


class Ticks(IterableDataset):
    """Nothing, so many times an epoch."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self):
        return iter(range(self.count))


def discounted(rewards: torch.Tensor, arrived: torch.Tensor, tail: torch.Tensor) -> torch.Tensor:
    """Returns of each step, from the rewards of a roll-out: (time, walker)."""
    returns = []
    for reward, end in zip(rewards.flip(0), arrived.flip(0), strict=True):
        tail = reward + 0.9 * tail * ~end
        returns.append(tail)
    return torch.stack(returns).flip(0)


class Reinforce(pl.LightningModule):
    """Policy gradient with a mean baseline."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = mlp(8, 64, 4, activation=nn.Tanh)

    def training_step(self, batch, batch_idx):
        grid = Grid(32)
        log_probs, rewards, arrived = [], [], []
        for _ in range(16):
            choice = Categorical(logits=self.policy(grid.observe()))
            action = choice.sample()
            reward, end = grid.step(action)
            log_probs.append(choice.log_prob(action))
            rewards.append(reward)
            arrived.append(end)
        rewards, arrived = torch.stack(rewards), torch.stack(arrived)
        returns = discounted(rewards, arrived, torch.zeros(32))
        advantage = (returns - returns.mean()) / (returns.std() + 1e-6)
        self.log("reward", rewards.mean(), prog_bar=True)
        return -(torch.stack(log_probs) * advantage).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@healthy
def reinforce() -> Program:
    """The loss hovers around 0 with no trend; only the reward tells that it learns."""
    return Program(Reinforce(), DataLoader(Ticks(40), batch_size=None), trainer={"max_epochs": 2})


class ActorCritic(pl.LightningModule):
    """Policy and value share a body; an entropy bonus keeps exploring."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.Tanh())
        self.actor, self.critic = nn.Linear(64, 4), nn.Linear(64, 1)
        nn.init.orthogonal_(self.actor.weight, gain=0.01)
        self.grid = Grid(32)

    def forward(self, x):
        features = self.body(x)
        return Categorical(logits=self.actor(features)), self.critic(features).squeeze(1)

    def training_step(self, batch, batch_idx):
        log_probs, values, entropies, rewards, arrived = [], [], [], [], []
        for _ in range(8):
            choice, value = self(self.grid.observe())
            action = choice.sample()
            reward, end = self.grid.step(action)
            log_probs.append(choice.log_prob(action))
            values.append(value)
            entropies.append(choice.entropy())
            rewards.append(reward)
            arrived.append(end)
        with torch.no_grad():
            tail = self(self.grid.observe())[1]
        rewards = torch.stack(rewards)
        returns = discounted(rewards, torch.stack(arrived), tail)
        advantage = returns - torch.stack(values)
        actor = -(torch.stack(log_probs) * advantage.detach()).mean()
        critic = advantage.square().mean()
        entropy = torch.stack(entropies).mean()
        self.log_dict(
            {"reward": rewards.mean(), "actor": actor, "critic": critic, "entropy": entropy}
        )
        return actor + 0.5 * critic - 0.01 * entropy

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@healthy
def actor_critic() -> Program:
    """The last layer of the policy starts almost at zero, and the loss may rise as values grow."""
    return Program(
        ActorCritic(),
        DataLoader(Ticks(120), batch_size=None),
        trainer={"max_epochs": 1, "gradient_clip_val": 0.5},
    )


class Replay(IterableDataset):
    """Plays epsilon-greedily and yields random memories, for ever."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.grid = Grid(1)
        self.memory: deque = deque(maxlen=2000)
        self.played = 0

    @torch.no_grad()
    def play(self):
        before = self.grid.observe()
        epsilon = max(0.1, 1 - self.played / 1500)
        action = self.net(before).argmax(1)
        if torch.rand(()) < epsilon:
            action = torch.randint(4, (1,))
        reward, end = self.grid.step(action)
        self.memory.append((before[0], action[0], reward[0], self.grid.observe()[0], end[0]))
        self.played += 1

    def __iter__(self):
        while True:
            self.play()
            if len(self.memory) >= 200:
                yield self.memory[int(torch.randint(len(self.memory), ()))]


class DQN(pl.LightningModule):
    """Q-learning with a target network."""

    def __init__(self) -> None:
        super().__init__()
        self.q = mlp(8, 64, 64, 4)
        self.target = copy.deepcopy(self.q).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        state, action, reward, following, end = batch
        if self.global_step % 20 == 0:
            self.target.load_state_dict(self.q.state_dict())
        value = self.q(state).gather(1, action[:, None]).squeeze(1)
        with torch.no_grad():
            goal = reward + 0.9 * self.target(following).amax(1) * ~end
        loss = F.smooth_l1_loss(value, goal)
        self.log_dict({"train_loss": loss, "value": value.mean()})
        return loss

    def train_dataloader(self):
        return DataLoader(Replay(self.q), batch_size=16)

    def on_train_end(self):
        grid, steps = Grid(1), 0
        while steps < 50 and not grid.step(self.q(grid.observe()).argmax(1))[1]:
            steps += 1
        self.steps_to_goal = steps + 1

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@healthy
def deep_q_learning() -> Program:
    """Targets move: the loss rises when the target net is synchronized. The loader is endless."""
    return Program(DQN(), None, trainer={"max_steps": 300})


class Bandit(pl.LightningModule):
    """Chooses one of five arms by context, and learns from the reward of the chosen arm only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6, 32, 5)
        self.register_buffer("truth", torch.randn(6, 5))

    def training_step(self, context, batch_idx):
        prediction = self.net(context)
        arm = prediction.argmax(1)
        explore = torch.rand(len(context)) < 0.2
        arm = torch.where(explore, torch.randint(5, arm.shape), arm)[:, None]
        reward = (context @ self.truth / 6**0.5).gather(1, arm) + 0.1 * torch.randn(len(context), 1)
        self.log("reward", reward.mean())
        return F.mse_loss(prediction.gather(1, arm), reward)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def contextual_bandit() -> Program:
    """Most outputs get no gradient for most samples, and data change as the policy does."""
    train = DataLoader(torch.randn(3200, 6), batch_size=32, shuffle=True)
    return Program(Bandit(), train, trainer={"max_epochs": 2})
