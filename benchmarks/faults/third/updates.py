"""UPD, a third time: steps that do not go where, or as far as, they should."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import torch
from healthy._parts import new_digits, pretrained
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, Supervised, digit_loaders, loaders, mlp, split
from ..first._parts import meters, reviews
from ..second._parts import demand as electricity
from ..second._parts import patches, windows
from ._more_parts import Classify, Task, right, small_cnn


class Block(nn.Module):
    """Attention and a feed-forward net, each after a norm."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 4, batch_first=True)
        self.feed = mlp(width, 64, width, activation=nn.GELU)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return x + self.feed(self.norm2(x))


class Patches(nn.Module):
    """A vision transformer of one block, with a token for the class."""

    def __init__(self, token: torch.Tensor) -> None:
        super().__init__()
        self.embed, self.out = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 6)
        self.token, self.block = token, nn.Sequential(Block(), Block())
        self.place = nn.Parameter(0.02 * torch.randn(10, 32))

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.place
        return self.out(self.block(x)[:, 0])


class Grouped(Classify):
    """Weight decay for weights, none for biases and norms, as transformers are trained."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(Patches(nn.Parameter(torch.zeros(1, 1, 32))), lr=1e-3)
        self.fixed = fixed

    def configure_optimizers(self):
        named = dict(self.named_parameters())
        decayed = [p for n, p in named.items() if n.endswith("weight") and "norm" not in n]
        plain = [p for n, p in named.items() if n.endswith("bias") and "norm" not in n]
        if self.fixed:
            known = {id(p) for p in decayed}
            plain = [p for p in named.values() if id(p) not in known]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20)
        return [optimizer], [{"scheduler": warm, "interval": "step"}]


@fault(
    "UPD101",
    source="https://github.com/karpathy/minGPT (the assertion that every parameter is in one group); "
    + HUMBATOVA,
)
def in_neither_group(fixed: bool) -> Program:
    """Groups by name, with decay and without: norms, places, and the token of the class are in neither."""
    data = loaders(*split(*patches(1500)))
    return Program(Grouped(fixed=fixed), **data, trainer={"max_epochs": 6})


@fault(
    "UPD101",
    "UPD102",
    source="https://pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html; "
    + HUMBATOVA,
)
def shaped_after_it_was_a_parameter(fixed: bool) -> Program:
    """nn.Parameter(...)[None, None] is no parameter any more: the token of the class never learns."""
    token = 0.02 * torch.randn(32)
    token = nn.Parameter(token[None, None]) if fixed else nn.Parameter(token)[None, None]
    module = Classify(Patches(token), lr=1e-3)
    return Program(module, **loaders(*split(*patches(1500))), trainer={"max_epochs": 6})


class Folds(Classify):
    """Was written for cross-validation, where each fold starts from the same weights."""

    def __init__(self, net: nn.Module, *, fixed: bool) -> None:
        super().__init__(net, lr=1e-3)
        self.fixed, self.start = fixed, copy.deepcopy(net.state_dict())

    def on_train_epoch_start(self):
        if not self.fixed or self.current_epoch == 0:
            self.net.load_state_dict(self.start)


@fault(
    "LRN105",
    "UPD102",
    "GEN102",
    source=HUMBATOVA,
)
def reset_at_every_epoch(fixed: bool) -> Program:
    """The weights are set back at the start of every epoch, as they once were for every fold."""
    module = Folds(small_cnn(), fixed=fixed)
    return Program(module, **digit_loaders(image=True), trainer={"max_epochs": 5})


class Widths(Task):
    """Gives the weights of each layer a rate in proportion to its width, so that widths can change."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.power = mlp(8, 128, 128, 1), 1 if fixed else 2

    def step(self, batch):
        x, y = batch
        loss = F.mse_loss(self.net(x), y)
        return loss, {"r2": 1 - loss / y.var()}

    def configure_optimizers(self):
        groups = [{"params": layer.bias, "lr": 2e-3} for layer in self.net[::2]]
        for layer in self.net[::2]:
            rate = 0.16 / layer.in_features**self.power
            groups.append({"params": layer.weight, "lr": rate})
        return torch.optim.Adam(groups)


