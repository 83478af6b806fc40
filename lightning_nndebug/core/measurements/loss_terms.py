"""What the loss is the sum of, and how hard each term pulls at the parameters."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..sandbox import Sandbox
from ..source import Line
from ..trainer import gradient_scale
from . import Cadence, Measurement, Moment
from .fits import where
from .gradients import held_parameters, is_sharded, read_norms
from .loss_calls import Listener, LossCall
from .repeatable import Repeatable, is_repeatable

log = logging.getLogger("lightning_nndebug")

# Steps at which the terms are told apart, in a sandbox; then ever more rarely.
_STEPS = (5, 10, 15, 20, 30, 40, 60, 80, 120)
_LATER = 1.5
_TERMS = 8  # at most; a backward for each
_MOST = 256  # nodes that a loss is the sum of, such as a penalty on each of its parameters
_NODES = 20_000
_SAMPLE, _SAMPLES = 4096, 2**17  # entries of a parameter, and of all together
_FACTORS = ("Mul", "Div", "Neg", "ToCopy", "View", "Squeeze", "Unsqueeze", "Clone", "Add")
_COUPLED = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.RMSprop, torch.optim.Adagrad,
)  # fmt: skip


@dataclass(frozen=True)
class Term:
    """A term of the loss.

    Attributes:
        where: The loss function and its target, such as ``mse_loss(batch[1])``; nothing if it is
            none, or none on targets of the batch.
        line: The line of the user's code that made the call.
        norm: The norm of its gradient by all parameters.
        shared: That by those parameters that all terms with targets have in common.
    """

    where: str
    line: Line | None
    norm: float
    shared: float


@dataclass(frozen=True)
class LossTerms(Measurement):
    """The terms that the loss is the sum of, told apart by running the step again.

    In manual optimization these are the terms of the first loss that goes backward and is such a
    sum. Each process tells its own batch apart. Not known where steps cannot be run again, and
    where several optimizers play against each other.

    Attributes:
        terms: At least two.
        step: Where they were told apart, on the x-axis of the loggers.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_start", "on_before_backward")
    needs: ClassVar[tuple[type[Measurement], ...]] = (Repeatable,)
    lasting: ClassVar[bool] = True

    terms: tuple[Term, ...]
    step: int

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> LossTerms | None:
        """Looks whether there are several terms in the first steps, and then at each of them."""
        known = vars(memory)
        if moment.hook == "on_before_backward":
            if known.setdefault("looks", 0) < 3:  # noqa: PLR2004
                memory.looks += 1
                memory.several = known.get("several", False) or len(terms(moment.loss)) > 1
            return None
        last = known.setdefault("last", -1)
        due = next((one for one in _STEPS if one > last), _LATER * last)
        if moment.step < due:
            return None
        memory.last = moment.step
        alone = len(moment.trainer.optimizers) == 1
        wanted = alone and known.get("several", False) and is_repeatable(moment)
        if not (wanted if moment.trainer.world_size == 1 else _is_wanted_by_all(moment, wanted)):
            return None
        optimizers = moment.trainer.optimizers
        held = [pair for one in optimizers for pair in held_parameters(moment.module, one)]
        parameters = [p for _, p in held]
        if not held or is_sharded(moment.trainer, held) or _is_hooked(moment.module, parameters):
            return None
        found = _tell_apart(moment, parameters)
        return cls(found, moment.step) if len(found) > 1 else None


