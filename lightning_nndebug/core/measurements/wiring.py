"""Which layer feeds which in one training step, as the graph of the loss tells."""

from __future__ import annotations

import functools
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ..sandbox import running
from ..trainer import eagerly, plain_name
from . import Cadence, Measurement, Moment

# What is between two layers and computes nothing.
_COPIES = {"Alias", "Clone", "ToCopy"}
_VIEWS = {"View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "T", "Squeeze", "Unsqueeze"}
_LONGEST = 8  # such nodes between two layers


@dataclass(frozen=True)
class Part:
    """A layer.

    Attributes:
        name: The module.
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
    """A layer whose output goes to another one, with no more than views and dropout between.

    Attributes:
        source: The layer that gives.
        target: The layer that takes.
        is_only: Whether nothing else in the loss depends on what it gives.
        is_plain: Whether it gets there in the same shape.
        dropouts: The dropouts between.
    """

    source: Part
    target: Part
    is_only: bool = True
    is_plain: bool = True
    dropouts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wiring(Measurement):
    """Which layers are wired to which, in the order in which they ran.

    Known only of what the loss of a step depends on, and only where torch's own layers are called.

    Attributes:
        links: From layer to layer.
        norms: The batch norms that used the statistics of the batch, and from how many values each
            of these was made, at least.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_backward", "on_train_batch_end")
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=3, every=200)

    links: tuple[Link, ...]
    norms: tuple[tuple[str, int], ...] = ()

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Hooks the layers."""
        memory.watch = watch = _Watch(moment)
        watch.stack.enter_context(eagerly(moment.module))
        for name, module in moment.module.named_modules():
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
        return cls(tuple(watch.links), tuple(watch.norms.items()))

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
    norms: dict[str, int] = field(default_factory=dict)
    error: Exception | None = None
    _calls: list[_Call] = field(default_factory=list)

    def add(self, part: Part, module: nn.Module) -> None:
        before = functools.partial(self._called, part)
        after = functools.partial(self._returned, part)
        self.stack.callback(module.register_forward_pre_hook(before).remove)
        self.stack.callback(module.register_forward_hook(after).remove)

    def follow(self, root: Any) -> None:
        """Notes the links among the layers that have been called since the last backward."""
        calls, self._calls = self._calls, []
        uses = _uses(root)
        given = {call.out_of: call for call in calls if call.out_of in uses}
        for call in calls:
            if call.part.kind != "dropout" and call.out_of in uses:
                link = _link(call, given, uses)
                if link is not None:
                    self.links.append(link)

    def _called(self, part: Part, module: Any, args: Any) -> None:
        # Checkpointed modules are called for a second time in the backward.
        if running() or torch._C._current_graph_task_id() != -1:
            return
        x = args[0] if args else None
        if not isinstance(x, Tensor):
            return
        self._calls.append(_Call(part, x.grad_fn))
        if part.kind == "batch norm" and (module.training or module.running_mean is None):
            values = x.numel() // max(1, x.shape[1] if x.dim() > 1 else 1)
            if isinstance(module, nn.SyncBatchNorm):
                values *= self.moment.trainer.world_size
            self.norms[part.name] = min(values, self.norms.get(part.name, values))

    def _returned(self, part: Part, module: Any, args: Any, output: Any) -> None:
        if running() or torch._C._current_graph_task_id() != -1:
            return
        call = next((one for one in reversed(self._calls) if one.part is part), None)
        if call is not None and isinstance(output, Tensor):
            call.out_of = output.grad_fn


def _uses(root: Any) -> Counter[Any]:
    """Counts how often the output of each node in a graph is used."""
    counts: Counter[Any] = Counter({root: 0} if root is not None else ())
    stack = [root] if root is not None else []
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                if node not in counts:
                    stack.append(node)
                counts[node] += 1
    return counts


def _link(call: _Call, given: dict[Any, _Call], uses: Counter[Any]) -> Link | None:
    """Goes back from what a layer got to the layer that gave it."""
    node, is_only, is_plain = call.into, True, True
    dropouts: list[str] = []
    for _ in range(_LONGEST):
        if node is None:
            return None
        is_only = is_only and uses[node] == 1
        source = given.get(node)
        if source is not None and (source.part.kind != "dropout" or call.part.kind == "batch norm"):
            return Link(source.part, call.part, is_only, is_plain, tuple(dropouts))
        if source is not None:
            dropouts.append(source.part.name)
            node = source.into
            continue
        name = node.name().rpartition("Backward")[0]
        if name not in _COPIES | _VIEWS:
            return None
        is_plain = is_plain and name in _COPIES
        node = node.next_functions[0][0]
    return None


def _part(name: str, module: nn.Module) -> Part | None:
    """Describes a layer; None for what is none of torch's own, and may do anything."""
    if not f"{type(module).__module__}.".startswith("torch.nn."):
        return None
    if isinstance(module, _DropoutNd):
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
