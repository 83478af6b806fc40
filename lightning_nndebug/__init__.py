"""A linter for training runs: Lightning callbacks that name what makes a run sick."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports torch and the detectors when they are first asked for.

    So that ``NNDEBUG`` costs nothing where it is off, ``nndebug report`` needs no torch, and a
    script under ``nndebug run`` imports torch and Lightning itself, in its own order.
    """
    if name.startswith("__") or find_spec(f"{__name__}.{name}"):  # a module imports itself
        raise AttributeError(name)
    names = import_module(f"{__name__}.public")
    try:
        return getattr(names, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
