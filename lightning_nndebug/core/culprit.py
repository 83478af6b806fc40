"""The culprit of a non-finite value: what made it, of what, and where in the source."""

from __future__ import annotations

import linecache
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import CodeType, FrameType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from . import sandbox
from .source import expression, owner_of

Kind = Literal["input", "parameter", "buffer", "outside", "constant", "forward", "backward"]


@dataclass(frozen=True)
class TensorSummary:
    """A tensor in numbers.

    Attributes:
        name: Its name among the arguments of the operation (``self``, ``other``, ``weight``).
        dtype: ``float32``.
        shape: Its shape.
        min: The least of its finite values; None if it has none.
        max: The greatest of its finite values.
        zeros: How many values are 0.
        nan: How many are NaN.
        inf: How many are infinite, of either sign.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    min: float | None
    max: float | None
    zeros: int
    nan: int
    inf: int


@dataclass(frozen=True)
class Frame:
    """A place in the source.

    Attributes:
        file: Path of the file.
        line: Line number.
        function: Name of the function.
        code: The line.
        expression: The part of it that was running; empty before Python 3.11.
        own: Whether it is the user's own code rather than an installed package.
    """

    file: str
    line: int
    function: str
    code: str
    expression: str
    own: bool


@dataclass(frozen=True)
class Culprit:
    """Where the first non-finite value comes from.

    Attributes:
        kind: ``forward`` or ``backward``: an operation made it of finite inputs. ``input``,
            ``parameter``, ``buffer``: it was there before the step. ``outside``: in a tensor that
            came from anywhere else (an attribute, numpy). ``constant``: the code wrote it.
        op: The operation, as PyTorch calls it (``log``, ``_softmax``); for a value that was there
            before, the first operation that read it.
        name: Which input (``batch[0]``), parameter or buffer; None for operations.
        module: Path of the submodule that was running; empty in the LightningModule itself.
        node: The node of the graph, if the operation ran in the backward pass (``LogBackward0``).
        frames: The source that called it, innermost first; of the backward pass, the forward line
            that built the node, preceded by user code inside the backward, if any.
        inputs: The tensors it got. For a value that was there before: that tensor.
        scalars: Its numeric arguments by name: exponent, eps, dim.
        outputs: The tensors it made.
        overflow: If the result is finite in float64: what the narrow format could not hold.
        first_bad: Index of the first non-finite value in the (first non-finite) output.
        values: The inputs at that index by name, of operations that go element by element.
        contributor: What had a part in it: the infinite constant that met the operation, or the
            operation at which the culprit's infinity turned into NaN.
        reached: Where it was seen: ``loss``, or the gradients ``net.0.weight``, ....
        degraded: What could not be told because PyTorch lacks a private function; else None.
    """

    kind: Kind
    op: str
    name: str | None = None
    module: str = ""
    node: str | None = None
    frames: tuple[Frame, ...] = ()
    inputs: tuple[TensorSummary, ...] = ()
    scalars: Mapping[str, float] = field(default_factory=dict)
    outputs: tuple[TensorSummary, ...] = ()
    overflow: str | None = None
    first_bad: tuple[int, ...] | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    contributor: Culprit | None = None
    reached: tuple[str, ...] = ()
    degraded: str | None = None

    @property
    def at(self) -> Frame | None:
        """The innermost frame of the user's own code, else of any package; None if unknown."""
        return next((f for f in self.frames if f.own), next(iter(self.frames), None))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON: non-finite numbers as the strings ``nan``, ``inf``, ``-inf``."""
        plain: dict[str, Any] = _plain(self)
        return plain


class CallSite(NamedTuple):
    """A frame as cheap as can be: one is kept for each operation, few are ever looked at."""

    file: str
    line: int
    function: str
    code: CodeType | None
    instruction: int

    def frame(self) -> Frame:
        """Reads the source."""
        code = linecache.getline(self.file, self.line).strip()
        own = owner_of(self.file) == "user"
        part = expression(self.code, self.instruction) if self.code is not None else ""
        return Frame(self.file, self.line, self.function, code, part, own)


def is_bad(tensor: Tensor) -> bool:
    """Tells whether the tensor has a NaN or an infinity; one or two host synchronisations."""
    x = values_of(tensor)
    if x.is_meta or not (x.is_floating_point() or x.is_complex()) or not x.numel():
        return False
    # A sum is much cheaper than isfinite, and finite only if every term is.
    return not torch.isfinite(x.sum()) and not torch.isfinite(x).all()


def values_of(tensor: Tensor) -> Tensor:
    """Returns the values as a dense tensor that can be computed with."""
    if tensor.is_sparse:
        tensor = tensor._values()
    elif tensor.is_nested:
        tensor = tensor.values()
    is_float8 = tensor.is_floating_point() and tensor.element_size() == 1
    return (tensor.float() if is_float8 else tensor).detach()


def summarize(name: str, tensor: Tensor) -> TensorSummary:
    """Puts a tensor into numbers, under this name."""
    x = values_of(tensor)
    x = x.abs() if x.is_complex() else x.float() if x.dtype is torch.bool else x
    finite = x[torch.isfinite(x)]
    return TensorSummary(
        name=name,
        dtype=dtype_name(tensor.dtype),
        shape=tuple(tensor.shape),
        min=float(finite.min()) if finite.numel() else None,
        max=float(finite.max()) if finite.numel() else None,
        zeros=int((x == 0).sum()),
        nan=int(x.isnan().sum()),
        inf=int(x.isinf().sum()),
    )


def dtype_name(dtype: torch.dtype) -> str:
    """``float16``."""
    return str(dtype).removeprefix("torch.")


def calls_here(*, backward: bool = False, limit: int = 8) -> tuple[CallSite, ...]:
    """Lists the calls that led here, innermost first, of all but the frameworks.

    Args:
        backward: Only those inside the backward pass: custom functions, hooks.
        limit: How many at most.
    """
    calls: list[CallSite] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and len(calls) < limit:
        code = frame.f_code
        if code.co_filename == sandbox.__file__ or (backward and _is_engine(code)):
            break
        if is_accountable(code.co_filename):
            site = CallSite(code.co_filename, frame.f_lineno, code.co_name, code, frame.f_lasti)
            calls.append(site)
        frame = frame.f_back
    return tuple(calls)


def is_accountable(file: str) -> bool:
    """Whether a file is the user's or a package's; a framework's is never to blame."""
    return owner_of(file) in {"user", "package"}


def _is_engine(code: CodeType) -> bool:
    """Whether this is a function of torch.autograd that starts a backward pass."""
    return code.co_name in ("backward", "grad", "_engine_run_backward") and code.co_filename in (
        torch.autograd.__file__,
        torch.autograd.graph.__file__,
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
