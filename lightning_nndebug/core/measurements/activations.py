"""What the activation functions of a step are given, and the scale of the layers before them."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType, SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..layers import condensed
from ..listening import ListeningMode, listen, stop_listening
from ..sandbox import running
from ..source import Line, nearest_line, outward
from ..trainer import plain_name
from . import Cadence, Measurement, Moment
from .batches import tensors

log = logging.getLogger("lightning_nndebug")

# Batches to look at, whatever it costs.
_FIRST = (2, 5, 9, 13, 18, 23, 29, 36, 44, 52, 65, 73, 86, 99)
_WINDOW, _LONGEST = 5, 16  # looks that a unit must be idle in: so many, and more of small batches
_SEEN = 100  # samples, at least, that they must have shown
_CALLS = 512  # calls that are noted in a step: a recurrent net has one at every time step
_ROWS = 8  # samples, and features, to see whether they vary
_HOPS = 12  # operations between a layer and its activation function, such as a norm
_SLOPE = 3.0  # where the slope of tanh is 1 % of its steepest
_SHUT = -14.0  # a sigmoid lets a millionth through, and as much of a gradient
_SURE = 0.9975  # a probability at which the slope of softmax is
_CHOICES = 4  # at least, to be sure of one of them is no matter of course
_BOTH = 0.1  # the share that both ends have, at least, if it is no matter of a bias
_HIDDEN = -5000.0  # the score of what a mask leaves out
_QUERIES = 16  # of each head tell how attention chooses

# Left of this a unit passes neither a signal nor a gradient.
_IDLE_BELOW = {
    "relu": 0.0, "relu_": 0.0, "relu6": 0.0, "threshold": 0.0, "threshold_": 0.0,
    "hardswish": -3.0, "gelu": -4.0, "softplus": -8.0, "silu": -10.0, "mish": -10.0,
}  # fmt: skip
# Between these a unit has a slope.
_STEEP = {
    "tanh": _SLOPE, "tanh_": _SLOPE, "sigmoid": 2 * _SLOPE, "sigmoid_": 2 * _SLOPE,
    "hardsigmoid": 3.0, "hardtanh": 1.0, "hardtanh_": 1.0,
}  # fmt: skip
_CONVOLUTIONS = {f"conv{mode}{n}d" for mode in ("", "_transpose") for n in (1, 2, 3)}
_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell"}
_ATTENTION = {"multi_head_attention_forward", "scaled_dot_product_attention"}
_LAYERS = {"linear", "bilinear", *_CONVOLUTIONS, *_PRODUCTS, *_RECURRENT, *_ATTENTION}
_GATES = {"mul", "mul_", "__mul__", "__rmul__", "multiply", "addcmul", "lerp", "where"}
_NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize"}
_SOFT = {"softmax", "log_softmax", "gumbel_softmax"}
_SHAPING = (
    "View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Expand", "Transpose", "Permute",
    "Slice", "Select", "Split", "Clone", "ToCopy", "T",
)  # fmt: skip
_SCALING = ("Rsub", "Add", "Sub", "Mul", "Div", "Neg", "NativeDropout")  # by a number


@dataclass(frozen=True)
class Activation:
    """One activation function of the net, after one layer.

    Attributes:
        function: Such as ``relu``; without the underscore of those that work in place.
        where: The layer that it follows, else the module or line that calls it.
        line: The line of the user's code that made the call.
        units: Channels of a convolution, features of all else.
        idle: How many of them had no slope for any sample, in all of the last five looks, or in
            more if batches are small. None until there were enough; of functions that have two flat
            ends, always.
        inputs: How many numbers each unit is computed from; 0 if that is not known.
        rows: Samples, and positions in them, that have been seen in those looks.
        flat: The share of values of this look in the flat ends of a function that has two. Of what
            is not hidden, 0 if they are all at one end: a gate may well begin open, or shut, unless
            it lets through nothing at all.
        is_hidden: Whether the result goes into another layer, and not as a factor (a gate).
        is_gate: Whether it weighs something else that is being learned, as a layer says.
    """

    function: str
    where: str
    line: Line | None
    units: int
    idle: int | None
    inputs: int
    rows: int
    flat: float | None
    is_hidden: bool
    is_gate: bool = False


@dataclass(frozen=True)
class Layer:
    """The answer of one layer.

    Attributes:
        where: The module, or the line that calls it.
        std: Standard deviation of all its values.
        is_hidden: Whether they go into another layer.
        normed: How many norms have run before it in this step.
        varying: The share of it that varies between samples; None if it is no row of features for
            each of them.
    """

    where: str
    std: float
    is_hidden: bool
    normed: int
    varying: float | None = None


@dataclass(frozen=True)
class Softmax:
    """A softmax over so few classes that it can only say one thing.

    Attributes:
        where: The module, or the line that calls it.
        line: The line of the user's code that made the call.
        shape: The shape of its input.
    """

    where: str
    line: Line | None
    shape: tuple[int, ...]


class Looks(Cadence):
    """A cadence with fourteen looks in the first 100 batches, for the sake of short runs."""

    def due(self, occasion: int, price: float, step_time: float) -> bool:
        """Returns whether to look."""
        late = occasion - _FIRST[-1]
        return occasion in _FIRST or (late > 0 and super().due(late, price, step_time))


@dataclass(frozen=True)
class Activations(Measurement):
    """The activation functions and the layers of one step, in the order in which they ran.

    Modules and calls such as ``F.relu(x)`` are the same to it, as are those that work in place.
    What needs no gradient is left out: it is not being trained.

    Attributes:
        calls: The activation functions; those that several calls of one layer share, once.
        layers: The layers.
        lonely: Softmax functions over a single unit whose result is an output.
        pooling: Those over the single score of a layer that weigh features which are added up along
            another axis.
        fakes: For what one net hands to another in the shape of the data, as a generator does: how
            much it varies between samples, as a share of what the data does. By the layer that
            gets it.
        step: Where it was taken.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_backward", "on_train_batch_end")
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = Looks(every=50)

    calls: tuple[Activation, ...]
    layers: tuple[Layer, ...] = ()
    lonely: tuple[Softmax, ...] = ()
    fakes: tuple[tuple[str, float], ...] = ()
    pooling: tuple[Softmax, ...] = ()
    step: int = 0

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Listens to the step."""
        is_game = len(moment.trainer.optimizers) > 1
        listen(memory, moment.module, _Listener(moment.module, moment.batch, is_game=is_game))

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Activations | None:
        """Reads what was noted on the device as soon as the forward is complete."""
        unfinished = not moment.module.automatic_optimization  # it may go on after a backward
        if not hasattr(memory, "mode") or (moment.hook == "on_before_backward" and unfinished):
            return None
        history = vars(memory).setdefault("history", {})
        calls, layers, lonely, fakes, pooling = memory.mode.heard(history)
        return cls(calls, layers, lonely, fakes, pooling, moment.step)

    def snapshot(self) -> dict[str, Any]:
        """The share of idle units after each layer, and the scale of what each layer answers."""
        idle = {one.where: one.idle / one.units for one in self.calls if one.idle is not None}
        scales = {one.where: one.std for one in self.layers}
        quantities = {"idle units": idle, "activation scale": scales}
        return {
            "layers": {
                name: condensed(values, max, of_modules=True)
                for name, values in quantities.items()
                if values
            }
        }

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Stops listening."""
        stop_listening(memory)


