"""What a step predicts, beside what it is asked for."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..listening import ListeningMode, listen, stop_listening
from ..sandbox import running
from ..source import Line, nearest_line
from . import Cadence, Measurement, Moment
from .activations import Looks, factor_of, through
from .batches import tensors
from .loss_calls import bound_of

log = logging.getLogger("lightning_nndebug")

_SCORES = {"cross_entropy", "nll_loss"}
_ANSWERS = {"binary_cross_entropy", "binary_cross_entropy_with_logits"}
_VALUES = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
_DIFFERENCES = {"sub", "__sub__", "subtract", "rsub", "__rsub__"}  # of a loss written by hand
_HEARD = {*_SCORES, *_ANSWERS, *_VALUES, *_DIFFERENCES}
# Recurrent nets whose states are between -1 and 1; those of a GRU, if the first one is.
_STATES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}
_CALLS = 32  # that are noted in a step
_HELD = 2**20  # entries that are looked at
_EPS = 1e-6
_ROWS = 8  # embeddings of a batch, and features of each, at least
_UNIT = 1e-2  # so near to 1 is a length of 1, also in half precision
_TERMS = 64  # operations between a loss and the cosines that it is made of, or behind a score
# Of positive numbers, and of numbers of one sign: they keep it.
_PRODUCTS = {"Mul", "Mm", "Bmm"}
_TOGETHER = {"Sum", "Mean", "Add", "Stack", "Cat"}

# With which sign a linear operation takes what it is given, first and next.
_SIGNS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("Add", "Mean", "Sum", "Stack", "Cat", "View", "Squeeze", "ToCopy"), (1.0,)),
    "Neg": (-1.0,), "Sub": (1.0, -1.0), "Rsub": (-1.0, 1.0),
}  # fmt: skip

# The least and the largest value that an operation can give, by the name of its backward.
_ENDS = {
    "Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0), "Hardsigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0),
    "Sin": (-1.0, 1.0), "Cos": (-1.0, 1.0), "LogSoftmax": (-math.inf, 0.0),
    "LogSigmoid": (-math.inf, 0.0), "Relu": (0.0, math.inf), "Softplus": (0.0, math.inf),
    "Exp": (0.0, math.inf), "Abs": (0.0, math.inf), "Elu": (-1.76, math.inf),
    "Gelu": (-0.17, math.inf), "Silu": (-0.279, math.inf), "Mish": (-0.309, math.inf),
    "Hardswish": (-0.375, math.inf),
}  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """Predictions, as a loss was given them together with their targets.

    Attributes:
        function: The loss function; ``sub`` for a difference, as of a loss written by hand.
        line: The line of the user's code that made the call.
        shape: The shape of the predictions.
        spread: Standard deviation of the predictions between samples: of logits, for classes; else
            as a share of that of the targets. None if the targets do not vary.
        operation: The last operation that made them, such as ``Tanh``.
        ends: The least and the largest value that it can give; of answers of yes and no, the
            probabilities.
        asked: The least and the largest target.
        beyond: The squared error that no net with these ends can avoid, as a share of the variance
            of the targets.
        lonely: Whether they come out of a softmax over a single unit.
    """

    function: str
    line: Line | None
    shape: tuple[int, ...]
    spread: float | None
    operation: str
    ends: tuple[float, float]
    asked: tuple[float, float]
    beyond: float
    lonely: bool

    @property
    def is_of_classes(self) -> bool:
        """Whether classes are predicted, rather than values."""
        return self.function in _SCORES or self.function in _ANSWERS

    @property
    def is_of_answers(self) -> bool:
        """Whether they answer yes or no."""
        return self.function in _ANSWERS

    @property
    def place(self) -> str:
        """The call, as one that may be told of."""
        where = f" in {self.line.function}" if self.line is not None else ""
        return f"{'the difference' if self.function == 'sub' else self.function}{where}"


@dataclass(frozen=True)
class Predictions(Measurement):
    """The predictions of one training step.

    Attributes:
        pairs: Those that were held against targets, in order.
        centered: Whether something is pulled to a fixed point, as normal data are in Deep SVDD.
        apart: Of a loss that pulls together pairs of embeddings which are both learned, and does
            nothing else: by how much those of different pairs differ, as 1 minus their cosine. None
            of any other loss.
        step: Where they were taken.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_backward", "on_train_batch_end")
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = Looks(every=50)

    pairs: tuple[Prediction, ...]
    centered: bool = False
    apart: float | None = None
    step: int = 0

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Listens to the step."""
        listen(memory, moment.module, _Listener(moment.batch))

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Predictions | None:
        """Reads what was noted on the device as soon as the forward is complete."""
        unfinished = not moment.module.automatic_optimization  # it may go on after a backward
        if not hasattr(memory, "mode") or (moment.hook == "on_before_backward" and unfinished):
            return None
        apart = None if unfinished or moment.loss is None else _apart(moment.loss.grad_fn)
        return cls(memory.mode.heard(), memory.mode.centered, apart, moment.step)

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Stops listening."""
        stop_listening(memory)


