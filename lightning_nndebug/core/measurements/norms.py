"""Batch norms in the frozen parts of a net, whose running statistics may move nevertheless."""

from __future__ import annotations

import statistics
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from ..mode_effects import is_norm
from ..sandbox import running
from ..trainer import eagerly, plain_name
from . import Cadence, Measurement, Moment

# Of the graph of what a norm gets, so many nodes are looked at.
_NODES = 500
# Enough entries of a frozen weight to see that somebody averages it by hand, as a teacher's.
_WITNESSES = 16


@dataclass(frozen=True)
class Drift:
    """A part of the net whose parameters do not move, while its running statistics do.

    Attributes:
        name: Where its root is.
        norms: How many norms in it move.
        shift: How far they have moved since the beginning: by how many standard deviations the
            mean, plus by how much the logarithm of the standard deviation; the root mean square of
            both over the channels, in the median over the norms.
        is_roused: Whether all of them were in eval mode when the run began, and not by default.
    """

    name: str
    norms: int
    shift: float
    is_roused: bool = False


@dataclass(frozen=True)
class RestingNorms(Measurement):
    """The norms in eval mode at the start of the run, while the module around them is training.

    Attributes:
        names: Their names.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_start",)
    lasting: ClassVar[bool] = True

    names: frozenset[str]

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> RestingNorms:
        """Looks before anybody calls ``train()`` on an epoch."""
        if not moment.module.training:
            return cls(frozenset())  # somebody has evaluated the whole, or loaded it as it is
        modules = moment.module.named_modules()
        return cls(frozenset(name for name, one in modules if is_norm(one) and not one.training))


@dataclass(frozen=True)
class NormDrift(Measurement):
    """How far the running statistics have moved in the parts of the net that are frozen.

    Left out are norms that had no statistics to begin with, those that normalize what is being
    learned, and those beside parameters that somebody moves without an optimizer.

    Attributes:
        parts: The parts where they have moved at all.
    """

    prepares: ClassVar[str | None] = "on_train_batch_start"
    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (RestingNorms,)
    cadence: ClassVar[Cadence] = Cadence(every=10, budget=0.05)

    parts: tuple[Drift, ...]

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Lists the norms; if there are any, listens in this step to what they get."""
        known: dict[int, _Norm] = {id(one.norm): one for one in memory.__dict__.get("norms", ())}
        found = _frozen_norms(moment.module, moment.trainer.optimizers)
        memory.norms = [known.get(id(one.norm)) or one.begin() for one in found]
        memory.stack = ExitStack()
        if found:
            memory.stack.enter_context(eagerly(moment.module))
        for one in memory.norms:
            handle = one.norm.register_forward_pre_hook(one.look_at_input)
            memory.stack.callback(handle.remove)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> NormDrift:
        """Compares with the first look at each norm since it was frozen."""
        norms = [one for one in memory.norms if one.is_fed and not one.is_learned]
        if not norms:
            return cls(())
        resting = moment.take(RestingNorms)
        rested = resting.names if resting is not None else frozenset()
        shifts: dict[str, list[float]] = defaultdict(list)
        roused: dict[str, bool] = {}
        looks = [one.shift() for one in norms]
        looks = torch.stack([one.to(looks[0].device) for one in looks]).tolist()
        for one, (shift, was_fresh, is_averaged) in zip(norms, looks, strict=True):
            if shift > 0 and not was_fresh and not is_averaged:
                shifts[one.part].append(shift)
                roused[one.part] = roused.get(one.part, True) and one.name in rested
        median = statistics.median
        return cls(
            tuple(
                Drift(part, len(all_), median(all_), roused[part]) for part, all_ in shifts.items()
            )
        )

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks."""
        if hasattr(memory, "stack"):
            memory.stack.close()


@dataclass
class _Norm:
    """A norm in train mode that is not trained itself.

    Args:
        norm: The module.
        name: Its name.
        part: Name of the frozen part that it is in.
        witness: The frozen parameter before it.
        learning: The parameters that an optimizer holds, by id.
    """

    norm: Any
    name: str
    part: str
    witness: Tensor
    learning: frozenset[int] = frozenset()
    is_fed: bool = False
    is_learned: bool = False
    _then: tuple[Tensor, ...] = ()

    def begin(self) -> _Norm:
        """Notes how it is now."""
        self._then = tuple(one.clone() for one in self._now())
        return self

    def look_at_input(self, _: Any, args: tuple[Any, ...]) -> None:
        """Notes whether something upstream is being learned."""
        if running():
            return
        self.is_fed = True
        if args and isinstance(args[0], Tensor) and args[0].requires_grad:
            self.is_learned |= _hangs_on(args[0].grad_fn, self.learning)

    def shift(self) -> Tensor:
        """How far it has moved, whether it was new then, whether the witness has changed."""
        (mean, var, witness), (now_mean, now_var, now_witness) = self._then, self._now()
        scale = var.float() + self.norm.eps
        moved = (now_mean - mean).float().square() / scale
        grown = 0.5 * ((now_var.float() + self.norm.eps) / scale).log()
        was_fresh = (mean == 0).all() & (var == 1).all()
        is_averaged = (witness != now_witness).any()
        shift = (moved + grown.square()).mean().sqrt()
        return torch.stack([shift, was_fresh.float(), is_averaged.float().to(shift.device)])

    def _now(self) -> tuple[Tensor, ...]:
        witness = self.witness.detach().reshape(-1)[:_WITNESSES]
        return self.norm.running_mean, self.norm.running_var, witness


def _frozen_norms(module: nn.Module, optimizers: Any) -> list[_Norm]:
    """Lists the norms in train mode that are not trained, and come after a frozen parameter."""
    tree = dict(module.named_modules())
    norms = {
        name: one
        for name, one in tree.items()
        if is_norm(one) and one.training and one.track_running_stats
    }
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    learning = {id(p) for group in groups for p in group["params"] if p.requires_grad}
    norms = {name: one for name, one in norms.items() if not _learns(one, learning)}
    if not norms:
        return []
    parameters = dict(module.named_parameters())
    trained = [name for name, p in parameters.items() if id(p) in learning]
    alive = {place for name in trained for place in _around(name)}
    found = []
    for name, norm in norms.items():
        before = _before(name, tree)
        if before is not None and id(before) not in learning:
            part = next(place for place in [*reversed(_around(name)), name] if place not in alive)
            found.append(_Norm(norm, name, plain_name(part), before, frozenset(learning)))
    return found


def _before(name: str, tree: dict[str, nn.Module]) -> nn.Parameter | None:
    """Returns the parameter that is defined next before a norm, if that is in the same branch."""
    names = list(tree)
    for other in reversed(names[: names.index(name)]):
        parameters = list(tree[other].parameters(recurse=False))
        if parameters:
            mine, theirs = name.rpartition(".")[0], other.rpartition(".")[0]
            is_near = mine == theirs or mine in _around(other)[:-1] or theirs in _around(name)[:-1]
            return parameters[0] if is_near else None
    return None


def _hangs_on(root: Any, learning: frozenset[int]) -> bool:
    """Whether a graph leads to one of these parameters, or to what nobody knows."""
    nodes, known = [root], {root}
    for node in nodes:  # which grows
        if len(nodes) > _NODES or isinstance(node, BackwardCFunction):
            return True
        leaf = getattr(node, "variable", None)
        if leaf is not None and (id(leaf) in learning or not isinstance(leaf, nn.Parameter)):
            return True
        new = {one for one, _ in node.next_functions if one is not None} - known
        known |= new
        nodes += new
    return False


def _learns(norm: nn.Module, learning: set[int]) -> bool:
    return any(id(p) in learning for p in norm.parameters())


def _around(name: str) -> list[str]:
    """Lists the modules that something is in, the innermost first, the whole module last."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, -1, -1)]