@dataclass
class _Origin:
    """The layer that a tensor came out of."""

    where: str
    axis: int
    inputs: int


@dataclass
class _Call:
    function: str
    where: str
    place: str
    line: Line | None
    origin: _Origin | None
    given: tuple[Any, int]
    busy: Tensor | None
    flat: Tensor | None
    rows: int
    units: int
    node: Any = None
    torn: Tensor | None = None  # what is flat, if both ends are, or several choices
    imitates: bool = False
    gated: bool = False
    weighs: bool = False
    measures: bool = False
    is_choice: bool = False
    consumers: set[str] = field(default_factory=set)


@dataclass
class _Answer:
    where: str
    std: Tensor
    node: Any
    normed: int
    varying: Tensor | None


Heard = tuple[
    tuple[Activation, ...],
    tuple[Layer, ...],
    tuple[Softmax, ...],
    tuple[tuple[str, float], ...],
    tuple[Softmax, ...],
]


class _Listener(ListeningMode):
    """Notes activation functions as they are called, and follows where their results go.

    Args:
        module: The module that is heard.
        batch: What it is given.
        is_game: Whether several nets play against each other, each with an optimizer.
    """

    def __init__(self, module: nn.Module, batch: Any, *, is_game: bool = False) -> None:
        super().__init__()
        self._names = {id(one): plain_name(name) for name, one in module.named_modules()}
        self._builtin = {
            id(one) for one in module.modules() if type(one).__module__.startswith("torch.nn.")
        }
        self._data = [one for _, one in tensors(batch) if one.dim() > 1 and len(one)]
        self._sizes = {one[0].numel() for one in self._data}
        self._fakes: dict[str, Tensor] = {}
        self._is_game = is_game
        self._calls: list[_Call] = []
        self._answers: list[_Answer] = []
        self._lonely: list[tuple[Softmax, Any]] = []
        self._scores: dict[Any, Softmax] = {}  # those of the lonely ones that a layer has given
        self._pooling: list[Softmax] = []
        self._origins: dict[Any, _Origin] = {}
        self._by_node: dict[Any, _Call] = {}
        self._fed: set[Any] = set()
        self._normed = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        after = self._listen(name, args, kwargs) if name in _HEARD else None
        result = func(*args, **kwargs)
        if after is not None:
            self._guarded(after, result)
        return result

    def _listen(self, name: str, args: Any, kwargs: Any) -> Any:
        """Looks at a call before it is made; returns what is to be done with its result."""
        if running() or not torch.is_grad_enabled() or len(self._calls) >= _CALLS:
            return None
        # Checkpointed parts run for a second time in the backward; vmap has no values to show.
        if torch._C._current_graph_task_id() != -1 or torch._C._functorch.maybe_current_level():
            return None
        return self._guarded(self._before, name, args, kwargs, sys._getframe(2))

    def _guarded(self, call: Any, *args: Any) -> Any:
        try:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                return call(*args)
        except Exception:  # an exotic tensor; this runs inside of the user's step
            log.debug("nndebug: a call could not be looked at.", exc_info=True)
            return None

    def _before(self, name: str, args: Any, kwargs: Any, frame: FrameType) -> Any:
        given = list(_operands((*args, *kwargs.values())))
        if name in _GATES:
            for one in given:
                if call := self._by_node.get(through(one.grad_fn, _SCALING)):
                    call.gated = True
                    call.weighs |= any(_is_other(two, one, call) for two in given)
                    call.measures |= any(_is_ruler(two, one) for two in given)
        elif name in _NORMS:
            self._normed += 1
        elif name == "sum":
            if given and self._scores:
                self._pool(given[0], kwargs.get("dim", args[1] if len(args) > 1 else None))
        elif given and _is_values(given[0]):
            return self._plan(name, given, args, kwargs, self._place(frame))
        return None

    def _plan(
        self, name: str, given: list[Tensor], args: Any, kwargs: Any, place: tuple[str, Line | None]
    ) -> Any:
        x, where = given[0], place[0]
        if name in _LAYERS:
            self._compare(given[0], where)
            self._feed(given if name in _PRODUCTS or name in _ATTENTION else given[:1], where)
            if name == "scaled_dot_product_attention":
                return functools.partial(self._attended, _scores(given, args, kwargs), place)
            return functools.partial(self._answered, name, where, given)
        axis = _choices_along(name, args, kwargs)
        if not x.requires_grad or (name in _SOFT and axis is None):
            return None
        if axis is not None and x.shape[axis] > 1:
            return functools.partial(self._chosen, name, x, axis, place)
        if axis is not None:
            lonely = Softmax(where, place[1], tuple(x.shape))
            is_score = x.grad_fn in self._origins
            return functools.partial(self._left_alone, lonely, is_score)
        return functools.partial(self._finished, self._noted(name, x, args, kwargs, place))

    def _noted(
        self, name: str, x: Tensor, args: Any, kwargs: Any, place: tuple[str, Line | None]
    ) -> _Call:
        where, line = place
        origin = self._origin(x.grad_fn)
        axis = origin.axis if origin else (1 if x.dim() > 3 else -1)  # noqa: PLR2004
        name, low, high = _ends(name, args, kwargs)
        call = _Call(
            function=name.rstrip("_"), where=origin.where if origin else where, place=where,
            line=line, origin=origin, given=(x.grad_fn, x.output_nr), busy=None, flat=None,
            rows=x.numel() // x.shape[axis], units=x.shape[axis],
            imitates=x[0].numel() in self._sizes,
        )  # fmt: skip
        if math.isinf(high):
            others = [one for one in range(x.dim()) if one != axis % x.dim()]
            most = x.detach().amax(others)
            call.busy = ~(most <= low)  # NaN is an illness of its own
            if origin is None:  # zeros that no layer has made are no dead units
                call.busy |= (most == 0) & (x.detach().amin(others) == 0)
        else:
            ends = torch.stack([x.detach() <= low, x.detach() >= high]).flatten(1).float().mean(1)
            is_shut = name.startswith("sigmoid") & (x.detach().amax() < _SHUT)
            call.flat, call.torn = ends.sum(), ends.sum() * ((ends.min() > _BOTH) | is_shut)
        return call

    def _finished(self, call: _Call, result: Any) -> None:
        call.node = result.grad_fn
        self._calls.append(call)
        self._by_node[call.node] = call

    def _chosen(
        self, name: str, x: Tensor, axis: int, place: tuple[str, Line | None], result: Tensor
    ) -> None:
        """Notes in how many rows a softmax is sure of one of several choices."""
        rows = (x > _HIDDEN).sum(axis) >= _CHOICES
        top = result.detach().amax(axis)
        sure = (top.exp() if name == "log_softmax" else top) > _SURE
        sure, number = sure & rows, rows.sum().clamp_min(1)
        flat, choice = sure.sum() / number, result.detach().argmax(axis)
        others = (sure & (choice != choice.flatten().mode().values)).sum() / number
        self._finished(
            _Call(
                function=name, where=place[0], place=place[0], line=place[1], origin=None,
                given=(x.grad_fn, x.output_nr), busy=None, flat=flat, rows=top.numel(), units=1,
                torn=flat * (others > _BOTH), is_choice=True,
            ),
            result,
        )  # fmt: skip

    def _attended(
        self, scores: Tensor | None, place: tuple[str, Line | None], result: Tensor
    ) -> None:
        if scores is not None and result.requires_grad:
            self._chosen("softmax", scores, -1, place, scores.softmax(-1))
            self._calls[-1].node = result.grad_fn

    def _left_alone(self, lonely: Softmax, is_score: bool, result: Tensor) -> None:
        self._lonely.append((lonely, result.grad_fn))
        if is_score:
            self._scores[result.grad_fn] = lonely

    def _pool(self, x: Tensor, axis: Any) -> None:
        """Finds weights that were to add up to 1 along the axis that is added up now."""
        node = x.grad_fn
        if not isinstance(axis, int) or node is None or node.name() != "MulBackward0":
            return
        for lonely in (self._scores.get(one) for one, _ in node.next_functions):
            if lonely is None or len(lonely.shape) != x.dim() or axis % x.dim() == 0:
                continue
            if lonely.shape[axis] > 1 and math.prod(lonely.shape) < x.numel():
                self._pooling.append(lonely)

    def _answered(self, name: str, where: str, given: list[Tensor], result: Any) -> None:
        if (name in _CONVOLUTIONS or name == "linear") and result.requires_grad:
            is_conv, inputs = name in _CONVOLUTIONS, given[1][0].numel() if len(given) > 1 else 0
            axis = 1 if is_conv and result.dim() > 2 else -1  # noqa: PLR2004
            self._origins[result.grad_fn] = _Origin(where, axis, inputs)
            std = result.detach().float().std(unbiased=False)
            is_row = result.dim() == 2 and min(result.shape) >= _ROWS  # noqa: PLR2004
            size = result.detach().float().square().mean().sqrt()
            varying = _deviation(result) / size if is_row else None
            self._answers.append(_Answer(where, std, result.grad_fn, self._normed, varying))

    def _compare(self, x: Tensor, where: str) -> None:
        """Compares what is made in the shape of the data with the data."""
        made_by = self._origin(x.grad_fn) if self._is_game and where not in self._fakes else None
        if made_by is None or _top(made_by.where) == _top(where):
            return
        for one in self._data:
            if one.shape == x.shape and one.is_floating_point() and len(x) >= _ROWS:
                self._fakes[where] = _deviation(x) / _deviation(one).clamp_min(1e-12)

    def _feed(self, given: Iterable[Tensor], where: str) -> None:
        """Marks everything that has gone into what a layer is given."""
        waiting = [one.grad_fn for one in given if one.grad_fn is not None]
        for one in waiting:
            if call := self._by_node.get(through(one)):
                call.consumers.add(where)
        while waiting:
            node = waiting.pop()
            if node not in self._fed:
                self._fed.add(node)
                waiting += [one for one, _ in node.next_functions if one is not None]

    def _origin(self, node: Any) -> _Origin | None:
        """Goes back to the layer that alone has made a tensor: through norms, not through sums."""
        for _ in range(_HOPS):
            if node is None or node in self._origins:
                return self._origins.get(node)
            made_of = [one for one, _ in node.next_functions if one is not None]
            made_of = [one for one in made_of if one.name() != "torch::autograd::AccumulateGrad"]
            node = made_of[0] if len(made_of) == 1 else None
        return None

    def _place(self, frame: FrameType) -> tuple[str, Line | None]:
        """Returns the module at work, with the line if it is one of the user's own."""
        line = nearest_line(frame)
        for one in outward(frame):
            code = one.f_code
            owner = one.f_locals.get("self") if code.co_varnames[:1] == ("self",) else None
            if id(owner) in self._names:
                name = self._names[id(owner)]
                if id(owner) in self._builtin or line is None:
                    return name or "training_step", line
                return f"{name or line.function} (line {line.number})", line
        return (str(line) if line else "training_step"), line

    def heard(self, history: dict[Any, deque[tuple[Tensor, int]]]) -> Heard:
        """Reads everything with one copy from the device."""
        groups: dict[tuple[str, str, str, int], list[_Call]] = {}
        for call in self._calls:
            groups.setdefault((call.where, call.place, call.function, call.units), []).append(call)
        lazy: list[Tensor] = []
        for key, group in groups.items():
            busy = [one.busy for one in group if one.busy is not None]
            if busy:
                looks = history.setdefault(key, deque(maxlen=_LONGEST))
                looks.append((_any(busy), sum(one.rows for one in group)))
                lazy.append((~_any([mask for mask, _ in _enough(looks)])).sum())
            else:
                flat = [one.flat if self._is_hidden(one) else one.torn for one in group]
                lazy.append(torch.stack([one for one in flat if one is not None]).mean())
        answers: dict[str, _Answer] = {}
        for one in self._answers:
            answers.setdefault(one.where, one)
        lazy += [one.std for one in answers.values()]
        lazy += [one.varying for one in answers.values() if one.varying is not None]
        numbers = iter(_read([*lazy, *self._fakes.values()]))
        calls = tuple(
            self._digested(group, next(numbers), history.get(key)) for key, group in groups.items()
        )
        stds = [next(numbers) for _ in answers]
        layers = tuple(
            Layer(
                one.where, std, one.node in self._fed, one.normed,
                varying=None if one.varying is None else next(numbers),
            )
            for one, std in zip(answers.values(), stds, strict=True)
        )  # fmt: skip
        lonely = tuple(one for one, node in self._lonely if node not in self._fed)
        fakes = tuple(zip(self._fakes, numbers, strict=True))
        return calls, layers, lonely, fakes, tuple(self._pooling)

    def _digested(
        self, group: list[_Call], value: float, looks: deque[tuple[Tensor, int]] | None
    ) -> Activation:
        first, shown = group[0], _enough(looks or ())
        rows = sum(rows for _, rows in shown)
        is_known = len(shown) >= _WINDOW and rows >= _SEEN
        return Activation(
            function=first.function,
            where=first.where,
            line=first.line,
            units=first.units,
            idle=int(value) if is_known else None,
            inputs=first.origin.inputs if first.origin else 0,
            rows=rows,
            flat=value if first.busy is None else None,
            is_hidden=any(self._is_hidden(one) for one in group),
            is_gate=any(self._is_gate(one) for one in group),
        )

    def _is_hidden(self, call: _Call) -> bool:
        # A generator's picture goes into a layer as well, that of another net.
        elsewhere = all(_top(one) != _top(call.where) for one in call.consumers)
        handed_on = call.imitates and elsewhere
        # The choice of a softmax is there to multiply something; that of a position may be sharp.
        is_gate = call.measures if call.is_choice else call.gated
        return call.node in self._fed and not is_gate and not handed_on

    def _is_gate(self, call: _Call) -> bool:
        # A factor in between makes a soft step of a sigmoid, on purpose.
        return call.weighs and (call.is_choice or through(call.given[0]) in self._origins)


