"""How the signal gets through the net: forward, from the input, and backward, from the loss."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..listening import ListeningMode, hookable
from ..sandbox import running
from ..source import Line, nearest_line
from ..trainer import eagerly, plain_name
from . import ON_REQUEST, Cadence, Measurement, Moment
from .activations import through

log = logging.getLogger("lightning_nndebug")

T = TypeVar("T")

# Norms amplify whatever is left of a signal: they say nothing of the layer that lost it.
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
)
_TIMES = 8  # time steps, at least, for it to fade
_DEPTH = 3  # layers, at least, for a gradient to grow or vanish on its way through them
HALF = (torch.float16, torch.bfloat16)
_POSITIONS = 4  # to choose from, at least
_LAYERS = 64  # of attention that are looked at
_CHOOSES = {"multi_head_attention_forward", "scaled_dot_product_attention"}
_DROPS = ("NativeDropout", "Mul")
_WEIGHS = {"matmul", "__matmul__", "bmm"}  # what a softmax has chosen from
_SAMPLES, _FEATURES = 64, 1024  # enough to see whether an output varies, whatever its size


@dataclass(frozen=True)
class Layer:
    """A module with parameters of its own.

    Attributes:
        name: The module.
        size: Number of entries of its output, in its first call of the step.
        gradient: Norm of the loss's gradient by the output; None if none came. The largest, if the
            module is called more than once: a recurrent net need not learn from its whole past.
        into: Share of the input that varies between samples: root mean square of the deviation from
            the mean over samples, over that of the input. None if the input is no batch.
        out_of: Likewise, of the output.
        fading: By how many decades the gradient is smaller at the first time steps of a recurrent
            layer than where it is largest. None of other layers, and of a few steps.
    """

    name: str
    size: int
    gradient: float | None
    into: float | None
    out_of: float | None
    fading: float | None = None


@dataclass(frozen=True)
class GradientFlow(Measurement):
    """What arrives where in one step, forward and backward. Taken when ``Gradients`` asks for it.

    Attributes:
        layers: Modules with parameters, without norms, in the order in which they ran.
        age: How many steps after the first look.
        choices: For each layer of attention, in the order in which they ran, the line that calls
            it, and which share of what it chooses from varies between positions of a sample.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step", "on_train_batch_end")
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = ON_REQUEST

    layers: tuple[Layer, ...]
    age: int = 0
    choices: tuple[tuple[Line | None, float], ...] = ()

    @property
    def reached(self) -> tuple[Layer, ...]:
        """The layers whose output got a gradient."""
        return tuple(one for one in self.layers if one.gradient and math.isfinite(one.gradient))

    @property
    def decades(self) -> float | None:
        """By how many decades the gradient is smaller at the first layers than where it is largest.

        The largest of the first quarter speaks for it, since what runs first may be a side branch.
        The steepest drop of all does not count: a single one is a gate that was shut on purpose.
        None where there is no depth: fewer than three layers.
        """
        layers = self.reached
        if len(layers) < _DEPTH:
            return None
        drop = min(0.0, *(_decades(one, after) for one, after in itertools.pairwise(layers)))
        least = max(min(_decades(one, other) for other in layers) for one in _quarter(layers))
        return min(0.0, least - drop)

    @property
    def growth(self) -> float | None:
        """By how many decades the gradient is larger at the first layers than at the last.

        The steepest rise does not count: what runs last may be a term of small weight. None where
        there is no depth.
        """
        sizes = [math.log10(one.gradient or 1.0) for one in self.reached]
        if len(sizes) < _DEPTH:
            return None
        rise = max(0.0, *(one - after for one, after in itertools.pairwise(sizes)))
        return max(_quarter(sizes)) - max(_quarter(sizes[::-1])) - rise

    @property
    def signal(self) -> float | None:
        """Share of the last layers' inputs and outputs that varies between samples."""
        return _largest(
            value for one in _quarter(self.layers[::-1]) for value in (one.into, one.out_of)
        )

    @property
    def signal_before(self) -> float | None:
        """Share of the first layers' outputs that varies between samples."""
        return _largest(one.out_of for one in _quarter(self.layers))

    @property
    def fading(self) -> Layer | None:
        """The recurrent layer whose past gets least."""
        recurrent = [one for one in self.layers if one.fading is not None]
        return min(recurrent, key=lambda one: one.fading or 0.0, default=None)

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Hooks every module that has parameters of its own."""
        memory.watch = watch = _Watch()
        watch.stack.enter_context(eagerly(moment.module))
        watch.stack.enter_context(watch.attention)
        for name, module in hookable(moment.module):
            own = any(True for _ in module.parameters(recurse=False))
            # Lightning redirects the forward of its own module: a hook there would see the batch.
            if own and module is not moment.module and not isinstance(module, _NORMS):
                watch.add(plain_name(name), module)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> GradientFlow | None:
        """Reads what has been collected on the device."""
        watch: _Watch = memory.watch
        if watch.error is not None:
            raise watch.error
        # Manual optimization may go backward in many batches and step in few of them.
        is_over = watch.went_backward or moment.hook == "on_train_batch_end"
        age = moment.step - vars(memory).setdefault("start", moment.step)
        return cls(watch.read(), age, watch.attention.read()) if is_over else None

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks."""
        if hasattr(memory, "watch"):
            memory.watch.stack.close()
            del memory.watch


