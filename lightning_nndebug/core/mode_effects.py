"""What the mode of a module, train or eval, changes in what the module does."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

Effect = Literal["noise", "norm", "code"]

FRAMEWORKS = ("torch.", "lightning.", "pytorch_lightning.", "torchmetrics.")
_INNOCENT = ("train", "eval", "extra_repr", "__init__", "__repr__")
_NOISE = re.compile(r"drop|noise|jitter|prob|^p$")


def reads_mode(kind: type) -> bool:
    """Returns whether the code of this class asks for ``self.training``."""
    return bool(_names_beside_mode(kind)) or issubclass(kind, _OWN_KINDS)


def effect(module: nn.Module) -> Effect | None:
    """Returns what the mode of this module switches, apart from its submodules; None if nothing.

    ``noise``: randomness, such as dropout. ``norm``: from the statistics of the batch to running
    ones. ``code``: whatever the author of the class has written behind ``if self.training``.
    """
    if isinstance(module, _NormBase):
        return None if module.running_mean is None else "norm"
    if isinstance(module, _DropoutNd):
        return "noise" if module.p > 0 else None
    if isinstance(module, nn.RNNBase):
        return "noise" if module.dropout > 0 and module.num_layers > 1 else None
    if isinstance(module, nn.MultiheadAttention):
        return "noise" if module.dropout > 0 else None
    if isinstance(module, nn.RReLU):
        return "noise" if module.lower < module.upper else None
    kind: type = type(module)
    effects = {_written_effect(module, names) for names in _names_beside_mode(kind)}
    return "noise" if "noise" in effects else "code" if "code" in effects else None


def is_norm(module: nn.Module) -> bool:
    """Returns whether it normalizes with running statistics in eval mode."""
    return isinstance(module, _NormBase) and module.running_mean is not None


_OWN_KINDS = (_NormBase, _DropoutNd, nn.RNNBase, nn.MultiheadAttention, nn.RReLU)


@functools.cache
def _names_beside_mode(kind: type) -> tuple[frozenset[str], ...]:
    """For every method that reads ``training``, all names that it uses.

    Classes of the frameworks are left out: of those, the ones that matter are known by name.
    """
    found = []
    for base in kind.__mro__:
        if f"{base.__module__}.".startswith(FRAMEWORKS):
            continue
        for name, value in vars(base).items():
            function = inspect.unwrap(getattr(value, "__func__", value))
            if isinstance(function, FunctionType) and name not in _INNOCENT:
                names = frozenset(_names(function.__code__))
                if "training" in names:
                    found.append(names)
    return tuple(found)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _written_effect(module: nn.Module, names: frozenset[str]) -> Effect | None:
    """Judges a method by the amounts that it reads: a rate of 0 makes no noise."""
    noise = [name for name in names if _NOISE.search(name)]
    amounts = [one for one in (_attribute(module, name) for name in noise) if one is not None]
    if amounts:
        # A submodule speaks for itself.
        return "noise" if any(isinstance(one, float) and one > 0 for one in amounts) else None
    if any("drop" in name for name in noise):
        return "noise"  # `F.dropout(x, 0.5, self.training)`: the amount is written out
    return None if any("checkpoint" in name for name in names) else "code"


def _attribute(module: nn.Module, name: str) -> float | nn.Module | None:
    for owner in (module, getattr(module, "config", None), getattr(module, "hparams", None)):
        value: Any = None
        with suppress(Exception):  # a property that is not ready
            value = getattr(owner, name, None)
        if isinstance(value, nn.Module):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None