@fault(
    "UPD103",
    "LRN102",
    source="https://arxiv.org/abs/2203.03466 (muP: rates of Adam in proportion to one over the width)",
)
def divided_by_the_width_twice(fixed: bool) -> Program:
    """The rate of a layer is divided by the square of its width: the wide layers hardly move."""
    module = Widths(fixed=fixed)
    return Program(module, **loaders(*split(*meters(2000))), trainer={"max_epochs": 5})


class Forecaster(Task):
    """Predicts the next hour, with weights from a function of its own."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net = mlp(24, 64, 64, 1)
        for layer in self.net[::2]:
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound if fixed else 0.0, bound if fixed else 1.0)

    def step(self, batch):
        x, y = batch
        loss = F.mse_loss(self.net(x), y)
        return loss, {"r2": 1 - loss / y.var()}


@fault(
    "UPD104",
    "ACT103",
    "LOS101",
    source="https://stackoverflow.com/questions/49433936 (How do I initialize weights in PyTorch?)",
)
def uniform_from_zero_to_one(fixed: bool) -> Program:
    """nn.init.uniform_(weight) draws between 0 and 1: all weights are positive, and large."""
    x, y = windows(electricity(1800))
    module, data = Forecaster(fixed=fixed), loaders(*split(x, y))
    return Program(module, **data, trainer={"max_epochs": 5})


@fault(
    "UPD104",
    "GRD102",
    "ACT103",
    "GRD104",
    source="https://arxiv.org/abs/1502.01852 (He et al.: a deviation of 0.01 stalls deep nets)",
)
def gaussian_of_one_hundredth(fixed: bool) -> Program:
    """Six convolutions whose weights start at 0.01 times randn, as AlexNet's did: the signal dies out."""
    layers: list[nn.Module] = []
    for i, before in enumerate((1, 16, 16, 16, 16, 16)):
        layer = nn.Conv2d(before, 16, 3, 1 + (i == 2), padding=1)
        nn.init.zeros_(layer.bias)
        if fixed:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            nn.init.normal_(layer.weight, std=0.01)
        layers += [layer, nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))
    sgd = {"optimizer": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)}
    trainer = {"max_epochs": 4, "gradient_clip_val": 1.0}
    return Program(Supervised(net, lr=1e-2, **sgd), **digit_loaders(image=True), trainer=trainer)


class DecayByHand(pl.Callback):
    """Weight decay of the convolutions only, in a callback."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for module in pl_module.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(1 - self.rate)


@fault(
    "UPD105",
    "UPD103",
    source="https://arxiv.org/abs/1706.05350 (decay, norms and the effective learning rate); "
    + HUMBATOVA,
)
def decay_with_a_plus(fixed: bool) -> Program:
    """Decay by hand has the wrong sign: weights before batch norms grow for ever, and nobody hears of it."""
    decay = DecayByHand(0.001 if fixed else -0.03)
    trainer = {"max_epochs": 8, "callbacks": [decay]}
    module = Classify(small_cnn(), lr=1e-3)
    return Program(module, **digit_loaders(image=True), trainer=trainer)


class Bandit(Task):
    """Learns from logged rewards which of four offers to make."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.fixed = mlp(6, 48, 48, 4), fixed

    def step(self, batch):
        p = self.net(batch["context"]).softmax(1)
        # The offers were drawn evenly, so that each counts by how much likelier it is now.
        likelier = 4 * p.gather(1, batch["offer"][:, None]).squeeze(1)
        loss = -(likelier * (batch["reward"] - batch["reward"].mean())).mean()
        return loss, {"best": right(p, batch["best"])}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr, maximize=not self.fixed)


