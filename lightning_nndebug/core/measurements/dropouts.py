"""Dropout that is still at work in validation, though the module that calls it is in eval mode."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import CodeType, FrameType, SimpleNamespace
from typing import Any, ClassVar
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from ..listening import ListeningMode, hookable
from ..masks import DRAWS, RandomMasks
from ..sandbox import named_tensors, running
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
# Dropout that is written by hand: what a function or class is called that draws at random. What is
# called otherwise is told by what it does.
_BY_HAND = re.compile(r"drop_?(out|path|block|connect)|stochastic_?depth", re.IGNORECASE)
_RATES = re.compile(r"drop|prob|rate|^p$")
_TIMES = 2  # as many rows as the batch has: it was repeated


@dataclass(frozen=True)
class DropoutCall:
    """A line that drops units in validation.

    Attributes:
        line: The line.
        module: The module that it belongs to, which is in eval mode; empty for the LightningModule.
        kind: The class of that module.
        is_explicit: Whether the call itself says that it is meant to train, as code that is
            written by hand does.
        is_repeated: Whether the batch goes through more than once, as to average over dropout.
        is_unregistered: Whether it goes through a dropout module that no other module knows of.
        calls: How often it was called.
    """

    line: Line
    module: str
    kind: str
    is_explicit: bool
    is_unregistered: bool
    is_repeated: bool = False
    calls: int = 1


@dataclass(frozen=True)
class ActiveDropouts(Measurement):
    """The calls of dropout that dropped units in a batch of validation, in a module in eval mode.

    Left out are the dropout modules of the net, whose modes are seen anyway, and what corrupts data
    on purpose: what is dropped from the batch itself, and, by a step outside of any ``forward``,
    from anything but what parameters have had a part in.
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
        for _, one in hookable(moment.module):
            code = getattr(type(one).forward, "__code__", None)
            if code is not None and owner_of(code.co_filename) == "user":
                stack.callback(one.register_forward_pre_hook(memory.listener.pass_).remove)
        stack.enter_context(memory.listener)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> ActiveDropouts:
        """Returns what was heard."""
        if memory.listener.error is not None:
            raise memory.listener.error
        return cls(tuple(memory.listener.heard()))

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Ends to listen."""
        if hasattr(memory, "stack"):
            memory.stack.close()
            del memory.stack, memory.listener


class _Listener(ListeningMode):
    """Looks at the stack whenever a function drops something.

    A mode below autograd would hear more, and turn autocast off within fused operations.
    """

    def __init__(self, module: nn.Module, batch: Any) -> None:
        super().__init__()
        self.calls: dict[Line, DropoutCall] = {}
        self.error: Exception | None = None
        self._owners: dict[Line, int] = {}
        self._passes: Counter[tuple[int, CodeType, int]] = Counter()
        self._given: dict[Any, list[ReferenceType[Tensor]]] = {}
        self._masks = RandomMasks()
        self._learned: dict[int, ReferenceType[Tensor]] = {}
        self._loose: set[Any] = set()
        self._rows = max((len(t) for _, t in named_tensors(batch) if t.dim()), default=0)
        self._names = {id(one): plain_name(name) for name, one in module.named_modules()}
        self._batch = {address(tensor) for _, tensor in named_tensors(batch)} - {None}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.error is None and not running():
            try:
                self._hear(func, args, kwargs, result, sys._getframe(1))
            except Exception as error:
                self.error = error
        return result

    def _hear(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        frame: FrameType,
    ) -> None:
        name = getattr(func, "__name__", "")
        if isinstance(result, Tensor) and any(map(self._is_learned, _tensors(args))):
            self._learned[id(result)] = ref(result)
        if _drops(func, args, kwargs):
            self._note(frame, name in DRAWS, _rows(args, kwargs), args)
        with torch.no_grad(), torch._C.DisableTorchFunction():
            source = self._masks.follow(name, args, kwargs, result)
        if source is not None and source not in self._batch:
            rows = 0 if any(isinstance(one, nn.Parameter) for one in args) else _rows(args, kwargs)
            self._note(frame, True, rows, args, is_proven=True)

    def pass_(self, module: nn.Module, args: Any) -> None:
        """Counts how often a module of the user's is called from the same place.

        One that several places share is called by each of them in a single pass, and gets something
        else from each.
        """
        frame = sys._getframe(1)
        caller = next((one for one in outward(frame) if not _is_within(one)), frame)
        times = 2 if self._is_again(id(module), args) else 1
        self._passes[id(module), caller.f_code, caller.f_lasti] += 0 if running() else times

    def _is_again(self, place: Any, args: Any) -> bool:
        """Whether the same tensor comes to a place once more, or stands for many."""
        if torch._C._functorch.maybe_current_level() is not None:  # as in vmap, each with a draw
            return True
        given = next((one for one in args if isinstance(one, Tensor)), None)
        if given is None or running():
            return False
        before = self._given.setdefault(place, [])
        is_again = any(one() is given for one in before)
        before.append(ref(given))
        return is_again

    def _is_learned(self, tensor: Tensor) -> bool:
        """Whether it is a parameter, or was computed with one."""
        known = self._learned.get(id(tensor))
        return isinstance(tensor, nn.Parameter) or (known is not None and known() is tensor)

    def heard(self) -> Iterator[DropoutCall]:
        """Returns the calls, when the batch is over."""
        most: Counter[int] = Counter()
        for (owner, *_), times in self._passes.items():
            most[owner] = max(most[owner], times)
        for line, call in self.calls.items():
            again = call.is_repeated or most[self._owners[line]] > 1
            if not (again and line in self._loose):  # a step that averages over several draws
                yield replace(call, is_repeated=again)

    def _note(
        self, frame: FrameType, is_by_hand: bool, rows: int, args: Any, *, is_proven: bool = False
    ) -> None:
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
        told = (*(one.f_code.co_name for one in inside), line.text)
        is_named = any("drop" in one or "attention" in one for one in told)
        others = {(one.file, one.function) for one in self.calls if one != line}
        is_told = is_proven and (line.file, line.function) in others  # by the draw of its mask
        known = _is_by_hand(outside[0]) if is_by_hand else is_named
        if is_told or not (known or is_proven):
            return
        callers = [(one.f_code.co_name, _self(one)) for one in outside]
        modules = [(name, one) for name, one in callers if id(one) in self._names]
        owner = next((one for _, one in modules if one is not None), None)
        is_loose = all(name != "forward" for name, _ in modules)
        is_plain = not (is_by_hand or called) and any(map(self._is_learned, _tensors(args)))
        if owner is None or owner.training or (is_loose and not is_plain):
            return
        again = self._is_again((line.file, line.number, line.text), args)
        if is_loose:  # a loop may well be over draws, each with a pass of its own
            chain = tuple((one.f_code, one.f_lasti) for one in outside)
            again = again or chain in self._loose
            self._loose |= {line, chain}
        if line in self.calls:
            call = self.calls[line]
            repeated = call.is_repeated or again
            self.calls[line] = replace(call, calls=call.calls + 1, is_repeated=repeated)
            return
        self._owners[line] = id(owner)
        self.calls[line] = DropoutCall(
            line=line,
            module=self._names[id(owner)],
            kind=type(owner).__name__,
            is_explicit=is_by_hand or _is_explicit(line.text),
            is_unregistered=any(isinstance(one, _DropoutNd) for one in called),
            is_repeated=again or rows >= _TIMES * self._rows > 0,
        )


def _is_within(frame: FrameType) -> bool:
    """Whether it is one of the frames by which torch calls a module, or passes it on."""
    return owner_of(frame.f_code.co_filename) == "framework"


def _drops(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Returns whether this is a call of dropout, or of attention with dropout, that drops."""
    name = getattr(func, "__name__", "")
    if name in DRAWS:
        return True
    names = ("input", "p", "training") if "dropout" in name else _PARAMETERS.get(name)
    if names is None:
        return False
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    amount = given.get("p", 0.5) if "dropout" in name else given.get("dropout_p", 0.0)
    works = given.get("training", given.get("train", True))
    return bool(works) and isinstance(amount, (int, float)) and amount > 0


def _tensors(args: tuple[Any, ...]) -> Iterator[Tensor]:
    """Yields what a function was given, and what is in the lists of it, as for ``torch.cat``."""
    for one in args:
        inner = one if isinstance(one, (list, tuple)) else (one,)
        yield from (tensor for tensor in inner if isinstance(tensor, Tensor))


def _rows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    first = args[0] if args else next(iter(kwargs.values()), None)
    return len(first) if isinstance(first, Tensor) and first.dim() else 0


def _is_by_hand(frame: FrameType) -> bool:
    """Returns whether code of this name is there to drop, and its rate is not 0."""
    module = _self(frame)
    names = frame.f_code.co_name, type(module).__name__
    known = {**(vars(module) if module is not None else {}), **frame.f_locals}
    rates = [
        one for key, one in known.items() if isinstance(one, (int, float)) and _RATES.search(key)
    ]
    return any(map(_BY_HAND.search, names)) and 0 not in rates


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