@dataclass
class _Call:
    size: int
    into: Tensor | None
    out_of: Tensor | None
    gradient: Tensor | None = None


class _Attention(ListeningMode):
    """Hears attention, also if it is written by hand, and looks at what it chooses from."""

    def __init__(self) -> None:
        super().__init__()
        self._chosen: set[Any] = set()
        self._shares: list[tuple[Line | None, Tensor]] = []

    def read(self) -> tuple[tuple[Line | None, float], ...]:
        shares = _read([share for _, share in self._shares])
        return tuple((line, share) for (line, _), share in zip(self._shares, shares, strict=True))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name not in _CHOOSES | _WEIGHS | {"softmax"} or _is_again():
            return func(*args, **(kwargs or {}))
        try:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                self._look(name, args)
        except Exception:  # an exotic tensor; this runs inside of the user's step
            log.debug("nndebug: a call of %s could not be read.", name, exc_info=True)
        result = func(*args, **(kwargs or {}))
        if name == "softmax" and isinstance(result, Tensor) and result.grad_fn is not None:
            self._chosen.add(result.grad_fn)
        return result

    def _look(self, name: str, args: Any) -> None:
        x = args[1] if len(args) > 1 else None
        if not isinstance(x, Tensor) or x.dim() < 3 or not x.is_floating_point():  # noqa: PLR2004
            return
        if len(self._shares) >= _LAYERS or _is_mapped():
            return
        is_chosen = through(getattr(args[0], "grad_fn", None), _DROPS) in self._chosen
        axis = 0 if name == "multi_head_attention_forward" else -2
        if (is_chosen or name in _CHOOSES) and x.shape[axis] >= _POSITIONS and x.numel():
            rows = x.detach().float()
            share = norm(rows - rows.mean(axis, keepdim=True)) / norm(rows).clamp_min(1e-30)
            self._shares.append((nearest_line(sys._getframe(2)), share))