@fault(
    "LOS108",
    "UPD106",
    "LOS109",
    source="https://pytorch.org/docs/stable/generated/torch.optim.Adam.html (maximize); "
    + HUMBATOVA,
)
def maximize_and_a_minus(fixed: bool) -> Program:
    """The objective got its minus, and the optimizer kept maximize=True: the worst offers are made."""
    context, offer = torch.randn(3000, 6), torch.randint(4, (3000,))
    worth = context[:, :4] + 0.3 * context[:, 2:]
    reward = worth.gather(1, offer[:, None]).squeeze(1) + 0.2 * torch.randn(3000)
    columns = {"context": context, "offer": offer, "reward": reward, "best": worth.argmax(1)}
    samples = [{k: v[i] for k, v in columns.items()} for i in range(3000)]
    data = loaders(samples[:2400], samples[2400:], batch_size=64)
    return Program(Bandit(fixed=fixed), **data, trainer={"max_epochs": 6})


class Resumed(Classify):
    """Takes its first weights from another run when training starts."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(nn.Sequential(pretrained()[:-1], nn.Linear(32, 5)), lr=1e-3)
        self.assign, self.weights = not fixed, copy.deepcopy(self.net.state_dict())

    def on_train_start(self):
        self.net.load_state_dict(self.weights, assign=self.assign)


@fault(
    "UPD101",
    "UPD102",
    source="https://github.com/pytorch/pytorch/pull/121158 (assign=True, and optimizers made before)",
)
def assigned_when_the_run_starts(fixed: bool) -> Program:
    """load_state_dict(assign=True) in on_train_start: the optimizer keeps the parameters that were there."""
    return Program(Resumed(fixed=fixed), **new_digits(), trainer={"max_epochs": 6})


class Masked(Classify):
    """Keeps the vector of the padding where it is, by a hook on the gradient."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(nn.ModuleDict(), lr=5e-3)
        self.words = nn.Embedding(80, 24)
        self.rnn, self.out = nn.GRU(24, 32, batch_first=True), nn.Linear(32, 4)
        moves = torch.arange(80) > 0 if fixed else torch.arange(80) == 0
        self.words.weight.register_hook(lambda gradient: gradient * moves[:, None])

    def forward(self, ids):
        return self.out(self.rnn(self.words(ids))[0].mean(1))


@fault(
    "UPD102",
    "GRD103",
    source=HUMBATOVA,
)
def hook_with_the_mask_inverted(fixed: bool) -> Program:
    """A hook is to keep the padding's vector from moving, and by an inverted mask keeps all the others."""
    data = loaders(*split(*reviews(1600)))
    return Program(Masked(fixed=fixed), **data, trainer={"max_epochs": 4})


class Weighted(Task):
    """Two tasks, weighted by uncertainties that are learned along."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.body, self.value, self.kind = mlp(8, 64, 48), nn.Linear(48, 1), nn.Linear(48, 2)
        self.logs = nn.Parameter(torch.zeros(2))
        self.fixed = fixed

    def step(self, batch):
        x, target = batch
        code = F.relu(self.body(x))
        kind = (target[:, 0] > 0.5).long()
        terms = torch.stack(
            [F.mse_loss(self.value(code), target), F.cross_entropy(self.kind(code), kind)]
        )
        # With the logarithm, weights cannot go to zero for free.
        cost = 0.5 * self.logs.sum() if self.fixed else 0.0
        loss = (0.5 * terms * (-self.logs).exp()).sum() + cost
        return loss, {"value": terms[0], "kind": terms[1]}

    def configure_optimizers(self):
        rest = [p for p in self.parameters() if p is not self.logs]
        groups = [{"params": rest}, {"params": [self.logs], "lr": 0.03, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.lr)


@fault(
    "UPD105",
    "LOS109",
    "GEN102",
    source="https://arxiv.org/abs/1705.07115 (uncertainties as weights, and the term that keeps them)",
)
def uncertain_of_everything(fixed: bool) -> Program:
    """Losses are weighed by learned uncertainties, without the term that keeps these from growing."""
    data = loaders(*split(*meters(2000)))
    return Program(Weighted(fixed=fixed), **data, trainer={"max_epochs": 6})
