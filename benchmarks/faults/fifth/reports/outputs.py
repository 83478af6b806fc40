"""OUT, after reports: outputs that cannot be right, or depend on what they should not."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import HUMBATOVA, fault
from ..._parts import Program
from ._parts import Task, accuracy, cells, conv, cut, loaders, rng


class Boxes(Task):
    """Finds the box of a cell: its middle, its width, and its height."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        pools = [nn.MaxPool2d(2), nn.MaxPool2d(2)]
        self.body = nn.Sequential(conv(1, 16, pools[0]), conv(16, 32, pools[1]), nn.Flatten())
        self.head, self.scale = nn.Linear(512, 4), 16.0 if fixed else 1.0

    def step(self, batch):
        image, box = batch
        out = torch.sigmoid(self.head(self.body(image)))
        loss = F.l1_loss(out, box / self.scale)
        return loss, {"pixels": (out * self.scale - box).abs().mean().detach()}


@fault(
    "OUT102",
    "OUT101",
    "ACT102",
    source=HUMBATOVA + " (wrong activation of the last layer)",
)
def boxes_in_pixels_out_of_a_sigmoid(fixed: bool) -> Program:
    """The boxes are written in pixels, the head ends in a sigmoid: no cell is further off than one pixel."""
    image, _, box = cells(800)
    return Program(Boxes(fixed=fixed), **loaders(*cut(image, box)), trainer={"max_epochs": 5})


def molecules(size: int = 900) -> list[dict[str, torch.Tensor]]:
    """Small graphs with atoms of four kinds; the label says whether two of the last kind are bound."""
    g, made = rng(91), []
    while len(made) < size:
        n = int(torch.randint(8, 13, (), generator=g))
        atoms = torch.randint(4, (n,), generator=g)
        chain = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
        extra = torch.randint(n, (2, 3), generator=g)
        edges = torch.cat([chain, extra[:, extra[0] != extra[1]]], 1)
        bound = (atoms[edges] == 3).all(0).any()
        if bool(bound) == (len(made) % 2 == 0):
            made.append({"atoms": atoms, "edges": torch.cat([edges, edges.flip(0)], 1), "y": bound})
    return made


def collate(graphs: list[dict[str, torch.Tensor]], *, fixed: bool) -> dict[str, torch.Tensor]:
    """All graphs of the batch as one."""
    counts = torch.tensor([len(g["atoms"]) for g in graphs])
    offsets = counts.cumsum(0) - counts if fixed else torch.zeros_like(counts)
    return {
        "atoms": torch.cat([g["atoms"] for g in graphs]),
        "edges": torch.cat([g["edges"] + o for g, o in zip(graphs, offsets, strict=True)], 1),
        "graph": torch.arange(len(graphs)).repeat_interleave(counts),
        "y": torch.stack([g["y"] for g in graphs]).long(),
    }


class Chemist(Task):
    """Messages along the edges, three times, and a mean over each graph."""

    def __init__(self) -> None:
        super().__init__(lr=5e-3)
        self.embed = nn.Embedding(4, 32)
        self.own = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.others = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, 2)

    def step(self, batch):
        h, (source, target) = self.embed(batch["atoms"]), batch["edges"]
        for own, others in zip(self.own, self.others, strict=True):
            heard = torch.zeros_like(h).index_add_(0, target, others(h)[source])
            h = h + F.relu(own(h) + heard)
        n = len(batch["y"])
        pooled = h.new_full((n, 32), -1e3).scatter_reduce(
            0, batch["graph"][:, None].expand_as(h), h, "amax"
        )
        logits = self.head(pooled)
        return F.cross_entropy(logits, batch["y"]), {"acc": accuracy(logits, batch["y"])}


@fault(
    "OUT105",
    "OUT103",
    "LOS104",
    "LRN101",
    source="https://github.com/chemprop/chemprop/pull/786 (the offset of a batch of graphs: predictions "
    "depend on the order of the batch); https://github.com/pyg-team/pytorch_geometric/issues/31",
)
def edges_without_an_offset(fixed: bool) -> Program:
    """Nodes are put one after the other, edges keep their numbers: all of them lie in the first graph."""
    made = molecules()
    data = loaders(made[:720], made[720:], collate_fn=lambda batch: collate(batch, fixed=fixed))
    return Program(Chemist(), **data, trainer={"max_epochs": 8})


class Films(Task):
    """Whether somebody will watch a film, from one vector for each of them."""

    def __init__(self) -> None:
        super().__init__(lr=1e-2)
        self.people, self.films = nn.Embedding(300, 8), nn.Embedding(60, 8)
        self.liked, self.bias = nn.Embedding(60, 1), nn.Parameter(torch.zeros(()))
        for table in (self.people, self.films, self.liked):
            nn.init.normal_(table.weight, std=0.2)

    def forward(self, person, film):
        match = (self.people(person) * self.films(film)).sum(1)
        return match + self.liked(film).squeeze(1) + self.bias

    def step(self, batch):
        person, film, watched = batch
        logits = self(person, film)
        loss = F.binary_cross_entropy_with_logits(logits, watched)
        return loss, {"acc": ((logits > 0) == (watched > 0.5)).float().mean()}

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        person, film, watched = batch
        other = (film + 1 + batch_idx + torch.arange(len(film)) % 59) % 60
        ours, theirs = self(person, film)[watched > 0.5], self(person, other)[watched > 0.5]
        self.log("val_above_another", (ours > theirs).float().mean())


@fault(
    "CLS104",
    "OUT101",
    "CLS102",
    "GEN107",
    "OUT103",
    "CLS101",
    source="https://github.com/massquantity/LibRecommender/issues/16 (positive samples only: sample "
    "negative ones first); https://github.com/hexiangnan/neural_collaborative_filtering/issues/12",
)
def nobody_dislikes_any_film(fixed: bool) -> Program:
    """The log holds what was watched, and nothing else: the answer is yes, to everyone and everything."""
    g = rng(92)
    taste, kind = torch.randint(3, (300,), generator=g), torch.randint(3, (60,), generator=g)
    chance = torch.where(taste[:, None] == kind[None], 0.7, 0.05)
    watched = torch.rand(300, 60, generator=g) < chance
    person, film = watched.nonzero().unbind(1)
    label = torch.ones(len(person))
    if fixed:
        nobody = (~watched).nonzero()
        nobody = nobody[torch.randperm(len(nobody), generator=g)[: len(person)]]
        person, film = torch.cat([person, nobody[:, 0]]), torch.cat([film, nobody[:, 1]])
        label = torch.cat([label, torch.zeros(len(nobody))])
    order = torch.randperm(len(person), generator=g)
    data = loaders(*cut(person[order], film[order], label[order]), 64)
    return Program(Films(), **data, trainer={"max_epochs": 5})
