"""MOD: train for eval, eval for train, gradients where none belong."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from healthy._parts import cnn, pretrained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from .. import HUMBATOVA, fault
from .._parts import Program, Supervised, digit_loaders, digits, loaders, mlp, split
from ._parts import Learner, accuracy


class Actor(pl.LightningModule):
    """Learns by what it does: it acts on states, and is told how good that was."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.policy = nn.Sequential(
            nn.Linear(8, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 4)
        )
        self.fixed = fixed

    @torch.no_grad()
    def act(self, state):
        self.policy.eval()
        action = torch.distributions.Categorical(logits=self.policy(state)).sample()
        if self.fixed:
            self.policy.train()
        return action

    def training_step(self, batch, batch_idx):
        (state,) = batch
        action = self.act(state)
        reward = (action == state[:, :4].argmax(1)).float()
        choice = torch.distributions.Categorical(logits=self.policy(state))
        self.log("reward", reward.mean())
        return -(choice.log_prob(action) * (reward - reward.mean())).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault("MOD101", source="https://github.com/huggingface/lerobot/pull/3667")
def acting_in_eval_mode(fixed: bool) -> Program:
    """The policy acts in eval mode, and learns in it, because nobody calls train() after act()."""
    states = DataLoader(TensorDataset(torch.randn(6400, 8)), batch_size=64, shuffle=True)
    return Program(Actor(fixed), states, trainer={"max_epochs": 3})


class Sure(Supervised):
    """Measures how sure it is with dropout, before it is validated."""

    def __init__(self, net, fixed: bool) -> None:
        super().__init__(net)
        self.fixed = fixed

    def on_validation_epoch_start(self):
        dropouts = [one for one in self.modules() if isinstance(one, nn.Dropout)]
        for one in dropouts:
            one.train()
        x = self.trainer.val_dataloaders.dataset[:32][0]
        self.log("spread", torch.stack([self(x).softmax(1) for _ in range(8)]).std(0).mean())
        for one in dropouts:
            one.train(not self.fixed)


@fault("MOD102", source="https://arxiv.org/abs/1506.02142 (Monte Carlo dropout)")
def uncertainty_leaves_dropout_on(fixed: bool) -> Program:
    """Monte Carlo dropout is switched on for a look at the uncertainty, and all of validation drops."""
    net = nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.3), nn.Linear(96, 96), nn.ReLU()
    ).extend([nn.Dropout(0.3), nn.Linear(96, 10)])
    return Program(Sure(net, fixed), **digit_loaders(), trainer={"max_epochs": 5})


class Student(Learner):
    """Learns from a frozen teacher, who has batch norm."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.teacher, self.student = pretrained().requires_grad_(False), mlp(64, 64, 5)
        self.fixed = fixed

    def on_train_epoch_start(self):
        if self.fixed:
            self.teacher.eval()

    def loss_of(self, batch):
        x, y = batch
        with torch.no_grad():
            taught = self.teacher(x).softmax(1)
        own = self.student(x.flatten(1)).log_softmax(1)
        return 0.5 * F.kl_div(own, taught, reduction="batchmean") + 0.5 * F.nll_loss(own, y)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, y = batch
        self.log("val_acc", accuracy(self.student(x.flatten(1)), y))
        self.log("teacher_acc", accuracy(self.teacher(x), y))


@fault(
    "MOD103",
    source="https://github.com/vrvlive/knowlege-distillation/issues/2",
)
def teacher_who_drifts(fixed: bool) -> Program:
    """A frozen teacher is put into train mode with the rest, and noisy images move its statistics."""
    x, y = digits(1797, image=True)
    x, y = x[y < 5], y[y < 5]
    x = x + 0.3 * torch.randn_like(x)
    return Program(Student(fixed), **loaders(*split(x, y)), trainer={"max_epochs": 6})


class Toggled(Supervised):
    """Wants gradients in training only, and keeps its weights small."""

    def __init__(self, net, fixed: bool) -> None:
        super().__init__(net)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        wanted = self.training if self.fixed else not self.training
        with torch.set_grad_enabled(wanted):
            loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss + 1e-5 * sum(p.pow(2).sum() for p in self.parameters())


@fault(
    "MOD104",
    "LOS107",
    "LOS104",
    "LOS106",
    "GRD103",
    source="https://pytorch.org/docs/stable/generated/torch.autograd.grad_mode.set_grad_enabled.html; "
    + HUMBATOVA,
)
def gradients_for_evaluation_only(fixed: bool) -> Program:
    """set_grad_enabled(not self.training): only the penalty on the weights is trained."""
    module = Toggled(mlp(64, 64, 10), fixed)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 4})


@fault(
    "MOD105",
    "GEN105",
    "INP202",
    source="https://arxiv.org/abs/1603.04779 (Adaptive batch normalization: statistics by domain)",
)
def one_hospital_to_a_batch(fixed: bool) -> Program:
    """Batches are of one scanner each: batch norm levels it out in training, and cannot afterwards."""
    x, y = digits(1792, image=True)
    scanner = torch.arange(1792) % 4
    gain, offset = torch.tensor([0.6, 0.9, 1.1, 1.4]), torch.tensor([-1.5, 0.5, -0.5, 1.5])
    x = x * gain[scanner].view(-1, 1, 1, 1) + offset[scanner].view(-1, 1, 1, 1)
    x = x / x.std()
    train, val = split(x, y, scanner)
    images, labels, scanner = train.tensors
    train = TensorDataset(images, labels)
    loader = DataLoader(train, 32, shuffle=True)
    if not fixed:
        by_scanner = [(scanner == k).nonzero().flatten() for k in range(4)]
        loader = DataLoader(train, batch_sampler=Visits(by_scanner))
    val = DataLoader(TensorDataset(*val.tensors[:2]), 64)
    return Program(Supervised(cnn(), lr=3e-3), loader, val, trainer={"max_epochs": 5})


class Visits:
    """Batches of 32, each of them from one group, in any order."""

    def __init__(self, groups) -> None:
        self.groups = groups

    def __iter__(self):
        batches = [b for one in self.groups for b in one[torch.randperm(len(one))].split(32)]
        return iter([batches[i].tolist() for i in torch.randperm(len(batches))])

    def __len__(self) -> int:
        return sum(-(-len(one) // 32) for one in self.groups)


class Molecules(nn.Module):
    """Passes messages between the atoms of a small molecule, with some of them dropped."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 48), nn.Linear(48, 48)
        self.out, self.fixed = nn.Linear(48, 3), fixed

    def forward(self, graph):
        bonds, x = graph[..., :10], graph[..., 10:]
        bonds = bonds / bonds.sum(2, keepdim=True)
        for layer in (self.first, self.second):
            x = F.relu(layer(bonds @ x))
            x = F.dropout(x, p=0.5, training=self.training or not self.fixed)
        return self.out(x.mean(1))


@fault("MOD106", source="https://github.com/deepchem/deepchem/pull/5094")
def messages_dropped_for_ever(fixed: bool) -> Program:
    """F.dropout in a graph net, whose `training` is True unless somebody says otherwise."""
    y = torch.arange(1500) % 3
    bonds = (torch.rand(1500, 10, 10) < 0.25).float().triu(1)
    bonds = bonds + bonds.mT + torch.eye(10)
    atoms = torch.randn(3, 6)[y][:, None] * 0.6 + torch.randn(1500, 10, 6)
    data = loaders(*split(torch.cat([bonds, atoms], dim=2), y))
    return Program(Supervised(Molecules(fixed), lr=5e-3), **data, trainer={"max_epochs": 6})
