"""Which layer feeds which in one training step, as the graph of the loss tells."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ..listening import ListeningMode, hookable
from ..sandbox import running
from ..source import nearest_line
from ..trainer import eagerly, plain_name
from . import Cadence, Measurement, Moment

# What is between two layers and computes nothing.
_COPIES = {"Alias", "Clone", "ToCopy"}
_VIEWS = {"View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "T", "Squeeze", "Unsqueeze"}
# What leaves a value that was dropped at zero, and scales with the others.
_ACTIVATIONS = {"Relu", "LeakyRelu", "PreluKernel", "Elu", "Gelu", "Silu", "Mish"}
_ACTIVATIONS |= {f"MaxPool{n}DWithIndices" for n in (2, 3)}
# What a regression makes of its error: of a difference to what is given, by hand or by torch.
_ERRORS = {"MseLoss", "L1Loss", "SmoothL1Loss", "HuberLoss"}
_POWERS = {"Pow", "Abs", "Mul"}
_MEANS = {"Mean", "Sum", "Add", "Div", "Mul", "Sqrt"}
_GATE = "Glu"  # the two halves of what it takes are two layers
_NODES = 100  # of the loss that are followed to what it compares
_LONGEST = 8  # such nodes between two layers
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d"}
_KEEP_VARIANCE = (nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Part:
    """A layer.

    Attributes:
        name: The module; the line, if it is a dropout that is called as a function.
        kind: What it is.
        inputs: Number of features or channels that it takes,
        outputs: and that it gives.
        kernel: Size of the kernel of a convolution.
        is_dense: Whether each output depends on all inputs: no groups, no transposed convolution.
        has_bias: Whether it has a bias that is trained.
        is_trained: Whether it has a weight that is trained.
        rate: The share that a dropout drops.
    """

    name: str
    kind: Literal["linear", "convolution", "dropout", "batch norm", "instance norm"]
    inputs: int = 0
    outputs: int = 0
    kernel: tuple[int, ...] = ()
    is_dense: bool = True
    has_bias: bool = False
    is_trained: bool = True
    rate: float = 0.0


@dataclass(frozen=True)
class Link:
    """A layer whose output goes to another one, with nothing between that has a bend.

    From a linear layer to a linear layer there may be dropout, a batch norm and views; from a
    dropout to a batch norm also activations, which what was dropped passes as it is.

    Attributes:
        source: The layer that gives.
        target: The layer that takes.
        is_only: Whether nothing else in the loss depends on what it gives: no other layer, nor the
            other half of a gated linear unit.
        is_plain: Whether it gets there in the same shape.
        between: The dropouts and norms between, and activation functions that leave all as it is.
    """

    source: Part
    target: Part
    is_only: bool = True
    is_plain: bool = True
    between: tuple[str, ...] = ()


@dataclass(frozen=True)
class Norm:
    """A batch norm that uses the statistics of the batch.

    Attributes:
        name: The module.
        samples: In a batch, at least,
        positions: and of each, such as pixels.
        offset: Square of the mean, over the variance, of what the usual channel gets, if that is
            never negative, as after a ReLU; 0 otherwise.
    """

    name: str
    samples: int
    positions: int = 1
    offset: float = 0.0


@dataclass(frozen=True)
class Wiring(Measurement):
    """Which layers are wired to which, in the order in which they ran.

    Known only of what the loss of a step depends on, and only where torch's own layers are called.

    Attributes:
        links: From layer to layer.
        norms: The batch norms that used the statistics of the batch.
        answers: The dropouts whose output is compared with given values, and used for nothing else.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_backward", "on_train_batch_end")
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=3, every=200)

    links: tuple[Link, ...]
    norms: tuple[Norm, ...] = ()
    answers: tuple[Part, ...] = ()

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Hooks the layers."""
        memory.watch = watch = _Watch(moment)
        watch.stack.enter_context(eagerly(moment.module))
        watch.stack.enter_context(_Listener(watch))
        for name, module in hookable(moment.module):
            if (part := _part(plain_name(name), module)) is not None:
                watch.add(part, module)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Wiring | None:
        """Follows the graph backward from each layer, before the backward takes it apart."""
        watch: _Watch = memory.watch
        if watch.error is not None:
            raise watch.error
        if moment.hook == "on_before_backward":
            watch.follow(moment.loss.grad_fn)
            return None
        return cls(tuple(watch.links), watch.read(), tuple(watch.answers))

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks, and lets go of the graph."""
        if hasattr(memory, "watch"):
            memory.watch.stack.close()
            del memory.watch


