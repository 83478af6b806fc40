"""Dropout that is written by hand, told by what it does: a random mask, and a factor beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

DRAWS = ("rand", "rand_like", "bernoulli", "bernoulli_")
_PRODUCTS = ("mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply")
_FILLS = ("masked_fill", "masked_fill_", "where")
_LIKE = ("to", "type_as", "expand_as", "view_as")  # the other tensor is but a model of the result
_FEW = 30  # numbers, of which no share is known
_MOST = 0.95  # kept: a factor that makes up for more cannot be told from none
_SURE = 4.0  # standard errors


@dataclass(frozen=True)
class _Drawn:
    """What comes of random numbers alone, or of something that was multiplied by them.

    Attributes:
        numbers: How many were drawn.
        kept: The share of it that is not 0, once something was multiplied by it.
        of: What was.
    """

    numbers: int
    kept: float | None = None
    of: int | None = None


class RandomMasks:
    """Follows random numbers to where they drop a share of something and scale up what is left.

    A mask that corrupts data is not scaled, and noise drops nothing: only dropout does both.
    """

    def __init__(self) -> None:
        self._drawn: Any = WeakTensorKeyDictionary()

    def follow(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> Any:
        """Takes up a call; returns the storage of what was dropped from, if it completes dropout.

        Args:
            name: What function was called.
            args: What it was given,
            kwargs: and by name.
            result: What it has returned.
        """
        if not isinstance(result, Tensor):
            return None
        if name in DRAWS:
            if not (name == "bernoulli" and _is_varied(args)):
                self._drawn[result] = _Drawn(result.numel())
            return None
        given = list(_tensors((*args, *kwargs.values()))) if len(self._drawn) else []
        known = [one for one in map(self._drawn.get, given) if one is not None]
        if not known:
            return None
        if known[0].kept is not None:
            factor = _factor(name, args) if len(given) == 1 else 1.0
            return known[0].of if _makes_up(factor, known[0].kept, known[0].numbers) else None
        if len(known) == len(given) or name in _LIKE:
            self._drawn[result] = replace(known[0], numbers=min(one.numbers for one in known))
        elif name in _PRODUCTS + _FILLS and len(known) == 1 and result.is_floating_point():
            return self._multiplied(name, given, known[0], result)
        return None

    def _multiplied(self, name: str, given: list[Tensor], drawn: _Drawn, result: Tensor) -> Any:
        """Takes up what was multiplied by random numbers; it may still be scaled."""
        mask = next(one for one in given if one in self._drawn)
        other = next(one for one in given if one is not mask)
        of = other.untyped_storage().data_ptr()
        scale, kept = _two_values(mask, is_hole=name.startswith("masked_fill"))
        if scale == 1 and drawn.numbers >= _FEW:
            self._drawn[result] = _Drawn(drawn.numbers, kept, of)
        return of if _makes_up(scale, kept, drawn.numbers) else None


def _is_varied(args: tuple[Any, ...]) -> bool:
    """Returns whether units are drawn with probabilities of their own: that is no dropout."""
    return len(args) == 1 and isinstance(args[0], Tensor) and bool((args[0] != args[0].max()).any())


def _factor(name: str, args: tuple[Any, ...]) -> float:
    """Returns what number a call multiplies by."""
    numbers = [float(one) for one in args if isinstance(one, (int, float)) and one]
    if len(numbers) != 1:
        return 1.0
    is_product, is_quotient = name in _PRODUCTS, name.strip("_") in ("div", "truediv", "divide")
    return numbers[0] if is_product else 1 / numbers[0] if is_quotient else 1.0


def _two_values(mask: Tensor, *, is_hole: bool) -> tuple[float, float]:
    """Returns the one value of a mask beside 0, and the share that has it; NaN if it has more."""
    values = mask.detach().double()
    values = 1 - values if is_hole else values
    some = values != 0
    high, low, kept = torch.stack(
        [values.max(), values.masked_fill(~some, math.inf).min(), some.double().mean()]
    ).tolist()
    return (high if high == low else math.nan), kept


def _makes_up(scale: float, kept: float, numbers: int) -> bool:
    """Returns whether a factor keeps the mean of what a mask has left so much of."""
    if numbers < _FEW or not 1 / _MOST < scale < math.inf:
        return False
    share = 1 / scale
    return abs(kept - share) < _SURE * math.sqrt(share * (1 - share) / numbers)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for one in values:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _tensors(one)
