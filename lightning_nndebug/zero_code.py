"""Zero code: ``NNDEBUG=1 python train.py`` gives every Trainer the suite.

Lightning asks this module for callbacks in every Trainer of every environment that has the package
installed. So it imports nothing until it is asked for, and never raises.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

VARIABLE = "NNDEBUG"
OPTIONS = "NNDEBUG_OPTIONS"
# What the suites of this process have found; ``nndebug run`` prints it.
FOUND: list[Any] = []
_OFF = ("", "0", "false", "no", "off")


def callbacks() -> list[Any]:
    """Returns the suite if ``NNDEBUG`` is set, with the options in ``NNDEBUG_OPTIONS`` (JSON)."""
    if os.environ.get(VARIABLE, "").strip().lower() in _OFF:
        return []
    try:
        from .suite import ZeroCode

        return [ZeroCode(**json.loads(os.environ.get(OPTIONS) or "{}"))]
    except Exception:
        logging.getLogger("lightning_nndebug").exception(
            "nndebug could not start from %s; the run goes on without it.", VARIABLE
        )
        return []
