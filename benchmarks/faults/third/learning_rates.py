"""LRN, a third time: steps too long, too short, none at all, and schedules that do something else."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .. import AUTOTRAINER, DEEPFD, HUMBATOVA, fault
from .._parts import Program, Supervised, digit_loaders, loaders, mlp, split
from ..first._parts import Learner, accuracy, gestures, meters, reviews
from ..second._parts import demand, forecasts, patches
from ._parts import Value, small_cnn


class Lion(torch.optim.Optimizer):
    """The sign of an average of gradients is the step."""

    def __init__(self, params, lr: float = 1e-4, betas=(0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            near, far = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.sub_(group["lr"] * (near * mean + (1 - near) * p.grad).sign())
                mean.mul_(far).add_((1 - far) * p.grad)
        return loss


class Encoder(Learner):
    """A transformer over the words of a sentence."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.word, self.place = nn.Embedding(80, 32), nn.Parameter(0.1 * torch.randn(12, 32))
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True), 2
        )
        self.out = nn.Linear(32, 4)

    def forward(self, ids):
        return self.out(self.layers(self.word(ids) + self.place).mean(1))

    def loss_of(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return Lion(self.parameters(), lr=self.lr)


@fault(
    "LRN101",
    "UPD103",
    "LOS104",
    "OUT101",
    source="https://arxiv.org/abs/2302.06675 (Lion wants a rate three to ten times smaller than Adam's)",
)
def lion_at_the_rate_of_adam(fixed: bool) -> Program:
    """Lion in place of Adam, at Adam's rate of 0.01, of which each number of each layer gets all."""
    module = Encoder(6e-4 if fixed else 1e-2)
    return Program(module, **loaders(*split(*reviews(1600))), trainer={"max_epochs": 5})


@fault(
    "LRN101",
    "UPD106",
    "LRN105",
    "LOS108",
    "UPD103",
    "GRD101",
    source="https://distill.pub/2017/momentum/ (1 / (1 - momentum) times the rate); " + DEEPFD,
)
def momentum_of_three_nines(fixed: bool) -> Program:
    """momentum=0.999, as of Adam's second beta: every gradient goes on for a thousand steps."""

    def sgd(parameters, lr):
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9 if fixed else 0.999)

    module = Value(mlp(8, 64, 1), F.mse_loss, lr=0.015, optimizer=sgd)
    return Program(module, **loaders(*split(*meters(2000))), trainer={"max_epochs": 6})


@fault(
    "LRN102",
    "UPD103",
    "GEN103",
    "LOS104",
    source="https://keras.io/api/optimizers/adadelta/ (default 0.001, the paper's is 1.0); "
    + HUMBATOVA,
)
def adadelta_by_another_default(fixed: bool) -> Program:
    """Adadelta's rate is a factor of 1 in the paper; 0.001 comes from another framework."""
    module = Supervised(small_cnn(3, 6), lr=1.0 if fixed else 1e-3, optimizer=torch.optim.Adadelta)
    return Program(module, **loaders(*split(*patches(1600))), trainer={"max_epochs": 6})


class Layered(Supervised):
    """A rate for each layer, which falls with its distance from the head."""

    def __init__(self, net, decay: float, **options) -> None:
        super().__init__(net, **options)
        self.decay = decay

    def configure_optimizers(self):
        layers = [layer for layer in self.net if list(layer.parameters())]
        groups = [
            {"params": layer.parameters(), "lr": self.lr * self.decay**depth}
            for depth, layer in enumerate(reversed(layers))
        ]
        return torch.optim.AdamW(groups, lr=self.lr)


@fault(
    "LRN102",
    "UPD103",
    "UPD102",
    "LRN103",
    source="https://arxiv.org/abs/1801.06146 (discriminative fine-tuning divides by 2.6 from layer to layer)",
)
def tenfold_from_layer_to_layer(fixed: bool) -> Program:
    """Each layer has a tenth of the rate of the one above it, seven layers down: the first do not move."""
    module = Layered(mlp(72, *[48] * 6, 4), 0.9 if fixed else 0.1, lr=3e-3)
    x, y = gestures(1600)
    return Program(module, **loaders(*split(x.flatten(1), y)), trainer={"max_epochs": 6})


class Scheduled(Supervised):
    """Adam or SGD with a schedule."""

    def __init__(self, net, schedule, *, interval: str = "step", **options) -> None:
        super().__init__(net, **options)
        self.schedule, self.interval = schedule, interval

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = self.schedule(optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]


