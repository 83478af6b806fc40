"""Which loss functions were called in a step, and what they were given."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import FrameType, SimpleNamespace, TracebackType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..listening import ListeningMode, listen, stop_listening
from ..sandbox import running
from ..source import Line, nearest_line
from . import Cadence, Measurement, Moment
from .activations import factor_of, through
from .batches import Place, conventional, tensors

log = logging.getLogger("lightning_nndebug")

_INPUTS = ("input", "input1", "anchor", "log_probs")
_TARGETS = ("target", "targets")
_SIGNED = ("soft_margin_loss", "hinge_embedding_loss", "cosine_embedding_loss", "hinge")
_HELD = 2**22  # entries of a tensor that are kept for the step; of a larger one, its first rows
_PADDED = 0.05  # the least share of tokens that tells whether padding counts
_TAILS = 0.2  # likewise, where nothing but its place at the end of a sequence tells padding,
_LENGTHS = 3  # of so many lengths in a batch
_CALLS = 32  # calls that are noted in a step: a recurrent net may call its loss at every time step
_NODES = 20_000  # of a graph that are looked at, to find out which calls the loss is made of
_ALIKE, _WEIGHED, _MASKED = range(3)  # how entries count in a loss
_NEAR = 32  # of them, nearest to the loss, that a hinge may be made of

# What only moves, copies, casts or bounds values: the tensor is still what another operation made.
_MOVES = re.compile(
    r"(View|UnsafeView|Reshape|Squeeze|Unsqueeze|Transpose|Permute|Slice|Select|Index|Clone|Copy|"
    r"ToCopy|Expand|^T\d|MT|Alias|Unbind|Split|Narrow|Flatten|Contiguous|MaskedSelect|Clamp|Stack|"
    r"Cat|Repeat|Gather)"
)
_VALUES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "difference")
# What takes predictions and targets for the same kind of thing, and returns something else for them
# in the other order.
_ORDERED = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "kl_div")
_FEW = 8  # entries; of fewer, anything is a multiple
_ROUNDING = 1e-4  # of the range of what was scaled
_UNIT = 1e-2  # so near to 1 is a length of 1, also in half precision
_PRODUCTS = {"Mm": ("self", "mat2"), "Bmm": ("self", "mat2"), "Mul": ("self", "other")}
_SUMS = ("Sum", "Mean", "Add", "Sub", "Mul", "View", "UnsafeView", "ClampMin", "Clamp")
_ADDED = ("Mean", "Sum", "Neg", "View", "UnsafeView", "Squeeze", "Unsqueeze", "ToCopy")
_FLOORS = ("ClampMin", "Clamp", "Relu")
# What takes some of the entries, and leaves others.
_PARTS = re.compile(
    r"(Index|Masked|Gather|Slice|Select|Narrow|Where|Min|Max|Amin|Amax|Topk|Sort|Median|Kthvalue)"
)
_TAKES = ("Expand", "Select", "Index", "Slice", "Gather", "Repeat", "MaskedSelect")


@dataclass(frozen=True)
class LossCall:
    """One call of a loss function of ``torch.nn.functional``, or a ``gather`` of scores by index.

    Attributes:
        function: Its name, such as ``cross_entropy``.
        input: The predictions; their first rows, if they are huge.
        target: The targets that belong to them; None if the function has none.
        shape: The shape of all predictions.
        options: The other arguments by name, defaults included.
        place: The tensor of the batch that is the target, or holds the same values.
        whole: Whether the target is all of that tensor, not a part of it.
        is_as_given: Whether the target has the shape that it has in the batch, and the predictions
            got no axis of length 1 for it.
        is_next: Whether the target is a copy of sequences of the batch without their first token.
        is_integer: Whether that tensor holds integers.
        lowest: The least value of the targets that count, for functions that tell classes apart.
        highest: Their largest value.
        strange: Up to eight values outside of what the function takes; or the only one beside 0,
            where that is a yes that was divided by 255.
        padding: The class number that padded tokens have, if they count like all others.
        line: The line of the user's code that made the call.
        failed: Whether the call raised an error.
        made_by: The operation that made the predictions, such as ``Softmax``: as autograd calls it,
            and whatever has been reshaped, cast or clamped since. Nothing if it left no graph.
        made_of: The operation that made what it was given, likewise.
        is_dropped: Whether dropout has made them.
        features: How many features were last in what it made; None if axes were exchanged since, or
            entries taken or repeated.
        factor: With which factor the result goes into the loss, means and other rising functions
            aside: 0 if it does not, NaN if by more than a factor, None if nobody knows.
        is_weighed: Whether it was not reduced, and its entries then count unalike in the loss, or
            nobody knows how: they were weighted, masked, or only some of them were taken.
        is_masked: Whether some of its entries do not count at all, reduced or not.
        divisor: What the error is divided by, entry by entry.
        meets: The shapes of the result and of what it is multiplied with, or divided by.
        averaged: How many predictions the input is the mean of, if it is one number, and the target
            that of as many numbers of the batch.
        is_exchanged: Whether the targets were given first, and the predictions as what they should
            be. Where their order makes no difference, it is put right.
    """

    function: str
    input: Tensor
    target: Tensor | None
    shape: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    place: Place | None = None
    whole: bool = False
    is_as_given: bool = False
    is_next: bool = False
    is_integer: bool = False
    lowest: float = math.nan
    highest: float = math.nan
    strange: tuple[float, ...] = ()
    padding: int | None = None
    line: Line | None = None
    failed: bool = False
    made_by: str = ""
    made_of: str = ""
    is_dropped: bool = False
    features: int | None = None
    factor: float | None = None
    is_weighed: bool = False
    is_masked: bool = False
    divisor: Tensor | None = None
    meets: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    averaged: int = 0
    bound: float = math.inf
    is_exchanged: bool = False

    @property
    def axis(self) -> int | None:
        """The dimension of the input that the classes are along; None if there are none."""
        if self.function in ("cross_entropy", "nll_loss", "multi_margin_loss"):
            return 1 if len(self.shape) > 1 else 0
        return int(self.options["dim"]) % len(self.shape) if self.function == "gather" else None

    @property
    def classes(self) -> int | None:
        """How many classes the call tells apart; None for a regression."""
        if self.axis is not None:
            return self.shape[self.axis]
        if not self.is_binary:
            return None
        return self.shape[1] if self.is_multilabel else 2

    @property
    def is_binary(self) -> bool:
        """Whether every output answers a question with yes or no."""
        return self.function.startswith("binary_cross_entropy")

    @property
    def tells_classes(self) -> bool:
        """Whether the targets are classes, rather than values to come near to."""
        return self.is_binary or self.axis is not None

    @property
    def is_signed(self) -> bool:
        """Whether the targets are to be -1 and 1."""
        return self.function in _SIGNED

    @property
    def spells(self) -> bool:
        """Whether the targets are texts, of which nobody says where each letter is."""
        return self.function == "ctc_loss"

    @property
    def is_multilabel(self) -> bool:
        """Whether each sample is asked several such questions."""
        return self.is_binary and len(self.shape) == 2 and self.shape[1] > 1  # noqa: PLR2004

    @property
    def is_scores(self) -> bool:
        """Whether the input may be scores of classes that are being learned."""
        return self.input.requires_grad and len(self.shape) == 2  # noqa: PLR2004

    @property
    def is_likelihood(self) -> bool:
        """Whether log-probabilities of classes are picked by hand: the larger, the better."""
        return self.function == "gather" and self.made_by == "LogSoftmax"

    @property
    def has_indices(self) -> bool:
        """Whether the targets are class numbers rather than probabilities."""
        return self.axis is not None and self.target is not None and not _is_float(self.target)

    @property
    def ignored(self) -> int | None:
        """The class number that does not count."""
        ignored = self.options.get("ignore_index")
        return ignored if self.has_indices else None

    @property
    def weight(self) -> Tensor | None:
        """The weights of the classes; that of "yes" alone, if these are the answers."""
        weight = self.options.get("pos_weight" if self.axis is None else "weight")
        return weight if isinstance(weight, Tensor) else None


@dataclass(frozen=True)
class Plain:
    """What a linear layer gives, where its mean is all of the loss.

    Attributes:
        shape: Its shape.
        parameters: Those of the layer.
        loss: The loss.
    """

    shape: tuple[int, ...]
    parameters: tuple[nn.Parameter, ...]
    loss: Tensor


@dataclass(frozen=True)
class LossCalls(Measurement):
    """The loss functions that one training step has called, in order.

    Attributes:
        calls: The calls.
        embedded: Tensors of the batch that an embedding has looked up: inputs for sure.
        vocabularies: The sizes of those embeddings.
        differences: Predictions minus targets, or the reverse, written by hand: those of a tensor
            that requires a gradient and one that does not. A sum is one as well if its shapes make
            all pairs, as that of both sides of an equation.
        hinges: Margins written by hand: what does not fall below zero of 1 minus target times
            prediction.
        overlaps: What is to be large: overlaps written by hand, as those of Dice and Jaccard, a sum
            of predictions times targets divided by one of predictions; and cosines of predictions
            and targets.
        plain: The shape of what a linear layer gives, if the loss is its mean and nothing else,
            with the layer's parameters; None of any other loss.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_backward", "on_train_batch_end", "on_exception")
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=3, every=10)

    calls: tuple[LossCall, ...]
    embedded: frozenset[Place] = frozenset()
    vocabularies: frozenset[int] = frozenset()
    differences: tuple[LossCall, ...] = ()
    hinges: tuple[LossCall, ...] = ()
    overlaps: tuple[LossCall, ...] = ()
    plain: Plain | None = None

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Listens to the calls of this step."""
        listen(memory, moment.module, Listener(moment.batch))

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> LossCalls | None:
        """Returns the calls as soon as the loss is complete, or has failed to be."""
        if not hasattr(memory, "mode"):
            return None
        if moment.hook == "on_before_backward":
            memory.mode.trace(moment.loss)
            if not moment.module.automatic_optimization:  # it may go on after a backward
                return None
        return cls(*memory.mode.heard())

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Stops listening."""
        stop_listening(memory)