_HEARD = {*_IDLE_BELOW, *_STEEP, *_LAYERS, *_GATES, *_NORMS, *_SOFT, "sum"}


def _top(where: str) -> str:
    return where.partition(".")[0]


def _is_other(one: Tensor, gate: Tensor, call: _Call) -> bool:
    """Returns whether a gate weighs something learned, and not what it was computed from itself."""
    node, output = call.given
    while node is not None and node.name().partition("Backward")[0] in _SCALING:
        made_of = [pair for pair in node.next_functions if pair[0] is not None]
        node, output = made_of[0] if len(made_of) == 1 else (None, 0)
    is_own = one.grad_fn is node and one.output_nr == output
    return one is not gate and one.requires_grad and not is_own


def _is_ruler(one: Tensor, gate: Tensor) -> bool:
    """Returns whether this is the same for every sample, such as the positions of a soft argmax."""
    return not one.requires_grad and (one.dim() < gate.dim() or len(one) == 1 < len(gate))


def _is_values(x: Tensor) -> bool:
    return x.is_floating_point() and x.numel() > 0 and x.dim() > 1


def _ends(name: str, args: Any, kwargs: Any) -> tuple[str, float, float]:
    """Returns a function's name, and between which inputs it has a slope."""
    if name.startswith("hardtanh"):
        low = kwargs.get("min_val", args[1] if len(args) > 1 else -1.0)
        high = kwargs.get("max_val", args[2] if len(args) > 2 else 1.0)  # noqa: PLR2004
        return ("relu6", 0.0, math.inf) if low == 0 else ("hardtanh", low, high)
    if name in _STEEP:
        return name, -_STEEP[name], _STEEP[name]
    return name, _IDLE_BELOW[name], math.inf