@dataclass(frozen=True)
class Pair:
    """Predictions and their targets.

    Attributes:
        function: The loss function, or ``sub``.
        prediction: What is learned.
        target: What it should be.
    """

    function: str
    prediction: Tensor
    target: Tensor


def pair_of(name: str, args: Sequence[Any], kwargs: Any, leaves: Sequence[Tensor]) -> Pair | None:
    """Returns what a call of a torch function compares; None if it is no prediction.

    Args:
        name: The name of the function.
        args: Its arguments,
        kwargs: and those by name.
        leaves: The tensors of the batch: a difference counts only if one of them is in it.
    """
    if name not in _HEARD:
        return None
    x = args[0] if args else kwargs.get("input")
    y = args[1] if len(args) > 1 else kwargs.get("target", kwargs.get("other"))
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or not (x.dim() and y.dim()):
        return None
    if not x.numel() or not y.numel():
        return None
    if name in {*_VALUES, *_DIFFERENCES} and y.requires_grad and not x.requires_grad:
        x, y = y, x
    if name in _DIFFERENCES:
        storage = y.untyped_storage().data_ptr()
        known = any(one.untyped_storage().data_ptr() == storage for one in leaves)
        if not known or x.shape != y.shape or y.requires_grad:
            return None
        name = "sub"
    is_given = not (x.requires_grad and y.requires_grad)  # two that meet halfway are no target
    return Pair(name, x, y) if x.is_floating_point() and is_given else None


@dataclass(frozen=True)
class _Note:
    function: str
    line: Line | None
    shape: tuple[int, ...]
    operation: str
    ends: tuple[float, float]
    lonely: bool
    numbers: Tensor


class _Listener(ListeningMode):
    """Notes what is compared as the calls are made."""

    def __init__(self, batch: Any) -> None:
        super().__init__()
        self._leaves = [one for _, one in tensors(batch)]
        self._notes: list[_Note] = []
        self._states: dict[tuple[Any, int], str] = {}
        self.centered = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _HEARD and not running() and len(self._notes) < _CALLS:
            self._listen(name, args, kwargs)
        result = func(*args, **kwargs)
        if name in _STATES and not running():
            self._remember(name, args, result)
        return result

    def _remember(self, name: str, args: Any, result: Any) -> None:
        """Notes which results of a recurrent net are states with bounds; its cells have none."""
        try:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                first = [one for one in args[1:3] if isinstance(one, Tensor) and one.dim() > 1]
                is_free = any(one.requires_grad or bool(one.abs().max() > 1) for one in first)
                is_projected = name == "lstm" and result[1].shape[-1] != result[2].shape[-1]
            if not (is_projected or (name == "gru" and is_free)):
                self._states |= {(one.grad_fn, one.output_nr): _STATES[name] for one in result[:2]}
        except Exception:
            log.debug("nndebug: a call of %s could not be read.", name, exc_info=True)

    def _listen(self, name: str, args: Any, kwargs: Any) -> None:
        if torch._C._functorch.maybe_current_level():
            return
        try:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                pair = pair_of(name, args, kwargs, self._leaves)
                self.centered |= pair is None and _is_centered(args)
                if pair is not None and pair.prediction.requires_grad:
                    answers = pair.function in _ANSWERS
                    read = _answered(pair.function, pair.prediction.grad_fn) if answers else None
                    ended = read or self._ended(pair.prediction)
                    self._notes.append(_noted(pair, ended, nearest_line(sys._getframe(2))))
        except Exception:  # an exotic tensor; this runs inside of the user's step
            log.debug("nndebug: a call of %s could not be read.", name, exc_info=True)

    def _ended(self, prediction: Tensor) -> tuple[str, tuple[float, float]]:
        """Returns the operation that has made predictions, and its ends."""
        node, output = prediction.grad_fn, prediction.output_nr
        while node is not None and (node, output) not in self._states:
            parents = [one for one in node.next_functions if one[0] is not None]
            is_shaped = through(node) is not node and len(parents) == 1
            node, output = parents[0] if is_shaped else (None, 0)
        if node is not None:
            return self._states[node, output], (-1.0, 1.0)
        operation, ends = _ended(prediction.grad_fn)
        if operation not in _ENDS and math.isfinite(bound := bound_of(prediction)):
            return "cosine", (-bound, bound)
        return operation, ends

    def heard(self) -> tuple[Prediction, ...]:
        if not self._notes:
            return ()
        rows = torch.stack([one.numbers for one in self._notes]).tolist()
        return tuple(
            Prediction(
                function=note.function,
                line=note.line,
                shape=note.shape,
                spread=None if math.isnan(spread) else spread,
                operation=note.operation,
                ends=note.ends,
                asked=(low, high),
                beyond=beyond,
                lonely=note.lonely,
            )
            for note, (spread, beyond, low, high) in zip(self._notes, rows, strict=True)
        )


