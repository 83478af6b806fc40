"""Gradients that look sick and are not: absent, stale, tiny or huge, and all on purpose."""

from __future__ import annotations

import copy
import math

import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from . import healthy
from ._parts import Classifier, Learner, characters, digit_loaders, loaders, mlp, split


class Pooled(nn.Module):
    """Returns what was asked for, and a pooled output that only other tasks use."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(64, 64, 32)
        self.pooler = nn.Sequential(nn.Linear(32, 32), nn.Tanh())

    def forward(self, x):
        hidden = self.body(x)
        return hidden, self.pooler(hidden)


class Headed(Classifier):
    def __init__(self) -> None:
        super().__init__(Pooled())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        hidden, _ = self.net(x)
        return self.head(hidden)


@healthy
def unused_pooler() -> Program:
    """A pretrained body brings a pooler that this task ignores; the optimizer holds it all the same."""
    return Program(Headed(), **digit_loaders(image=False), trainer={"max_epochs": 4})


class Averaged(Classifier):
    """Consistency with a moving average of itself, held by the optimizer for want of a filter."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 10))
        self.teacher = copy.deepcopy(self.net)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        target = self.teacher(x + 0.1 * torch.randn_like(x)).detach().softmax(1)
        return F.cross_entropy(logits, y) + F.mse_loss(logits.softmax(1), target)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.05)


@healthy
def teacher_in_the_optimizer() -> Program:
    """The teacher requires gradients, shapes the loss, and is written to by nobody but the average."""
    return Program(Averaged(), **digit_loaders(image=False), trainer={"max_epochs": 4})


class TemporalDifference(Learner):
    """Values of positions on a ring, bootstrapped from a target net that is synchronized rarely."""

    def __init__(self) -> None:
        super().__init__(mlp(2, 32, 32, 1), F.mse_loss)
        self.target = copy.deepcopy(self.net)

    def training_step(self, batch, batch_idx):
        if batch_idx % 100 == 0:
            self.target.load_state_dict(self.net.state_dict())
        here, there, reward = batch
        with torch.no_grad():
            goal = reward + 0.9 * self.target(there)
        return F.mse_loss(self.net(here), goal)


@healthy
def target_net_in_the_optimizer() -> Program:
    """The target net is in training mode, runs without gradients, and changes every 100 steps."""
    angle = 6.283 * torch.rand(4096, 1)
    here, there = (torch.cat([a.sin(), a.cos()], 1) for a in (angle, angle + 0.3))
    data = DataLoader(TensorDataset(here, there, angle.sin()), batch_size=32, shuffle=True)
    return Program(TemporalDifference(), data, trainer={"max_steps": 120})


class LateCritic(Learner):
    """An autoencoder with a critic that counts from step 60 on; until then its weight is 0."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 32, 64))
        self.critic = mlp(64, 32, 1)

    def training_step(self, batch, batch_idx):
        x = batch[0]
        y = self(x)
        weight = 0.01 if self.global_step >= 60 else 0.0
        realism = F.softplus(-self.critic(x)).mean() + F.softplus(self.critic(y.detach())).mean()
        return F.mse_loss(y, x) + weight * realism

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.mse_loss(self(batch[0]), batch[0]))


@healthy
def critic_with_weight_zero() -> Program:
    """Half of the parameters get a gradient of exactly 0 for 60 steps."""
    return Program(LateCritic(), **digit_loaders(image=False), trainer={"max_epochs": 5})


class CancelledHead(Classifier):
    """The last layer is frozen for the first epochs by throwing its gradient away."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 32))
        self.last = nn.Linear(32, 10, bias=False)

    def forward(self, x):
        return self.last(self.net(x))

    def on_after_backward(self):
        if self.current_epoch < 2:
            self.last.weight.grad = None


