"""What is wrong with the tensors that a loss function was given, and how to mend it."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..core.measurements.loss_calls import LossCall
from ..core.measurements.loss_inputs import Axis, LossInput, Values

Found = tuple[str, str]

# Losses that compare entry by entry, and broadcast.
ELEMENTWISE = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "difference"}
_BROADCAST = ELEMENTWISE | {"poisson_nll_loss", "soft_margin_loss", "hinge_embedding_loss"}

_LINEAR = {"Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution", "MkldnnLinear", "Add"}
_BOUNDED = {"Sigmoid": "sigmoid", "Hardsigmoid": "sigmoid", "Tanh": "tanh", "Hardtanh": "tanh"}
_LOST = {"Relu": "ReLU", "Threshold": "ReLU"}
_EXCESS = 0.5  # raw scores of two classes sum up to twice as much, or e ** 0.69
_LEAST, _MOST = 0.15, 0.85  # of the loss of a guess, that bounded scores may leave
_ONCE, _AGAIN = ("Sigmoid", "Softmax"), ("Sigmoid", "Softmax", "LogSoftmax", "LogSigmoid")
_SIGNS = (
    "soft_margin_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "cosine_embedding_loss",
)


def mismatch(one: LossInput) -> Found | None:
    """Returns what is wrong and what to do about it, or None if the inputs may be right."""
    call = one.call
    if call.is_exchanged and call.function != "kl_div":  # which tells it by the values
        told = f"{call.function} wants the predictions first, and gets the targets"
        return told, f"Exchange them: {call.function}(prediction, target)"
    if call.function in _SIGNS:
        return _signs(one)
    judge = _JUDGES.get(call.function)
    return judge(one) or _twice(call) if judge is not None and one.input.length > 0 else None


def broadcast(call: LossCall) -> bool:
    """Whether as many predictions as targets meet in more pairs than there are of each."""
    if call.function not in _BROADCAST or call.target is None:
        return False
    if call.function == "difference" and call.place is None and not call.options.get("form"):
        return False  # it may be anything
    shape, other, count = call.shape, tuple(call.target.shape), call.target.numel()
    # Who gives both the same number of axes, one of them of length 1, wants all pairs; unless the
    # data have it, and all that is made of the pairs is their mean.
    is_mean = bool(call.options.get("form")) or call.options.get("reduction") == "mean"
    if count < 2 or (len(shape) == len(other) and not (call.is_as_given and is_mean)):  # noqa: PLR2004
        return False
    return math.prod(shape) == count < _pairs(shape, other)


def weighed_in_pairs(call: LossCall) -> bool:
    """Whether as many losses as weights meet in more pairs than there are of each."""
    if call.meets is None or call.options.get("reduction") != "none":
        return False
    losses, weights = call.meets
    count = math.prod(losses)
    are_as_many = len(losses) != len(weights) and count == math.prod(weights)
    return are_as_many and 1 < count < _pairs(losses, weights)


def _pairs(shape: tuple[int, ...], other: tuple[int, ...]) -> int:
    return math.prod(max(lengths) for lengths in _aligned(shape, other))


def _aligned(shape: tuple[int, ...], other: tuple[int, ...]) -> list[tuple[int, int]]:
    rank = max(len(shape), len(other))
    padded = [(1,) * (rank - len(one)) + one for one in (shape, other)]
    return list(zip(*padded, strict=True))


def _scores(one: LossInput, function: str) -> Found | None:
    """What must not come between the last layer and a loss that wants raw scores."""
    made_by = one.call.made_by
    if made_by in _BOUNDED:
        name = _BOUNDED[made_by]
        return f"{function} wants raw scores, and gets the output of {name}", f"Remove the {name}"
    if made_by in _LOST:
        told = "the scores went through a ReLU: none is negative, and those at 0 get no gradient"
        return told, "Remove the ReLU after the last layer"
    if one.call.is_dropped and one.input.zeros:
        told = f"dropout has set {one.input.zeros:.0%} of the scores to 0"
        return told, "Move the dropout before the last layer"
    return None


def _cross_entropy(one: LossInput) -> Found | None:
    call, given = one.call, one.input
    if call.failed or given.length < 2:  # noqa: PLR2004 -- a crash, or one unit: told elsewhere
        return None
    hidden = given.are_probabilities and call.made_by not in _LINEAR
    if call.made_by == "Softmax" or hidden:
        told = "cross_entropy takes the softmax itself, and gets probabilities"
        return told, "Pass the raw scores: remove the softmax"
    if one.has_self:
        told = "each sample is among its own candidates, the most likely one, and never the answer"
        return told, "Mask the diagonal: scores.masked_fill(torch.eye(len(scores)) > 0, -inf)"
    return _scores(one, "cross_entropy") or _cosines(one) or _axis(one)


def _cosines(one: LossInput) -> Found | None:
    """Scores with bounds: the best answer is not much likelier than the worst."""
    floor = math.log1p((one.input.length - 1) * math.exp(-2 * one.call.bound))
    # To tell a sample from hundreds of others, soft answers may be wanted.
    least = _MOST if one.call.place is None else _LEAST
    if not one.call.has_indices or floor < least * math.log(one.input.length):
        return None
    told = f"the scores are cosines, {one.call.bound:g} at most: of {one.input.length} classes, "
    told += f"the loss cannot fall below {floor:.2g}"
    return told, "Scale the cosines by 10 to 30: divide them by a temperature such as 0.07"


def _axis(one: LossInput) -> Found | None:
    """What tells that the classes are not along axis 1."""
    call, target = one.call, one.target
    if target is None:
        return _ambiguous(call)
    fewest, most = target.classes.sums
    if len(one.labels) == 2 and fewest == 0 and most > 1:  # noqa: PLR2004
        told = (
            f"the targets are {fewest:g} to {most:g} classes of a sample; cross_entropy wants one"
        )
        return told, "For several at once: binary_cross_entropy_with_logits"
    if len(call.shape) > 2 and target.are_along_last:  # noqa: PLR2004
        told = "the targets add up to 1 over the last axis; cross_entropy takes axis 1 for classes"
        return told, "Move the classes to axis 1: logits.movedim(-1, 1), target.movedim(-1, 1)"
    if len(call.shape) == 1 and one.labels and sum(one.labels[1:]) > 1 and call.whole:
        told = f"scores of shape {call.shape} are taken for one sample of {call.shape[0]} classes"
        return told, "For yes and no: binary_cross_entropy_with_logits"
    return None


def _ambiguous(call: LossCall) -> Found | None:
    """A linear layer leaves its outputs in the last axis; a square hides that from every check."""
    shape = call.shape
    if len(shape) != 3 or shape[1] != call.features or math.prod(shape[2:]) == 1:  # noqa: PLR2004
        return None
    if call.made_by not in _LINEAR - {"Convolution", "Add"}:
        return None
    if shape[2] != shape[1]:
        told = f"scores of {shape[1]} classes, the last axis of a layer, were viewed as {shape}"
        return told, "A view moves no axis: logits.movedim(-1, 1)"
    told = "the classes are in the last axis, as the layer left them; cross_entropy takes axis 1"
    return told, "Move the classes to axis 1: logits.movedim(-1, 1)"


def _nll(one: LossInput) -> Found | None:
    call, given = one.call, one.input
    if call.failed or given.length < 2:  # noqa: PLR2004
        return None
    if _is_zero(given.batch) and not _is_zero(given.classes) and call.axis == 1:
        told = "log_softmax was taken over the batch: its probabilities add up to 1 over axis 0"
        return told, "Take log_softmax over the classes: dim=1"
    if not given.classes.masses[2] > _EXCESS:
        return None
    if given.are_probabilities:
        told = f"{call.function} wants logarithms of probabilities, and gets probabilities"
        return told, "Use log_softmax instead of softmax"
    total = f"e^{given.classes.masses[2]:.2g}"
    told = f"{call.function} wants logarithms of probabilities; these add up to {total}, not 1"
    return told, "Apply log_softmax over the classes, or use cross_entropy on raw scores"


def _twice(call: LossCall) -> Found | None:
    """Probabilities that are taken for scores, and made probabilities once more."""
    if call.made_of not in _ONCE or call.made_by not in _AGAIN:
        return None
    told = f"{call.function} gets the {_called(call.made_by)} of a {_called(call.made_of)}"
    return f"{told}: these differ by little", "Take it once, of the raw scores"


def _called(operation: str) -> str:
    return {"LogSoftmax": "log_softmax", "LogSigmoid": "logsigmoid"}.get(
        operation, operation.lower()
    )


def _with_logits(one: LossInput) -> Found | None:
    function = "binary_cross_entropy_with_logits"
    if one.call.made_by in ("Softmax", "LogSoftmax", "LogSigmoid"):
        name = _called(one.call.made_by)
        told = f"{function} takes the sigmoid itself, and gets the output of {name}"
        return told, "Pass the raw scores"
    return None if one.call.failed else _scores(one, function)


def _binary(one: LossInput) -> Found | None:
    given, target = one.input, one.target
    most = target.classes.sums[1] if target is not None and len(one.labels) == 2 else 0.0  # noqa: PLR2004
    if one.call.made_by == "Softmax" and given.are_probabilities and most > 1:
        told = f"the probabilities of all classes add up to 1, and up to {most:g} are right at once"
        return told, "Replace the softmax by a sigmoid, which lets each class be right on its own"
    if not one.call.failed or not (given.lowest < 0 or given.highest > 1):
        return None
    told = f"binary_cross_entropy wants probabilities, and gets {given.lowest:.3g}"
    return f"{told} to {given.highest:.3g}", "Use binary_cross_entropy_with_logits"


def _kl_div(one: LossInput) -> Found | None:
    given, target = one.input, one.target
    if one.call.failed or target is None or given.length < 2:  # noqa: PLR2004
        return None
    is_log = bool(one.call.options.get("log_target"))
    if one.call.made_by == "Softmax" or given.are_probabilities:
        if target.lowest < 0 and not is_log:
            told = "the first argument is probabilities and the second logarithms"
            return told, "Exchange them: kl_div(log_q, p), where q is the prediction"
        told = "kl_div wants logarithms of probabilities first, and gets probabilities"
        return told, "Use log_softmax for the prediction"
    if min(given.classes.masses[2], given.last.masses[2]) > _EXCESS:
        told = "kl_div wants logarithms of probabilities first, and gets raw scores"
        return told, "Apply log_softmax to the prediction"
    return _kl_target(target, is_log)


def _kl_target(target: Values, is_log: bool) -> Found | None:
    if target.lowest < -1e-4 and not is_log:  # noqa: PLR2004
        told = f"the target of kl_div is negative (down to {target.lowest:.3g}): no probabilities"
        return told, "Use softmax for the target, or log_target=True if they are logarithms"
    if is_log and target.are_probabilities:
        return "log_target=True, and the target is probabilities", "Remove log_target=True"
    return None


def _poisson(one: LossInput) -> Found | None:
    call = one.call
    if call.options.get("log_input") and call.made_by in ("Exp", "Softplus"):
        told = f"the rates are made by {call.made_by.lower()}, and then taken for their logarithms"
        return told, "Remove it, or pass log_input=False"
    if not call.options.get("log_input") and one.input.lowest < -1e-3:  # noqa: PLR2004
        told = f"log_input=False, and the rates are negative (down to {one.input.lowest:.3g})"
        return told, "Pass log_input=True, or make the rates positive by softplus"
    return None


def _overlap(one: LossInput) -> Found | None:
    """Dice, Jaccard and the like, whose fraction has no bounds where scores have none."""
    if one.call.made_by not in _LINEAR - {"Add"} or len(one.labels) != 2 or not all(one.labels):  # noqa: PLR2004
        return None
    told = "an overlap of raw scores and targets is divided by a sum of raw scores"
    return f"{told}: it wants probabilities", "Apply a sigmoid or softmax to the scores first"


def _is_zero(axis: Axis) -> bool:
    return max(map(abs, axis.masses)) < 0.02  # noqa: PLR2004 -- half precision


def _signs(one: LossInput) -> Found | None:
    target = one.target
    if target is None or target.lowest != 0 or target.highest != 1 or sum(one.labels[1:]) < 1:
        return None
    told = f"the targets are 0 and 1; {one.call.function} wants -1 and 1"
    return told, "Map 0 and 1 to -1 and 1: 2 * target - 1"


_JUDGES: dict[str, Callable[[LossInput], Found | None]] = {
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll,
    "ctc_loss": _nll,
    "binary_cross_entropy_with_logits": _with_logits,
    "binary_cross_entropy": _binary,
    "kl_div": _kl_div,
    "poisson_nll_loss": _poisson,
    "overlap": _overlap,
}