def _is_centered(args: Sequence[Any]) -> bool:
    """Tells whether something learned is held against the same constant for every sample."""
    learned = [one for one in args[:2] if isinstance(one, Tensor) and one.requires_grad]
    fixed = [one for one in args[:2] if isinstance(one, Tensor) and not one.requires_grad]
    return bool(learned and fixed) and fixed[0].dim() < learned[0].dim()


def _noted(pair: Pair, ended: tuple[str, tuple[float, float]], line: Line | None) -> _Note:
    operation, ends = ended
    is_answer = pair.function in _ANSWERS
    x, y = _part(pair.prediction.detach()), _part(pair.target.detach())
    # Three samples may well be alike.
    varied = (y != y.flatten()[0]).any() & (len(x) > 3)  # noqa: PLR2004
    spread = torch.where(varied, _spread(pair.function, x, y), math.nan)
    return _Note(
        function=pair.function,
        line=line,
        shape=tuple(pair.prediction.shape),
        operation=operation,
        ends=ends,
        lonely=_is_lonely(pair),
        # What is no answer is a marker, or told of as a label.
        numbers=torch.stack([spread, *_reach(y.clamp(0, 1) if is_answer else y, ends)]),
    )


def _answered(function: str, node: Any) -> tuple[str, tuple[float, float]]:
    """Returns what has made answers of yes and no, and between which probabilities they are."""
    node = through(node)
    if not function.endswith("logits"):
        if node is None or node.name() != "SigmoidBackward0":
            return _ended(node)
        node = through(node.next_functions[0][0])
    operation, (low, high) = _ended(node)
    if operation not in _ENDS:
        operation, (low, high) = "a sum of products", _signed(node, {})
    return operation, (_sigmoid(low), _sigmoid(high))


def _signed(node: Any, known: dict[Any, tuple[float, float]]) -> tuple[float, float]:
    """Returns ends at 0 or nowhere: the sign is all that sums and products keep for sure.

    Args:
        node: What has made a tensor.
        known: The ends of the nodes so far; of a graph that has more than a few, nothing is said.
    """
    node = through(node)
    if node in known:
        return known[node]
    if node is None or len(known) == _TERMS:
        return -math.inf, math.inf
    known[node] = -math.inf, math.inf  # until it is known
    name = node.name().partition("Backward")[0]
    if name in _PRODUCTS or name in _TOGETHER:
        signs = [_signed(one, known) for one, _ in node.next_functions]
        low, high = min(low for low, _ in signs), max(high for _, high in signs)
        known[node] = low, math.inf if name in _PRODUCTS else high
    else:
        low, high = _ended(node)[1]
        known[node] = 0.0 if low >= 0 else -math.inf, 0.0 if high <= 0 else math.inf
    return known[node]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0  # noqa: PLR2004 -- exp overflows


def _ended(node: Any) -> tuple[str, tuple[float, float]]:
    """Returns the operation that has made predictions, and its ends, times a number if any."""
    node, scale = through(node), 1.0
    while node is not None and (factor := factor_of(node)):
        node, scale = through(_parents(node)[0]), scale * factor
    operation = "" if node is None else node.name().partition("Backward")[0]
    low, high = _ENDS.get(operation, (-math.inf, math.inf))
    if operation == "Hardtanh":
        low, high = node._saved_min_val, node._saved_max_val
    elif operation.startswith("Clamp"):
        saved = (getattr(node, f"_saved_{one}", None) for one in ("min", "max"))
        least, most = (one if isinstance(one, (int, float)) else None for one in saved)
        low, high = low if least is None else least, high if most is None else most
        operation = "Clamp"
    ends = min(scale * low, scale * high) + 0.0, max(scale * low, scale * high) + 0.0  # no -0
    return operation if scale == 1 else f"{scale:g} * {operation}", ends


