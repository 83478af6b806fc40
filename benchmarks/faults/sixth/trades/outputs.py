"""OUT in the trades: what the net can say, and to whom."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, dense, digits_at_random, explained, rng


class Denoising(Trade):
    """A diffusion model that predicts the noise in a digit."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.time, self.first = nn.Embedding(40, 128), nn.Linear(64, 128)
        last = [] if fixed else [nn.Sigmoid()]
        self.rest = nn.Sequential(
            nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 64), *last
        )
        self.register_buffer("kept", torch.cumprod(1 - torch.linspace(1e-3, 0.15, 40), dim=0))

    def step(self, batch):
        x, _ = batch
        t, noise = torch.randint(40, (len(x),)), torch.randn_like(x)
        kept = self.kept[t][:, None]
        out = self.rest(self.first(kept.sqrt() * x + (1 - kept).sqrt() * noise) + self.time(t))
        return F.mse_loss(out, noise), {"r2": explained(out, noise)}


@fault(
    "OUT102",
    "LOS102",
    "LOS109",
    source="https://github.com/Julian-Wyatt/AnoDDPM/issues/39 (which activation ends the U-Net of a diffusion model)",
)
def noise_out_of_a_sigmoid(fixed: bool) -> Program:
    """The net of a diffusion model still ends as the autoencoder did: no noise below nought can be predicted."""
    data = both(*digits_at_random(), batch_size=32)
    return Program(Denoising(fixed=fixed), **data, trainer={"max_epochs": 6})


class Solubility(Trade):
    """A property of a molecule, by messages along its bonds."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.fixed = fixed
        self.atom = nn.Embedding(5, 32)
        self.own, self.other = nn.Linear(32, 32), nn.Linear(32, 32)
        self.out = dense(32, 32, 1)

    def step(self, batch):
        atoms, bonds, graph, y = batch
        h = self.atom(atoms)
        heard = torch.zeros_like(h).index_add(0, bonds[1], self.other(h)[bonds[0]])
        h = F.relu(self.own(h) + heard)
        if self.fixed:
            total = torch.zeros(len(y), 32).index_add(0, graph, h)
            pooled = total / torch.bincount(graph, minlength=len(y))[:, None]
        else:
            pooled = h.mean(0, keepdim=True)
        out = self.out(pooled).squeeze(1).expand(len(y))
        return F.mse_loss(out, y), {"r2": explained(out, y)}


def collate(samples):
    """Many graphs as one, with the number of its graph for each atom."""
    sizes = [len(s[0]) for s in samples]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    bonds = [s[1] + start for s, start in zip(samples, starts, strict=True)]
    graph = torch.arange(len(samples)).repeat_interleave(torch.tensor(sizes))
    atoms, y = torch.cat([s[0] for s in samples]), torch.stack([s[2] for s in samples])
    return atoms, torch.cat(bonds, dim=1), graph, y


@fault(
    "OUT101",
    "OUT105",
    "LOS104",
    "OUT103",
    source="https://github.com/pyg-team/pytorch_geometric/issues/258 "
    "(simply forgetting to pass the batch assignment vector)",
)
def one_mean_for_all_molecules(fixed: bool) -> Program:
    """The mean is taken over the atoms of the whole batch: all of its molecules get one and the same answer."""
    g = rng(111)
    weight, samples = torch.randn(5, generator=g), []
    for _ in range(1000):
        n = int(torch.randint(5, 12, (1,), generator=g))
        atoms = torch.randint(5, (n,), generator=g)
        chain = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
        pull = (weight[atoms[:-1]] * weight[atoms[1:]]).mean()
        y = 2 * weight[atoms].mean() + pull + 0.1 * torch.randn((), generator=g)
        samples.append((atoms, torch.cat([chain, chain.flip(0)], dim=1), y))
    return Program(
        Solubility(fixed=fixed),
        DataLoader(samples[:800], batch_size=32, shuffle=True, collate_fn=collate),
        DataLoader(samples[800:], batch_size=50, collate_fn=collate),
        {"max_epochs": 8},
    )