def _choices_along(name: str, args: Any, kwargs: Any) -> int | None:
    """Returns the axis of a softmax; None if it is not known, or there is none."""
    position, usual = (4, -1) if name == "gumbel_softmax" else (1, None)
    axis = kwargs.get("dim", args[position] if len(args) > position else usual)
    is_hard = name == "gumbel_softmax" and kwargs.get("hard", len(args) > 2 and args[2])  # noqa: PLR2004
    return axis if name in _SOFT and isinstance(axis, int) and not is_hard else None


def _scores(given: Sequence[Tensor], args: Any, kwargs: Any) -> Tensor | None:
    """Returns what attention chooses by, for the last queries; None if it is masked otherwise."""
    mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)  # noqa: PLR2004
    query, key = given[0], given[1]
    if mask is not None or query.shape[:-2] != key.shape[:-2]:
        return None
    scale = kwargs.get("scale") or query.shape[-1] ** -0.5
    scores: Tensor = query[..., -_QUERIES:, :].detach() @ key.detach().mT * scale
    return scores


def _operands(values: Iterable[Any]) -> Iterator[Tensor]:
    for one in values:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _operands(one)
        elif isinstance(one, Mapping):
            yield from _operands(one.values())


def through(node: Any, also: tuple[str, ...] = ()) -> Any:
    """Goes back to what a tensor was before it was reshaped, sliced or cast.

    Args:
        node: The tensor's node in the graph.
        also: Names of other operations to go through, where they have a single tensor.
    """
    for _ in range(_HOPS):
        made_of = [one for one, _ in node.next_functions if one is not None] if node else []
        name = node.name().partition("Backward")[0] if len(made_of) == 1 else ""
        if name not in _SHAPING and name not in also:
            break
        node = made_of[0]
    return node


