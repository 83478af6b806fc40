"""Dropout that is still at work in validation, though the module that calls it is in eval mode."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import FrameType, SimpleNamespace
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from ..sandbox import named_tensors
from ..source import Line, outward, owner_of
from ..trainer import eagerly, plain_name
from ..undo import address
from . import Cadence, Measurement, Moment

# `dropout(input, p, training)`
_EXPLICIT = 2
# Attention that is called with its rate by position.
_PARAMETERS = {
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask", "dropout_p"),
    "multi_head_attention_forward": tuple(
        inspect.signature(functional.multi_head_attention_forward).parameters
    ),
}


@dataclass(frozen=True)
class DropoutCall:
    """A line that drops units in validation.

    Attributes:
        line: The line.
        module: The module that it belongs to, which is in eval mode; empty for the LightningModule.
        kind: The class of that module.
        is_explicit: Whether the call itself says that it is meant to train.
        is_unregistered: Whether it goes through a dropout module that no other module knows of.
        calls: How often it was called.
    """

    line: Line
    module: str
    kind: str
    is_explicit: bool
    is_unregistered: bool
    calls: int = 1


@dataclass(frozen=True)
class ActiveDropouts(Measurement):
    """The calls of dropout that dropped units in a batch of validation, in a module in eval mode.

    Left out are the dropout modules of the net, whose modes are seen anyway, what is dropped from
    the batch itself, and what a step does outside of any ``forward``: both corrupt data on purpose.
    """

    prepares: ClassVar[str | None] = "on_validation_batch_start"
    hooks: ClassVar[tuple[str, ...]] = ("on_validation_batch_end",)
    cadence: ClassVar[Cadence] = Cadence(first=2, every=500)

    calls: tuple[DropoutCall, ...]

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Listens to the functions that are called in this batch."""
        memory.stack = stack = ExitStack()
        memory.listener = _Listener(moment.module, moment.batch)
        stack.enter_context(eagerly(moment.module))
        stack.enter_context(memory.listener)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> ActiveDropouts:
        """Returns what was heard."""
        if memory.listener.error is not None:
            raise memory.listener.error
        return cls(tuple(memory.listener.calls.values()))

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Ends to listen."""
        if hasattr(memory, "stack"):
            memory.stack.close()
            del memory.stack, memory.listener


class _Listener(TorchFunctionMode):
    """Looks at the stack whenever a function drops something.

    A mode below autograd would hear more, and turn autocast off within fused operations.
    """

    def __init__(self, module: nn.Module, batch: Any) -> None:
        super().__init__()
        self.calls: dict[Line, DropoutCall] = {}
        self.error: Exception | None = None
        self._names = {id(one): plain_name(name) for name, one in module.named_modules()}
        self._batch = {address(tensor) for _, tensor in named_tensors(batch)} - {None}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.error is None and _drops(func, args, kwargs):
            try:
                self._note(sys._getframe(1))
            except Exception as error:
                self.error = error
        return func(*args, **kwargs)

    def _note(self, frame: FrameType) -> None:
        """Notes the line that is to blame, unless dropping is what it is there for."""
        frames = list(outward(frame))
        owners = [owner_of(one.f_code.co_filename) for one in frames]
        inner = next((i for i, one in enumerate(owners) if one != "framework"), None)
        if inner is None or owners[inner] not in ("user", "package"):
            return
        inside, outside = frames[:inner], frames[inner:]
        called = [one for one in map(_self, inside) if one is not None]
        if any(id(one) in self._names for one in called):
            return  # a module of the net: its own mode tells
        if any(address(one.f_locals.get("input")) in self._batch for one in inside):
            return
        line = Line.of(outside[0])
        functions = [one.f_code.co_name for one in inside]
        if not any("drop" in one or "attention" in one for one in (*functions, line.text)):
            return
        callers = [(one.f_code.co_name, _self(one)) for one in outside]
        modules = [(name, one) for name, one in callers if id(one) in self._names]
        owner = next((one for _, one in modules if one is not None), None)
        if owner is None or owner.training or all(name != "forward" for name, _ in modules):
            return
        if line in self.calls:
            self.calls[line] = replace(self.calls[line], calls=self.calls[line].calls + 1)
            return
        self.calls[line] = DropoutCall(
            line=line,
            module=self._names[id(owner)],
            kind=type(owner).__name__,
            is_explicit=_is_explicit(line.text),
            is_unregistered=any(isinstance(one, _DropoutNd) for one in called),
        )


def _drops(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Returns whether this is a call of dropout, or of attention with dropout, that drops."""
    name = getattr(func, "__name__", "")
    names = ("input", "p", "training") if "dropout" in name else _PARAMETERS.get(name)
    if names is None:
        return False
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    amount = given.get("p", 0.5) if "dropout" in name else given.get("dropout_p", 0.0)
    works = given.get("training", given.get("train", True))
    return bool(works) and isinstance(amount, (int, float)) and amount > 0


def _self(frame: FrameType) -> nn.Module | None:
    """Returns the module whose method this is."""
    code = frame.f_code
    first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    return first if isinstance(first, nn.Module) else None


def _is_explicit(call: str) -> bool:
    """Returns whether a call of dropout is told to train, rather than left to its default."""
    try:
        nodes = list(ast.walk(ast.parse(call.strip())))
    except SyntaxError:  # half of a statement, before Python 3.11
        return "train" in call
    for node in nodes:
        if isinstance(node, ast.Call):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if "drop" in function and len(node.args) > _EXPLICIT:
                return True
            if any(one.arg in ("train", "training") for one in node.keywords):
                return True
    return False
