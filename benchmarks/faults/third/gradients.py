"""GRD, a third time: gradients that explode, vanish, or never arrive."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, KARPATHY, fault
from .._parts import Program, Supervised, digits, loaders, mlp, split
from ..first._parts import Learner, accuracy, explained, gestures, meters, reviews
from ..second._parts import clients, patches
from ._parts import Value, small_cnn


class Depth(Learner):
    """How far away is it? The net says the disparity, of which the distance is the reciprocal."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(8, 64, 1), fixed
        self.lr = 3e-3

    def forward(self, x):
        out = self.net(x)
        return 1 / (F.softplus(out) + 0.2) if self.fixed else 1 / out

    def loss_of(self, batch):
        return F.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "GRD101",
    "LRN105",
    "LOS101",
    "LOS108",
    "LRN101",
    source="https://arxiv.org/abs/1806.01260 (Monodepth2: disparities are bounded before the reciprocal)",
)
def one_over_anything(fixed: bool) -> Program:
    """The distance is one over what the net says, which may be nought: the slope there has no bounds."""
    x = torch.randn(2400, 8)
    near = F.softplus(x[:, :1] + 0.5 * x[:, 1:2] * x[:, 2:3]) + 0.4
    y = 1 / near + 0.03 * torch.randn(2400, 1)
    return Program(Depth(fixed=fixed), **loaders(*split(x, y)), trainer={"max_epochs": 5})


class FirstLetter(Learner):
    """Noise follows upon one letter, and that letter is asked for at the end."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.fixed = nn.Embedding(20, 16), fixed
        self.rnn = (nn.GRU if fixed else nn.RNN)(16, 48, batch_first=True)
        self.out = nn.Linear(48, 4)

    def forward(self, ids):
        states = self.rnn(self.embed(ids))[0]
        return self.out(states.amax(1) if self.fixed else states[:, -1])

    def loss_of(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self(batch[0]), batch[1]))


@fault(
    "GRD102",
    "LOS104",
    "GRD104",
    "GEN102",
    source="https://doi.org/10.1109/72.279181 (long-term dependencies are difficult); "
    "https://arxiv.org/abs/1211.5063",
)
def forty_steps_ago(fixed: bool) -> Program:
    """What matters is the first of forty letters; a plain tanh net has forgotten it, and the slope with it."""
    y = torch.arange(1600) % 4
    ids = torch.cat([y[:, None], torch.randint(4, 20, (1600, 39))], dim=1)
    data = loaders(*split(ids, y))
    return Program(FirstLetter(fixed=fixed), **data, trainer={"max_epochs": 5})


class Switch(nn.Module):
    """One of four experts for each sample, as the router chooses."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.router = nn.Linear(10, 4)
        self.experts = nn.ModuleList(mlp(10, 24, 2) for _ in range(4))
        self.fixed = fixed

    def forward(self, x):
        share = torch.softmax(self.router(x), 1)
        weight, chosen = share.max(1)
        every = torch.stack([expert(x) for expert in self.experts], dim=1)
        out = every[torch.arange(len(x)), chosen]
        return out * weight[:, None] * 4 if self.fixed else out


@fault(
    "GRD103",
    "UPD102",
    source="https://arxiv.org/abs/2101.03961 (Switch transformers, equation 2: the gate multiplies)",
)
def router_that_is_not_asked_again(fixed: bool) -> Program:
    """The expert's answer is not multiplied by its share: argmax alone leads to the router, and no gradient."""
    data = loaders(*split(*clients(2400)))
    module = Supervised(Switch(fixed=fixed), lr=5e-3)
    return Program(module, **data, trainer={"max_epochs": 5})


class Variational(Learner):
    """A variational autoencoder of digits."""

    lr = 2e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.encoder, self.decoder, self.fixed = mlp(64, 96, 16), mlp(8, 96, 64), fixed

    def loss_of(self, batch):
        (x,) = batch
        mean, spread = self.encoder(x).chunk(2, dim=1)
        code = torch.distributions.Normal(mean, F.softplus(spread) + 1e-3)
        z = code.rsample() if self.fixed else code.sample()
        prior = torch.distributions.Normal(0.0, 1.0)
        divergence = torch.distributions.kl_divergence(code, prior).sum(1).mean()
        error = F.mse_loss(self.decoder(z), x, reduction="sum") / len(x)
        self.log_dict({"divergence": divergence, "error": error})
        return error + 0.2 * divergence

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        rebuilt = self.decoder(self.encoder(batch[0])[:, :8])
        self.log("val_r2", explained(rebuilt, batch[0]))


@fault(
    "OUT103",
    "LOS105",
    "GRD103",
    "LOS106",
    "OUT101",
    "LOS104",
    "GRD104",
    source="https://pytorch.org/docs/stable/distributions.html (rsample and pathwise derivatives)",
)
def sampled_and_not_reparametrized(fixed: bool) -> Program:
    """sample() for rsample(): the encoder hears of the divergence alone, and its code comes to say nothing."""
    data = loaders(*split(digits(1797)[0]))
    return Program(Variational(fixed=fixed), **data, trainer={"max_epochs": 8})


