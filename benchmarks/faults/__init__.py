"""The fault zoo: programs with one fault each, after real reports, and the same programs with it fixed.

A fault is a function of `fixed` that returns a `Program`: sick when False, and what a sensible
practitioner would call healthy when True. `expected` are the codes that may lead the findings,
the best one first. The programs are written without a look at the rules: they judge them. Those
in the folders `first` to `eighth` were written after the limits were chosen, too, in eight rounds;
nobody has looked at the last one since.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from program import Program

# Where several faults come from. The others name their report.
HUMBATOVA = "https://arxiv.org/abs/1910.11015 (taxonomy of real faults in deep learning systems)"
DEEPFD = "https://arxiv.org/abs/2205.01938 (DeepFD)"
AUTOTRAINER = "Zhang et al., AUTOTRAINER, ICSE 2021, https://github.com/shiningrain/AUTOTRAINER"
DEEPLOCALIZE = "https://arxiv.org/abs/2103.03376 (DeepLocalize)"
NEURALINT = "https://arxiv.org/abs/2105.08095 (NeuraLint)"
TRAINCHECK = "https://arxiv.org/abs/2506.14813 (TrainCheck)"
UMLAUT = "https://doi.org/10.1145/3411764.3445538 (UMLAUT)"
KARPATHY = "https://karpathy.github.io/2019/04/25/recipe/ (A recipe for training neural networks)"


@dataclass(frozen=True)
class Fault:
    """One faulty program and its fixed twin.

    Args:
        name: The name of its function.
        family: The module it is in, such as ``losses``.
        expected: Codes that may lead the findings, the best one first.
        source: Where the fault was reported.
        held_out: Whether it must not be used to choose limits, and has not been.
        make: Builds the program, fixed or not.
    """

    name: str
    family: str
    expected: tuple[str, ...]
    source: str
    held_out: bool
    make: Callable[[bool], Program]


FAULTS: dict[str, Fault] = {}


def fault(*expected: str, source: str) -> Callable[[Callable[[bool], Program]], Callable]:
    """Registers a function of ``fixed`` under its name."""

    def register(make: Callable[[bool], Program]) -> Callable[[bool], Program]:
        name = make.__name__
        if name in FAULTS:
            raise ValueError(f"There are two faults of the name {name!r}.")
        folder, _, family = make.__module__.rpartition(".")
        held_out = ".eighth." in folder
        FAULTS[name] = Fault(name, family, expected, source, held_out, make)
        return make

    return register


def all_faults() -> dict[str, Fault]:
    """Imports every family of every round and returns the faults by name."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        if module.name != f"{__name__}.mutations":
            importlib.import_module(module.name)
    return FAULTS


def is_held_out(name: str) -> bool:
    """Whether it is a fault or a mutant that nobody has looked at since the limits were chosen."""
    return FAULTS[name].held_out if name in all_faults() else _is_left_out(name)


def _is_left_out(name: str) -> bool:
    """Leaves out half of all names, by a hash: nobody chooses which."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 1
