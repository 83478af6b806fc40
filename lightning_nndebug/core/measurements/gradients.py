"""The size of the gradients that an optimizer is about to use."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..layers import condensed
from ..trainer import accumulation, gradient_scale, plain_name
from . import Cadence, Measurement, Moment
from .flow import HALF, GradientFlow, norm
from .losses import Loss
from .schedules import learning_rate, optimizer_name, planned_steps

# The flow is looked at in the step after these, and then ever more rarely: what was well for as
# long as the run is old seldom turns. Sooner if the loss hardly depends on the first layers.
_FIRST_FLOWS = (0, 4, 19, 39, 94)
_LATER, _SOONER, _SUSPICIOUS = 2.0, 1.25, 2.5


@dataclass(frozen=True)
class Gradient:
    """The gradient of one parameter.

    Attributes:
        name: The parameter.
        norm: Its norm; None if there is no gradient at all.
        weight: The norm of the parameter.
        is_matrix: Whether the parameter multiplies something and is used as a whole, so that the
            norms of weight and gradient belong together: no bias, scale or table of embeddings.
    """

    name: str
    norm: float | None
    weight: float = 1.0
    is_matrix: bool = True

    @property
    def elasticity(self) -> float:
        """How much the loss changes, at most, for a relative change of the weights."""
        return self.weight * (self.norm or 0.0)


@dataclass(frozen=True)
class Gradients(Measurement):
    """Gradients before the step: accumulated, reduced, unscaled, not clipped by the Trainer.

    Not known where parameters are sharded: the norm of a part is not the norm.

    Attributes:
        optimizer: The optimizer that they are for.
        parameters: Its parameters that require a gradient, in the order of the module.
        loss: The loss that they are the gradients of; None if no hook has seen it.
        accumulation: By how much Lightning has divided that loss.
        clip: The norm that the Trainer clips to; None if it does not, or in another way.
        is_clipped_by_value: Whether it clips each number: then that norm is the most there can be.
        eps: What the optimizer adds to the size of a gradient before it divides by that; inf if it
            takes the gradient as it is; None if that is not known.
        entries: How many entries the gradients have in all.
        stride: How far all planned steps go together, by gradients of norm 1 that agree; None if
            that is not known, or if the optimizer does not take the gradient as it is.
        clipped_early: Where ``training_step`` clips although the backward comes later; or nothing.
        clipped_late: Where it clips what its own step has used already; or nothing.
        is_first: Whether the optimizer is the first, or only, one.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step",)
    cadence: ClassVar[Cadence] = Cadence(first=22, every=10, since=5)  # as updates are sampled

    optimizer: str
    parameters: tuple[Gradient, ...]
    loss: Loss | None = None
    accumulation: int = 1
    clip: float | None = None
    is_clipped_by_value: bool = False
    eps: float | None = None
    entries: int = 1
    stride: float | None = None
    clipped_early: str = ""
    clipped_late: str = ""
    is_first: bool = True

    @property
    def total(self) -> float:
        """The norm of all of them together."""
        return math.hypot(*(one.norm or 0.0 for one in self.parameters))

    @property
    def objective(self) -> float:
        """What was differentiated: the sum of the losses that went backward. NaN if not known."""
        return sum(self.loss.values) / self.accumulation if self.loss else math.nan

    @property
    def steepest(self) -> Gradient | None:
        """The matrix whose relative change would change the loss most."""
        matrices = (one for one in self.parameters if one.is_matrix)
        return max(matrices, key=lambda one: one.elasticity, default=None)

    @property
    def imbalance(self) -> float:
        """How much less the loss depends on the first matrices than on the steepest, in decades."""
        values = [one.elasticity for one in self.parameters if one.is_matrix and one.elasticity]
        return (
            math.log10(max(values) / median(values[: max(1, len(values) // 4)])) if values else 0.0
        )

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Gradients | None:
        """Reads all norms in one go."""
        trainer, optimizer = moment.trainer, moment.optimizer
        held = held_parameters(moment.module, optimizer)
        if not held or is_sharded(trainer, held):
            return None
        present = [p.grad for _, p in held if p.grad is not None]
        norms = read_norms([*(p.detach() for _, p in held), *present])
        scale = gradient_scale(trainer, optimizer)
        weights, sizes = norms[: len(held)], [one / scale for one in norms[len(held) :]]
        arrived, by_value = iter(sizes), trainer.gradient_clip_algorithm == "value"
        clip = _clip(trainer, moment.module)
        if clip and by_value:
            each = zip(sizes, present, strict=True)
            clip = math.hypot(*(min(size, clip * one.numel() ** 0.5) for size, one in each))
        tables = _tables(moment.module)
        if not hasattr(memory, "clipped_early"):
            memory.clipped_early, memory.clipped_late = _misplaced(trainer, moment.module)
        value = cls(
            optimizer=optimizer_name(trainer, optimizer),
            parameters=tuple(
                Gradient(
                    name=name,
                    norm=None if p.grad is None else next(arrived),
                    weight=weight,
                    is_matrix=p.dim() > 1 and id(p) not in tables,
                )
                for (name, p), weight in zip(held, weights, strict=True)
            ),
            loss=moment.take(Loss),
            accumulation=accumulation(trainer),
            clip=clip or None,
            is_clipped_by_value=by_value,
            eps=_eps(optimizer),
            entries=sum(one.numel() for one in present),
            stride=_stride(trainer, optimizer),
            clipped_early=memory.clipped_early,
            clipped_late=memory.clipped_late,
            is_first=optimizer is trainer.optimizers[0],
        )
        _look_deeper(value, moment, memory)
        return value

    def snapshot(self) -> dict[str, Any]:
        """The norms, by layer."""
        norms = {one.name: one.norm for one in self.parameters if one.norm is not None}
        weights = {one.name: one.weight for one in self.parameters}
        layers = {"gradient norm": condensed(norms), "weight norm": condensed(weights)}
        return {"optimizer": self.optimizer, "layers": layers}


def held_parameters(module: nn.Module, optimizer: Any) -> list[tuple[str, nn.Parameter]]:
    """Returns the parameters that an optimizer is to train, by name, in the order of the module.

    Those of lazy layers are none before their first forward.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [
        (plain_name(name), p)
        for name, p in module.named_parameters()
        if id(p) in held and p.requires_grad and not is_lazy(p)
    ]


def is_sharded(trainer: Any, parameters: Sequence[tuple[str, nn.Parameter]]) -> bool:
    """Returns whether a process holds no more than a part of each parameter and gradient."""
    return type(trainer.strategy).__name__.startswith(("FSDP", "DeepSpeed")) or any(
        hasattr(p, "device_mesh") for _, p in parameters
    )


def read_norms(tensors: Sequence[Tensor]) -> list[float]:
    """Returns the norms of all tensors, by one copy to the host."""
    dense = [one.coalesce().values() if one.layout is torch.sparse_coo else one for one in tensors]
    norms = _foreach_norm(dense) if dense else []
    return (
        [float(one) for one in torch.stack([one.to(norms[0].device) for one in norms]).tolist()]
        if norms
        else []
    )


def _foreach_norm(tensors: list[Tensor]) -> Sequence[Tensor]:
    """Calls the private kernel that clipping uses as well, or else takes one norm after another."""
    dtype = torch.float32 if any(one.dtype in HALF for one in tensors) else None
    try:
        return torch._foreach_norm(tensors, 2.0, dtype=dtype)
    except (AttributeError, RuntimeError, TypeError):
        return [norm(one) for one in tensors]


def _look_deeper(value: Gradients, moment: Moment, memory: SimpleNamespace) -> None:
    """Asks for the flow of the next step, if it is time."""
    age = moment.step - vars(memory).setdefault("start", moment.step)
    last = vars(memory).setdefault("last", -1)
    growth = _SOONER if value.imbalance > _SUSPICIOUS else _LATER
    if age >= next((one for one in _FIRST_FLOWS if one > last), growth * last):
        memory.last = age
        moment.request(GradientFlow)


def _tables(module: nn.Module) -> set[int]:
    """Returns which parameters are tables of embeddings: most of their rows are not in a batch."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    return {id(one.weight) for one in module.modules() if isinstance(one, kinds)}


def _clip(trainer: Any, module: Any) -> float | None:
    is_lightnings = type(module).configure_gradient_clipping.__module__.startswith(
        ("lightning.", "pytorch_lightning.")
    )
    return float(trainer.gradient_clip_val or 0.0) or None if is_lightnings else None


def _eps(optimizer: Any) -> float | None:
    if isinstance(optimizer, torch.optim.SGD):
        return math.inf
    group = optimizer.param_groups[0]
    eps = group.get("eps", 0.0 if "betas" in group else None)
    return eps if isinstance(eps, float) else None


def _stride(trainer: Any, optimizer: Any) -> float | None:
    steps = planned_steps(trainer)
    if not isinstance(optimizer, torch.optim.SGD) or math.isinf(steps):
        return None
    paces = []
    for group in optimizer.param_groups:
        # A warm-up ends at these.
        rates = [learning_rate(group, key) for key in ("lr", "initial_lr", "max_lr")]
        momentum = min(float(group.get("momentum") or 0.0), 0.999)
        paces.append(max(rate or 0.0 for rate in rates) / (1.0 - momentum))
    return steps * max(paces)


def _misplaced(trainer: Any, module: Any) -> tuple[str, str]:
    """Finds a call in the source of ``training_step`` that clips too early, and one too late.

    Clipping to infinity is a way to ask for the norm; and clipping while gradients accumulate has
    some effect.
    """
    try:
        lines, first = inspect.getsourcelines(type(module).training_step)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return "", ""
    early = module.automatic_optimization and accumulation(trainer) == 1
    found = (_early(tree) if early else None), _late(tree)
    return tuple(  # type: ignore[return-value]
        f"{_name(one)} in line {first + one.lineno - 1}" if one is not None else "" for one in found
    )


def _early(tree: ast.AST) -> ast.Call | None:
    """Finds what clips although Lightning calls backward; that it might be called here as well."""
    calls = _calls(tree)
    if any("backward" in _name(one) for one in calls):
        return None
    return next((one for one in calls if _clips(one)), None)


def _late(tree: ast.AST) -> ast.Call | None:
    """Finds what clips after backward and step, in a row, of gradients that will be zeroed."""
    calls = _calls(tree)
    steps = [one.lineno for one in calls if _steps(one)]
    backward = [one.lineno for one in calls if "backward" in _name(one)]
    loops = any(isinstance(node, (ast.For, ast.While)) for node in ast.walk(tree))
    if not (steps and backward and max(backward) < min(steps)) or loops:
        return None
    start = [one for one in _block(tree) if one.lineno < min(backward)]
    for node in ast.walk(tree):
        block = _block(node)
        if not any(map(_steps, block)):
            continue
        rest = [one for one in block if one.lineno > max(steps)]
        if any(_name(one) == "zero_grad" for one in (*start, *rest)):
            return next((one for one in rest if _clips(one)), None)
    return None


def _calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _block(node: ast.AST) -> list[ast.Call]:
    """Lists the calls that are made one after the other in a block of code, come what may."""
    body = node.body if isinstance(node, (ast.FunctionDef, ast.If, ast.With, ast.Module)) else []
    if isinstance(node, ast.Module):
        return _block(body[0])
    plain = [one for one in body if isinstance(one, (ast.Expr, ast.Assign))]
    return [one.value for one in plain if isinstance(one.value, ast.Call)]


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _clips(call: ast.Call) -> bool:
    clips = ("clip_grad_norm_", "clip_grad_value_", "clip_gradients")
    return _name(call) in clips and "inf" not in ast.unparse(call)


def _steps(call: ast.Call) -> bool:
    return _name(call) == "step" and "sched" not in ast.unparse(call.func)