@dataclass(frozen=True)
class Regularization(Measurement):
    """What pulls at the parameters besides the data.

    Attributes:
        decay: The norm of the weight decay, over that of what the gradient makes of the update;
            0 if there is none, NaN if that cannot be compared.
        optimizer: The one that decays them.
        rate: Its ``weight_decay``.
        terms: The norm of all terms without targets, over that of those with targets; 0 if there
            are none, NaN if it has been told, or is not known.
        step: Where it was taken, on the x-axis of the loggers.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossTerms,)
    cadence: ClassVar[Cadence] = Cadence(first=5, every=5)

    decay: float
    optimizer: str
    rate: float
    terms: float
    step: int

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Regularization | None:
        """Compares norms, by one copy to the host."""
        held = held_parameters(moment.module, moment.optimizer)
        if not held or is_sharded(moment.trainer, held):
            return None
        decay, rate = _decay(moment)
        found = moment.take(LossTerms)
        ratio = math.nan
        if found is not None and found.step != vars(memory).get("known"):
            memory.known = found.step
            with_targets = math.hypot(*(one.norm for one in found.terms if one.where))
            without = math.hypot(*(one.norm for one in found.terms if not one.where))
            ratio = without / with_targets if with_targets else math.nan
        name = type(moment.optimizer).__name__
        return cls(decay, name, rate, ratio, moment.step)


def terms(loss: Tensor) -> list[Any]:
    """Returns the nodes of the graph that the loss is the sum of: its own, if of nothing."""
    found: dict[Any, None] = {}
    stack = [loss.grad_fn]
    while stack and len(found) < _MOST:
        node = stack.pop()
        if node is None:
            continue
        parents = [one for one, _ in node.next_functions if one is not None]
        if _is_sum(node, parents):
            stack.extend(reversed(parents))
        else:
            found[node] = None
    return [*found, *(one for one in stack if one is not None)]


def _is_sum(node: Any, parents: Sequence[Any]) -> bool:
    """Whether a node adds up single numbers, or multiplies one by a constant."""
    name = _op(node)
    if name in ("Sum", "Mean"):  # of a list of losses
        return len(parents) == 1 and _op(parents[0]) in ("Stack", "Cat") and _size(node) == 1
    if name in ("Stack", "Cat"):
        return all(_size(one) == 1 for one in parents)
    if _size(node) != 1 or not parents or any(_size(one) != 1 for one in parents):
        return False
    return name in ("Add", "Sub", "Rsub") or (len(parents) == 1 and name in _FACTORS)


def _size(node: Any) -> int:
    shapes = [one.shape for one in getattr(node, "_input_metadata", ())]
    return math.prod(shapes[0]) if shapes else 0


def _op(node: Any) -> str:
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def _is_wanted_by_all(moment: Moment, wanted: bool) -> bool:
    """Whether all processes can take part: a step may wait for the others, and so may its twin."""
    strategy = moment.trainer.strategy
    mine = torch.tensor(float(wanted), device=strategy.root_device)
    return bool(strategy.reduce(mine, reduce_op="mean") == 1)


def _tell_apart(moment: Moment, parameters: Sequence[nn.Parameter]) -> tuple[Term, ...]:
    """Runs the step again, and tells apart the first of its losses that is a sum."""
    listener, module = Listener(moment.batch, replayed=True), moment.module
    found: list[Term] = []

    def look(loss: Tensor | None, *_: Any, **__: Any) -> None:
        if not found and loss is not None and loss.grad_fn is not None:
            found.extend(_terms_of(loss, listener.made(), parameters))

    try:
        with Sandbox(moment.trainer, module) as sandbox:
            if not module.automatic_optimization:  # what goes backward is seen nowhere else
                vars(module)["manual_backward"] = look
            with listener:
                replay = sandbox.training_step(
                    moment.batch, moment.batch_idx, stop=lambda _: bool(found)
                )
            look(replay.loss)
    except Exception as error:
        log.debug("nndebug: the terms of the loss could not be told apart: %r", error)
        return ()
    return tuple(found)


def _terms_of(
    loss: Tensor, calls: dict[Any, LossCall], parameters: Sequence[nn.Parameter]
) -> tuple[Term, ...]:
    """Goes backward from one term at a time: nothing comes from the others."""
    groups: dict[str, list[Any]] = {}
    lines: dict[str, Line | None] = {}
    for node in terms(loss):
        call = _call_of(node, calls)
        name = "" if call is None else where(call)
        groups.setdefault(name, []).append(node)
        lines[name] = None if call is None else call.line
    if not 1 < len(groups) <= _TERMS:
        return ()
    norms = {name: _norms(loss, groups, name, parameters) for name in groups}
    named = [one for name, one in norms.items() if name]
    shared = [all(one[i] > 0 for one in named) for i in range(len(parameters))] if named else []
    return tuple(
        Term(
            name,
            lines[name],
            math.hypot(*one),
            math.hypot(*(norm for norm, is_shared in zip(one, shared, strict=False) if is_shared)),
        )
        for name, one in norms.items()
    )


def _norms(
    loss: Tensor, groups: dict[str, list[Any]], name: str, parameters: Sequence[nn.Parameter]
) -> list[float]:
    others = [node for other, nodes in groups.items() if other != name for node in nodes]
    handles = [node.register_prehook(_nothing) for node in others]
    try:
        with torch.enable_grad():
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    norms = iter(read_norms([one for one in found if one is not None]))
    return [0.0 if one is None else next(norms) for one in found]


def _nothing(gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    return tuple(None if one is None else torch.zeros_like(one) for one in gradients)


def _call_of(root: Any, calls: dict[Any, LossCall]) -> LossCall | None:
    """Finds the loss on targets of the batch that a term is made of."""
    stack, seen = [root], {root}
    while stack and len(seen) < _NODES:
        node = stack.pop()
        call = calls.get(node)
        if call is not None and call.place is not None and call.function != "gather":
            return call
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return None


def _is_hooked(module: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the user listens to gradients: then ours would be heard."""
    return any(p._backward_hooks for p in parameters) or any(
        one._backward_hooks or one._backward_pre_hooks for one in module.modules()
    )