@dataclass
class _Call:
    """A layer that has been called: the nodes of the graph of what it got and gave."""

    part: Part
    into: Any
    out_of: Any = None


@dataclass
class _Watch:
    """The hooks of one step. They run in the user's forward: they may not raise."""

    moment: Moment
    stack: ExitStack = field(default_factory=ExitStack)
    links: list[Link] = field(default_factory=list)
    answers: list[Part] = field(default_factory=list)
    error: Exception | None = None
    _norms: dict[str, tuple[int, int]] = field(default_factory=dict)
    _offsets: dict[str, Tensor] = field(default_factory=dict)
    _calls: list[_Call] = field(default_factory=list)
    _open: Part | None = None

    def add(self, part: Part, module: nn.Module) -> None:
        before = functools.partial(self._called, part)
        after = functools.partial(self._returned, part)
        self.stack.callback(module.register_forward_pre_hook(before).remove)
        self.stack.callback(module.register_forward_hook(after).remove)

    def follow(self, root: Any) -> None:
        """Notes the links among the layers that have been called since the last backward."""
        calls, self._calls = self._calls, []
        uses, gated = _uses(root)
        given = {call.out_of: call for call in calls if call.out_of in uses}
        compared = _compared(root, uses)
        for node, call in given.items():
            if call.part.kind == "dropout" and call.part.rate and node in compared:
                self.answers.append(call.part)
        for call in calls:
            if call.part.kind != "dropout" and call.out_of in uses:
                link = _link(call, given, uses)
                if link is not None:
                    halves = call.part.kind == "linear" and call.out_of in gated
                    self.links.append(replace(link, is_only=link.is_only and not halves))

    def read(self) -> tuple[Norm, ...]:
        """Returns the norms, by one copy from the device."""
        offsets = list(self._offsets.values())
        numbers = (
            torch.stack([one.to(offsets[0].device) for one in offsets]).tolist() if offsets else []
        )
        found = dict(zip(self._offsets, numbers, strict=True))
        return tuple(Norm(name, *size, found.get(name, 0.0)) for name, size in self._norms.items())

    def dropped(self, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        """A function has dropped something, and not on behalf of a module."""
        if self._open is not None or _is_again():
            return
        # Of torch.nn.functional, as of torch: (input, p, training)
        named = {**dict(zip(("input", "p", "training"), args, strict=False)), **kwargs}
        rate, given = named.get("p", 0.5), named.get("input")
        if rate and isinstance(given, Tensor) and named.get("training", named.get("train", True)):
            line = nearest_line(sys._getframe(1))
            part = Part(f"dropout at {line}" if line else "dropout", "dropout", rate=float(rate))
            self._calls.append(_Call(part, given.grad_fn, output.grad_fn))

    def _called(self, part: Part, module: Any, args: Any) -> None:
        if _is_again():
            return
        x = args[0] if args else None
        if not isinstance(x, Tensor):
            return
        self._open = part if part.kind == "dropout" else None
        self._calls.append(_Call(part, x.grad_fn))
        if part.kind == "batch norm" and (module.training or module.running_mean is None):
            try:
                self._size_up(part.name, module, x)
            except Exception as error:
                self.error = error

    def _size_up(self, name: str, module: Any, x: Tensor) -> None:
        """Notes how large the batch of a norm is, and where its values lie if some are dropped."""
        samples = len(x) if x.dim() > 1 else 1
        positions = x[0, 0].numel() if x.dim() > 1 and x.numel() else 1
        if isinstance(module, nn.SyncBatchNorm):
            samples *= self.moment.trainer.world_size
        size = samples, positions
        self._norms[name] = min(size, self._norms.get(name, size), key=_values)
        if x.dim() > 1 and any(one.part.kind == "dropout" for one in self._calls):
            with torch.no_grad():
                axes = [axis for axis in range(x.dim()) if axis != 1]
                variance, mean = torch.var_mean(x.detach().float(), axes, correction=0)
                offset = (mean.square() / variance.clamp_min(1e-12)).median()
                self._offsets[name] = offset * (x.min() >= 0)

    def _returned(self, part: Part, module: Any, args: Any, output: Any) -> None:
        if _is_again():
            return
        self._open = None
        call = next((one for one in reversed(self._calls) if one.part is part), None)
        if call is not None and isinstance(output, Tensor):
            call.out_of = output.grad_fn


class _Listener(ListeningMode):
    """Hears dropout that is called as a function."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _DROPOUTS:
            try:
                self._watch.dropped(args, kwargs or {}, output)
            except Exception as error:
                self._watch.error = error
        return output


def _is_again() -> bool:
    """Whether this is no call of the user's: checkpointed modules run again in the backward."""
    return running() or torch._C._current_graph_task_id() != -1


def _values(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _uses(root: Any) -> tuple[Counter[Any], set[Any]]:
    """Counts how often the output of each node in a graph is used, and notes what gates take."""
    counts: Counter[Any] = Counter({root: 0} if root is not None else ())
    gated: set[Any] = set()
    stack = [root] if root is not None else []
    while stack:
        user = stack.pop()
        for node, _ in user.next_functions:
            if node is not None:
                if node not in counts:
                    stack.append(node)
                counts[node] += 1
                if user.name().startswith(_GATE):
                    gated.add(node)
    return counts, gated


def _compared(root: Any, uses: Counter[Any]) -> set[Any]:
    """Returns what has made the values that a regression compares with given ones, and no more."""
    found, stack = set(), [(root, False)] if root is not None else []
    for _ in range(_NODES):
        if not stack:
            break
        node, is_power = stack.pop()
        name, sources = _name(node), {one for one, _ in node.next_functions if one is not None}
        if name in _ERRORS or (name == "Sub" and is_power):
            made = next(iter(sources), None)
            while made is not None and _name(made) in _COPIES | _VIEWS and uses[made] == 1:
                made = made.next_functions[0][0]
            if len(sources) == 1 and uses[made] == 1:
                found.add(made)
        elif name in _MEANS | _POWERS | _COPIES | _VIEWS:
            # An error by hand is a difference, absolute, squared, or times itself.
            is_power = name in _POWERS and len(sources) == 1
            stack.extend((one, is_power) for one in sources)
    return found


def _name(node: Any) -> str:
    """Returns the operation that has left a node in the graph."""
    return str(node.name().rpartition("Backward")[0])


def _link(call: _Call, given: dict[Any, _Call], uses: Counter[Any]) -> Link | None:
    """Goes back from what a layer got to the layer that gave it."""
    node, is_only, is_plain = call.into, True, True
    between: list[str] = []
    is_norm, is_bent = call.part.kind == "batch norm", False
    for _ in range(_LONGEST):
        if node is None:
            return None
        is_only = is_only and uses[node] == 1
        source = given.get(node)
        if source is not None and (is_norm or source.part.kind not in ("dropout", "batch norm")):
            is_straight = not is_bent or source.part.kind == "dropout"
            link = Link(source.part, call.part, is_only, is_plain, tuple(between))
            return link if is_straight else None
        if source is not None:
            between.append(source.part.name)
            node = source.into
            continue
        name = _name(node)
        if name == "LeakyRelu" and getattr(node, "_saved_negative_slope", 0) == 1:
            between.append("a LeakyReLU of slope 1")
            node = node.next_functions[0][0]
            continue
        is_bent = is_bent or (is_norm and name in _ACTIVATIONS)
        if name not in _COPIES | _VIEWS and not (is_norm and name in _ACTIVATIONS):
            return None
        is_plain = is_plain and name not in _VIEWS
        node = node.next_functions[0][0]
    return None


def _part(name: str, module: nn.Module) -> Part | None:
    """Describes a layer; None for what has a forward of its own, and may do anything."""
    if not f"{type(module).forward.__module__}.".startswith("torch.nn."):
        return None
    if isinstance(module, _DropoutNd) and not isinstance(module, _KEEP_VARIANCE):
        return Part(name, "dropout", rate=module.p if module.training else 0.0)
    if isinstance(module, _NormBase):
        return Part(name, "instance norm" if isinstance(module, _InstanceNorm) else "batch norm")
    if not isinstance(module, (nn.Linear, _ConvNd)):
        return None
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    has_bias, is_trained = "bias" in trained, bool(trained - {"bias"})
    if isinstance(module, nn.Linear):
        sizes = module.in_features, module.out_features
        return Part(name, "linear", *sizes, has_bias=has_bias, is_trained=is_trained)
    return Part(
        name=name,
        kind="convolution",
        inputs=module.in_channels,
        outputs=module.out_channels,
        kernel=tuple(module.kernel_size),
        is_dense=module.groups == 1 and not module.transposed,
        has_bias=has_bias,
        is_trained=is_trained,
    )