def factor_of(node: Any) -> float:
    """Returns by which constant number a node multiplies what it is given; 0 if it does not."""
    name = node.name().partition("Backward")[0]
    if name not in ("Mul", "Div") or sum(one is not None for one, _ in node.next_functions) != 1:
        return 0.0
    saved = [getattr(node, f"_saved_{one}", None) for one in ("other", "self")]
    given = [one for one in saved if isinstance(one, Tensor)]
    if len(given) != 1 or given[0].numel() != 1 or (name == "Div" and saved[0] is not given[0]):
        return 0.0
    number = float(given[0])
    return number if name == "Mul" or not number else 1 / number


def _enough(looks: Sequence[tuple[Tensor, int]]) -> list[tuple[Tensor, int]]:
    """Returns the last looks that have seen enough together, or all of them."""
    taken: list[tuple[Tensor, int]] = []
    for one in reversed(looks):
        if len(taken) >= _WINDOW and sum(rows for _, rows in taken) >= _SEEN:
            break
        taken.append(one)
    return taken


def _deviation(x: Tensor) -> Tensor:
    """Returns the standard deviation between samples, over all features."""
    x = x.detach().float()
    return (x - x.mean(0)).square().mean().sqrt()


def _any(masks: Sequence[Tensor]) -> Tensor:
    return torch.stack([one.to(masks[-1].device) for one in masks]).any(0)


def _read(values: Sequence[Tensor]) -> list[float]:
    if not values:
        return []
    return torch.stack([one.float().to(values[0].device) for one in values]).tolist()
