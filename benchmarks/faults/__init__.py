"""The fault zoo: programs with one fault each, after real reports, and the same programs with it fixed.

A fault is a function of `fixed` that returns a `Program`: sick when False, and what a sensible
practitioner would call healthy when True. `expected` are the codes that may lead the findings,
the best one first. The programs are written without a look at the rules: they judge them.
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
        make: Builds the program, fixed or not.
    """

    name: str
    family: str
    expected: tuple[str, ...]
    source: str
    make: Callable[[bool], Program]

    @property
    def held_out(self) -> bool:
        """Whether it is in the half that must not be used to choose limits."""
        return held_out(self.name)


FAULTS: dict[str, Fault] = {}


def fault(*expected: str, source: str) -> Callable[[Callable[[bool], Program]], Callable]:
    """Registers a function of ``fixed`` under its name."""

    def register(make: Callable[[bool], Program]) -> Callable[[bool], Program]:
        name = make.__name__
        if name in FAULTS:
            raise ValueError(f"There are two faults of the name {name!r}.")
        FAULTS[name] = Fault(name, make.__module__.rpartition(".")[2], expected, source, make)
        return make

    return register


def all_faults() -> dict[str, Fault]:
    """Imports every family and returns the faults by name."""
    for module in pkgutil.iter_modules(__path__):
        if module.name != "mutations":
            importlib.import_module(f"{__name__}.{module.name}")
    return FAULTS


def held_out(name: str) -> bool:
    """Whether a hash of the name falls into the held-out half."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 1
