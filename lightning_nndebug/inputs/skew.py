"""By how much the values of validation differ from those of training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 32  # of both, at least
_IQR = 1.349  # interquartile range of a normal distribution with deviation 1
_SPLITS = 10  # of each set
_CLOSE = 0.1  # and no distance to speak of
_WIDE = 10.0  # times as wide: by then, halves of one set have little in common
OFTEN, _COPIES = 0.03, 8  # the share of a value, and how often it is there: that is no chance
_FAR = 2.0  # interquartile ranges from the next value
_TABLE = 4  # columns; a plane or a moment at which a function is looked at has fewer
_FLAT = 0.5  # of the usual deviation: pixels that vary less are background


@dataclass(frozen=True)
class Skew:
    """How two sets of rows differ.

    Attributes:
        distance: How far apart the distributions of a column are, in the median column: the
            Bhattacharyya distance of normal distributions with their places and deviations.
        shift: By how many deviations their places differ, likewise,
        ratio: and by what factor their deviations; below 1 if validation has less.
        column: The column that differs most in its place,
        gap: by how many interquartile ranges; 0 where columns are pixels.
        widest: The column that validation spreads over a much wider range,
        width: by what factor; likewise.
    """

    distance: float
    shift: float
    ratio: float
    column: int
    gap: float
    widest: int
    width: float


def skew(train: Tensor, validation: Tensor, *, is_image: bool) -> Skew | None:
    """Compares column by column; None if there is too little to compare."""
    if len(train) < _ROWS or len(validation) < _ROWS or train.shape[1] != validation.shape[1]:
        return None
    both = train.double(), validation.double()
    if not all(one.isfinite().all() for one in both):
        return None
    return _compared(*both, is_image=is_image)


def steps(rows: Tensor, lag: int) -> Tensor:
    """Returns rows as they are, or what windows of a series gain from one moment to the next.

    Later windows have another level, by a trend or a season, and are too much alike to tell whether
    that is chance; steps are the same at all times, and have the same unit.
    """
    return rows[:, lag:] - rows[:, :-lag] if lag else rows


def filled(train: Tensor, validation: Tensor) -> tuple[int, float, float] | None:
    """Returns a column that often has one value in validation, far from all that training has.

    With the value, and its share. Of columns that repeat themselves in training nothing is known.
    """
    values = validation.mode(dim=0).values
    shares = (validation == values).double().mean(0)
    low, high = train.amin(0), train.amax(0)
    ranges = train.quantile(0.75, dim=0) - train.quantile(0.25, dim=0)
    far = torch.maximum(low - values, values - high) > _FAR * ranges
    usable = far & (ranges > 0) & (shares > OFTEN) & (shares * len(validation) >= _COPIES)
    for column in usable.nonzero().flatten().tolist():
        if len(torch.unique(train[:, column])) > len(train) / 2:
            return column, float(values[column]), float(shares[column])
    return None


def emptied(train: Tensor, validation: Tensor) -> int | None:
    """Returns a column with a single value in validation, that hardly has one twice in training."""
    if train.shape[1] < _TABLE or len(validation) < _ROWS:
        return None
    for column in (validation == validation[:1]).all(0).nonzero().flatten().tolist():
        if len(torch.unique(train[:, column])) > len(train) / 2:
            return int(column)
    return None


def is_chance(found: Skew, train: Tensor, validation: Tensor, *, is_image: bool) -> bool:
    """Tells whether random halves of one of the sets differ by half as much, just once."""
    own = torch.Generator().manual_seed(0)
    for rows in (train.double(), validation.double()):
        for _ in range(_SPLITS):
            one, other = rows[torch.randperm(len(rows), generator=own)].tensor_split(2)
            halves = _compared(one, other, is_image=is_image)
            if halves is not None and (
                halves.distance > max(_CLOSE, found.distance / 2)
                or halves.gap > max(1.0, found.gap / 2)
                or halves.width > max(_WIDE, found.width / 2)
            ):
                return True
    return False


def _compared(one: Tensor, other: Tensor, *, is_image: bool) -> Skew | None:
    both = one, other
    quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    low, middle, high = torch.stack([one.quantile(quarters, dim=0) for one in both], dim=1)
    means, deviations = (torch.stack([f(one) for one in both]) for f in (_mean, _deviation))
    ranges = high - low
    # Tails are no matter; but where most values are the same, they are all there is.
    dense = (ranges > 0).all(0)
    places = torch.where(dense, middle, means)
    spreads = torch.where(dense, ranges / _IQR, deviations)
    pooled = spreads.square().mean(0).sqrt()
    varied = pooled > 1e-6 * means.abs().amax(0)
    if is_image:
        varied &= pooled > _FLAT * pooled.square().mean().sqrt()
    if not varied.any():
        return None
    shift = (places[1] - places[0]).abs() / pooled.clamp_min(1e-300)
    least = spreads.clamp_min(1e-3 * pooled)
    ratio = least[1] / least[0].clamp_min(1e-300)
    distance = shift.square() / 8 + 0.5 * (pooled.square() / least.prod(0).clamp_min(1e-300)).log()
    usable = dense & varied & (not is_image)
    gap = torch.where(usable, (middle[1] - middle[0]).abs() / ranges.amax(0), 0.0)
    # A narrower one is that of a later, shorter time.
    width = torch.where(usable, ranges[1] / ranges[0], 0.0)
    return Skew(
        distance=float(distance[varied].median()),
        shift=float(shift[varied].median()),
        ratio=float(ratio[varied].median()),
        column=int(gap.argmax()),
        gap=float(gap.max()),
        widest=int(width.argmax()),
        width=float(width.max()),
    )


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(0)


def _deviation(rows: Tensor) -> Tensor:
    return rows.std(0)