@dataclass(frozen=True)
class ValidationLossCalls(Measurement):
    """The loss functions that one batch of validation has called, in order.

    Attributes:
        calls: The calls.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_validation_batch_end",)
    prepares: ClassVar[str | None] = "on_validation_batch_start"

    calls: tuple[LossCall, ...]

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Listens to all of a small validation, and to a sixteenth of a large one."""
        if moment.batch_idx < 16 or moment.batch_idx % 16 == 0:  # noqa: PLR2004
            listen(memory, moment.module, Listener(moment.batch))

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> ValidationLossCalls | None:
        """Returns the calls."""
        return cls(memory.mode.heard()[0]) if hasattr(memory, "mode") else None

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Stops listening."""
        stop_listening(memory)


@dataclass(frozen=True)
class LabelCalls(Measurement):
    """The calls of a training step that were given class numbers, or answers of yes and no.

    Attributes:
        calls: Those that were heard; or the one that has ended the run, from its traceback.
    """

    hooks: ClassVar[tuple[str, ...]] = LossCalls.hooks
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls,)

    calls: tuple[LossCall, ...]

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> LabelCalls | None:
        """Looks at what was heard, and after a crash at what was running."""
        heard = moment.take(LossCalls)
        calls = (*heard.calls, *heard.hinges) if heard is not None else ()
        if heard is None and moment.hook == "on_exception":
            calls = _running_calls(sys.exc_info()[2])
        calls = tuple(
            one
            for one in calls
            if one.is_signed or one.spells or (one.tells_classes and one.function != "gather")
        )
        return cls(calls) if calls else None


class Listener(ListeningMode):
    """Notes calls as they are made. What it knows of them is read before: the call may fail.

    Args:
        batch: Where targets may come from.
        replayed: Whether it listens to a step that a sandbox runs again, or else keeps still then.
    """

    def __init__(self, batch: Any, *, replayed: bool = False) -> None:
        super().__init__()
        self._replayed = replayed
        self._leaves = tensors(batch)
        self._convention = conventional(batch)
        self._calls: list[LossCall] = []
        self._differences: list[LossCall] = []
        self._hinges: list[LossCall] = []
        self._overlaps: list[LossCall] = []
        self._apart: dict[str | None, list[LossCall]] = {
            "difference": self._differences,
            "sum": self._differences,
            "cosine_similarity": self._overlaps,
        }
        self._nodes: dict[Any, tuple[list[LossCall], int]] = {}  # what made which call's result
        self._dropped: list[Tensor] = []
        self._embedded: set[Place] = set()
        self._vocabularies: set[int] = set()
        self._plain: Plain | None = None

    def heard(self) -> tuple[Any, ...]:
        """Returns the calls, what was embedded, and what was written by hand."""
        embedded, vocabularies = frozenset(self._embedded), frozenset(self._vocabularies)
        written = tuple(self._differences), tuple(self._hinges), tuple(self._overlaps)
        return tuple(self._calls), embedded, vocabularies, *written, self._plain

    def made(self) -> dict[Any, LossCall]:
        """Returns the calls by the node of the graph that they have left."""
        return {node: calls[index] for node, (calls, index) in self._nodes.items()}

    def trace(self, loss: Tensor) -> None:
        """Notes which of the calls so far the loss is made of."""
        try:
            overlaps = self._shares(loss.grad_fn)
            found, meets, divisors = _factors(loss.grad_fn, {*self._nodes, *overlaps})
            self._hinges += self._margins(loss.grad_fn)
            self._plain = _plain(loss)
            for node, overlap in overlaps.items():
                self._overlaps.append(replace(overlap, factor=found.get(node, (None,))[0]))
        except Exception:  # graphs of extensions may hold anything
            log.debug("nndebug: the graph of the loss could not be read.", exc_info=True)
            return
        for node, (calls, index) in self._nodes.items():
            call = calls[index]
            factor, form, weighing = found.get(node, (0.0, "", _ALIKE))
            if call.function == "difference" and form:
                call = replace(call, options={"form": form})
            is_single = call.function == "gather" or call.options.get("reduction") == "none"
            is_masked = weighing == _MASKED and (is_single or call.function == "difference")
            calls[index] = replace(
                call,
                factor=(call.factor or 0.0) + factor,
                is_weighed=call.is_weighed or (is_single and weighing > _ALIKE),
                is_masked=call.is_masked or is_masked,
                meets=meets.get(node, call.meets),
                divisor=divisors.get(node, call.divisor),
            )

    def _margins(self, root: Any) -> list[LossCall]:
        """Finds hinges by what autograd has saved of them: targets that are all of a tensor."""
        found = []
        for target in _factors_of_hinges(root):
            call = LossCall("hinge", target, target, tuple(target.shape))
            place, whole = self._origin(call, target)
            if place is not None and whole:
                found.append(replace(call, place=place, **_range(call)))
        return found

    def _shares(self, root: Any) -> dict[Any, LossCall]:
        """Finds overlaps, likewise, by their node."""
        found = {}
        for node, target, made_by in _overlapping(root):
            call = LossCall("overlap", target, target, tuple(target.shape), made_by=made_by)
            place, whole = self._origin(call, target)
            if place is not None:
                found[node] = replace(call, place=place, whole=whole)
        return found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = heard_functions().get(func)
        calls = self._apart.get(name, self._calls)
        if name is None or len(calls) == _CALLS or running() != self._replayed:
            return func(*args, **kwargs)
        if name == "dropout":
            result = func(*args, **kwargs)
            if kwargs.get("training", args[2] if len(args) > 2 else True):  # noqa: PLR2004
                self._dropped = [*self._dropped[-3:], result]
            return result
        call = self._note(name, func, args, kwargs)
        if call is None:
            return func(*args, **kwargs)
        calls.append(replace(call, failed=True))
        result = func(*args, **kwargs)
        calls[-1] = call
        if isinstance(result, Tensor) and result.grad_fn is not None:
            self._nodes[result.grad_fn] = calls, len(calls) - 1
        return result

    def _note(self, name: str, func: Any, args: Any, kwargs: Any) -> LossCall | None:
        try:
            with torch.no_grad():
                return self._digest(name, func, args, kwargs)
        except Exception:  # an exotic tensor; this runs inside of the user's step
            log.debug("nndebug: a call of %s could not be read.", name, exc_info=True)
            return None

    def _digest(self, name: str, func: Any, args: Any, kwargs: Any) -> LossCall | None:
        if name == "sum":
            call = self._difference(*args[:2]) if _meet_in_pairs(*args[:2]) else None
            return None if call is None else replace(call, place=None)  # its target is the negative
        if name in ("difference", "cosine_similarity"):
            return (self._difference if name == "difference" else self._cosine)(*args[:2])
        if name == "index":
            if not _picks(*args):
                return None
            name, given = "gather", {"input": args[0], "dim": 1, "target": args[1][1]}
        else:
            given = self._in_order(name, _arguments(name, func, args, kwargs))
        if name == "embedding":
            tokens, size = given["input"], len(given["weight"])
            self._embedded.update(place for place, one in self._leaves if _is_view(tokens, one))
            self._vocabularies.add(size)
            return None
        call = _described(name, given, sys._getframe(3))
        if call is None or (name == "gather" and not call.is_scores):
            return None
        call = replace(call, is_dropped=any(_is_view(call.input, one) for one in self._dropped))
        return self._placed(call)

    def _placed(self, call: LossCall) -> LossCall:
        """Adds what is known of the targets by where in the batch they come from."""
        if call.target is None or not call.target.numel():
            return call
        if self._is_exchanged(call):
            return replace(call, lowest=math.nan, highest=math.nan, strange=(), is_exchanged=True)
        place, whole = self._origin(call, call.target)
        averaged = self._averaged(call.input, call.target)
        padding = self._padding(place, call, call.target)
        is_next = place is None and any(_is_next(one, call.target) for _, one in self._leaves)
        is_as_given = self._is_as_given(place, call.input, call.target)
        call = replace(call, place=place, whole=whole, is_next=is_next, padding=padding)
        call = replace(call, is_as_given=is_as_given)
        return _shortened(replace(call, is_integer=self._is_integer(place), averaged=averaged))

    def _in_order(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Puts the predictions first, where that makes no difference."""
        one, other = given.get("input"), given.get("target")
        if name not in _VALUES or not (isinstance(one, Tensor) and isinstance(other, Tensor)):
            return given
        if one.requires_grad == other.requires_grad:  # as in validation
            is_last = self._is_given(one) and not self._is_given(other)
        else:
            is_last = other.requires_grad
        return {**given, "input": other, "target": one} if is_last else given

    def _is_given(self, tensor: Tensor) -> bool:
        return any(_is_view(tensor, one) for _, one in self._leaves)

    def _is_exchanged(self, call: LossCall) -> bool:
        given, learned = call.input, call.target
        if call.function not in _ORDERED or learned is None or given.requires_grad:
            return False
        if call.function == "kl_div" or not learned.requires_grad:
            return learned.requires_grad
        ends = torch.stack([given.amin(), given.amax()]).tolist()
        # A prior may be all zeros.
        are_labels = ends == [0, 1] and bool(((given == 0) | (given == 1)).all())
        return are_labels or self._origin(_as_value(call), given)[0] is not None

    def _cosine(self, one: Any, other: Any) -> LossCall | None:
        """Notes a cosine of predictions and targets of the batch."""
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            return None
        if one.requires_grad == other.requires_grad or one.shape != other.shape:
            return None
        made, given = (one, other) if one.requires_grad else (other, one)
        call = LossCall("cosine_similarity", made, given, tuple(made.shape), **_making(made))
        place, whole = self._origin(_as_value(call), given)
        line = nearest_line(sys._getframe(4))
        return None if place is None else replace(call, place=place, whole=whole, line=line)

    def _is_as_given(self, place: Place | None, made: Tensor, given: Tensor) -> bool:
        shape = next((one.shape for at, one in self._leaves if at == place), None)
        return shape is not None and not _adds_axis(made, given, shape)

    def _is_integer(self, place: Place | None) -> bool:
        return any(at == place and not _is_float(one) for at, one in self._leaves)

    def _difference(self, one: Any, other: Any) -> LossCall | None:
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            return None
        is_made = [tensor.requires_grad for tensor in (one, other)]
        if all(is_made) and _meet_in_pairs(one, other):  # who derives by inputs has graphs of them
            is_made = [_is_learned(tensor) for tensor in (one, other)]
        if is_made[0] == is_made[1] or not one.numel() or not other.numel():
            return None
        made, given = (one, other) if is_made[0] else (other, one)
        call = LossCall("difference", made, given, tuple(made.shape), **_making(made))
        if averaged := self._averaged(made, given):
            return replace(call, averaged=averaged, line=nearest_line(sys._getframe(4)))
        place, whole = self._origin(call, given)
        shape = next((leaf.shape for at, leaf in self._leaves if at == place), None)
        # Of targets that the step has computed, only a wrong shape can be told.
        if shape is None and (made.dim() == given.dim() or given._is_view()):
            return None
        # Who adds an axis right there wants all pairs.
        if made.shape != given.shape and _adds_axis(made, given, shape or given.shape):
            return None
        is_integer, line = self._is_integer(place), nearest_line(sys._getframe(4))
        is_as_given = self._is_as_given(place, made, given)
        call = replace(call, place=place, whole=whole, is_as_given=is_as_given)
        return replace(call, is_integer=is_integer, line=line)

    def _averaged(self, made: Tensor, given: Tensor) -> int:
        """Returns how many entries two numbers are the means of, or 0."""
        if made.dim() or given.dim() or made.grad_fn is None or hasattr(made.grad_fn, "_saved_dim"):
            return 0
        count = int(getattr(made.grad_fn, "_saved_self_sym_numel", 0))
        if op(made.grad_fn) != "Mean" or count < _FEW:
            return 0
        leaves = [one for _, one in self._leaves if one.numel() == count and _is_float(one)]
        means = [one.mean() for one in leaves if one.device == given.device]
        is_same = any(bool(torch.isclose(one.to(given), given, rtol=1e-4)) for one in means)
        return count if is_same else 0

    def _origin(self, call: LossCall, target: Tensor) -> tuple[Place | None, bool]:
        """Finds the tensor that the target is a view of, or a copy of; values may be scaled."""
        views = [(place, one) for place, one in self._leaves if _is_view(target, one)]
        # Several tensors of a batch may be views of one: then only the very same will do.
        views = [one for one in views if len(views) == 1 or one[1].data_ptr() == target.data_ptr()]
        if views:
            return views[0][0], views[0][1].numel() == target.numel()
        if target.numel() > _HELD:
            return None, False
        varied = bool((target != target.flatten()[0]).any())
        for place, one in self._leaves:
            # A constant equals many a thing by chance.
            if (varied or place == self._convention) and _same_values(one, target):
                return place, True
        if call.function in _VALUES and varied:
            for place, one in self._leaves:
                if _is_scaled(one, target):
                    return place, True
        return None, False

    def _padding(self, place: Place | None, call: LossCall, target: Tensor) -> int | None:
        """Returns the class that padding has, if it counts in the loss."""
        labels = next((one for at, one in self._leaves if at == place), None)
        counted = call.has_indices and call.options.get("reduction") != "none"
        if labels is None or not counted or call.weight is not None or labels.dim() != 2:  # noqa: PLR2004
            return None
        if target.numel() < labels[:, 1:].numel():
            return None
        beside = [(at, one) for at, one in self._leaves if one.shape == labels.shape]
        mask = next((m for at, m in beside if at.keys and at.keys[-1] == "attention_mask"), None)
        tokens = next((t for at, t in beside if at in self._embedded and at != place), None)
        if mask is not None:
            padded, least = labels[mask == 0], _PADDED
        elif tokens is not None:
            padded, least = labels[_tails(tokens, labels)], _TAILS
        else:
            return None
        if padded.numel() < least * labels.numel():
            return None
        value = int(padded.flatten()[0])
        return value if value != call.ignored and bool((padded == value).all()) else None