@healthy
def cancelled_gradients() -> Program:
    """A gradient that came is dropped before the step, on purpose, as DINO does."""
    return Program(CancelledHead(), **digit_loaders(image=False), trainer={"max_epochs": 5})


class TwoTasks(Classifier):
    """The second head waits for the second task, which begins after many steps."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 32))
        self.heads = nn.ModuleList([nn.Linear(32, 10), nn.Linear(32, 2)])

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net(x)
        if self.current_epoch < 3:
            return F.cross_entropy(self.heads[0](hidden), y)
        return F.cross_entropy(self.heads[1](hidden), y % 2)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.heads[0](self.net(x)), y))


@healthy
def second_task_later() -> Program:
    """A head is not used at all for 70 steps, and then another one is not."""
    return Program(TwoTasks(), **digit_loaders(image=False), trainer={"max_epochs": 5})


class Codebook(Learner):
    """Vector quantization whose codes follow the means of what they stand for."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 32, 8))
        self.decoder = mlp(8, 32, 64)
        self.codes = nn.Embedding(16, 8)
        nn.init.normal_(self.codes.weight, std=0.2)

    def training_step(self, batch, batch_idx):
        x = batch[0]
        z = self.net(x)
        nearest = torch.cdist(z, self.codes.weight).argmin(1)
        with torch.no_grad():
            for code in nearest.unique():
                self.codes.weight[code].lerp_(z[nearest == code].mean(0), 0.1)
        quantized = self.codes.weight.data[nearest]
        through = z + (quantized - z).detach()
        return F.mse_loss(self.decoder(through), x) + 0.25 * F.mse_loss(z, quantized)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.mse_loss(self.decoder(self.net(batch[0])), batch[0]))


@healthy
def codebook_of_averages() -> Program:
    """Parameters that are trained by assignment, while the optimizer holds them and gets no gradient."""
    return Program(Codebook(), **digit_loaders(image=False), trainer={"max_epochs": 5})


class Untidy(Classifier):
    """Two optimizers without toggling; one zeroes before its backward, the other after its step."""

    def __init__(self, *, raw: bool = False) -> None:
        super().__init__(mlp(64, 32, 10))
        self.automatic_optimization = False
        self.raw = raw
        self.adversary = mlp(10, 16, 64)

    def training_step(self, batch, batch_idx):
        x, y = batch
        one, other = self.optimizers(use_pl_optimizer=not self.raw)
        logits = self(x)
        fooling = F.cross_entropy(logits, y) - 0.01 * F.mse_loss(self.adversary(logits), x)
        self._backward(fooling)
        one.step()
        one.zero_grad()

        other.zero_grad()  # the step above has left something here
        self._backward(F.mse_loss(self.adversary(self(x).detach()), x))
        other.step()

    def _backward(self, loss):
        if self.raw:
            loss.backward()
        else:
            self.manual_backward(loss)

    def configure_optimizers(self):
        return (
            torch.optim.Adam(self.net.parameters(), lr=3e-3),
            torch.optim.Adam(self.adversary.parameters(), lr=3e-3),
        )


@healthy
def stale_gradients() -> Program:
    """Gradients of the one lie about while the other learns, but nobody ever uses them."""
    return Program(Untidy(), **digit_loaders(image=False), trainer={"max_epochs": 4})


@healthy
def stale_gradients_of_raw_optimizers() -> Program:
    """The same with torch's own optimizers and backward, of which Lightning tells nothing."""
    return Program(Untidy(raw=True), **digit_loaders(image=False), trainer={"max_epochs": 4})