class Reader(Learner):
    """Reads word by word with an LSTM cell, up to the mark at the end."""

    lr = 4e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(80, 24), nn.LSTMCell(24, 48)
        self.out, self.fixed = nn.Linear(48, 4), fixed

    def forward(self, ids):
        h, c = (torch.zeros(len(ids), 48) for _ in range(2))
        for word in self.embed(ids).unbind(1):
            if not self.fixed:
                h, c = (torch.zeros(len(ids), 48) for _ in range(2))
            h, c = self.cell(word, (h, c))
        return self.out(h)

    def loss_of(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self(batch[0]), batch[1]))


@fault(
    "GRD104",
    "OUT103",
    "OUT101",
    "LOS104",
    "UPD102",
    source="https://pytorch.org/tutorials/intermediate/char_rnn_classification_tutorial.html "
    "(initHidden before the loop); " + HUMBATOVA,
)
def begun_anew_with_each_word(fixed: bool) -> Program:
    """The state is set to zero inside the loop over the words: the last one, a full stop, is all that is left."""
    ids, y = reviews(1600)
    ids = torch.cat([ids, torch.full((1600, 1), 3)], dim=1)
    return Program(Reader(fixed=fixed), **loaders(*split(ids, y)), trainer={"max_epochs": 4})


class Clipped(pl.LightningModule):
    """A regression on what has outliers, by hand, with clipping."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.fixed = mlp(8, 64, 1), fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = F.mse_loss(self.net(x), y)
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.fixed:
            self.clip_gradients(optimizer, gradient_clip_val=1.0)
        optimizer.step()
        if not self.fixed:
            self.clip_gradients(optimizer, gradient_clip_val=1.0)
        self.log("train_mse", loss)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_mae", F.l1_loss(self.net(x), y))
        self.log("val_r2", explained(self.net(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


@fault(
    "GRD105",
    "GRD101",
    "LRN105",
    "GRD106",
    "LRN101",
    source="https://discuss.pytorch.org/t/proper-way-to-do-gradient-clipping/191",
)
def clipped_when_it_is_too_late(fixed: bool) -> Program:
    """Gradients are clipped after the step: nothing stops the few readings that are fifteen times too large."""
    x, y = meters(2400)
    train, val = split(x, y)
    wrong = torch.rand(len(train)) < 0.004
    train.tensors[0][wrong] *= 5
    train.tensors[1][wrong] *= 15
    return Program(Clipped(fixed=fixed), **loaders(train, val), trainer={"max_epochs": 6})


@fault(
    "GRD105",
    "LRN101",
    "LRN105",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/5671; "
    "https://arxiv.org/abs/1905.11881 (clipping as normalization)",
)
def sum_under_a_clip_for_means(fixed: bool) -> Program:
    """The loss is a sum over the batch, the clip of 1 was for its mean: all steps are cut, and all alike long."""

    def loss(out, y):
        return F.mse_loss(out, y, reduction="mean" if fixed else "sum")

    def sgd(parameters, lr):
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    module = Value(mlp(8, 64, 1), loss, lr=0.1, optimizer=sgd)
    trainer = {"max_epochs": 6, "gradient_clip_val": 1.0}
    return Program(module, **loaders(*split(*meters(2000))), trainer=trainer)


class Zeroing(Supervised):
    """Overrides how gradients are zeroed."""

    def __init__(self, net, *, fixed: bool, **options) -> None:
        super().__init__(net, **options)
        self.fixed = fixed

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        if self.fixed:
            optimizer.zero_grad(set_to_none=True)
        else:
            optimizer.zero_grad  # noqa: B018


@fault(
    "GRD106",
    "LRN101",
    "LOS108",
    "GRD101",
    source="https://lightning.ai/docs/pytorch/stable/common/lightning_module.html (optimizer_zero_grad); "
    + KARPATHY,
)
def named_and_not_called(fixed: bool) -> Program:
    """The hook says optimizer.zero_grad, without the parentheses: the gradients of all steps add up."""

    def sgd(parameters, lr):
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    module = Zeroing(small_cnn(3, 6), fixed=fixed, lr=0.02, optimizer=sgd)
    return Program(module, **loaders(*split(*patches(1600))), trainer={"max_epochs": 6})


@fault(
    "GRD107",
    "LRN102",
    "GEN103",
    source="https://lightning.ai/docs/pytorch/stable/advanced/training_tricks.html (accumulate gradients); "
    "https://arxiv.org/abs/1812.06162 (the critical batch size)",
)
def one_step_to_an_epoch(fixed: bool) -> Program:
    """accumulate_grad_batches=64 comes from a data set a hundred times larger: here an epoch is one step."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 64), nn.ReLU(), nn.Linear(64, 4))
    data = loaders(*split(*gestures(800)), batch_size=20)
    trainer = {"max_epochs": 20, "accumulate_grad_batches": 2 if fixed else 64}
    return Program(Supervised(net, lr=1e-3), **data, trainer=trainer)