def _apart(root: Any) -> float | None:
    """Returns by how much strangers differ under a loss of the cosines of learned pairs alone."""
    nodes, cosines = [(root, 1.0)], []
    for node, sign in nodes:  # which grows
        if node is None:  # a constant
            continue
        pair, signs = _pair(node), _signs(node)
        if pair is not None and sign < 0:
            cosines.append(1 - _of_strangers(*pair))
        elif pair is not None or not signs or len(nodes) > _TERMS:
            return None
        else:
            parents = enumerate(one for one, _ in node.next_functions)
            nodes += [(one, sign * signs[min(i, len(signs) - 1)]) for i, one in parents]
    return max(torch.stack(cosines).tolist()) if cosines else None


def _pair(node: Any) -> tuple[Tensor, Tensor] | None:
    """Returns the rows, all learned and of length 1, of which a sum is the cosine."""
    product = next(iter(_parents(node)), None) if node.name() == "SumBackward1" else None
    if product is None or product.name() != "MulBackward0":
        return None
    if [one.name() for one in _parents(product)] != ["DivBackward0"] * 2:
        return None
    x, y = (one.detach().float() for one in (product._saved_self, product._saved_other))
    is_wide = x.shape == y.shape and x.dim() == 2 and min(x.shape) >= _ROWS  # noqa: PLR2004
    is_unit = is_wide and all(bool((one.norm(dim=1) - 1).abs().max() < _UNIT) for one in (x, y))
    return (x, y) if is_unit else None


def _of_strangers(x: Tensor, y: Tensor) -> Tensor:
    """Returns the mean cosine of rows that are no pair."""
    count = len(x)
    return ((x.sum(0) * y.sum(0)).sum() - (x * y).sum()) / (count * (count - 1))


def _signs(node: Any) -> tuple[float, ...]:
    """Returns the signs with which a linear operation takes what it is given; none of others."""
    name = node.name().partition("Backward")[0]
    if name not in ("Mul", "Div"):
        return _SIGNS.get(name, ())
    factor = factor_of(node)
    return (math.copysign(1.0, factor),) if factor else ()


def _parents(node: Any) -> list[Any]:
    return [one for one, _ in node.next_functions if one is not None]


def _part(x: Tensor) -> Tensor:
    """Returns the first rows of what is too large to be looked at in whole."""
    return x if x.numel() <= _HELD else x[: max(4, _HELD // x[0].numel())]


def _spread(function: str, x: Tensor, y: Tensor) -> Tensor:
    if function in _SCORES:
        scores = (x.movedim(1, -1).flatten(0, -2) if x.dim() > 1 else x[None]).float()
        return _deviation(scores - scores.mean(-1, keepdim=True))
    if function in _ANSWERS:
        return _deviation(x.float() if function.endswith("logits") else x.float().logit(_EPS))
    return _deviation(x.float()) / _deviation(y.float()).clamp_min(1e-12)


def _deviation(x: Tensor) -> Tensor:
    """Returns the standard deviation between samples, over all outputs."""
    return (x - x.mean(0)).square().mean().sqrt()


def _reach(y: Tensor, ends: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    y = y.float()
    error = (y - y.clamp(*ends)).square().mean()
    size = torch.maximum((y - y.mean()).square().mean(), _EPS * y.square().mean())
    return error / size.clamp_min(1e-30), y.amin(), y.amax()


def _is_lonely(pair: Pair) -> bool:
    """Tells whether the predictions come out of a softmax over a single unit."""
    shape, node = pair.prediction.shape, through(pair.prediction.grad_fn)
    if pair.function == "cross_entropy" and len(shape) > 1:
        return shape[1] == 1
    while node is not None and node.name() in (
        "LogBackward0",
        "ClampBackward1",
        "ClampMinBackward0",
    ):
        node = through(node.next_functions[0][0])
    if node is None or node.name() not in ("SoftmaxBackward0", "LogSoftmaxBackward0"):
        return False
    result = node._saved_result
    axis = node._saved_dim
    return bool(result.shape[axis if axis < result.dim() else -1] == 1)
