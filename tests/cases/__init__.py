"""One file per rule: ``sick()`` shows the illness, ``healthy()`` is the same with the printed fix.

Tests, rule pages and notebooks use the same file. Its name is the rule's code and name, such as
``grd102_vanishing_gradient``; both functions return a ``Program`` after the caller has seeded.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

CASES: dict[str, ModuleType] = {
    name: importlib.import_module(f"cases.{name}")
    for _, name, _ in pkgutil.iter_modules(__path__)
    if not name.startswith("_")
}
