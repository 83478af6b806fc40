"""By how much the values of validation differ from those of training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 32  # of both, at least


@dataclass(frozen=True)
class Skew:
    """How two sets of rows differ.

    Attributes:
        shift: By how many standard deviations the mean of a column differs, in the median column.
        ratio: By what factor its standard deviation does, likewise; below 1 if validation has less.
        column: The column that differs most in its place, relative to where most of it lies,
        distance: by how many interquartile ranges; 0 where columns are pixels.
    """

    shift: float
    ratio: float
    column: int
    distance: float


def skew(train: Tensor, validation: Tensor, *, is_image: bool) -> Skew | None:
    """Compares column by column; None if there is too little to compare."""
    if len(train) < _ROWS or len(validation) < _ROWS or train.shape[1] != validation.shape[1]:
        return None
    one, other = train.double(), validation.double()
    if not (one.isfinite().all() and other.isfinite().all()):
        return None
    spreads = torch.stack([one.std(0), other.std(0)])
    varied = (spreads > 1e-6 * (one.mean(0).abs() + other.mean(0).abs())).any(0)
    if not varied.any():
        return None
    one, other, spreads = one[:, varied], other[:, varied], spreads[:, varied]
    pooled = (spreads**2).mean(0).sqrt()
    shift = (other.mean(0) - one.mean(0)).abs() / pooled
    both = (spreads > 1e-6 * pooled).all(0)
    ratios = (spreads[1] / spreads[0])[both]
    ratio = float(ratios.log().median().exp()) if len(ratios) else 1.0
    distance = torch.zeros_like(shift)
    if not is_image:
        middle = torch.tensor([0.25, 0.5, 0.75], dtype=one.dtype)
        a, b = one.quantile(middle, dim=0), other.quantile(middle, dim=0)
        range_ = torch.maximum(a[2] - a[0], b[2] - b[0])
        dense = torch.minimum(a[2] - a[0], b[2] - b[0]) > 0
        distance = torch.where(dense, (a[1] - b[1]).abs() / range_, 0.0)
    column = int(distance.argmax())
    place = int(varied.nonzero().flatten()[column])
    return Skew(float(shift.median()), ratio, place, float(distance[column]))
