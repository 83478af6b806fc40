"""The healthy zoo: ordinary and tricky good training runs, on all of which the linter is silent.

Every false positive ever found moves in here: add a function that returns the `Program`, decorated
with `healthy`, to the module of its theme, and say in its docstring what is tricky about it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from program import Program

PROGRAMS: dict[str, Callable[[], Program]] = {}


def healthy(factory: Callable[[], Program]) -> Callable[[], Program]:
    """Registers a program under the name of its function."""
    if factory.__name__ in PROGRAMS:
        raise ValueError(f"There are two healthy programs of the name {factory.__name__!r}.")
    PROGRAMS[factory.__name__] = factory
    return factory


def all_programs() -> dict[str, Callable[[], Program]]:
    """Imports every module of the zoo and returns its programs by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return PROGRAMS
