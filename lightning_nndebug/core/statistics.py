"""Tests of hypotheses, and how to ask again and again without finding something by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import correlation

import torch
from torch import Tensor

_LEAST, _MOST = 1e-30, 1e300  # size


@dataclass(frozen=True)
class Graph:
    """What a test needs to know of a graph.

    Attributes:
        edges: How many edges it has.
        forks: How many pairs of edges share a vertex.
    """

    edges: float = 0.0
    forks: float = 0.0

    def __add__(self, other: Graph) -> Graph:
        return Graph(self.edges + other.edges, self.forks + other.forks)


@dataclass(frozen=True)
class Likeness:
    """How much alike things are, on average over draws without replacement.

    Attributes:
        pair: Mean likeness of two.
        square: Mean square of it.
        fork: Mean product of the likenesses of one to each of two others.
        apart: Mean product of the likenesses of two and of two others.
    """

    pair: float
    square: float
    fork: float
    apart: float

    @classmethod
    def of_labels(cls, counts: Sequence[float]) -> Likeness | None:
        """Of labels that occur so often: 1 if equal, else 0. None if there are too few of them."""
        n = sum(counts)
        if n < 4:  # noqa: PLR2004
            return None
        pairs = [k * (k - 1) for k in counts]
        triples = sum(k * (k - 1) * (k - 2) for k in counts)
        fours = sum(k * (k - 1) * (k - 2) * (k - 3) for k in counts)
        fours += sum(pairs) ** 2 - sum(one * one for one in pairs)
        pair = sum(pairs) / (n * (n - 1))
        fork = triples / (n * (n - 1) * (n - 2))
        return cls(pair, pair, fork, fours / (n * (n - 1) * (n - 2) * (n - 3)))

    def excess(self, total: float, graph: Graph) -> tuple[float, float]:
        """Tells whether neighbours are more alike than they would be in a random order.

        If every arrangement on the graph is as likely as any other, the sum of likenesses over its
        edges has the mean ``edges * pair`` and the variance
        ``edges * square + 2 * forks * fork + 2 * others * apart - mean ** 2``, where ``others`` are
        the pairs of edges without a common vertex (Mantel 1967; for labels the join-count test of
        Moran 1948).

        Returns:
            The excess of neighbours, 0 in random order and 1 if all are fully alike, and its
            one-sided p-value by a normal approximation.
        """
        if not graph.edges or self.pair >= 1:
            return 0.0, 1.0
        others = graph.edges * (graph.edges - 1) / 2 - graph.forks
        mean = graph.edges * self.pair
        moments = graph.edges * self.square + 2 * graph.forks * self.fork + 2 * others * self.apart
        variance = moments - mean**2
        excess = (total / graph.edges - self.pair) / (1 - self.pair)
        if variance <= 1e-9 * mean**2:
            return excess, 1.0
        return excess, normal_tail((total - mean) / math.sqrt(variance))


def growth(sizes: Sequence[float]) -> float:
    """Returns the correlation of the logarithms of sizes with their order: 1 if all grow alike.

    What grows by a share of itself hardly moves at first: ranks would not tell it from noise.
    """
    logs = [math.log(min(max(one, _LEAST), _MOST)) for one in sizes]
    return correlation(range(len(logs)), logs) if max(logs) > min(logs) else 0.0


def normal_tail(z: float) -> float:
    """Returns the probability that a standard normal variable exceeds ``z``."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def homogeneity(one: Tensor, other: Tensor) -> float:
    """Returns the p-value of Pearson's chi-square test: both count draws from the same classes."""
    counts = torch.stack([one, other])[:, (one + other) > 0].double()
    if counts.shape[1] < 2 or not counts.sum(1).all():  # noqa: PLR2004
        return 1.0
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor(counts.shape[1] - 1.0, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom / 2, statistic / 2))


def absence(count: int, inside: int, outside: int) -> float:
    """Returns the chance that all of ``count`` samples lie outside, if they are dealt out blindly.

    Fisher's exact test for a class that one of two sets lacks: of ``inside + outside`` places,
    ``count`` are taken, and none of them is one of the ``inside``.
    """
    if count > outside:
        return 0.0
    terms = (outside + 1, inside + outside - count + 1)
    over = (outside - count + 1, inside + outside + 1)
    return math.exp(sum(map(math.lgamma, terms)) - sum(map(math.lgamma, over)))


def spent(alpha: float, look: int) -> float:
    """Returns how much of an error of ``alpha`` the n-th look may use, counted from 1.

    The shares ``alpha / (n * (n + 1))`` of all looks there will ever be add up to ``alpha``: by
    Bonferroni's inequality, the whole run has no larger chance of a false alarm than that.
    """
    return alpha / (look * (look + 1))
