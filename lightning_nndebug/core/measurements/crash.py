"""The exception that ends the run, and what was at work when it came."""

from __future__ import annotations

import itertools
import linecache
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import CodeType, FrameType, SimpleNamespace, TracebackType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..findings import TrainingHalted
from ..source import Line, expression, owner_of
from ..trainer import plain_name
from . import Measurement, Moment
from .batches import tensors

_NAMES = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_WORKER = re.compile(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(.+)')
_FILE = re.compile(r'^\s*File "([^"]+)", line \d+', re.MULTILINE)
_RAISE = re.compile(r"(^|[:;])\s*(raise|assert)\b")
_LONGEST = 4000  # characters of a message
_SHOWN = 6  # operands
_READ = 2**24  # entries of an integer tensor that are searched


@dataclass(frozen=True)
class Operand:
    """A tensor that was at hand.

    Attributes:
        name: What the user's line calls it, or the function that it was given to.
        dtype: ``float32``.
        shape: Its shape.
        device: Its device.
        low: The least value, of integers alone.
        high: The largest value, of integers alone.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    device: str
    low: int | None = None
    high: int | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}".strip()


@dataclass(frozen=True)
class Part:
    """The module that was running.

    Attributes:
        name: Its name in the LightningModule.
        kind: Its class.
        code: How it prints itself, in one line.
        sizes: Those of its attributes that are whole numbers, such as ``in_features``.
        dtype: That of its first parameter.
        device: Likewise.
    """

    name: str
    kind: str
    code: str
    sizes: dict[str, int] = field(default_factory=dict)
    dtype: str = ""
    device: str = ""


@dataclass(frozen=True)
class Usage:
    """What held the memory, in bytes.

    Attributes:
        parameters: All parameters and buffers.
        gradients: All gradients.
        optimizer: The states of all optimizers.
        allocated: All that torch has allocated on the device; 0 if it does not count.
        total: The memory of the device; 0 if that is not known.
    """

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    allocated: int = 0
    total: int = 0


@dataclass(frozen=True)
class Crash(Measurement):
    """The exception that ends the run. An end that somebody asked for is none.

    Attributes:
        kind: Its class.
        text: Its message; that of a worker holds the traceback of the worker.
        line: The innermost line of the user's own code.
        part: The innermost module that was running.
        operation: The innermost function of torch, such as ``cross_entropy``.
        given: The tensors that this function was given.
        operands: The tensors that the user's line names.
        batch: The tensors of the batch.
        usage: What held the memory.
        stage: What was going on: ``train``, ``sanity_check``, ``validate``.
        loading: Whether it came out of a DataLoader.
        raised_by_user: Whether a ``raise`` of the user's own code was the source of it.
        collating: Whether the default collate function of torch stumbled over the samples.
        missing: Which sample of the batch is None, or has a None, where this can be told.
        is_of_user: Whether Python itself stumbled, in the user's own line.
        holders: What else the user's line names: lists and dictionaries that hold tensors.
        source: The Python module that it came from.
        hook: What Lightning was at, where there is no line of the user's.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_exception",)

    kind: str
    text: str
    line: Line | None = None
    part: Part | None = None
    operation: str = ""
    given: tuple[Operand, ...] = ()
    operands: tuple[Operand, ...] = ()
    batch: tuple[Operand, ...] = ()
    usage: Usage = field(default_factory=Usage)
    stage: str = "train"
    loading: bool = False
    raised_by_user: bool = False
    collating: bool = False
    missing: str = ""
    is_of_user: bool = False
    holders: tuple[str, ...] = ()
    source: str = ""
    hook: str = "training_step"

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Crash | None:
        """Reads the traceback; tensors are described, not kept."""
        error = _origin(sys.exc_info()[1])
        if not isinstance(error, Exception) or isinstance(error, TrainingHalted):
            return None
        text = str(error)[:_LONGEST]
        frames = list(_frames(error.__traceback__))
        users = [one for one in frames if _is_of_user(one[0].f_code)]
        line = _line(*users[-1], whole="to unpack" in text) if users else None
        return cls(
            kind=type(error).__name__,
            text=text,
            line=(worker := _line_of_worker(text)) or line,
            part=_part(frames, moment.module),
            # Not those around the user's line: a container says nothing of what is in it.
            **_torchs(frames[frames.index(users[-1]) + 1 :] if users else frames),
            operands=_named(users[-1][0], line.text) if users and line else (),
            batch=_batch(frames),
            usage=_usage(moment.trainer, moment.module),
            loading=any(_module(one).startswith("torch.utils.data") for one, *_ in frames),
            raised_by_user=_RAISE.search(worker.text) is not None
            if worker is not None
            else bool(users) and users[-1] is frames[-1] and _raises(*users[-1]),
            collating=_collating(frames, text),
            missing=_missing(frames),
            is_of_user=bool(users) and users[-1] is frames[-1],
            holders=_holders(*users[-1][:2], error) if users else (),
            hook=_hook(frames),
            source=_module(frames[-1][0]) if frames else "",
            stage=str(getattr(getattr(moment.trainer.state, "stage", None), "value", "train")),
        )

    @property
    def place(self) -> str:
        """Where it came: the module and the line, as far as they are known."""
        parts = [self.part.name] if self.part is not None and self.part.name else []
        if self.line is not None:
            parts.append(f"{self.line.file.rpartition('/')[2]}:{self.line.number}")
        return " · ".join(parts) or self.hook


def _origin(error: BaseException | None) -> BaseException | None:
    """Returns what went wrong first, where Lightning then stumbles over its own clearing up."""
    while error is not None and error.__context__ is not None and not error.__suppress_context__:
        *_, (last, *_) = _frames(error.__traceback__)
        is_meant = isinstance(error, (TypeError, ValueError))  # it says what is wrong, and better
        if owner_of(last.f_code.co_filename) != "lightning" or is_meant:
            break
        error = error.__context__
    return error


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno, traceback.tb_lasti
        traceback = traceback.tb_next


def _is_of_user(code: CodeType) -> bool:
    is_generated = code.co_filename == "<string>" and code.co_name.startswith("__")  # dataclasses
    return not is_generated and owner_of(code.co_filename) == "user"


def _line(frame: FrameType, number: int, instruction: int, *, whole: bool) -> Line:
    code = frame.f_code
    text = "" if whole else expression(code, instruction)  # of an unpacking, its left side
    text = text or linecache.getline(code.co_filename, number).strip()
    return Line(code.co_filename, number, code.co_name, text)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _hook(frames: list[tuple[FrameType, int, int]]) -> str:
    names = {frame.f_code.co_name for frame, *_ in frames}
    return (
        "configure_optimizers" if "_init_optimizers_and_lr_schedulers" in names else "training_step"
    )


def _raises(frame: FrameType, number: int, instruction: int) -> bool:
    del instruction
    return bool(_RAISE.search(linecache.getline(frame.f_code.co_filename, number)))


def _line_of_worker(text: str) -> Line | None:
    """Returns the user's line in a traceback that came as text, from another process."""
    found = [one for one in _WORKER.findall(text) if owner_of(one[0]) == "user"]
    if not found:
        return None
    file, number, function, code = found[-1]
    return Line(file, int(number), function, code.strip())


def _part(frames: list[tuple[FrameType, int, int]], module: Any) -> Part | None:
    names = {id(one): name for name, one in module.named_modules()} if module is not None else {}
    for frame, *_ in reversed(frames):
        own = frame.f_locals.get("self")
        if isinstance(own, nn.Module) and names.get(id(own)):
            sizes = {key: value for key, value in vars(own).items() if type(value) is int}
            kind = type(own).__name__
            inner = own.extra_repr() if not list(own.children()) else ""
            first = next(own.parameters(), None)
            dtype, device = ("", "") if first is None else (str(first.dtype), str(first.device))
            name, code = plain_name(names[id(own)]), f"{kind}({inner})"
            return Part(name, kind, code, sizes, dtype.removeprefix("torch."), device)
    return None


def _torchs(frames: list[tuple[FrameType, int, int]]) -> dict[str, Any]:
    """Returns the innermost function of ``torch.nn.functional`` and its tensors, or of a module.

    Of torchmetrics the outermost, which has the tensors as they were given.
    """
    for frame, *_ in frames:
        if _module(frame).startswith("torchmetrics.") and len(given := _given(frame)) > 1:
            own = frame.f_locals.get("self")
            operation = frame.f_code.co_name if own is None else type(own).__name__
            return {"operation": operation, "given": given}
    for frame, *_ in reversed(frames):
        code, name = frame.f_code, _module(frame)
        is_module = name.startswith("torch.nn.modules") and code.co_name == "forward"
        if not is_module and name != "torch.nn.functional":
            continue
        return {"operation": "" if is_module else code.co_name, "given": _given(frame)}
    return {}


def _given(frame: FrameType) -> tuple[Operand, ...]:
    """Returns the tensors among the arguments of a function."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    found = [(one, frame.f_locals.get(one)) for one in names]
    return tuple(_operand(key, one) for key, one in found if isinstance(one, Tensor))


def _collating(frames: list[tuple[FrameType, int, int]], text: str) -> bool:
    """Tells whether the innermost frame, here or in a worker, is of ``default_collate``."""
    files = _FILE.findall(text)  # of a worker, whose traceback is its message
    last = files[-1] if files else frames[-1][0].f_code.co_filename
    return last.replace("\\", "/").endswith("torch/utils/data/_utils/collate.py")


def _missing(frames: list[tuple[FrameType, int, int]]) -> str:
    """Names the first None among the samples that were to become a batch."""
    for frame, *_ in frames:
        if _module(frame) != "torch.utils.data._utils.fetch":
            continue
        samples, indices = (frame.f_locals.get(one) for one in ("data", "possibly_batched_index"))
        if not isinstance(samples, list):
            continue
        for place, sample in enumerate(samples):
            index = indices[place] if isinstance(indices, (list, tuple)) else place
            if sample is None:
                return f"sample {index}"
            for key, value in _entries(sample):
                if value is None:
                    return f"{key!r} of sample {index}"
    return ""


def _entries(sample: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(sample, dict):
        return sample.items()
    return enumerate(sample) if isinstance(sample, (tuple, list)) else ()


def _named(frame: FrameType, text: str) -> tuple[Operand, ...]:
    """Returns the tensors that an expression names, without running any of it."""
    found: dict[str, Operand] = {}
    for name in _NAMES.findall(text):
        first, *path = name.split(".")
        value = frame.f_locals.get(first)
        for depth, key in enumerate([*path, ""]):
            if isinstance(value, Tensor):
                name = ".".join([first, *path[:depth]])  # noqa: PLW2901
                found.setdefault(name, _operand(name, value))
                break
            value = _member(value, key)
    return tuple(found.values())[:_SHOWN]


def _holders(frame: FrameType, number: int, error: Exception) -> tuple[str, ...]:
    """Describes the lists and dictionaries of tensors that the statement names."""
    found: dict[str, str] = {}
    for name in _NAMES.findall(linecache.getline(frame.f_code.co_filename, number)):
        first, *path = name.split(".")
        value = frame.f_locals.get(first)
        if first == "self" and path:
            first, value = f"self.{path[0]}", _member(value, path[0])
        if told := _told(value, error):
            found.setdefault(first, f"{first} is {told}")
    return tuple(found.values())[:_SHOWN]


def _told(value: Any, error: Exception) -> str:
    """Describes a container of tensors; of a missing key, the dictionary that has others alone."""
    kind, is_key = type(value).__name__, isinstance(error, KeyError)
    if isinstance(value, Mapping):
        if is_key and error.args and error.args[0] in value:
            return ""
        holds = any(isinstance(one, Tensor) for one in value.values())
        listed = ", ".join(map(repr, itertools.islice(value, _SHOWN)))
        return f"a {kind} with the keys {listed}" if holds else ""
    if not is_key and isinstance(value, (tuple, list)):
        holds = any(isinstance(one, Tensor) for one in value)
        listed = ", ".join(_brief(one) for one in value[:_SHOWN])
        return f"a {kind} of {len(value)}: {listed}" if holds else ""
    return ""


def _brief(one: Any) -> str:
    return str(_operand("", one)) if isinstance(one, Tensor) else type(one).__name__


def _member(owner: Any, name: str) -> Any:
    values: dict[str, Any] = getattr(owner, "__dict__", {})
    for among in (values.get("_parameters"), values.get("_buffers"), values.get("_modules")):
        if isinstance(among, dict) and name in among:
            return among[name]
    return values.get(name)


def _batch(frames: list[tuple[FrameType, int, int]]) -> tuple[Operand, ...]:
    for frame, *_ in frames:
        own = owner_of(frame.f_code.co_filename) in ("user", "package")
        if own and frame.f_code.co_name in ("training_step", "validation_step"):
            names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
            for name in names[1:2] if names[:1] == ("self",) else names[:1]:
                leaves = tensors(frame.f_locals.get(name))[:_SHOWN]
                return tuple(_operand(str(place), one) for place, one in leaves)
    return ()


def _operand(name: str, one: Tensor) -> Operand:
    low = high = None
    is_index = not one.is_floating_point() and not one.is_complex() and one.dtype != torch.bool
    if is_index and 0 < one.numel() <= _READ and one.device.type != "meta":
        with suppress(RuntimeError):  # after a device-side assertion nothing can be read
            low, high = torch.stack([one.min(), one.max()]).tolist()
    dtype = str(one.dtype).removeprefix("torch.")
    return Operand(name, dtype, tuple(one.shape), str(one.device), low, high)


def _usage(trainer: Any, module: Any) -> Usage:
    if module is None:
        return Usage()
    parameters = list(module.parameters())
    states = (
        value
        for one in trainer.optimizers
        for state in getattr(one, "state", {}).values()
        for value in (state.values() if isinstance(state, dict) else ())
    )
    device, allocated, total = getattr(trainer.strategy, "root_device", None), 0, 0
    if getattr(device, "type", "") == "cuda":
        with suppress(RuntimeError):
            allocated = torch.cuda.memory_allocated(device)
            total = torch.cuda.get_device_properties(device).total_memory
    return Usage(
        parameters=_size([*parameters, *module.buffers()]),
        gradients=_size([one.grad for one in parameters if one.grad is not None]),
        optimizer=_size([one for one in states if isinstance(one, Tensor)]),
        allocated=allocated,
        total=total,
    )


def _size(found: list[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in found)
