"""Tests of hypotheses have the moments and the error that they claim."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lightning_nndebug.core.statistics import (
    Graph,
    Likeness,
    absence,
    growth,
    homogeneity,
    normal_tail,
    spent,
)


def moments(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, sum((one - mean) ** 2 for one in values) / len(values)


def test_joins_have_the_mean_and_variance_of_all_arrangements() -> None:
    """For five labels on a path, the formula agrees with all 120 permutations."""
    labels, graph = (0, 0, 0, 1, 1), Graph(edges=4, forks=3)
    totals = [
        float(sum(a == b for a, b in itertools.pairwise(one)))
        for one in itertools.permutations(labels)
    ]
    mean, variance = moments(totals)
    likeness = Likeness.of_labels([3, 2])
    assert likeness is not None
    excess, chance = likeness.excess(4.0, graph)
    assert excess == pytest.approx((4 - mean) / 4 / (1 - likeness.pair))
    assert chance == pytest.approx(normal_tail((4 - mean) / math.sqrt(variance)))


def test_labels_that_are_all_equal_are_no_evidence() -> None:
    """A single class cannot be in or out of order."""
    likeness = Likeness.of_labels([9, 0])
    assert likeness is not None
    assert likeness.excess(8.0, Graph(8, 7)) == (0.0, 1.0)


def test_too_few_labels_are_not_judged() -> None:
    """Three labels have no fourth moment."""
    assert Likeness.of_labels([2, 1]) is None


def test_what_grows_beyond_the_numbers_has_grown() -> None:
    """Infinity is a size like any other."""
    assert growth([1.0, 1e100, 1e200, math.inf]) == pytest.approx(1.0, abs=1e-3)
    assert growth([0.0, 0.0]) == growth([math.inf, math.inf]) == 0.0


def test_homogeneity_is_pearsons_test() -> None:
    """The p-value of a 2x2 table with one degree of freedom is that of a squared normal."""
    one, other = torch.tensor([30.0, 70.0]), torch.tensor([50.0, 50.0])
    statistic = 200 * (30 * 50 - 70 * 50) ** 2 / (100 * 100 * 80 * 120)
    assert homogeneity(one, other) == pytest.approx(2 * normal_tail(math.sqrt(statistic)), rel=1e-9)


def test_an_empty_side_is_like_anything() -> None:
    """Nothing seen is no evidence."""
    assert homogeneity(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])) == 1.0


def test_absence_is_the_hypergeometric_chance() -> None:
    """Two of ten places, none of them among the six inside: 4/10 * 3/9."""
    assert absence(2, inside=6, outside=4) == pytest.approx(4 / 10 * 3 / 9)


def test_more_samples_than_places_outside_cannot_all_lie_there() -> None:
    """What is impossible has no chance."""
    assert absence(5, inside=6, outside=4) == 0.0


def test_all_looks_together_spend_the_error_and_no_more() -> None:
    """The shares of endlessly many looks add up to alpha."""
    assert sum(spent(0.05, look) for look in range(1, 10_000)) == pytest.approx(0.05, rel=1e-3)
