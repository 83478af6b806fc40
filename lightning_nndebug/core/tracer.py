"""The tracer: runs a step once more and names the operation that made the first NaN or infinity."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from .culprit import (
    CallSite,
    Culprit,
    Frame,
    Kind,
    TensorSummary,
    calls_here,
    dtype_name,
    is_accountable,
    is_bad,
    summarize,
    values_of,
)
from .sandbox import Replay, Sandbox, named_tensors
from .undo import address, written

__all__ = ["Culprit", "Frame", "Kind", "TensorSummary", "Trace", "Tracer", "is_bad", "trace"]


@dataclass(frozen=True)
class Trace:
    """What ``trace`` found.

    Attributes:
        culprit: The origin; None if this run was finite.
        replay: The run, to ask whether it is ``exact``.
    """

    culprit: Culprit | None
    replay: Replay


def trace(sandbox: Sandbox, batch: Any, batch_idx: int) -> Trace:
    """Runs the step under the tracer, and its backward pass if the loss is finite.

    Gradients are not multiplied by the scale of a ``GradScaler``: that they overflow is how it
    finds its scale. In manual optimization the run ends where an optimizer would take a step with
    bad gradients. Takes the time of 2 to 10 steps.

    Args:
        sandbox: An open sandbox with the snapshot of this step; it is rewound first.
        batch: The batch: ``snapshot.batch``.
        batch_idx: Its index.

    Raises:
        Exception: Whatever the step raises.
    """
    sandbox.rewind()
    found = _trace(sandbox, batch, batch_idx)
    if found.culprit is None or found.culprit.kind != "buffer":
        return found
    # The step itself may have spoilt that buffer (running statistics) before we came. It is to
    # blame only if there is nothing else.
    sandbox.rewind()
    for buffer in sandbox.module.buffers():
        if buffer.is_floating_point():
            buffer.nan_to_num_(nan=1.0, posinf=math.inf, neginf=-math.inf)
    again = _trace(sandbox, batch, batch_idx)
    return again if again.culprit is not None else found


@final
class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows non-finite values through all operations that run while it is entered.

    Args:
        module: The module whose parameters, buffers and submodules are to be named.
        batch: The batch whose tensors are to be named.
    """

    supports_higher_order_operators = True  # flex_attention, cond: they come as one operation

    def __init__(self, module: nn.Module, batch: Any = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {m: _plain_path(name) for name, m in module.named_modules()}
        self._known: dict[int, list[tuple[Kind, str, Tensor]]] = {}
        leaves: list[tuple[Kind, Iterable[tuple[str, Tensor]]]] = [
            ("input", named_tensors(batch)),
            ("buffer", module.named_buffers()),
            ("parameter", module.named_parameters()),
        ]
        for kind, named in leaves:
            for name, tensor in named:
                self._known.setdefault(_key(tensor), []).append((kind, _plain_path(name), tensor))
        self._origin: dict[int, _Event] = {}  # of the bad values in some memory
        self._built: dict[int | None, _Place] = {}  # where the nodes of the graph come from
        self._stack: list[tuple[str, bool]] = []  # modules at work; whether in a backward pass
        self._autograd = _Autograd()

    def __enter__(self) -> Tracer:
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        self._autograd.start()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._autograd.stop()
        for hook in self._hooks:
            hook.remove()

    def follow(self, loss: Tensor) -> None:
        """Announces the backward pass of ``loss``; needed where PyTorch lacks private functions."""
        self._autograd.follow(loss)

    def culprit(self, results: Iterable[tuple[str, Tensor | None]]) -> Culprit | None:
        """Finds where the non-finite values in ``results`` come from; None if all are finite.

        Args:
            results: Tensors with names: the losses, or the gradients.
        """
        bad = [(name, tensor) for name, tensor in results if tensor is not None and is_bad(tensor)]
        if not bad:
            return None
        root, contributor = _root([self._event_of(t, "", _NOWHERE) for _, t in bad])
        return root.culprit(
            contributor=contributor.culprit() if contributor else None,
            reached=tuple(name for name, _ in bad),
            degraded=self._autograd.degraded,
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        place = self._place()
        if _is_view(func):
            return func(*args, **kwargs)
        call = _Call(func, args, kwargs)
        result = func(*args, **kwargs)
        outputs = [t for t in (*tree_iter(result), *call.writes) if isinstance(t, Tensor)]
        if call.op.startswith(("empty", "new_empty")):
            # To blame if it is read before it is written; until then nobody asks.
            event = _Event("forward", call.op, None, place)
            self._origin.update((_key(t), event) for t in outputs)
        elif bad := [t for t in outputs if is_bad(t)]:
            parents = [self._event_of(t, call.op, place) for t in call.bad_inputs]
            event = _Event.born(call, bad, parents, place)
            self._origin.update((_key(t), event) for t in bad)
        else:
            self._forget(outputs, call)
        return result

    def _event_of(self, tensor: Tensor, reader: str, place: _Place) -> _Event:
        """Returns what made this bad tensor; what no operation made, was there before."""
        event = self._origin.get(_key(tensor))
        if event is None:
            event = _Event("outside", reader, None, place)
            for kind, name, leaf in self._known.get(_key(tensor), ()):
                if is_bad(leaf):  # there may be several, slices of the same memory
                    event.kind, event.name, tensor = kind, name, leaf
                    break
            self._origin[_key(tensor)] = event
        if not event.outputs and not event.parents:
            event.describe([tensor])
        return event

    def _forget(self, outputs: list[Tensor], call: _Call) -> None:
        """Drops what was known of memory that is finite now: overwritten, or used once more."""
        for tensor in outputs:
            key = _key(tensor)
            if key in self._origin and (key not in call.keys or _is_whole(tensor)):
                del self._origin[key]

    def _enter_module(self, module: nn.Module, _: Any) -> None:
        name = self._names.get(module, f"<{type(module).__name__}>")
        self._stack.append((name, self._autograd.node() is not None))

    def _leave_module(self, *_: Any) -> None:
        if self._stack:  # it may have been entered before us
            self._stack.pop()

    def _place(self) -> _Place:
        """Tells where we are; in the backward pass, where the node at work was built."""
        module, recomputing = self._stack[-1] if self._stack else ("", False)
        node, newest = self._autograd.node(), self._autograd.newest()
        if node is None or recomputing:  # activation checkpointing: a forward inside a backward
            place = _Place(module, None, calls_here())
            self._built.setdefault(newest, place)
            return place
        if torch.is_grad_enabled():  # this backward is itself to be differentiated
            self._built.setdefault(newest, _Place(module, None, calls_here()))
        built = self._builder_of(self._autograd.number(node))
        calls = built.calls if built else self._autograd.traceback(node)
        inner = calls_here(backward=True)
        return _Place(built.module if built else "", node.name(), (*inner, *calls))

    def _builder_of(self, number: int | None) -> _Place | None:
        # Writing into a view builds further nodes, right after the one that we have seen.
        numbers = range(number, number - 4, -1) if number is not None else ()
        return next((self._built[n] for n in numbers if n in self._built), None)


def _trace(sandbox: Sandbox, batch: Any, batch_idx: int) -> Trace:
    module = sandbox.module
    tracer = Tracer(module, batch)
    with tracer:
        replay = sandbox.training_step(batch, batch_idx, scaled=False, stop=_has_bad_gradients)
    culprit = tracer.culprit(("loss", loss) for loss in replay.losses)
    if culprit is not None:
        return Trace(culprit, replay)
    if module.automatic_optimization and replay.loss is not None and replay.loss.requires_grad:
        tracer.follow(replay.loss)
        with tracer:
            sandbox.backward(replay.loss, scaled=False)
    gradients = ((_plain_path(name), p.grad) for name, p in module.named_parameters())
    return Trace(tracer.culprit(gradients), replay)


def _has_bad_gradients(optimizer: Any) -> bool:
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return any(p.grad is not None and is_bad(p.grad) for p in parameters)


class _Place(NamedTuple):
    module: str
    node: str | None
    calls: tuple[CallSite, ...]


_NOWHERE = _Place("", None, ())


class _Call:
    """One operation and what it reads; if it writes, looked at before it does."""

    def __init__(self, func: Any, args: Any, kwargs: Any) -> None:
        self.op = _op_name(func)
        self.writes = list(written(func, args, kwargs))
        self._func, self._args, self._kwargs = func, args, kwargs
        if self.writes:
            # What is asked of the real tensors, is asked now: copies stand in for those that will
            # be written to.
            vars(self).update(keys=self.keys, bad_inputs=self.bad_inputs)
            copies = {id(t): t.clone() for t in self.writes}
            self._args, self._kwargs = tree_map(lambda a: copies.get(id(a), a), (args, kwargs))

    @functools.cached_property
    def keys(self) -> set[int]:
        """Keys of the memory of all arguments."""
        return {_key(v) for v in tree_iter((self._args, self._kwargs)) if isinstance(v, Tensor)}

    @functools.cached_property
    def bad_inputs(self) -> list[Tensor]:
        """The non-finite tensors that it reads."""
        return [t for _, t in self.inputs() if is_bad(t)]

    def inputs(self) -> list[tuple[str, Tensor]]:
        """Names and values of the tensors that it reads."""
        arguments = self._arguments()
        ignored = {"out"}
        if self.op in _OVERWRITING:
            ignored.add("self")
        training = any(n in ("training", "train") and v is True for n, v in arguments)
        if training or "with_update" in self.op:
            ignored |= {"running_mean", "running_var"}
        return [(n, v) for n, v in arguments if isinstance(v, Tensor) and n not in ignored]

    def numbers(self) -> dict[str, float]:
        """Names and values of the numeric arguments."""
        return {n: v for n, v in self._arguments() if isinstance(v, (int, float))}

    def at(self, index: tuple[int, ...] | None, shape: torch.Size) -> dict[str, float]:
        """The arguments' values at an index of the result, if the operation goes element-wise."""
        if index is None or torch.Tag.pointwise not in getattr(self._func, "tags", ()):
            return {}
        tensors = [(name, v) for name, v in self.inputs() if not v.is_complex()]
        try:
            return {name: float(v.broadcast_to(shape)[index]) for name, v in tensors}
        except (IndexError, RuntimeError):  # of several tensors, or sparse
            return {}

    def overflow(self, dtype: torch.dtype) -> str | None:
        """Tells whether the result is finite if it is computed in float64."""
        narrow = dtype in (torch.float16, torch.bfloat16, torch.float32)
        if not narrow or torch.Tag.nondeterministic_seeded in getattr(self._func, "tags", ()):
            return None
        try:
            args, kwargs = tree_map(_widened, (self._args, self._kwargs))
            wide = [t for t in tree_iter(self._func(*args, **kwargs)) if isinstance(t, Tensor)]
        except (NotImplementedError, RuntimeError, TypeError):
            return None
        if not wide or any(map(is_bad, wide)):
            return None
        sizes = [float(t.abs().max()) for t in wide if t.is_floating_point() and t.numel()]
        largest = max(sizes, default=0.0)
        end, name = torch.finfo(dtype).max, dtype_name(dtype)
        return f"{name} ends at {end:.3g}; in float64 the result is finite, up to {largest:.3g}"

    def _arguments(self) -> Iterable[tuple[str, Any]]:
        """Names, by the schema, and values of all arguments, lists taken apart."""
        schema = getattr(self._func, "_schema", None)
        names = [a.name for a in schema.arguments] if schema else [""] * len(self._args)
        named = (*zip(names, self._args, strict=False), *self._kwargs.items())
        return [
            (name, item)
            for name, value in named
            for item in (value if isinstance(value, (list, tuple)) else (value,))
        ]


@dataclass(eq=False)
class _Event:
    """Non-finite values came into some memory: born, passed on, or found there."""

    kind: Kind
    op: str
    name: str | None
    place: _Place
    parents: list[_Event] = field(default_factory=list)
    nan: bool = False
    only_negative: bool = False
    inputs: tuple[TensorSummary, ...] = ()
    outputs: tuple[TensorSummary, ...] = ()
    scalars: Mapping[str, float] = field(default_factory=dict)
    overflow: str | None = None
    first_bad: tuple[int, ...] | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    time: int = field(default_factory=itertools.count().__next__)

    @classmethod
    def born(cls, call: _Call, bad: list[Tensor], parents: list[_Event], place: _Place) -> _Event:
        event = cls("backward" if place.node else "forward", call.op, None, place, parents)
        event.nan = any(bool(values_of(t).isnan().any()) for t in bad)
        if parents and (any(p.nan for p in parents) or not event.nan):
            return event
        event.scalars = call.numbers()
        literals = [v for v in event.scalars.values() if not math.isfinite(v)]
        if literals and (not event.nan or any(map(math.isnan, literals))):
            event.kind = "constant"
        event.describe(bad)
        event.inputs = tuple(summarize(name, tensor) for name, tensor in call.inputs())
        event.values = call.at(event.first_bad, bad[0].shape)
        if not parents and not literals:
            event.overflow = call.overflow(bad[0].dtype)
        return event

    def describe(self, bad: list[Tensor]) -> None:
        self.outputs = tuple(summarize("result", t) for t in bad)
        values = [values_of(t) for t in bad]
        self.nan = any(bool(x.isnan().any()) for x in values)
        self.only_negative = not self.nan and not any(bool((x == math.inf).any()) for x in values)
        # An infinity beside a NaN may be meant.
        where = [x.isnan() if self.nan else x.isinf() for x in values]
        self.first_bad = next(tuple(m.nonzero()[0].tolist()) for m in where if m.any())

    def culprit(self, **more: Any) -> Culprit:
        found = self.kind in _FOUND
        return Culprit(
            kind=self.kind,
            op=self.op,
            name=self.name,
            module=self.place.module,
            node=self.place.node,
            frames=tuple(site.frame() for site in self.place.calls),
            inputs=self.outputs if found else self.inputs,
            scalars=self.scalars,
            outputs=() if found else self.outputs,
            overflow=self.overflow,
            first_bad=self.first_bad,
            values=self.values,
            **more,
        )


def _root(ends: list[_Event]) -> tuple[_Event, _Event | None]:
    """Returns the event to blame for ``ends``, and the one that had a part in it."""
    past = _ancestors(ends)
    heirs: dict[_Event, list[_Event]] = {event: [] for event in past}
    for event in past:
        for parent in event.parents:
            heirs[parent].append(event)
    births = [event for event in past if event.nan and not any(p.nan for p in event.parents)]
    sources = _ancestors(births[:1]) if births else past
    infinities = [event for event in sources if not event.parents and not event.nan]
    # An infinity of finite inputs is to blame, and the NaN is its consequence. An infinity that is
    # meant (the -inf of a mask) is not: then the operation is, at which it became a NaN.
    blamed = [event for event in infinities if not _is_meant(event, heirs)]
    if births:
        return (blamed[0], births[0]) if blamed else (births[0], next(iter(infinities), None))
    # Only what was meant, and it came through to the end: then that had a part which let it.
    let = (event for event in past if event.parents and event.op not in _MASKING | _COPYING)
    return (blamed[0], None) if blamed else (infinities[0], next(let, None))


def _ancestors(events: list[_Event]) -> list[_Event]:
    """Returns these events and all before them, in the order of time."""
    seen: set[_Event] = set()
    todo = list(events)
    while todo:
        event = todo.pop()
        if event not in seen:
            seen.add(event)
            todo.extend(event.parents)
    return sorted(seen, key=lambda event: event.time)


def _is_meant(event: _Event, heirs: Mapping[_Event, list[_Event]]) -> bool:
    """Whether infinities are the author's: written in the code, or -inf that is used as a mask."""
    if event.kind == "constant":
        return True
    if event.kind not in _FOUND or event.kind == "parameter":
        return False
    if event.kind == "outside" and not event.outputs[0].shape:
        return True
    return event.only_negative and _only_masks(event, heirs)


def _only_masks(event: _Event, heirs: Mapping[_Event, list[_Event]]) -> bool:
    return all(
        heir.op in _MASKING or (heir.op in _COPYING and _only_masks(heir, heirs))
        for heir in heirs[event]
    )


class _Autograd:
    """Private functions of PyTorch that tell which node of the graph is at work.

    Where they are missing, anomaly mode records where each node was built, and hooks on the nodes
    tell when it is their turn.
    """

    def __init__(self) -> None:
        self._current = _working(torch._C, "_current_autograd_node")
        self._counter = _working(torch.autograd, "_get_sequence_nr")
        self._node: Any = None
        self.degraded: str | None = None
        if not self._current or not self._counter:
            self.degraded = "this PyTorch does not tell which line built a node of the graph"

    def start(self) -> None:
        self._before = (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
        if self.degraded or any(self._before):
            torch.autograd.set_detect_anomaly(True, check_nan=False)

    def stop(self) -> None:
        torch.autograd.set_detect_anomaly(*self._before)

    def node(self) -> Any:
        """The node of the graph whose backward is running in this thread, or None."""
        return self._current() if self._current else self._node

    def newest(self) -> int | None:
        """The number of the node that was built last: that of the operation at hand."""
        return self._counter() - 1 if self._counter else None

    def number(self, node: Any) -> int | None:
        number = _working(node, "_sequence_nr")
        return number() if number and self._counter else None

    def traceback(self, node: Any) -> tuple[CallSite, ...]:
        """Where the node was built, from anomaly mode."""
        lines = "".join(node.metadata.get("traceback_", ()))
        sites = re.findall(r'File "(.+?)", line (\d+), in (.+)', lines)
        own = [
            CallSite(f, int(n), function, None, 0) for f, n, function in sites if is_accountable(f)
        ]
        return tuple(reversed(own))

    def follow(self, loss: Tensor) -> None:
        """Notes which node is at work in the backward pass of ``loss``."""
        if self._current:
            return
        seen: set[Any] = set()
        todo = [loss.grad_fn]
        while todo:
            node = todo.pop()
            if node is not None and node not in seen:
                seen.add(node)
                node.register_prehook(lambda _, node=node: setattr(self, "_node", node))
                todo.extend(following for following, _ in node.next_functions)


def _working(owner: Any, name: str) -> Callable[[], Any] | None:
    """Returns a private function of PyTorch, if it is there and does not raise."""
    function = getattr(owner, name, None)
    try:
        function()  # type: ignore[misc]
    except (TypeError, RuntimeError):
        return None
    return function


# What was in ``self`` before, often memory that was never written, is no input of these.
_OVERWRITING = frozenset(
    ("copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_", "exponential_",
     "log_normal_", "cauchy_", "geometric_", "set_", "resize_")
)  # fmt: skip
# Where -inf says "not this one", and comes to no harm.
_MASKING = frozenset(
    ("add", "add_", "where", "masked_fill", "masked_fill_", "minimum", "maximum", "min", "max",
     "amin", "amax", "_softmax", "_safe_softmax", "_log_softmax", "logaddexp", "logsumexp",
     "baddbmm", "topk", "sort", "_scaled_dot_product_flash_attention_for_cpu",
     "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
     "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable")
)  # fmt: skip
_COPYING = frozenset(("_to_copy", "clone", "copy_", "cat", "stack", "index", "repeat"))
_FOUND = frozenset(("input", "parameter", "buffer", "outside"))


def _key(tensor: Tensor) -> int:
    return address(tensor._values() if tensor.is_sparse else tensor) or -id(tensor)


def _is_whole(tensor: Tensor) -> bool:
    """Whether the tensor is all there is in its memory."""
    whole = address(tensor) is not None
    return whole and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) else value


@functools.cache
def _op_name(func: Any) -> str:
    schema = getattr(func, "_schema", None)
    name: str = schema.name if schema else func.name()
    return name.removeprefix("aten::")


@functools.cache
def _is_view(func: Any) -> bool:
    """Whether the result is but another look at an argument, which it does not write to."""
    schema = getattr(func, "_schema", None)
    # lift_fresh brings in what others have made: torch.tensor(...), torch.from_numpy(...).
    if schema is None or schema.is_mutable or schema.name == "aten::lift_fresh":
        return False
    return any(result.alias_info for result in schema.returns)


def _plain_path(name: str) -> str:
    """Strips what ``torch.compile`` and checkpoint wrappers put into the path of a module."""
    wrappers = ("_orig_mod", "_checkpoint_wrapped_module")
    return ".".join(part for part in name.split(".") if part not in wrappers)
