"""The graph of the loss: whether there is one, and if not, where gradients were turned off."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..listening import ListeningMode
from ..sandbox import Sandbox
from ..source import Line, nearest_line
from . import Measurement, Moment
from .loss_calls import LossCalls, heard_functions, op
from .repeatable import Repeatable, is_repeatable

log = logging.getLogger("lightning_nndebug")

# What takes a value out of the graph.
_CUTTERS = {"detach", "detach_", "item", "tolist", "numpy", "argmax", "argmin", "data", "tensor",
            "eq", "__eq__", "gt", "__gt__", "lt", "__lt__", "ge", "__ge__", "le", "__le__",
            "long", "int", "bool", "__float__"}  # fmt: skip
_DATA = {Tensor.data.__get__}  # type: ignore[attr-defined]
_ALL, _EVERY = 50, 5  # batches at the start are all looked at, and then one of so many
# So many losses in a row that require a gradient by themselves are no batches that are left out.
_LEFT_OUT = 3
_LOOKS, _BATCHES = 3, 20  # a step that has returned nothing so often, from the first on, never will
# What a penalty on the weights is made of; where numbers are added, they may be data.
_PENALTIES = {"AccumulateGrad", "Mul", "Div", "Pow", "Abs", "Sum", "Mean", "Sqrt", "Stack", "Norm",
              "LinalgVectorNorm", "View", "Add"}  # fmt: skip
_NODES = 2000  # of a graph that is looked at


@dataclass(frozen=True)
class LostGraph(Measurement):
    """Why a loss does not lead back to any parameter. Taken only when it does not.

    On one device the step is run again, with gradients on, to see where they are turned off.

    Attributes:
        inference: Whether the loss was made in inference mode.
        outside: Whether the step, run again, does record a graph: gradients were off around it.
        off: How many operations on trainable parameters found gradients turned off.
        on: How many did not.
        switch: The line that turned them off.
        first: The line of the first operation without.
        cut: The last line that took a value out of the graph, by ``item`` or ``argmax`` for one.
        cutter: What did it there.
        again: Whether the step has been run again at all.
        penalty: Whether the loss does lead back to parameters, but as a penalty on them alone: the
            loss of the data, which the step has computed, has no graph.
        kept: The line of a loss with a graph that the step computes and never returns: no batch of
            the run has gone backward.
        batches: How many there were.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_before_backward",
        "on_train_batch_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (Repeatable, LossCalls)

    inference: bool
    outside: bool = False
    off: int = 0
    on: int = 0
    switch: Line | None = None
    first: Line | None = None
    cut: Line | None = None
    cutter: str = ""
    again: bool = False
    penalty: bool = False
    kept: Line | None = None
    batches: int = 0

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> LostGraph | None:
        """Keeps the batch of the step, and looks at its loss: a microsecond or two."""
        if moment.hook != "on_before_backward":
            is_over = moment.hook == "on_train_batch_end"
            memory.batch = None if is_over else (moment.batch, moment.batch_idx)
            return _never_returned(moment, memory) if is_over else None
        memory.returned = True
        memory.backwards = getattr(memory, "backwards", 0) + 1
        is_left_out = memory.backwards > _ALL and memory.backwards % _EVERY and not memory.lost
        penalty = not is_left_out and _is_penalty(moment.loss.grad_fn)
        if not hasattr(memory, "held"):
            memory.held = _held(moment.trainer)
        if is_left_out or (not penalty and _has_graph(moment.loss, memory.held)):
            memory.lost = 0
            return None
        memory.lost = getattr(memory, "lost", 0) + 1
        if memory.lost != (_LEFT_OUT if moment.loss.requires_grad else 1):
            return None
        inference, alone = moment.loss.is_inference(), moment.trainer.world_size == 1
        trained = any(p.requires_grad for p in moment.module.parameters())
        if not trained or (penalty and not (alone and is_repeatable(moment))):
            return None
        if inference or not alone:  # the step may need the other processes
            return cls(inference)
        listener, outside = _Listener(), False
        try:
            with Sandbox(moment.trainer, moment.module) as sandbox, listener:
                replay = sandbox.training_step(*memory.batch)
            # In manual optimization the backward has been run, and has not raised.
            by_hand = not moment.module.automatic_optimization
            redone = replay.loss is not None and _has_graph(replay.loss, memory.held)
            inside = listener.off and not listener.on
            outside = not (penalty or inside) and (by_hand or redone)
        except Exception as error:  # what the user is about to see too
            log.debug("nndebug: the step, run again, raised %r", error)
        found = cls(
            inference,
            outside=outside,
            off=listener.off,
            on=listener.on,
            switch=listener.switch,
            first=listener.first,
            cut=listener.cut,
            cutter=listener.cutter,
            again=True,
            penalty=penalty,
        )
        # A function of the weights may be all that there is to be learned.
        return found if not penalty or (found.off and listener.losses == {False}) else None

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Lets go of the batch."""
        memory.batch = None


def _never_returned(moment: Moment, memory: SimpleNamespace) -> LostGraph | None:
    """Looks whether the step has computed a loss in each look so far, and never returned one."""
    known = vars(memory)
    if known.setdefault("returned", not moment.module.automatic_optimization):
        return None
    memory.batches = known.get("batches", 0) + 1
    trained = [p for p in _parameters(moment.trainer) if p.requires_grad]
    versions = [p._version for p in trained]
    memory.versions = known.get("versions", versions)
    if (heard := moment.take(LossCalls)) is not None:
        used = [one for one in (*heard.calls, *heard.differences) if one.input.requires_grad]
        memory.looks = [*known.get("looks", ()), used[-1].line if used else None]
    looks = known.get("looks", ())
    if memory.batches < _BATCHES or len(looks) < _LOOKS or None in looks:
        return None
    memory.returned = True  # told, or trained by other means
    is_idle = trained and versions == memory.versions
    return LostGraph(inference=False, kept=looks[-1], batches=memory.batches) if is_idle else None


class _Listener(ListeningMode):
    """Counts the operations on trainable parameters by whether they leave a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.on = self.off = 0
        self.losses: set[bool] = set()  # whether the losses that were computed have a graph
        self.switch: Line | None = None
        self.first: Line | None = None
        self.cut: Line | None = None
        self.cutter = ""
        self._last_switch: Line | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            if not args[0]:
                self._last_switch = nearest_line(sys._getframe(1))
        elif any(map(_is_trainable, (*args, *kwargs.values()))):
            if torch.is_grad_enabled():
                self.on += 1
            else:
                self.off += 1
                self.switch = self.switch or self._last_switch
                self.first = self.first or nearest_line(sys._getframe(1))
        if "loss" in (heard := heard_functions().get(func, "")) or "entropy" in heard:
            self.losses.add(_requires_grad((*args, *kwargs.values())))
        name = getattr(func, "__name__", "")
        name = "data" if func in _DATA else name
        if name in _CUTTERS and _requires_grad(args):
            self.cut, self.cutter = nearest_line(sys._getframe(1)), name
        return func(*args, **kwargs)


