"""Who called ``train()`` and ``eval()``, on which module, and when."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from . import sandbox
from .source import Line, nearest_line, outward, owner_of


@dataclass(frozen=True)
class ModeCall:
    """A call of ``train(mode)``, on a module and all that is in it.

    Attributes:
        time: When, on the clock of the one who recorded it.
        line: The line that called; None if it was Lightning, around a validation.
    """

    time: int
    line: Line | None


class ModeCalls:
    """Records the calls of ``train()`` and ``eval()`` from ``start`` to ``stop``.

    While anybody records, ``nn.Module.train`` is wrapped. Only the outermost call looks at the
    stack: those on the submodules, which it makes itself, cost a microsecond each.
    """

    def __init__(self) -> None:
        self.time = 0
        self._last: dict[bool, WeakKeyDictionary[nn.Module, ModeCall]] = {
            mode: WeakKeyDictionary() for mode in (True, False)
        }

    def start(self) -> None:
        """Begins to record."""
        if not _recorders:
            _wrap()
        _recorders.append(self)

    def stop(self) -> None:
        """Ends to record; may be called twice."""
        if self in _recorders:
            _recorders.remove(self)
            if not _recorders:
                _unwrap()

    def tick(self) -> int:
        """Moves the clock on, and returns it."""
        self.time += 1
        return self.time

    def record(self, module: nn.Module, mode: bool, frame: FrameType | None) -> None:
        """Notes the last call on each module."""
        line = None if _is_lightnings(frame) else nearest_line(frame)
        self._last[mode][module] = ModeCall(self.tick(), line)

    def last(self, modules: Iterable[nn.Module], *, mode: bool, since: int = 0) -> ModeCall | None:
        """Returns the last call with this mode on any of the modules, no earlier than ``since``.

        Lightning's own calls count only where there are no others: it undoes them.
        """
        calls = (self._last[mode].get(module) for module in modules)
        known = [call for call in calls if call is not None and call.time >= since]
        return max(known, key=lambda call: (call.line is not None, call.time), default=None)


_recorders: list[ModeCalls] = []
_depth = threading.local()


def _wrap() -> None:
    """Puts a recorder around ``nn.Module.train``; ``eval`` goes through it too."""
    original = nn.Module.train

    @functools.wraps(original)
    def train(self: Any, mode: bool = True) -> Any:
        if torch.compiler.is_compiling() or getattr(_depth, "inside", False):
            return original(self, mode)
        _depth.inside = True
        try:
            result = original(self, mode)
        finally:
            _depth.inside = False
        if not sandbox.running():
            for one in _recorders:
                one.record(self, mode, _caller(sys._getframe(1)))
        return result

    nn.Module.train = train  # type: ignore[method-assign]


def _unwrap() -> None:
    """Takes it off. If somebody has put his own around ours since, ours stays and does nothing."""
    if nn.Module.train.__code__.co_filename == __file__:
        nn.Module.train = nn.Module.train.__wrapped__  # type: ignore[attr-defined,method-assign]


def _caller(frame: FrameType | None) -> FrameType | None:
    """Skips torch's ``eval``, and the user's methods that override ``train`` and ``eval``."""
    calls = (one for one in outward(frame) if one.f_code.co_name not in ("train", "eval"))
    return next(calls, None)


def _is_lightnings(frame: FrameType | None) -> bool:
    """Whether the loops of Lightning made this call, with none of the user's code in between."""
    for one in outward(frame):
        owner = owner_of(one.f_code.co_filename)
        if owner in ("user", "package"):
            return False
        if owner == "lightning" and "loops" in one.f_code.co_filename:
            return True
    return False
