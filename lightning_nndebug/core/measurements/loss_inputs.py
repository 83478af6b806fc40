"""What the tensors that go into the loss look like: probabilities, their logarithms, or scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import Measurement, Moment
from .loss_calls import LossCall, LossCalls
from .numbering import Numbering
from .scores import Doubt, Turned

_READ = 2**20  # entries of a tensor that are looked at: its first rows
_TURNS = (math.tau, 360.0)
_END = 0.05  # of a turn, at either end of it
_SPREAD, _ROUNDING = 1e-3, 1e-3  # of the largest score, and of the spread of scores
_MASKED = 30.0  # interquartile ranges
_PARTNERS = 8  # samples that are told from each other, at least
_EPS = 1e-2  # of the mean of targets: so much may be added to them before they divide
_LABELS = 1000  # of more values than that, nobody would take the numbers for classes


@dataclass(frozen=True)
class Axis:
    """What the entries along one axis add up to, over all rows.

    Attributes:
        sums: The least and the largest sum.
        masses: The least and the largest logarithm of the summed exponentials, and its mean: 0 for
            logarithms of probabilities.
    """

    sums: tuple[float, float] = (math.nan, math.nan)
    masses: tuple[float, float, float] = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Values:
    """The values of a tensor.

    Attributes:
        lowest: The least.
        highest: The largest.
        length: How many there are along the axis of the classes.
        classes: What they add up to along that axis,
        last: along the last one,
        batch: and along the first.
        vary: Whether they differ between rows.
        zeros: The share that is exactly 0.
    """

    lowest: float = math.nan
    highest: float = math.nan
    length: int = 1
    classes: Axis = field(default_factory=Axis)
    last: Axis = field(default_factory=Axis)
    batch: Axis = field(default_factory=Axis)
    vary: bool = True
    zeros: float = 0.0

    @property
    def are_probabilities(self) -> bool:
        """Whether they are not negative, and add up to 1 over the classes of each row."""
        return self.lowest >= 0 and self.length > 1 and self.vary and _is_one(self.classes)

    @property
    def are_along_last(self) -> bool:
        """Whether they add up to 1 over the last axis, and not over that of the classes."""
        return self.lowest >= 0 and _is_one(self.last) and not _is_one(self.classes)


@dataclass(frozen=True)
class Turn:
    """Quantities that lie within one turn, and reach from one end of it to the other, as angles do.

    Attributes:
        length: Of the turn: 360, or that in radians.
        ends: How many targets are near an end,
        missed: and how many of these the predictions miss by more than half a turn.
    """

    length: float
    ends: int
    missed: int


@dataclass(frozen=True)
class LossInput:
    """A call of a loss function that the loss is made of, and what it was given.

    Attributes:
        call: The call.
        input: The predictions.
        target: The targets; None if they are class numbers, or not there.
        labels: How often each class number occurs in targets that are whole numbers, counted from
            0; nothing if they are not, or not from the batch.
        turn: What is known of targets that may be angles.
        has_self: Whether the classes are the samples of the batch, and each of them finds itself
            to be the most likely one, which it never is.
        are_views_same: Whether the classes are the samples of the batch, and each has exactly the
            same scores as the partner that it is to find.
        steepness: Where errors are divided by the size of their targets: how many times smaller
            the least of these is than their mean.
    """

    call: LossCall
    input: Values
    target: Values | None = None
    labels: tuple[int, ...] = ()
    turn: Turn | None = None
    has_self: bool = False
    are_views_same: bool = False
    steepness: float = 1.0


@dataclass(frozen=True)
class LossInputs(Measurement):
    """What the loss functions were given that the loss is made of.

    Attributes:
        inputs: One for each call, in order, and for each hand-written difference of predictions
            and targets.
        way: 1 if the optimizer minimizes the loss, -1 if it maximizes it; 0 if there are several.
        metrics: Names of what has been logged so far.
        doubt: What the user's accuracy says beside what the answers of validation are.
        turned: A score that is worse than that of a guess, as if answers were turned around.
        numbering: Whether whole numbers of the targets are quantities, or names.
        plain: The shape of the outputs of a layer in training whose mean is all of the loss; empty
            if there is more to it.
        level: That loss.
    """

    hooks: ClassVar[tuple[str, ...]] = LossCalls.hooks
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls, Doubt, Turned, Numbering)

    inputs: tuple[LossInput, ...]
    way: int = 0
    metrics: tuple[str, ...] = ()
    doubt: Doubt = field(default_factory=Doubt)
    turned: Turned = field(default_factory=Turned)
    numbering: Numbering = field(default_factory=Numbering)
    plain: tuple[int, ...] = ()
    level: float = math.nan

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> LossInputs | None:
        """Reads the tensors of the calls, those of each by one copy to the host."""
        heard = moment.take(LossCalls)
        if heard is None:
            return None
        used = [one for one in (*heard.calls, *heard.differences) if one.failed or _is_used(one)]
        used += [one for one in heard.overlaps if one.factor != 0]
        plain = _plain(heard, moment) if heard.plain is not None else ()
        return cls(
            tuple(map(read, used)),
            _way(moment.trainer.optimizers),
            tuple(map(str, moment.trainer.callback_metrics)),
            moment.take(Doubt) or Doubt(),
            moment.take(Turned) or Turned(),
            moment.take(Numbering) or Numbering(),
            plain,
            float(heard.plain.loss) if plain and heard.plain is not None else math.nan,
        )


def read(call: LossCall) -> LossInput:
    """Reads the tensors of a call."""
    axis = call.axis
    if axis is None:
        axis = 1 if call.function == "kl_div" and len(call.shape) > 2 else len(call.shape) - 1  # noqa: PLR2004
    target = call.target
    if target is None or not target.numel() or call.has_indices:
        seen = values(call.input, axis)
        return LossInput(call, seen, has_self=_has_self(call), are_views_same=_are_views_same(call))
    known = call.place is not None and not target.requires_grad
    labels = _labels(target.detach()) if known else ()
    seen = values(target, axis)
    turn = _turn(call, seen) if known and call.input.shape == target.shape else None
    steepness = _steepness(call, target.detach()) if known else 1.0
    return LossInput(call, values(call.input, axis), seen, labels, turn, steepness=steepness)


def turn_of(lowest: float, highest: float, slack: float) -> tuple[float, float] | None:
    """Returns the length of a turn and its middle, if numbers fill it but for a share at each end.

    Args:
        lowest: The least of the numbers.
        highest: The largest.
        slack: The share.
    """
    for length in _TURNS:
        for middle in (0.0, length / 2):
            most = length / 2 * (1 + 1e-5)
            below, above = middle - lowest, highest - middle
            if all((0.5 - slack) * length <= one <= most for one in (below, above)):
                return length, middle
    return None


def _turn(call: LossCall, seen: Values) -> Turn | None:
    found = turn_of(seen.lowest, seen.highest, 2 * _END)
    if found is None or call.target is None or not call.target.is_floating_point():
        return None
    length, middle = found
    given, target = (one.detach().flatten()[:_READ].float() for one in (call.input, call.target))
    ends = (target - middle).abs() > (0.5 - _END) * length
    missed = ends & ((given - target).abs() > length / 2)
    return Turn(length, *torch.stack([ends.sum(), missed.sum()]).tolist())


def _steepness(call: LossCall, target: Tensor) -> float:
    if call.divisor is None or call.divisor.numel() != target.numel() or call.is_masked:
        return 1.0
    sizes, asked = (one.flatten()[:_READ].abs().float() for one in (call.divisor, target))
    is_relative = (sizes - asked).abs().max() <= _EPS * sizes.mean()
    least = sizes.min().clamp_min(1e-30)
    return float(torch.where(is_relative, sizes.mean() / least, 1.0))


def _has_self(call: LossCall) -> bool:
    scores, target = call.input.detach(), call.target
    if target is None or not _finds_partners(call):
        return False
    own, themselves = scores.diagonal(), torch.arange(len(target), device=target.device)
    return bool((own >= scores.amax(1)).all() & (target != themselves).all())


def _are_views_same(call: LossCall) -> bool:
    if call.target is None or not _finds_partners(call):
        return False
    scores, partner = call.input.detach().float(), call.target
    here = torch.arange(len(partner), device=partner.device)
    # Each against each other, a sample is its own partner if both sides of it are the same.
    theirs = scores.T if torch.equal(partner, here) else scores[partner]
    others = torch.ones_like(scores, dtype=torch.bool)
    others[here, here] = others[here, partner] = False
    # What is far below all others was masked, on both sides alike.
    quarters = scores[others][:_READ].quantile(scores.new_tensor([0.25, 0.5, 0.75]))
    others &= scores > quarters[1] - _MASKED * (quarters[2] - quarters[0])
    others &= theirs.isfinite()
    if others.sum() < _PARTNERS:
        return False
    spread = scores[others].std()
    apart = (scores - theirs)[others].abs().amax()
    return bool((spread > _SPREAD * scores[others].abs().amax()) & (apart < _ROUNDING * spread))


def _finds_partners(call: LossCall) -> bool:
    """Tells whether the classes are the samples of the batch."""
    scores, target = call.input, call.target
    if call.place is not None or target is None or target.dim() != 1 or len(target) < _PARTNERS:
        return False
    return scores.shape == (len(target), len(target))


def _is_used(call: LossCall) -> bool:
    is_loss = call.function != "gather" or call.is_likelihood
    return is_loss and (call.input.requires_grad or call.is_exchanged) and call.factor != 0


def _plain(heard: LossCalls, moment: Moment) -> tuple[int, ...]:
    # Where several go backward, one may hold the other.
    if heard.plain is None or not _way(moment.trainer.optimizers):
        return ()
    if not moment.module.automatic_optimization:
        return ()
    groups = moment.trainer.optimizers[0].param_groups
    trained = {id(one) for group in groups for one in group["params"]}
    return heard.plain.shape if any(id(p) in trained for p in heard.plain.parameters) else ()


def _way(optimizers: Sequence[Any]) -> int:
    ways = {-1 if group.get("maximize") else 1 for one in optimizers for group in one.param_groups}
    return ways.pop() if len(optimizers) == len(ways) == 1 else 0


def values(tensor: Tensor, axis: int) -> Values:
    """Reads the values of a tensor whose classes are along an axis."""
    x = tensor.detach()
    if x.numel() > _READ and x.dim() > 1:
        x = x[: max(2, _READ // max(1, x[0].numel()))]
    x = x.float().reshape(1) if not x.dim() else x.float()
    axis = min(max(axis, 0), x.dim() - 1)
    spread = (x - x[:1]).abs().amax()
    parts = [x.amin(), x.amax(), spread, (x == 0).float().mean()]
    for along in (axis, x.dim() - 1, 0):
        sums, masses = x.sum(along), x.logsumexp(along)
        parts += [sums.amin(), sums.amax(), masses.amin(), masses.amax(), masses.mean()]
    low, high, spread_, zeros, *rest = torch.stack(parts).tolist()
    classes, last, batch = (_axis(rest[i : i + 5]) for i in (0, 5, 10))
    return Values(low, high, x.shape[axis], classes, last, batch, spread_ > 0, zeros)


def _axis(numbers: Sequence[float]) -> Axis:
    return Axis((numbers[0], numbers[1]), (numbers[2], numbers[3], numbers[4]))


def _is_one(axis: Axis) -> bool:
    return all(abs(one - 1) < 0.02 for one in axis.sums)  # noqa: PLR2004 -- half precision


def _labels(target: Tensor) -> tuple[int, ...]:
    flat = target.flatten()[:_READ]
    if target.is_floating_point():
        if not bool(((flat == flat.round()) & (flat >= 0) & (flat < _LABELS)).all()):
            return ()
    elif target.is_complex() or not bool(((flat >= 0) & (flat < _LABELS)).all()):
        return ()
    return tuple(torch.bincount(flat.long()).tolist())
