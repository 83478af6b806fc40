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
_BEFORE = ("__init__", "setup", "prepare_data", "configure_model", "configure_optimizers")
_THAWS = re.compile(r"unfreeze|thaw")
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
    if "code" in effects and _keeps_statistics(module):
        effects.add("norm")
    return next((one for one in ("noise", "norm", "code") if one in effects), None)


def is_norm(module: nn.Module) -> bool:
    """Returns whether it normalizes with running statistics in eval mode."""
    return isinstance(module, _NormBase) and module.running_mean is not None


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether it is a norm of the user's own, with numbers beside its weights."""
    is_norm = "norm" in type(module).__name__.lower()
    return is_norm and any(one.is_floating_point() for one in module.buffers(recurse=False))


@functools.cache
def can_thaw(kind: type) -> bool:
    """Returns whether code of this class frees frozen parameters, once the run goes on."""
    if any(base.__name__ == "BaseFinetuning" for base in kind.__mro__):
        return True
    is_ours = kind.__module__.startswith(__name__.partition(".")[0] + ".")
    return not is_ours and any(map(_thaws, _methods(kind, besides=_BEFORE)))


_OWN_KINDS = (_NormBase, _DropoutNd, nn.RNNBase, nn.MultiheadAttention, nn.RReLU)


@functools.cache
def _names_beside_mode(kind: type) -> tuple[frozenset[str], ...]:
    """For every method that reads ``training``, all names that it uses.

    Classes of the frameworks are left out: of those, the ones that matter are known by name.
    """
    found = (frozenset(_names(code)) for code in _methods(kind, besides=_INNOCENT))
    return tuple(names for names in found if "training" in names)


def _methods(kind: type, besides: tuple[str, ...]) -> Iterator[CodeType]:
    for base in kind.__mro__:
        if f"{base.__module__}.".startswith(FRAMEWORKS):
            continue
        for name, value in vars(base).items():
            function = inspect.unwrap(getattr(value, "__func__", value))
            if isinstance(function, FunctionType) and name not in besides:
                yield function.__code__


def _names(code: CodeType) -> Iterator[str]:
    for one in _nested(code):
        yield from one.co_names


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _thaws(code: CodeType) -> bool:
    """Whether it unfreezes, or sets ``requires_grad`` to anything but False."""
    if any(map(_THAWS.search, _names(code))):
        return True
    sets = [one for one in _nested(code) if any("requires_grad" in name for name in one.co_names)]
    constants = [one for part in sets for one in part.co_consts]
    flags = [one for one in constants if isinstance(one, bool)]
    return bool(sets) and (True in flags or False not in flags)


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
