"""Listening to a step by a torch function mode, with compiled code running eagerly meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from .trainer import eagerly

if TYPE_CHECKING:
    from typing_extensions import Self

_PLAIN = (Tensor, nn.Parameter, type(None))
_has_torch_function = torch.overrides.has_torch_function


class ListeningMode(TorchFunctionMode):
    """A function mode that changes nothing, so that torch need not step aside for it.

    ``nn.MultiheadAttention`` and ``nn.TransformerEncoder`` leave their fast path where any function
    mode is active, and the last bits of what they answer depend on the path.
    """

    _active = 0

    def __enter__(self) -> Self:
        """Begins to listen."""
        if not ListeningMode._active:
            torch.overrides.has_torch_function = _is_overridden
        ListeningMode._active += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends to listen."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        ListeningMode._active -= 1
        if not ListeningMode._active:
            torch.overrides.has_torch_function = _has_torch_function


def hookable(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules, by name, whose forward hooks do not change what is computed.

    Scripted modules take none, and ``nn.TransformerEncoderLayer`` leaves its fast path if anything
    in it has one.
    """
    closed = {
        id(part)
        for one in root.modules()
        if isinstance(one, nn.TransformerEncoderLayer) and not one.training
        for part in one.modules()
    }
    for name, module in root.named_modules():
        if id(module) not in closed and not isinstance(module, torch.jit.ScriptModule):
            yield name, module


def listen(memory: SimpleNamespace, module: Any, mode: ListeningMode) -> None:
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


def _is_overridden(args: Iterable[Any]) -> bool:
    """Whether any of the arguments, or a mode of someone else, has a word in a function."""
    args = tuple(args)
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    if all(type(one) in _PLAIN for one in args) and all(
        isinstance(mode, ListeningMode) for mode in modes
    ):
        return False
    return bool(_has_torch_function(args))
