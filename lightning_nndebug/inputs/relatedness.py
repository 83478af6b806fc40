"""What labels have to do with inputs: nothing, as they should, or everything."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core.measurements.features import Likeness
from ..core.measurements.rows import Rows

_NEIGHBOURS = 5
_SHUFFLES = 200
_EQUAL = 1e-6  # of the variance is left between a label and a column that is the label
_ODD = 8  # samples with another label than the most frequent one, at least
_CONTINUOUS = 0.5  # of the rows have a value of their own
_SEVERAL = 4  # columns
_COMPARED = 256  # rows
_BOTH = 100  # samples of training and of validation, to hold columns against the target in both
_FADED, _LEAST = 0.25, 0.1  # of a correlation is gone; and the least doubt about one near 1
_MOVED = 0.2  # between two distributions; of the column itself, twice as much
_BEYOND_DOUBT, _KNOWN, _AS_BEFORE = 6.0, 4.0, 2.5  # standard errors
_CLASSES = 32  # whose columns are looked for, at most
_WHOLE = 0.1  # of a step: so near are numbers to whole ones; as a share, to be spread evenly
_TELLING = 20.0  # times as much of a column depends on the class as by chance
_ROUGH = 0.5  # of the differences between neighbours that there would be in random order


def relations(likeness: Likeness, target: str, *, least: int, others: int) -> dict[str, float]:
    """Returns how the labels of samples that are alike go together, by what they are alike in.

    Args:
        likeness: What is known of the samples.
        target: Where their labels have to be.
        least: How many samples it takes,
        others: and how many that are not of the largest class: else hardly any neighbour of a rare
            one could be of that class.
    """
    known: dict[str, tuple[Tensor, Tensor, bool]] = {}
    rows, features = likeness.rows, likeness.features
    if rows is not None and rows.target == target:
        given = rows.labels if rows.labels is not None else rows.answers
        if given is not None:
            known["their values"] = rows.train, given, rows.is_class and given.dim() == 1
    if features is not None and features.target == target:
        labels = torch.cat(features.labels).cpu()
        is_class = features.is_class or bool(((labels == 0) | (labels == 1)).all())
        is_class = is_class and labels.dim() == 1
        if len({one.shape[1] for one in features.rows}) == 1:
            known["features"] = torch.cat(features.rows).cpu(), labels, is_class
        if len(features.tokens) == len(features.rows):
            known["words"] = torch.cat(features.tokens).cpu(), labels, is_class
    found = {
        by: relation(given, labels, is_class=is_class, is_standardized=by != "words")
        for by, (given, labels, is_class) in known.items()
        if len(labels) >= least
        and bool(given.isfinite().all() and labels.isfinite().all())
        and bool((labels != labels[0]).any())
        and not (is_class and len(labels) - largest_class(labels) < others)
    }
    if "their values" in found and rows is not None and rows.parts is not None:
        _, masks, _ = known["their values"]
        places = (_agreement_of_places(rows.parts[:, i], masks) for i in range(rows.parts.shape[1]))
        found["the look of each place"] = max(places, key=abs)
    return found


def relation(
    rows: Tensor, labels: Tensor, *, is_class: bool, is_standardized: bool = True
) -> float:
    """Returns how much more alike the labels of near neighbours are than those of any others.

    In standard deviations of what random labels would give, found by shuffling them; the share of
    equal ones for classes, the product of ranks for values, or of ranks by how far they are from
    the median where that says more, and that of deviations for several values. Below 0 if they are
    less alike, which is a relation too: that of a parity.
    """
    x = rows.double()
    if is_standardized:
        x = (x - x.mean(0)) / x.std(0).clamp_min(1e-12)
    apart = torch.cdist(x, x).fill_diagonal_(math.inf)
    near = apart.topk(_NEIGHBOURS, largest=False).indices
    if is_class or labels.dim() > 1:
        views = [labels if is_class else _directions(labels)]
    else:  # to the left or to the right, by chance, may be a small or a large step
        views = [_ranks(labels), _ranks((labels - labels.median()).abs())]

    def agreement(one: Tensor) -> Tensor:
        mine, theirs = one.unsqueeze(1), one[near]
        return (mine == theirs).double().mean() if is_class else (mine * theirs).mean()

    return max((_beyond_chance(agreement, one) for one in views), key=abs)


def largest_class(labels: Tensor) -> int:
    """Returns how many samples the largest class has."""
    return int(torch.unique(labels, return_counts=True)[1].max())


def leak(rows: Tensor, labels: Tensor, *, is_class: bool) -> list[int]:
    """Returns the columns that are the label: one that equals it, or one for each class.

    None where there is nothing beside them: to say what was shown may be the task.
    """
    values, counts = torch.unique(labels, return_counts=True)
    varying = int((rows != rows[:1]).any(0).sum())
    if varying < 2 or len(labels) - largest_class(labels) < _ODD:  # noqa: PLR2004
        return []
    if not is_class:
        close = (rows.double() - labels.unsqueeze(1)).abs().amax(0)
        return [int(one) for one in (close <= _EQUAL * labels.std()).nonzero().flatten()[:1]]
    whole = _same(rows, labels)
    if whole or not 2 < len(counts) <= _CLASSES:  # noqa: PLR2004
        return whole[:1]
    frequent = values[counts >= _ODD]
    found = [_same(rows, (labels == value).double()) for value in frequent]
    beside = varying > sum(map(len, found))
    return [one[0] for one in found] if len(found) > 1 and all(found) and beside else []


def row_number(rows: Rows) -> int | None:
    """Returns a column that counts the rows of a file in which classes come one after the other.

    Its values are evenly spread steps of a ladder, each of them taken once, and tell all classes
    apart, of which the other columns know something too. None where one of these follows it within
    the classes as well: it may be time, or what they are made of.
    """
    x, y, new_x = rows.train.double(), rows.labels, rows.validation
    if rows.is_image or rows.lag or y is None or not rows.is_class:
        return None
    counts = torch.unique(y, return_counts=True)[1]
    if not 2 <= len(counts) <= _CLASSES or counts.min() < _ODD:  # noqa: PLR2004
        return None
    both = x if new_x is None else torch.cat([x, new_x.double()])
    ordered = both.sort(0).values
    steps = (ordered[1:] - ordered[:-1]).amin(0)  # 0 where a value comes twice
    ladder = (ordered - ordered[0]) / steps.clamp_min(1e-300)
    even = torch.linspace(0, 1, len(ladder)).double().unsqueeze(1)
    is_number = (steps > 0) & ((ladder - ladder.round()).abs().amax(0) < _WHOLE)
    is_number &= (ladder / ladder[-1].clamp_min(1) - even).abs().amax(0) < _WHOLE
    for column in is_number.nonzero().flatten().tolist():
        by_number = x[:, column].argsort()
        changes = int((y[by_number][1:] != y[by_number][:-1]).sum())
        others = (x != x[:1]).any(0) & (torch.arange(x.shape[1]) != column)
        if changes >= len(counts) or not others.any():
            continue
        beside, own = x[by_number][:, others], y[by_number]
        means = {float(c): beside[own == c].mean(0) for c in torch.unique(own)}
        within = beside - torch.stack([means[c] for c in own.tolist()])
        known = len(x) * (1 - within.var(0) / beside.var(0)) / (len(counts) - 1)
        if known.max() > _TELLING and _roughness(within).min() > _ROUGH:
            return int(column)
    return None


def faded(rows: Rows) -> tuple[int, float, float] | None:
    """Returns a column that tells far more about the target in training than in validation.

    With how much it tells in either, as a correlation of ranks; for yes and no, which may be of
    other proportions, the share of pairs that it puts in order, less that of the others. None
    where other columns tell less as well, or have other values: the world may have changed.
    """
    x, y, new_x, new_y = rows.train, rows.labels, rows.validation, rows.validation_labels
    if rows.is_image or rows.lag or y is None or new_x is None or new_y is None:
        return None
    if min(len(x), len(new_x)) < _BOTH or not _are_finite(x, y, new_x, new_y):
        return None
    if _follow_on(new_y):  # the next is like the last: so few say little of all others
        return None
    if len(torch.unique(y)) == 2 and rows.is_class:  # noqa: PLR2004
        (told, error), (new, new_error) = _ordering(x, y), _ordering(new_x, new_y)
    elif not rows.is_class:
        (told, error), (new, new_error) = _rank_correlation(x, y), _rank_correlation(new_x, new_y)
    else:
        return None
    kept = new * told.sign()
    drop = told.abs() - kept
    z = drop / (error**2 + new_error**2).sqrt()
    # What has two values is no mean of targets; and of few groups, it may go with one by chance.
    is_mean = torch.tensor([len(column.unique()) > 2 for column in x.T])  # noqa: PLR2004
    is_faded = (drop > _FADED) & (z > _BEYOND_DOUBT) & is_mean
    worst = int(torch.where(is_faded, drop, 0.0).argmax())
    # As much as before, and more than if all had faded alike, as under noise in the labels.
    share = float(kept[worst] / told[worst].abs().clamp_min(1e-12))
    more = (kept - share * told.abs()) / ((share * error) ** 2 + new_error**2).sqrt()
    keeps = (told.abs() > _KNOWN * error) & (z.abs() < _AS_BEFORE) & (more > _AS_BEFORE)
    has_moved = _distances(x, new_x) > torch.where(is_faded, 2 * _MOVED, _MOVED)
    if not is_faded.any() or has_moved.any() or keeps.sum() < (z.abs() > _KNOWN).sum():
        return None
    return worst, float(told[worst]), float(new[worst])


def are_distinct(rows: Tensor) -> bool:
    """Tells whether two rows cannot well be equal by chance.

    Either some column hardly has two equal values, or rows that differ at all do so in several
    columns. Of a few categories, there are as many near copies as there are copies.
    """
    rows = torch.unique(rows, dim=0)[:_COMPARED]
    if len(rows) < 2:  # noqa: PLR2004
        return False
    ordered = rows.sort(0).values
    different = 1 + (ordered[1:] != ordered[:-1]).sum(0)
    if (different > _CONTINUOUS * len(rows)).any():
        return True
    apart = torch.stack([(rows != one).sum(1) for one in rows]).fill_diagonal_(rows.shape[1] + 1)
    return bool(apart.amin(1).median() >= _SEVERAL)


def _are_finite(*given: Tensor) -> bool:
    return all(bool(one.isfinite().all()) for one in given)


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Returns how far the distributions of each column are apart (Kolmogorov and Smirnov)."""
    one, other = (x.T.contiguous().sort(1).values for x in (rows, others))
    both = torch.cat([one, other], dim=1)
    shares = (torch.searchsorted(x, both, right=True) / x.shape[1] for x in (one, other))
    return (next(shares) - next(shares)).abs().amax(1)