def _tails(tokens: Tensor, labels: Tensor) -> Tensor:
    """Finds what fills up sequences of several lengths: a token and a label for nothing else."""
    fill, label = tokens[:, -1].mode().values, labels[:, -1].mode().values
    filled = tokens == fill
    tails = filled.flip(1).cumprod(1).flip(1).bool()
    is_exact = bool((filled == tails).all() and ((labels == label) == tails).all())
    return tails if is_exact and len(set(tails.sum(1).tolist())) >= _LENGTHS else tails & False


@functools.cache
def heard_functions() -> dict[Any, str]:
    """Returns what is listened to, with its name."""
    names = ["cross_entropy", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits"]
    names += [one for one in vars(functional) if one.endswith("_loss")]
    heard = {getattr(functional, name): name for name in [*names, "embedding", "dropout"]}
    differences = (torch.sub, Tensor.sub, Tensor.__sub__, Tensor.__rsub__)
    sums = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
    heard |= dict.fromkeys(differences, "difference") | dict.fromkeys(sums, "sum")
    heard |= {torch.gather: "gather", Tensor.gather: "gather", Tensor.__getitem__: "index"}
    heard |= {functional.cosine_similarity: "cosine_similarity"}
    return heard


def _picks(scores: Tensor, index: Any) -> bool:
    """Whether ``scores[rows, labels]`` takes one score of each row, as ``gather`` does."""
    if not isinstance(index, tuple) or len(index) != 2 or scores.dim() != 2:  # noqa: PLR2004
        return False
    labels = index[1]
    is_number = isinstance(labels, Tensor) and labels.dtype in (torch.int64, torch.int32)
    return is_number and labels.shape == scores.shape[:1] and not isinstance(index[0], slice)


def _described(name: str, given: dict[str, Any], frame: FrameType) -> LossCall | None:
    inputs = next((given.pop(key) for key in _INPUTS if key in given), None)
    target = next((given.pop(key) for key in _TARGETS if key in given), None)
    if not isinstance(inputs, Tensor) or not inputs.numel():
        return None
    call = LossCall(
        function=name, input=inputs, target=target if isinstance(target, Tensor) else None,
        shape=tuple(inputs.shape), options=given, line=nearest_line(frame), **_making(inputs),
    )  # fmt: skip
    if name == "cross_entropy" and inputs.dim() == 2:  # noqa: PLR2004
        call = replace(call, bound=bound_of(inputs))
    return replace(call, **_range(call))


def _shortened(call: LossCall) -> LossCall:
    inputs, target = call.input, call.target
    if inputs.numel() <= _HELD or target is None or len(inputs) != len(target):
        return call
    rows = max(1, _HELD // inputs[0].numel())
    return replace(call, input=inputs[:rows].clone(), target=target[:rows].clone())


def _running_calls(traceback: TracebackType | None) -> tuple[LossCall, ...]:
    """Finds the loss function that an error came out of."""
    names = {getattr(one, "__code__", None): name for one, name in heard_functions().items()}
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        name = names.get(frame.f_code)
        if name in (None, "embedding", "dropout"):
            continue
        code = frame.f_code
        given = {key: frame.f_locals[key] for key in code.co_varnames[: code.co_argcount]}
        try:
            call = _described(name, given, frame)
        except RuntimeError:  # after a device-side assertion nothing can be read
            return ()
        return () if call is None else (replace(call, failed=True),)
    return ()


def _making(made: Tensor) -> dict[str, Any]:
    """Finds the operation that made a tensor, above those that only move values about."""
    node, moved = made.grad_fn, False
    while node is not None:
        name = op(node)
        parents = [one for one, _ in node.next_functions if one is not None]
        if name == "Add" and any(map(_is_bias, parents)):
            name = "Addmm"  # a linear layer, taken apart
        if not _MOVES.match(name) or not parents:
            shapes = [one.shape for one in getattr(node, "_input_metadata", ())]
            known = shapes and len(shapes[0]) and not moved
            given = maker(parents[0]) if parents else None
            return {
                "made_by": name,
                "made_of": op(given) if given is not None else "",
                "features": int(shapes[0][-1]) if known else None,
            }
        moved = moved or name.startswith(("Permute", "MT", "T", *_TAKES)) or _adds_last(node)
        if len({op(one) for one in parents}) > 1:
            break
        node = parents[0]
    return {}


def _adds_last(node: Any) -> bool:
    """Whether a new axis has come behind the last one, as by ``torch.stack(steps, 2)``."""
    shapes = [one.shape for one in getattr(node, "_input_metadata", ())]
    if op(node) not in ("Stack", "Unsqueeze") or not shapes:
        return False
    return node._saved_dim % 2**64 in (len(shapes[0]) - 1, 2**64 - 1)  # -1, as autograd keeps it


def bound_of(scores: Tensor) -> float:
    """Returns the largest score of cosines, by the graph: it sums products of rows of length 1."""
    node, bound = maker(scores.grad_fn), 1.0
    while node is not None and (factor := factor_of(node)):
        node = maker(next(one for one, _ in node.next_functions if one is not None))
        bound *= abs(factor)
    if node is not None and op(node) == "Sum":
        node = node.next_functions[0][0]
    factors = _PRODUCTS.get(op(node)) if node is not None else None
    if factors is None:
        return math.inf
    makers = [maker(through(one)) for one, _ in node.next_functions]
    rows, columns = (getattr(node, f"_saved_{one}") for one in factors)
    if rows is None or columns is None or any(one is None or op(one) != "Div" for one in makers):
        return math.inf
    sides = (rows, columns if factors[1] == "other" else columns.mT)
    lengths = torch.cat([one.detach().float().norm(dim=-1).flatten() for one in sides])
    return bound if bool((lengths - 1).abs().max() < _UNIT) else math.inf


def _is_bias(node: Any) -> bool:
    parameter = getattr(node, "variable", None)
    return parameter is not None and parameter.dim() == 1


def _meet_in_pairs(one: Any, other: Any) -> bool:
    """Whether a column and a row of as many numbers are given, and neither was made one for it."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    shapes = sorted((tuple(one.shape), tuple(other.shape)), key=len)
    return len(shapes[0]) == 1 and shapes[0][0] > 1 and shapes[1] == (*shapes[0], 1)


def _is_learned(tensor: Tensor) -> bool:
    """Whether parameters have a part in it, rather than inputs alone that require a gradient."""
    nodes = dict.fromkeys([tensor.grad_fn])
    todo = list(nodes)
    while todo and len(nodes) < _NODES:
        node = todo.pop()
        if isinstance(getattr(node, "variable", None), nn.Parameter):
            return True
        new = [one for one, _ in getattr(node, "next_functions", ()) if one not in nodes]
        nodes |= dict.fromkeys(new)
        todo += new
    return False


def _adds_axis(made: Tensor, given: Tensor, shape: tuple[int, ...]) -> bool:
    return given.shape != shape or (made.grad_fn is not None and op(made.grad_fn) == "Unsqueeze")


def op(node: Any) -> str:
    """``torch::autograd::SoftmaxBackward0`` -> ``Softmax``."""
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def _factors(
    root: Any, wanted: set[Any]
) -> tuple[
    dict[Any, tuple[float, str, int]],
    dict[Any, tuple[tuple[int, ...], tuple[int, ...]]],
    dict[Any, Tensor],
]:
    """Returns with which factor each of some nodes goes into a loss; NaN if by more than that.

    Means and sums count as 1: the sign is what matters. Beside it stands whether the node is only
    ``squared``, or its ``absolute`` value is taken, which do not count; and how its entries count.
    The second dict has the shapes of what a node gives and of what that meets, the third the
    numbers that it is divided by, entry by entry.
    """
    found: dict[Any, tuple[float, str, int]] = {}
    meets, divisors = {}, {}
    opaque: set[Any] = set()
    stack: list[tuple[Any, float, str, int, Tensor | None]] = [(root, 1.0, "", _ALIKE, None)]
    for _ in range(_NODES):
        if not stack:
            break
        node, factor, form, weighing, divisor = stack.pop()
        if node in wanted:
            if divisor is not None:
                divisors[node] = divisor
            before = found.get(node, (0.0, "", _ALIKE))
            found[node] = before[0] + factor, form, max(before[2], weighing)
            continue
        if node is None or (math.isnan(factor) and node in opaque):
            continue
        if math.isnan(factor) or form:
            opaque.add(node)
            factor, form, power = math.nan, "", ""
        else:
            power = _power(node)
        passed = None if math.isnan(factor) else (1.0,) if power else _passed(node)
        is_whole = op(node) in ("Mean", "Sum") and not hasattr(node, "_saved_dim")
        # What becomes one number counts as such, whatever that is multiplied with.
        weighing = _ALIKE if is_whole else max(weighing, _weighing(node))
        weighing = weighing if passed else max(weighing, _WEIGHED)
        divisor = _divisor(node) if op(node) == "Div" else divisor
        for index, (parent, _) in enumerate(node.next_functions):
            share = factor * (passed[index] if passed else math.nan)
            stack.append((parent, share, power, weighing, divisor))
            if parent in wanted and (shapes := _meeting(node, index)) is not None:
                meets[parent] = shapes
    return found, meets, divisors


def _divisor(node: Any) -> Tensor | None:
    """Returns the numbers that a node divides by, if they are given and not learned."""
    saved = getattr(node, "_saved_other", None)
    is_given = isinstance(saved, Tensor) and not saved.requires_grad and saved.numel() > 1
    return saved.detach() if is_given and saved is not None else None


def _weighing(node: Any) -> int:
    """Tells whether the entries of what it is given go on unalike, or not all of them."""
    if _PARTS.match(op(node)):
        return _MASKED
    if op(node) not in ("Mul", "Div"):
        return _ALIKE
    saved = (getattr(node, f"_saved_{name}", None) for name in ("self", "other"))
    weights = [one for one in saved if isinstance(one, Tensor) and one.numel() > 1]
    blanks = any(one.numel() <= _HELD and bool((one == 0).any()) for one in weights)
    return _MASKED if blanks else _WEIGHED if weights else _ALIKE


def _factors_of_hinges(root: Any) -> list[Tensor]:
    """Returns what predictions are multiplied by in each ``max(0, 1 - target * prediction)``."""
    found, nodes = [], [root]
    for node in nodes:  # which grows
        if node is None:
            continue
        if len(nodes) < _NEAR:
            nodes += [one for one, _ in node.next_functions]
        margin = node.next_functions[0][0] if op(node) in _FLOORS else None
        if margin is None or op(margin) not in ("Rsub", "Sub"):
            continue
        minuend, *subtrahend = (one for one, _ in margin.next_functions)
        product = minuend if op(margin) == "Rsub" else next(iter(subtrahend), None)
        if product is not None and op(product) == "Mul":
            saved = (getattr(product, f"_saved_{name}", None) for name in ("self", "other"))
            given = [one for one in saved if isinstance(one, Tensor) and not one.requires_grad]
            found += [one.detach() for one in given if one.numel() > 1]
    return found


def _overlapping(root: Any) -> list[tuple[Any, Tensor, str]]:
    """Returns each overlap that is divided, its targets, and what has made the predictions."""
    found, nodes = [], [root]
    for node in nodes:  # which grows
        if node is None or op(node) not in (*_SUMS, "Div", "Neg", "Rsub", "Log", "Stack"):
            continue
        if len(nodes) < _NEAR:
            nodes += [one for one, _ in node.next_functions]
        if op(node) != "Div" or len(node.next_functions) < 2:  # noqa: PLR2004
            continue
        numerator, whole = (_summands(one) for one, _ in node.next_functions[:2])
        for product in numerator:
            saved = (getattr(product, f"_saved_{name}", None) for name in ("self", "other"))
            given = [one for one in saved if isinstance(one, Tensor) and not one.requires_grad]
            made = [one for one, _ in product.next_functions if one is not None]
            if op(product) == "Mul" and len(given) == len(made) == 1 and given[0].numel() > 1:
                made_by = maker(made[0])
                if made_by is not None and made_by in map(maker, whole):
                    found.append((node, given[0].detach(), op(made_by)))
    return found


def _summands(root: Any) -> list[Any]:
    """Returns the nodes that a sum is made of, and what they are views of."""
    nodes = [root]
    for node in nodes:  # which grows
        if node is None or len(nodes) > _NEAR:
            continue
        is_scaled = op(node) == "Mul" and any(
            isinstance(getattr(node, f"_saved_{name}", None), Tensor)
            and getattr(node, f"_saved_{name}").numel() > 1
            for name in ("self", "other")
        )
        if op(node) in _SUMS and not is_scaled:
            nodes += [one for one, _ in node.next_functions]
    return [one for one in nodes if one is not None]


def is_trained(made: Tensor) -> bool:
    """Whether the layer that has made a tensor has parameters that are being trained."""
    return bool(_parameters(maker(made.grad_fn)))


def _plain(loss: Tensor) -> Plain | None:
    """Finds a linear layer whose outputs the loss adds up, and does nothing else with them."""
    root = node = loss.grad_fn
    while node is not None and (op(node) in _ADDED or factor_of(node)):
        node = next((one for one, _ in node.next_functions if one is not None), None)
    if node is None or node is root or op(node) not in ("Addmm", "Mm", "Linear"):
        return None
    shape = tuple(node._input_metadata[0].shape)
    parameters = _parameters(node)
    return Plain(shape, parameters, loss.detach()) if parameters else None


def _parameters(node: Any) -> tuple[nn.Parameter, ...]:
    """Returns what an operation takes of parameters, as they are or transposed."""
    leaves = [one for one, _ in node.next_functions] if node is not None else []
    leaves += [one.next_functions[0][0] for one in leaves if one is not None and op(one) == "T"]
    found = [getattr(one, "variable", None) for one in leaves]
    return tuple(one for one in found if isinstance(one, nn.Parameter))


def maker(node: Any) -> Any:
    """Returns what has made a tensor, above those that only move its values about."""
    while node is not None and _MOVES.match(op(node)) and not op(node).startswith("Clamp"):
        node = node.next_functions[0][0] if node.next_functions else None
    return node


def _meeting(node: Any, index: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Returns the shapes of what a product is made of, the one at an index first."""
    if op(node) != "Mul" and (op(node), index) != ("Div", 0):
        return None
    given = node.next_functions[index][0]._input_metadata
    other = getattr(node, ("_saved_other", "_saved_self")[index], None)
    if not given or not isinstance(other, Tensor):
        return None
    shape = tuple(given[0].shape)
    # Who adds an axis right there wants all pairs.
    return None if other.dim() > len(shape) and other._is_view() else (shape, tuple(other.shape))


def _power(node: Any) -> str:
    name = op(node)
    if name == "Pow" and getattr(node, "_saved_exponent", None) == 2:  # noqa: PLR2004
        return "squared"
    return "absolute" if name == "Abs" else ""


def _passed(node: Any) -> tuple[float, ...] | None:
    """Returns the factor that an operation puts on each of its inputs; None if it does more."""
    name, count = op(node), len(node.next_functions)
    if name in ("Mean", "Sum", "Nansum", "Add", "Sqrt", "Log", "Exp") or _MOVES.match(name):
        return (1.0,) * count
    if name == "Mul":
        return _scalar(node, "other"), _scalar(node, "self")
    if name == "Div":
        return (1.0 / (_scalar(node, "other") or math.nan), math.nan)
    return {"Neg": (-1.0,), "Sub": (1.0, -1.0), "Rsub": (-1.0, 1.0)}.get(name)


def _scalar(node: Any, name: str) -> float:
    """Returns a factor that autograd has saved; 1 for several that only weigh what they meet."""
    saved = getattr(node, f"_saved_{name}", None)
    if not isinstance(saved, Tensor) or not saved.numel() or saved.numel() > _HELD:
        return math.nan
    least, most = torch.stack(torch.aminmax(saved.detach())).tolist()
    return float(least if least == most else 1.0 if least >= 0 else math.nan)


@functools.cache
def _signature(func: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(func)


def _arguments(name: str, func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    if name == "gather":  # written in C: it has no signature to ask
        given = {**dict(zip(("input", "dim", "target"), args, strict=False)), **kwargs}
        return {("target" if key == "index" else key): value for key, value in given.items()}
    bound = _signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    given = dict(bound.arguments)
    if given.get("reduce") is False:
        given["reduction"] = "none"
    return given


def _is_float(one: Tensor) -> bool:
    return one.is_floating_point() or one.is_complex()


def _as_value(call: LossCall) -> LossCall:
    """A call whose target may have been scaled on its way from the batch."""
    return replace(call, function="mse_loss")


def _is_view(one: Any, of: Tensor) -> bool:
    if not isinstance(one, Tensor) or one.device != of.device or not of.numel():
        return False
    return bool(one.untyped_storage().data_ptr() == of.untyped_storage().data_ptr())


def _same_values(leaf: Tensor, target: Tensor) -> bool:
    """Compares values, whatever their dtype and shape; class numbers may have become one-hot."""
    if leaf.device != target.device or not leaf.numel():
        return False
    if leaf.numel() == target.numel():
        values = leaf.to(target.dtype)
        is_same = torch.equal(values.flatten(), target.flatten())
        return is_same or (leaf.dim() == 2 and torch.equal(values.T.flatten(), target.flatten()))  # noqa: PLR2004
    if target.dim() != 2 or leaf.numel() != len(target) or _is_float(leaf):  # noqa: PLR2004
        return False
    one_hot = torch.zeros_like(target)
    index = leaf.reshape(-1, 1).long()
    if bool(((index < 0) | (index >= target.shape[1])).any()):
        return False
    return torch.equal(one_hot.scatter_(1, index, 1), target)


def _is_next(leaf: Tensor, target: Tensor) -> bool:
    """Whether the targets are the sequences of a tensor without their first token, copied."""
    if leaf.dim() != 2 or leaf.device != target.device or _is_float(leaf) or _is_float(target):  # noqa: PLR2004
        return False
    following = leaf[:, 1:]
    if following.numel() != target.numel() or target.numel() > _HELD:
        return False
    return torch.equal(following.flatten().to(target.dtype), target.flatten())


def _is_scaled(leaf: Tensor, target: Tensor) -> bool:
    """Whether the step has made targets of a tensor by a factor and an offset, to standardize."""
    if leaf.device != target.device or leaf.numel() != target.numel() or leaf.numel() < _FEW:
        return False
    if not _is_float(target) or leaf.is_complex() or leaf.squeeze().shape != target.squeeze().shape:
        return False
    given, made = leaf.flatten().double(), target.flatten().double()
    ends = torch.stack([given.argmin(), given.argmax()])
    (low, high), (least, most) = given[ends], made[ends]
    factor = (most - least) / (high - low)
    is_same = (made - least - factor * (given - low)).abs().max() <= _ROUNDING * (
        most - least
    ).abs()
    return bool(is_same & (high > low))


def _range(call: LossCall) -> dict[str, Any]:
    """Reads the least and largest label that counts, and some of those that are not possible."""
    if call.target is None or call.function == "gather":
        return {}
    if not (call.is_binary or call.has_indices or call.is_signed or call.spells):
        return {}
    values = call.target.detach()
    if call.spells:
        values = _spelled(values, call.options["target_lengths"])
    limit = float(call.classes - 1) if call.has_indices and call.classes else 1.0
    if call.ignored is not None:
        values = values[values != call.ignored]
    if not values.numel():
        return {}
    ends = torch.stack([values.amin(), values.amax()]).tolist()
    strange: tuple[float, ...] = ()
    if call.spells:
        blank = call.options["blank"]
        strange = (float(blank),) if bool((values == blank).any()) else ()
    elif call.is_signed:
        strange = (0.0,) if ends == [0, 1] and bool(((values == 0) | (values == 1)).all()) else ()
    elif call.is_binary and ends[0] == 0 and abs(255 * ends[1] - 1) < 0.01:  # noqa: PLR2004
        strange = (ends[1],) if bool(((values == 0) | (values == values.max())).all()) else ()
    elif ends[0] < 0 or ends[1] > limit:
        strange = tuple(torch.unique(values[(values < 0) | (values > limit)])[:8].tolist())
    return {"lowest": float(ends[0]), "highest": float(ends[1]), "strange": strange}


def _spelled(texts: Tensor, lengths: Any) -> Tensor:
    """Returns the letters of texts, without what fills them up."""
    counts = torch.as_tensor(lengths, device=texts.device).reshape(-1, 1)
    if texts.dim() != 2:  # noqa: PLR2004 -- they are laid end to end
        return texts[: int(counts.sum())]
    return texts[torch.arange(texts.shape[1], device=texts.device) < counts]