def _requires_grad(args: Any) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].requires_grad


def _is_trainable(value: Any) -> bool:
    return isinstance(value, nn.Parameter) and value.requires_grad


def _is_penalty(root: Any) -> bool:
    """Returns whether a loss is made of parameters and of numbers alone."""
    nodes, known = [root], {root}
    for node in nodes:  # which grows
        name = "" if node is None else op(node)
        if name not in _PENALTIES or len(nodes) > _NODES:
            return False
        if name == "AccumulateGrad" and not isinstance(node.variable, nn.Parameter):
            return False
        results = getattr(node, "_input_metadata", ())
        if name == "Add" and any(len(one.shape) for one in results):
            return False
        saved = (getattr(node, f"_saved_{one}", None) for one in ("self", "other"))
        if name in ("Mul", "Div") and any(map(_is_data, saved)):
            return False
        new = {one for one, _ in node.next_functions if one is not None} - known
        known |= new
        nodes += new
    return True


def _is_data(saved: Any) -> bool:
    return isinstance(saved, Tensor) and saved.numel() > 1 and not saved.requires_grad


def _has_graph(loss: Tensor, trained: frozenset[int]) -> bool:
    """Returns whether a parameter is in the graph of a loss; also if that cannot be known.

    A leaf that was told to require a gradient, as by ``loss.requires_grad_()``, satisfies the
    backward and trains nothing.

    Args:
        loss: The loss.
        trained: The addresses of whatever an optimizer holds, which need not be a parameter.
    """
    nodes, known = [loss.grad_fn], {loss.grad_fn}
    while nodes:
        node: Any = nodes.pop()
        leaf = getattr(node, "variable", loss if node is None else None)
        if leaf is not None and (isinstance(leaf, nn.Parameter) or id(leaf) in trained):
            return True
        # A function of the user's, or a checkpoint, may hide what it was computed from.
        if hasattr(node, "_forward_cls") or len(known) > _NODES:
            return True
        new = {one for one, _ in getattr(node, "next_functions", ()) if one is not None} - known
        known |= new
        nodes += new
    return False


def _held(trainer: Any) -> frozenset[int]:
    return frozenset(map(id, _parameters(trainer)))


def _parameters(trainer: Any) -> Iterator[Tensor]:
    groups = (group for one in trainer.optimizers for group in one.param_groups)
    return (p for group in groups for p in group["params"])