def _roughness(columns: Tensor) -> Tensor:
    """Returns how unlike neighbours are in each column: 1 in random order, 0 along a curve."""
    return (columns[1:] - columns[:-1]).square().mean(0) / (2 * columns.var(0)).clamp_min(1e-300)


def _follow_on(values: Tensor) -> bool:
    """Tells whether values that are next to each other are alike, as those of a series."""
    y = _ranks_of(values.unsqueeze(1))[:, 0]
    y = (y - y.mean()) / y.std().clamp_min(1e-12)
    return float((y[1:] * y[:-1]).mean()) > _KNOWN / math.sqrt(len(y))


def _ordering(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns by how many more pairs of yes and no a column orders, and the standard error."""
    yes = labels == labels.max()
    many, others = float(yes.sum()), float((~yes).sum())
    if min(many, others) < _ODD:
        nothing = torch.zeros(rows.shape[1]).double()
        return nothing, nothing + 1
    area = (_ranks_of(rows)[yes].mean(0) - (many + 1) / 2) / others
    # Hanley, McNeil 1982; of a few that are all in order, not all are known to be.
    best = torch.maximum(area, 1 - area).clamp(max=1 - 0.5 / min(many, others))
    first, second = best / (2 - best), 2 * best**2 / (1 + best)
    spread = best * (1 - best) + (many - 1) * (first - best**2) + (others - 1) * (second - best**2)
    return 2 * area - 1, 2 * (spread / (many * others)).clamp_min(1e-9).sqrt()


def _rank_correlation(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns Spearman's correlation of each column with values, and the standard error."""
    x, y = _ranks_of(rows), _ranks_of(values.unsqueeze(1))
    x, y = x - x.mean(0), y - y.mean(0)
    size = ((x**2).sum(0) * (y**2).sum(0)).sqrt()
    told = torch.where(size > 0, (x * y).sum(0) / size.clamp_min(1e-12), 0.0)
    return told, (1 - told**2).clamp_min(_LEAST) * math.sqrt(1.06 / (len(rows) - 3))


def _ranks_of(columns: Tensor) -> Tensor:
    """Returns the ranks within each column, from 1; equal values have their mean rank."""
    ordered = columns.double().T.contiguous().sort(1).values
    values = columns.double().T.contiguous()
    low, high = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return ((low + high + 1) / 2).T.double()


def _same(rows: Tensor, labels: Tensor) -> list[int]:
    """Returns the columns that are the label, up to scale and offset."""
    x = rows.double() - rows.double().mean(0)
    y = labels - labels.mean()
    size = (x**2).sum(0)
    left = 1 - (y @ x) ** 2 / (size * (y @ y)).clamp_min(1e-300)
    return [int(one) for one in ((left < _EQUAL) & (size > 0)).nonzero().flatten()]


def _agreement_of_places(parts: Tensor, masks: Tensor) -> float:
    """Returns how much more what is masked differs from what is not than by another one's mask."""
    x, y = parts.double() - parts.double().mean(0), masks - masks.mean(0)
    x = x / x.std().clamp_min(1e-12)
    return _beyond_chance(lambda one: (x * one).mean(), y)


def _beyond_chance(agreement: Callable[[Tensor], Tensor], y: Tensor) -> float:
    """Returns an agreement, in standard deviations of what it is in random order."""
    own = torch.Generator().manual_seed(0)
    shuffled = [agreement(y[torch.randperm(len(y), generator=own)]) for _ in range(_SHUFFLES)]
    chance = torch.stack(shuffled)
    return float((agreement(y) - chance.mean()) / chance.std().clamp_min(1e-12))


def _directions(values: Tensor) -> Tensor:
    apart = values - values.mean(0)
    size = (apart**2).sum(0).sqrt()
    return apart / size.clamp_min(1e-12)


def _ranks(values: Tensor) -> Tensor:
    ranks = values.argsort().argsort().double()
    return (ranks - ranks.mean()) / ranks.std()