class GPT2Init(Learner):
    """Embeddings of size 0.02 into a norm, which makes their gradient 50 times larger."""

    def __init__(self, vocabulary: int, width: int = 32) -> None:
        super().__init__(nn.Identity(), lr=1e-3)
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(1, 32, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), mlp(width, 64, width, activation=nn.GELU))
            for _ in range(6)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(12) if name.endswith("2.weight") else 0.02)
        self.head.weight = self.tokens.weight

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        x = self.tokens(ids) + self.positions
        for block in self.blocks:
            x = x + block(x.cumsum(1) / torch.arange(1, 33).view(-1, 1))
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@healthy
def small_embeddings() -> Program:
    """The gradient is far larger at the embeddings than anywhere else: their values are so small."""
    ids, vocabulary = characters()
    rows = ids[: len(ids) // 32 * 32].view(-1, 32)
    data = DataLoader(TensorDataset(rows), batch_size=16, shuffle=True)
    return Program(GPT2Init(vocabulary), data, trainer={"max_steps": 100})


class Controlled(Classifier):
    """A branch runs first, and reaches the net through a gate that is shut at the start."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 64, 10), lr=1e-3)
        self.branch = mlp(64, 64, 64, 64, 64)
        self.gate = nn.Linear(64, 64)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x):
        control = self.gate(self.branch(x))
        return self.net(x + control)


@healthy
def shut_gate() -> Program:
    """A gate of zeros opens slowly, so the gradient of all layers that run first is tiny for long."""
    return Program(Controlled(), **digit_loaders(image=False), trainer={"max_epochs": 6})


class Offset(Learner):
    """The answer is near 1000 for everybody, and the bias of the last layer says so."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 32, 1))
        nn.init.constant_(self.net[-1].bias, 1000.0)


@healthy
def large_offset() -> Program:
    """Outputs vary by a thousandth of their size only, and so do the targets."""
    x, _ = digits()
    ink = x.sum(1, keepdim=True)
    y = 1000 + (ink - ink.mean()) / ink.std()
    return Program(Offset(), **loaders(*split(x, y)), trainer={"max_epochs": 5})


class MeanOfMany(nn.Module):
    """Convolutions at full resolution, and the mean over all of it at the end."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv1d(1, 8, 9, padding=4), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Conv1d(8, 8, 9, padding=4), nn.BatchNorm1d(8), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x).mean(2))


@healthy
def mean_over_long_signals() -> Program:
    """The mean over 4096 positions makes gradients 64 times smaller in every layer before it."""
    y = torch.randint(2, (256,))
    time = torch.arange(4096) / 4096
    x = torch.sin(6.283 * (40 + 40 * y[:, None]) * time + 6.283 * torch.rand(256, 1))
    x = x[:, None] + 0.2 * torch.randn(256, 1, 4096)
    return Program(
        Classifier(MeanOfMany()), **loaders(*split(x, y), batch_size=16), trainer={"max_epochs": 4}
    )


class SumOfSquares(Learner):
    """The loss is a sum, clipped to 0.1 at every step as detectors of objects do."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 32, 64), lambda y, x: (y - x).square().sum() / len(x))

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[0])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self(batch[0]), batch[0]))


@healthy
def clipped_hard_with_adam() -> Program:
    """Every gradient is clipped a hundredfold, which AdamW does not notice."""
    return Program(
        SumOfSquares(),
        **digit_loaders(image=False),
        trainer={"max_epochs": 7, "gradient_clip_val": 0.1},
    )


class Margin(Classifier):
    """Cosines times 64 with a margin: ArcFace as it is published."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 32), lr=1e-3)
        self.classes = nn.Parameter(torch.randn(10, 32))

    def training_step(self, batch, batch_idx):
        x, y = batch
        cosines = F.linear(F.normalize(self.net(x)), F.normalize(self.classes))
        return F.cross_entropy(64 * (cosines - 0.3 * F.one_hot(y, 10)), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        cosines = F.linear(F.normalize(self.net(x)), F.normalize(self.classes))
        self.log("val_acc", (cosines.argmax(1) == y).float().mean())


@healthy
def steep_margin() -> Program:
    """Logits are 64 times a cosine, so the loss is steep in every weight."""
    return Program(Margin(), **digit_loaders(image=False), trainer={"max_epochs": 6})
