"""``nndebug run``: an unmodified script, with the suite in each of its Trainers."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from . import zero_code

HALTED = 86  # the exit code of a run that a finding has stopped


def run(
    target: str, arguments: Sequence[str], options: Mapping[str, Any], *, module: bool, quiet: bool
) -> int:
    """Runs a script as ``python`` would, and returns its exit code, or 86 if it was halted.

    Processes that the script starts, as ``strategy="ddp"`` does, inherit the suite with the
    environment. What it raises goes through.

    Args:
        target: Path of the script, or name of the module.
        arguments: Its arguments.
        options: Options of the suite.
        module: Whether the target is the name of a module, as after ``python -m``.
        quiet: Whether to keep standard output clean: what the script prints goes to stderr.
    """
    os.environ[zero_code.VARIABLE] = "1"
    os.environ[zero_code.OPTIONS] = json.dumps(dict(options))
    sys.argv = [target, *arguments]
    sys.path[0] = str(Path.cwd() if module else Path(target).resolve().parent)
    try:
        with redirect_stdout(sys.stderr) if quiet else nullcontext():
            if module:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(target, run_name="__main__")
    except SystemExit as exit_:
        return _code(exit_)
    except Exception as error:
        if not _is_halt(error):
            raise
        return HALTED
    return 0


def _code(exit_: SystemExit) -> int:
    if exit_.code is None or isinstance(exit_.code, int):
        return exit_.code or 0
    sys.stderr.write(f"{exit_.code}\n")  # as Python does
    return 1


def _is_halt(error: Exception) -> bool:
    from .core.findings import TrainingHalted

    # From spawned processes an error comes back as the text of its traceback.
    return isinstance(error, TrainingHalted) or TrainingHalted.__qualname__ in str(error)