def _decay(moment: Moment) -> tuple[float, float]:
    """Returns the pull of the weight decay over that of the data, and the largest rate."""
    optimizer, pulls, steps = moment.optimizer, [], []
    groups = [(float(one.get("weight_decay") or 0.0), one) for one in optimizer.param_groups]
    rate = max((decay for decay, _ in groups), default=0.0)
    if not rate:
        return 0.0, rate
    if not isinstance(optimizer, _COUPLED):
        return math.nan, rate
    factors, count = [], sum(len(group["params"]) for _, group in groups)
    sample = min(_SAMPLE, _SAMPLES // max(1, count) + 1)
    for decay, group in groups:
        apart = isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay")
        for p in group["params"]:
            if p.grad is None or not decay:
                continue
            # Adam's direction takes memory to compute: a sample of its entries will do.
            stride = max(1, p.numel() // sample) if apart else 1
            pulls.append(_sample(p.detach(), stride))
            state = optimizer.state.get(p, {})
            steps.append(_direction(state, group, p, stride) if apart else p.grad)
            factors.append((decay, math.sqrt(stride)))
    if not pulls:
        return 0.0, rate
    norms = read_norms([*pulls, *steps])
    pull = math.hypot(*(d * k * n for (d, k), n in zip(factors, norms, strict=False)))
    data = math.hypot(*(k * n for (_, k), n in zip(factors, norms[len(pulls) :], strict=True)))
    data /= gradient_scale(moment.trainer, optimizer)
    return (pull / data if data else math.nan), rate


def _direction(state: dict[str, Any], group: dict[str, Any], p: Tensor, stride: int) -> Tensor:
    """Returns what Adam multiplies by its rate; before its first step, as long as it will be."""
    if "exp_avg" not in state:
        return torch.ones_like(_sample(p.detach(), stride))
    root = _sample(state["exp_avg_sq"], stride).sqrt() + group.get("eps", 1e-8)
    return torch.div(_sample(state["exp_avg"], stride), root)


def _sample(tensor: Tensor, stride: int) -> Tensor:
    return tensor if stride == 1 else tensor.reshape(-1)[::stride]
