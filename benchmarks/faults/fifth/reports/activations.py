"""ACT, after reports: units that sit at their ends, and signals that grow."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import HUMBATOVA, fault
from ..._parts import Program
from ._parts import Regress, Task, accuracy, cut, loaders, rng, shuffled


def citations(size: int = 400, nodes: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Word counts of papers (N, nodes, 30), and who cites whom (N, nodes, nodes): mostly one's own field."""
    g = rng(3)
    field = torch.randint(3, (size, nodes), generator=g)
    rate = 2 + 25 * (torch.rand(3, 30, generator=g) < 0.2)[field].float()
    words = torch.poisson(rate, generator=g)
    chance = torch.where(field[:, :, None] == field[:, None], 0.6, 0.03)
    edges = (torch.rand(size, nodes, nodes, generator=g) < chance).float().triu(1)
    return words, edges + edges.transpose(1, 2)


class GraphAutoencoder(Task):
    """Embeds papers so that the product of two says whether one cites the other."""

    def __init__(self) -> None:
        super().__init__(lr=3e-3)
        self.first, self.first_own = nn.Linear(30, 32), nn.Linear(30, 32, bias=False)
        self.second, self.second_own = nn.Linear(32, 12), nn.Linear(32, 12, bias=False)

    def encode(self, x, adjacency):
        h = F.relu(self.first(adjacency @ x) + self.first_own(x))
        return self.second(adjacency @ h) + self.second_own(h)

    def step(self, batch):
        x, adjacency = batch
        z = self.encode(x, adjacency / adjacency.sum(2, keepdim=True).clamp_min(1))
        chance = torch.sigmoid(z @ z.transpose(1, 2))
        there = adjacency > 0
        absent = ~there & ~torch.eye(x.shape[1], dtype=torch.bool)
        found = -torch.log(chance + 1e-15)[there].mean()
        avoided = -torch.log(1 - chance + 1e-15)[absent].mean()
        right = ((chance > 0.5)[there].float().mean() + (chance < 0.5)[absent].float().mean()) / 2
        return found + avoided, {"balanced": right}


@fault(
    "ACT102",
    "INP103",
    "LOS104",
    "GRD102",
    "LRN101",
    "LOS101",
    source="https://github.com/pyg-team/pytorch_geometric/issues/1185 (the loss stays at 34.5388)",
)
def citations_from_raw_word_counts(fixed: bool) -> Program:
    """Counts go into a graph autoencoder as they are: every product is in the hundreds, every sigmoid at its end."""
    words, edges = citations()
    if fixed:
        words = (words - words.mean((0, 1))) / words.std((0, 1))
    return Program(GraphAutoencoder(), **loaders(*cut(words, edges), 16), trainer={"max_epochs": 8})


class Trader(nn.Module):
    """A GRU over the closing prices of a month."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[1][-1])


@fault(
    "ACT102",
    "INP103",
    "OUT101",
    "LOS104",
    "GRD104",
    source="https://datascience.stackexchange.com/questions/54551 (identical future values, "
    "whatever the input); " + HUMBATOVA + " (missing scaling of the input)",
)
def closing_prices_as_they_are(fixed: bool) -> Program:
    """Prices near 4000 go into a GRU unscaled: its gates are open or shut, and all months look alike."""
    g = rng(5)
    days = torch.arange(1600)
    price = 4000 + 60 * torch.sin(days / 2.7) + 40 * torch.sin(days / 7.1)
    price = price + 6 * torch.randn(1600, generator=g)
    x = price.unfold(0, 22, 1)[:-1, :, None]
    y = price[22:] - price[21:-1]
    y = (y - y.mean()) / y.std()
    if fixed:
        x = (x - price[:1200].mean()) / price[:1200].std()
    x, y = shuffled(x, y)
    return Program(Regress(Trader(), lr=3e-3), **loaders(*cut(x, y)), trainer={"max_epochs": 6})


class Layer(nn.Module):
    """Messages from every box of a page to every other."""

    def __init__(self, width: int, *, mean: bool) -> None:
        super().__init__()
        self.own, self.others, self.mean = nn.Linear(width, width), nn.Linear(width, width), mean

    def forward(self, x):
        heard = x.mean(1, keepdim=True) if self.mean else x.sum(1, keepdim=True)
        return F.relu(self.own(x) + self.others(heard))


class Receipts(Task):
    """Says of each text box of a receipt whether it is a heading, an item, or a total."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.enter = nn.Linear(4, 32)
        self.layers = nn.Sequential(*(Layer(32, mean=fixed) for _ in range(5)))
        self.leave = nn.Linear(32, 3)

    def step(self, batch):
        boxes, kind = batch
        logits = self.leave(self.layers(self.enter(boxes)))
        loss = F.cross_entropy(logits.flatten(0, 1), kind.flatten())
        return loss, {"acc": accuracy(logits.flatten(0, 1), kind.flatten())}


@fault(
    "ACT103",
    "LOS101",
    "GRD101",
    "LRN101",
    "LRN105",
    source="https://github.com/pyg-team/pytorch_geometric/issues/3324 (graphs of bounding boxes, "
    "all connected: one class for all of them)",
)
def sums_over_a_page_of_boxes(fixed: bool) -> Program:
    """Messages are summed over a page on which all boxes are connected: each layer is tenfold the one before."""
    boxes = torch.randn(900, 20, 4, generator=rng(8)) + torch.randn(900, 1, 4, generator=rng(9))
    height = boxes[:, :, 1] - boxes[:, :, 1].mean(1, keepdim=True)
    kind = (height > -0.43).long() + (height > 0.43).long()
    return Program(Receipts(fixed=fixed), **loaders(*cut(boxes, kind)), trainer={"max_epochs": 8})
