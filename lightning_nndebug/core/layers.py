"""Numbers by parameter or module, brought to as many rows as fit on a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

ROWS = 48


def root_sum_square(values: Sequence[float]) -> float:
    """Returns the norm of the whole, from the norms of its parts."""
    return math.hypot(*values)


def condensed(
    values: Mapping[str, float],
    combine: Callable[[Sequence[float]], float] = root_sum_square,
    *,
    of_modules: bool = False,
) -> dict[str, float]:
    """Returns one number a layer, in the order given.

    Args:
        values: Numbers by dotted name. Parameters of one module become one row; if there are too
            many rows for a page, so do neighbours deep in the tree.
        combine: What makes one number of several.
        of_modules: Whether the names are those of modules, which have their rows to themselves.
    """
    names = {name: name if of_modules else name.rpartition(".")[0] or name for name in values}
    depth = max((one.count(".") for one in names.values()), default=0)
    while len(set(names.values())) > ROWS and depth:
        names = {name: ".".join(row.split(".")[:depth]) for name, row in names.items()}
        depth -= 1
    rows: dict[str, list[float]] = {}
    for name, value in values.items():
        rows.setdefault(names[name], []).append(value)
    return {name: combine(several) for name, several in list(rows.items())[:ROWS]}
