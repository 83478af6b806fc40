"""The settings of the optimizers."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn

from ..trainer import plain_name
from . import Measurement, Moment
from .schedules import learning_rate, optimizer_name, planned_steps
from .weights import is_dense, is_drawn, kind_of


@dataclass(frozen=True)
class Settings:
    """A parameter group.

    Attributes:
        name: The optimizer, and the group's number if there are several.
        kind: The class of the optimizer.
        is_torchs: Whether that is one of torch's own.
        rate: Its learning rate; None if it finds its own.
        weight_decay: As set.
        is_usual: Whether that is the default of the optimizer.
        decouples: Whether the decay is applied to the weights rather than added to the gradient.
        eps: As set; None if the optimizer has none.
        betas: Likewise.
        momentum: As set.
        dampening: Likewise; it holds the gradient back beside momentum.
        left: The share of its rate that its own ``lr_decay`` leaves when the run ends as planned.
        decayed: How many of its parameters are biases or belong to norms.
        parameters: How many it has.
    """

    name: str
    kind: str
    is_torchs: bool = True
    rate: float | None = None
    weight_decay: float = 0.0
    is_usual: bool = False
    decouples: bool = False
    eps: float | None = None
    betas: tuple[float, ...] = ()
    momentum: float = 0.0
    dampening: float = 0.0
    left: float = 1.0
    decayed: int = 0
    parameters: int = 1


@dataclass(frozen=True)
class OptimizerSettings(Measurement):
    """How the optimizers are set when training starts.

    Attributes:
        groups: The parameter groups of all of them.
        trainable: How many parameters require a gradient.
        frozen: How many do not.
        large: How many of those that do are more than biases and norms.
        drawn: Weights of layers that do not, and are what torch has drawn for them at random.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_start",)

    groups: tuple[Settings, ...]
    trainable: int
    frozen: int = 0
    large: int = 1
    drawn: tuple[str, ...] = ()

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> OptimizerSettings:
        """Reads the groups."""
        small = {
            id(p)
            for owner in moment.module.modules()
            for name, p in owner.named_parameters(recurse=False)
            if kind_of(owner, name, p) in ("bias", "norm")
        }
        flags = {id(p): p.requires_grad for p in moment.module.parameters()}
        return cls(
            groups=tuple(
                _settings(moment.trainer, optimizer, number, small)
                for optimizer in moment.trainer.optimizers
                for number in range(len(optimizer.param_groups))
            ),
            trainable=sum(flags.values()),
            frozen=len(flags) - sum(flags.values()),
            large=sum(is_trained for key, is_trained in flags.items() if key not in small),
            drawn=tuple(plain_name(name) for name in _drawn(moment.module)),
        )


def _drawn(module: nn.Module) -> list[str]:
    """Finds frozen weights that nothing was ever learned by, but for copies of trained ones."""
    tree = dict(module.named_modules())
    named = [(name, p) for name, p in module.named_parameters() if is_dense(p)]
    trained = [p for _, p in named if p.requires_grad]
    found = []
    for name, p in named:
        owner = tree[name.rpartition(".")[0]]
        if p.requires_grad or kind_of(owner, name, p) != "matrix":
            continue
        if not is_drawn(owner, p):
            continue
        alike = (one for one in trained if one.shape == p.shape and one.device == p.device)
        if not any(torch.equal(one, p) for one in alike):
            found.append(name)
    return found


def _settings(trainer: Any, optimizer: Any, number: int, small: set[int]) -> Settings:
    group, kind = optimizer.param_groups[number], type(optimizer).__name__
    name = optimizer_name(trainer, optimizer)
    betas = group.get("betas")
    eps = group.get("eps")
    options = inspect.signature(type(optimizer)).parameters
    usual = options["weight_decay"].default if "weight_decay" in options else None
    return Settings(
        name=name if len(optimizer.param_groups) == 1 else f"{name}.param_groups[{number}]",
        kind=kind,
        is_torchs=type(optimizer).__module__.startswith("torch.optim"),
        rate=learning_rate(group),
        weight_decay=float(group.get("weight_decay") or 0.0),
        is_usual=group.get("weight_decay") == usual,
        decouples=kind == "AdamW" or bool(group.get("decoupled_weight_decay")),
        eps=float(eps) if isinstance(eps, (int, float)) else None,
        betas=tuple(map(float, betas)) if isinstance(betas, (tuple, list)) else (),
        momentum=float(group.get("momentum") or 0.0),
        dampening=float(group.get("dampening") or 0.0),
        left=_left(group, planned_steps(trainer)),
        decayed=sum(id(p) in small and p.requires_grad for p in group["params"]),
        parameters=len(group["params"]),
    )


def _left(group: dict[str, Any], steps: float) -> float:
    """Returns what Adagrad's decay, lr / (1 + steps * lr_decay), leaves."""
    decay = float(group.get("lr_decay") or 0.0)
    return 1 / (1 + decay * steps) if decay and math.isfinite(steps) else 1.0