class _Watch:
    """The hooks of one step. They run in the user's forward and backward: they may not raise."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.attention = _Attention()
        self.error: Exception | None = None
        self._calls: dict[str, _Call] = {}
        # Of recurrent layers, the gradient at each time step.
        self._times: dict[str, Tensor | list[Tensor | None]] = {}

    def add(self, name: str, module: nn.Module) -> None:
        hook = functools.partial(self._called, name)
        self.stack.callback(module.register_forward_hook(hook).remove)
        if isinstance(module, nn.RNNBase):
            before = functools.partial(self._entered, name)
            self.stack.callback(module.register_forward_pre_hook(before).remove)

    @property
    def went_backward(self) -> bool:
        return any(call.gradient is not None for call in self._calls.values())

    def read(self) -> tuple[Layer, ...]:
        calls = self._calls
        rows = [
            (call.gradient, call.into, call.out_of, _fading(self._times.get(name)))
            for name, call in calls.items()
        ]
        numbers = iter(_read([value for row in rows for value in row if value is not None]))
        return tuple(
            Layer(name, call.size, *(None if value is None else next(numbers) for value in row))
            for (name, call), row in zip(calls.items(), rows, strict=True)
        )

    def _called(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        # Checkpointed modules are called for a second time in the backward.
        if _is_again():
            return
        try:
            with torch.no_grad():
                self._note(name, args, output)
                if isinstance(module, nn.RNNCellBase):
                    self._stepped(name, output)
        except Exception as error:
            self.error = error

    def _note(self, name: str, args: Any, output: Any) -> None:
        result = next(_floats(output), None)
        if result is None:
            return
        if name not in self._calls:
            into, out_of = _varying(next(_floats(args), None)), _varying(result)
            self._calls[name] = _Call(result.numel(), into, out_of)
        if result.requires_grad:
            hook = functools.partial(self._arrived, self._calls[name])
            result.register_hook(hook)  # type: ignore[no-untyped-call]

    def _entered(self, name: str, module: nn.RNNBase, args: Any) -> Any:
        """Has the gradient go on to what a recurrent layer reads, be that data."""
        if _is_again() or name in self._times:
            return None
        x = args[0] if args and torch.is_grad_enabled() else None
        is_trained = any(p.requires_grad for p in module.parameters())
        if not isinstance(x, Tensor) or x.dim() != 3 or not is_trained:  # noqa: PLR2004
            return None
        try:
            axis = 1 if module.batch_first else 0
            x = x if x.requires_grad else x.detach().requires_grad_()
            x.register_hook(functools.partial(self._read_back, name, axis))  # type: ignore[no-untyped-call]
        except Exception as error:
            self.error = error
            return None
        return (x, *args[1:])

    def _read_back(self, name: str, axis: int, gradient: Tensor | None) -> None:
        if gradient is not None:
            steps = gradient.detach().transpose(0, axis).flatten(1).float()
            self._times[name] = torch.linalg.vector_norm(steps, dim=1)

    def _stepped(self, name: str, output: Any) -> None:
        """A cell has been called for one time step; of an LSTM, the cell state remembers."""
        state = output[-1] if isinstance(output, tuple) else output
        steps = self._times.setdefault(name, [])
        if isinstance(steps, list) and state.requires_grad:
            steps.append(None)
            hook = functools.partial(self._remembered, steps, len(steps) - 1)
            state.register_hook(hook)

    def _remembered(self, steps: list[Tensor | None], number: int, gradient: Tensor | None) -> None:
        if gradient is not None:
            steps[number] = norm(gradient.detach())

    def _arrived(self, call: _Call, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        try:
            with torch.no_grad():
                size = norm(gradient)
                call.gradient = (
                    size if call.gradient is None else torch.maximum(call.gradient, size)
                )
        except Exception as error:
            self.error = error


def _is_again() -> bool:
    """Whether this is no call of the user's: checkpointed modules run again in the backward."""
    return running() or torch._C._current_graph_task_id() != -1


def _is_mapped() -> bool:
    """Whether there are no values to show, as under vmap."""
    return bool(torch._C._functorch.maybe_current_level())


def norm(x: Tensor) -> Tensor:
    """Returns the norm, on the device; that of float16 would overflow where no entry does."""
    size: Tensor = torch.linalg.vector_norm(x.float() if x.dtype in HALF else x)
    return size


def _fading(times: Tensor | list[Tensor | None] | None) -> Tensor | None:
    """Compares the gradients of the first quarter of the time steps with the largest."""
    if isinstance(times, list):
        known = [one for one in times if one is not None]
        times = torch.stack(known) if len(known) == len(times) and known else None
    if times is None or len(times) < _TIMES:
        return None
    early = times[: len(times) // 4].median().clamp_min(1e-30)
    return (early / times.max().clamp_min(1e-30)).log10()


def _decades(one: Layer, other: Layer) -> float:
    """Compares gradients by their norm, and lets pass what a mean over positions makes of it."""
    pooling = max(0.0, 0.5 * math.log10(one.size / other.size))
    return math.log10(one.gradient or 1.0) - math.log10(other.gradient or 1.0) + pooling


def _quarter(layers: Sequence[T]) -> Sequence[T]:
    return layers[: max(1, len(layers) // 4)]


def _largest(values: Iterator[float | None]) -> float | None:
    return max((one for one in values if one is not None and not math.isnan(one)), default=None)


def _floats(value: Any) -> Iterator[Tensor]:
    """Yields the floating point tensors in what a module takes or returns."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.layout is torch.strided:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _floats(item)


def _varying(x: Tensor | None) -> Tensor | None:
    """Returns which share of ``x`` varies along dimension 0: 0 if all rows are alike."""
    if x is None or x.dim() < 2 or len(x) < 4 or x.numel() == 0:  # noqa: PLR2004
        return None
    rows = x.detach()[:_SAMPLES].flatten(1)
    rows = rows[:, :: max(1, rows.size(1) // _FEATURES)].float()
    return norm(rows - rows.mean(0)) / norm(rows)


def _read(values: Sequence[Tensor]) -> list[float]:
    return torch.stack([one.to(values[0].device) for one in values]).tolist() if values else []
