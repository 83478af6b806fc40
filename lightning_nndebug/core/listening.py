"""Listening to a step by a torch function mode, with compiled code running eagerly meanwhile."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

from torch.overrides import TorchFunctionMode

from .trainer import eagerly


def listen(memory: SimpleNamespace, module: Any, mode: TorchFunctionMode) -> None:
    """Enters the mode, and keeps it as ``memory.mode``."""
    stop_listening(memory)
    memory.listening = ExitStack()
    memory.listening.enter_context(eagerly(module))
    memory.mode = memory.listening.enter_context(mode)


def stop_listening(memory: SimpleNamespace) -> None:
    """Leaves the mode, if it was not left before."""
    if hasattr(memory, "listening"):
        memory.listening.close()
        del memory.listening, memory.mode