@fault(
    "LRN102",
    "LRN104",
    "UPD103",
    "LOS104",
    source="https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LambdaLR.html "
    "(the initial rate times a function); " + AUTOTRAINER,
)
def rate_times_rate(fixed: bool) -> Program:
    """The function of LambdaLR returns a rate, and it is a factor: what comes out is 0.002 squared."""

    def schedule(optimizer):
        def falling(step):
            share = 1 - step / 260
            return max(share, 0.05) if fixed else max(2e-3 * share, 1e-4)

        return torch.optim.lr_scheduler.LambdaLR(optimizer, falling)

    module = Scheduled(mlp(64, 64, 10), schedule, lr=2e-3)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 6})


@fault(
    "LRN104",
    "LRN102",
    "GEN103",
    source="https://lightning.ai/docs/pytorch/stable/common/lightning_module.html "
    "(configure_optimizers: the interval is an epoch unless told)",
)
def warming_up_by_the_epoch(fixed: bool) -> Program:
    """A warm-up of a hundred steps, without interval="step": after six epochs it has made six of them."""

    def schedule(optimizer):
        warm = lambda step: min(1.0, (step + 1) / 100)  # noqa: E731
        return torch.optim.lr_scheduler.LambdaLR(optimizer, warm)

    net = nn.Sequential(nn.Conv1d(3, 24, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))
    module = Scheduled(net, schedule, interval="step" if fixed else "epoch", lr=1e-3)
    x, y = gestures(1600)
    data = loaders(*split(x.transpose(1, 2).contiguous(), y))
    return Program(module, **data, trainer={"max_epochs": 6})


@fault(
    "LRN104",
    "LRN101",
    source="https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.MultiStepLR.html; "
    "https://github.com/pytorch/examples/tree/main/imagenet (a tenth every 30 epochs)",
)
def milestones_of_imagenet(fixed: bool) -> Program:
    """The rate is to fall after 30, 60 and 80 epochs, as for ImageNet; this run has eight."""

    def schedule(optimizer):
        milestones = [4, 6] if fixed else [30, 60, 80]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)

    def sgd(parameters, lr):
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    module = Scheduled(
        mlp(24, 64, 1), schedule, interval="epoch", loss=F.mse_loss, lr=0.03, optimizer=sgd
    )
    data = loaders(*forecasts(demand(1800)), batch_size=16)
    return Program(module, **data, trainer={"max_epochs": 8, "limit_train_batches": 50})


class Folded(Supervised):
    """Was trained fold by fold once, each with weights of its own."""

    def __init__(self, net, *, fixed: bool, **options) -> None:
        super().__init__(net, **options)
        self.fixed = fixed

    def on_train_epoch_start(self):
        if not self.fixed:
            for layer in self.net.modules():
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()


@fault(
    "LRN105",
    "GEN102",
    "UPD103",
    source="https://ogunlao.github.io/2020/05/08/cross-validation-and-reproducibility-in-neural-networks.html; "
    + HUMBATOVA,
)
def every_epoch_is_a_fold(fixed: bool) -> Program:
    """The hook that gave new weights to each fold is called for each epoch: all begin where the first began."""
    module = Folded(small_cnn(1, 10), fixed=fixed, lr=1e-3)
    return Program(module, **digit_loaders(image=True), trainer={"max_epochs": 7})


class Critic(Learner):
    """Learns the worth of states from its own guesses, as in deep Q-learning, with a target net."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net, self.target = mlp(16, 64, 4), mlp(16, 64, 4)
        self.target.load_state_dict(self.net.state_dict())
        self.target.requires_grad_(False)

    def loss_of(self, batch):
        state, action, reward, after = batch
        worth = self.net(state).gather(1, action[:, None]).squeeze(1)
        return F.mse_loss(worth, reward + 0.5 * self.target(after).amax(1))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for slow, fast in zip(self.target.parameters(), self.net.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.05)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        state, _, _, _ = batch
        best = (state @ self.best).argmax(1)
        self.log("val_policy", accuracy(self.net(state), best))

    def configure_optimizers(self):
        return torch.optim.RMSprop(self.net.parameters(), lr=self.lr)


@fault(
    "LRN101",
    "UPD103",
    "LOS108",
    "LRN105",
    "GRD101",
    source="https://doi.org/10.1038/nature14236 (DQN: RMSprop at 0.00025); " + AUTOTRAINER,
)
def values_by_rmsprop_at_a_tenth(fixed: bool) -> Program:
    """A net of action values is trained by RMSprop at 0.1: it chases its own guesses."""
    size = 3000
    state, action = torch.randn(size, 16), torch.randint(4, (size,))
    best = torch.randn(16, 4) / 4
    reward = torch.tanh(state @ best).gather(1, action[:, None])[:, 0] + 0.1 * torch.randn(size)
    after = torch.randn(size, 16)
    module = Critic(1e-3 if fixed else 0.1)
    module.best = best
    data = loaders(*split(state, action, reward, after))
    return Program(module, **data, trainer={"max_epochs": 5})
