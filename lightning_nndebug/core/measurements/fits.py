"""How well predictions fit their targets, beside the best that can be said without any input."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn import functional

from ..source import Line
from . import Measurement, Moment
from .loss_calls import LossCall, LossCalls

_COLUMNS = 1024  # of the quantities that each sample has, at most
_ROWS, _ENTRIES = 64, 2**21  # enough labels of a vocabulary, and no more than fit into memory
_FORMS = ("squared", "absolute")
_STEEP = 1e6  # a loss that says no more than that it is beyond all reason
_PARTNERS = 8  # samples that are told from each other, at least
_NEAR = 256  # nodes of the graph before a loss, in which a reversed gradient is looked for
_TINY = 1e-9
_VARIED = 0.05  # the least entropy of targets that predictions can be related to


@dataclass(frozen=True)
class Fit:
    """One loss on targets of the batch, or on which samples of it belong together.

    Attributes:
        where: The function and its target, such as ``cross_entropy(batch[1])``.
        line: The line of the user's code that made the call.
        loss: The mean over the samples, as the function weighs them; the mean squared error for
            quantities, whatever is made of them.
        chance: The loss of a net that finds all classes equally likely; NaN for quantities.
        floor: The loss of a perfect prediction: above 0 if targets are shares.
        relation: How much the predictions have to do with the targets. For classes, by how much the
            log-likelihood of the own target exceeds that of another sample's, over the entropy of
            the targets; for quantities, the squared correlation.
        samples: How many targets count.
        totals: What adds up to the statistics of the targets: rows of class weights; or the counts,
            sums, and sums of squares of the quantities.
        kind: ``classes``, ``answers`` or ``quantities``.
        scaled: Whether predictions may have a temperature: they were multiplied or divided by
            something, or tell the samples of a batch from each other.
        matches: Whether they do the latter.
        is_next: Whether targets are the next tokens of the inputs: how frequent they are is learned
            first, and takes time.
        opposed: Whether a gradient of the user's own making is on its way back to the net, such as
            the reversed one of an adversary: then part of the net wants the loss to rise.
    """

    where: str
    line: Line | None
    loss: float
    chance: float
    floor: float
    relation: float
    samples: int
    totals: Tensor = field(repr=False)
    kind: str
    scaled: bool = False
    matches: bool = False
    is_next: bool = False
    opposed: bool = False


@dataclass(frozen=True)
class Fits(Measurement):
    """The fits of all losses on targets of the batch that go into the loss of a step.

    Attributes:
        fits: They.
        others: How many other losses go into it, as far as they are known.
        step: Where they were taken, on the x-axis of the loggers.
    """

    hooks: ClassVar[tuple[str, ...]] = LossCalls.hooks
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls,)

    fits: tuple[Fit, ...]
    others: int = 0
    step: int = 0

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Fits | None:
        """Evaluates the losses again, each by one copy to the host."""
        heard = moment.take(LossCalls)
        if heard is None or moment.hook == "on_exception":
            return None
        calls = [
            one
            for one in (*heard.calls, *heard.differences)
            if one.input.requires_grad and one.factor != 0 and not one.failed
        ]
        # Of a mixture of labels, none is what the net is asked for.
        asked = Counter(_question(one) for one in calls)
        once = [one for one in calls if asked[_question(one)] == 1]
        # What does not count may be anything.
        found = [(one, fit(one)) for one in once if not one.is_masked]
        fits = tuple(
            replace(one, opposed=_is_opposed(call.input.grad_fn))
            for call, one in found
            if one is not None and math.isfinite(one.loss)
        )
        return cls(fits, len(calls) - len(fits), moment.step)


def constant(kind: str, totals: Tensor) -> float:
    """Returns the loss of the best constant prediction for all targets behind the totals.

    Of classes that were seen n times the entropy is too low by (seen - 1) / 2n on average
    (Miller 1955), which is made up for.
    """
    totals = totals.double()
    if kind == "quantities":
        counts, sums, squares = totals
        variance = squares / counts - (sums / counts) ** 2
        return float((variance * counts / (counts - 1).clamp(min=1)).mean())
    weights, samples = totals[:, :-1], totals[:, -1]
    missing = ((weights > 0).sum(1) - 1).clamp(min=0) / (2 * samples.clamp(min=1.0))
    return loss_of_constant(kind, totals, totals) + float(missing.mean())


def loss_of_constant(kind: str, totals: Tensor, targets: Tensor) -> float:
    """Returns the loss on targets of the best constant for those behind other totals."""
    totals, targets = totals.double(), targets.double()
    if kind == "quantities":
        counts, sums, squares = targets
        mean = totals[1] / totals[0]
        return float(((squares - 2 * mean * sums) / counts + mean**2).mean())
    weights = totals[:, :-1]
    shares = weights / weights.sum(1, keepdim=True).clamp(min=_TINY)
    lost = -(targets[:, :-1] * shares.clamp(min=_TINY).log()).sum(1)
    return float((lost / targets[:, -1].clamp(min=_TINY)).mean())


def where(call: LossCall) -> str:
    """Returns the place of a call: its function, and its target as the user writes it."""
    name = "loss" if call.function == "difference" else call.function
    return f"{name}({call.place})" if call.place is not None else name


def fit(call: LossCall) -> Fit | None:
    """Returns the fit of a call; None if it is not a loss on targets of the batch."""
    judge = _JUDGES.get(call.function)
    target = call.target
    if judge is None or target is None or target.requires_grad:
        return None
    if call.place is None and not call.is_next and not _is_matching(call, target):
        return None
    return judge(call, call.input.detach().float(), target.detach())


def _question(call: LossCall) -> tuple[Any, ...]:
    """Tells what is asked for labels; where two views are matched, it is each way another thing."""
    return call.function, call.input.data_ptr(), call.input.stride()


def _is_opposed(root: Any) -> bool:
    nodes, seen = [root], {None}
    for node in nodes:  # which grows
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            kind = getattr(node, "_forward_cls", None)
            if not getattr(kind, "__module__", "torch").startswith("torch."):
                return True
        if len(nodes) < _NEAR:
            nodes += [one for one, _ in node.next_functions]
    return False


def _is_matching(call: LossCall, target: Tensor) -> bool:
    """Whether each sample of a batch is to be told from the others, as in contrastive learning."""
    count = len(target) if target.dim() == 1 else 0
    if not call.has_indices or count < _PARTNERS or call.classes != count:
        return False
    return bool((target == torch.arange(count, device=target.device)).all())


def _classes(call: LossCall, scores: Tensor, target: Tensor) -> Fit | None:
    count = call.classes or 0
    if count < 2 or call.function not in ("cross_entropy", "nll_loss"):  # noqa: PLR2004
        return None
    axis, rows = call.axis or 0, max(_ROWS, _ENTRIES // count)
    logs = scores.movedim(axis, -1).reshape(-1, count)[:rows]
    logs = logs if call.function == "nll_loss" else logs.log_softmax(1)
    if call.has_indices:
        labels = target.reshape(-1)[:rows]
        counts = labels != call.ignored
        logs, labels = logs[counts], labels[counts]
        if not len(labels) or bool(((labels < 0) | (labels >= count)).any()):
            return None
        shares = functional.one_hot(labels, count).float()
    elif target.shape == scores.shape:
        shares = target.float().movedim(axis, -1).reshape(-1, count)[:rows]
    else:
        return None
    smoothing = float(call.options.get("label_smoothing") or 0.0)
    shares = shares * (1 - smoothing) + smoothing / count
    weighted = shares if call.weight is None else shares * call.weight.to(shares)
    totals = torch.cat([weighted.sum(0), weighted.sum()[None]])[None]
    return _fit_of_shares(call, "classes", logs, weighted, shares, totals, math.log(count))


def _answers(call: LossCall, given: Tensor, target: Tensor) -> Fit | None:
    if target.shape != given.shape or call.options.get("weight") is not None:
        return None
    columns = given[0].numel() if call.is_multilabel else 1
    if columns > _COLUMNS or bool(((target < 0) | (target > 1)).any()):
        return None
    is_score = call.function.endswith("logits")
    yes = functional.logsigmoid(given) if is_score else given.clamp(min=_TINY).log()
    no = functional.logsigmoid(-given) if is_score else (1 - given).clamp(min=_TINY).log()
    share = target.float().reshape(-1, columns)
    logs = torch.stack([no.reshape(-1, columns), yes.reshape(-1, columns)], -1)
    shares = torch.stack([1 - share, share], -1)
    weighted = shares.clone()
    if call.weight is not None:
        weighted[..., 1] *= call.weight.to(share).reshape(-1) if columns > 1 else call.weight.mean()
    samples = torch.full((columns, 1), float(len(share)), device=share.device)
    totals = torch.cat([weighted.sum(0), samples], 1)
    weighted, shares, logs = (one.flatten(0, 1) for one in (weighted, shares, logs))
    return _fit_of_shares(call, "answers", logs, weighted, shares, totals, math.log(2))


def _fit_of_shares(
    call: LossCall, kind: str, logs: Tensor, weighted: Tensor, shares: Tensor,
    totals: Tensor, chance: float,
) -> Fit:  # fmt: skip
    samples = weighted.sum() if kind == "classes" else shares.sum()
    floor = -(weighted * shares.clamp(min=_TINY).log()).sum() / samples
    finite = logs.clamp(min=-100.0)  # an impossible class weighs no more than an unlikely one
    own = (weighted * finite).sum() / samples
    prior = weighted.mean(0) / weighted.sum(1).mean()
    other = (weighted.sum(1) * (finite * prior).sum(1)).sum() / samples
    entropy = -(prior * prior.clamp(min=_TINY).log()).sum()
    relation = torch.where(entropy > _VARIED, (own - other) / entropy.clamp(min=_VARIED), 0.0)
    matches = call.place is None and not call.is_next
    # Where samples are matched, the own one is never impossible: only a temperature puts it so low.
    loss = -(weighted * logs.clamp(min=-_STEEP)).sum() / samples if matches else -own
    numbers = torch.stack([loss, floor, relation]).tolist()
    return Fit(
        where(call), call.line, numbers[0], chance * float(weighted.sum() / samples), numbers[1],
        numbers[2], len(shares), totals.cpu(), kind,
        call.made_by in ("Mul", "Div") or matches, matches, call.is_next,
    )  # fmt: skip


def _quantities(call: LossCall, given: Tensor, target: Tensor) -> Fit | None:
    if call.function == "difference" and call.options.get("form") not in _FORMS:
        return None
    if target.shape != given.shape or not target.dim() or target.is_complex() or not call.whole:
        return None
    p, t = (one.reshape(len(one), -1)[:, :_COLUMNS].double() for one in (given, target))
    if len(t) < 2 or not t.shape[1]:  # noqa: PLR2004
        return None
    a, b = p - p.mean(0), t - t.mean(0)
    relation = (a * b).sum(0).square().sum() / (a.square().sum(0) * b.square().sum(0)).sum().clamp(
        min=_TINY
    )
    numbers = torch.stack([(p - t).square().mean(), relation]).tolist()
    totals = torch.stack([torch.full_like(t[0], len(t)), t.sum(0), t.square().sum(0)])
    return Fit(
        where(call), call.line, numbers[0], math.nan, 0.0, numbers[1] - 1 / (len(t) - 1), len(t),
        totals.cpu(), "quantities",
    )  # fmt: skip


_JUDGES: dict[str, Callable[[LossCall, Tensor, Tensor], Fit | None]] = {
    "cross_entropy": _classes,
    "nll_loss": _classes,
    "binary_cross_entropy": _answers,
    "binary_cross_entropy_with_logits": _answers,
    **dict.fromkeys(
        ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "difference"), _quantities
    ),
}
