"""Which parameters take part in the steps and get no gradient all the same."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..listening import hookable
from ..sandbox import Sandbox
from ..trainer import plain_name
from . import Measurement, Moment
from .batches import tensors
from .flow import norm
from .gradients import held_parameters, is_sharded, read_norms
from .repeatable import Repeatable, is_repeatable
from .schedules import planned_steps
from .stations import is_lost
from .unused import is_users, methods

_STEPS = 20  # without any gradient, before anybody asks why
_GROUPS = 8  # are tried out, at most
_ENTRIES = 2**24  # of a group are moved, at most: the sandbox keeps a copy
_SAMPLE = 256  # entries tell whether somebody writes to a parameter
# How torch names the parameters of one layer and one direction of a recurrent module.
_STRAND = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)(_l\d+(?:_reverse)?)")


@dataclass(frozen=True)
class Cut:
    """A part of the module that takes part in the steps, but that the gradient never came to.

    Attributes:
        name: The topmost module all of whose parameters are so, or the parameter.
        parameters: Those parameters.
        steps: For how many steps.
        is_zero: Whether there was a gradient, of exactly 0, rather than none.
        change: By how much the loss changed when the parameters were moved, relatively.
        no_grad: Whether the module ran with gradients switched off.
        is_discarded: Whether it is called in training, and the loss does not depend on the result.
        is_strand: Whether it is a layer, or a direction, of a recurrent module.
    """

    name: str
    parameters: tuple[str, ...]
    steps: int
    is_zero: bool = False
    change: float = math.inf
    no_grad: bool = False
    is_discarded: bool = False
    is_strand: bool = False


@dataclass(frozen=True)
class Reach(Measurement):
    """Parameters that the optimizer was given, and that never had a gradient, tried out.

    A parameter without a gradient may be unused on purpose, for now, or in this batch: an expert, a
    head for later, a loss with weight 0. So the step is run again with that parameter moved. If the
    loss changes and no gradient arrives, something has cut the graph in between. If it does not,
    though the user's own code has called it and thrown the result away, half of the run is enough.

    Not known with several processes, since the step is not run again on some of them alone.

    Attributes:
        cuts: What is cut off.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step", "on_train_batch_end")
    needs: ClassVar[tuple[type[Measurement], ...]] = (Repeatable,)

    cuts: tuple[Cut, ...]

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Reach | None:
        """Keeps a list of parameters without gradients, and tries them out when it has lasted."""
        if moment.trainer.world_size > 1:
            return None
        if moment.hook == "on_before_optimizer_step":
            roll = vars(memory).setdefault("rolls", {}).setdefault(id(moment.optimizer), _Roll())
            memory.suspects = vars(memory).get("suspects", []) + roll.call(moment)
            return None
        suspects, memory.suspects = vars(memory).get("suspects", []), []
        return cls(_try_out(moment, suspects)) if suspects and is_repeatable(moment) else None


@dataclass
class _Suspect:
    name: str
    parameter: nn.Parameter
    since: int
    before: Tensor
    steps: int = 0
    is_zero: bool = False

    @property
    def is_tended(self) -> bool:
        """Whether somebody else writes to it, as to the moving average of another parameter."""
        return not (self.is_zero or torch.equal(self.before, _sample(self.parameter)))


@dataclass
class _Roll:
    """The parameters of an optimizer that have had no gradient so far.

    Steps are counted by the run: of a long one, not all are seen.
    """

    first: int = -1
    due: int = 0
    reached: set[int] = field(default_factory=set)
    silent: dict[int, _Suspect] = field(default_factory=dict)

    def call(self, moment: Moment) -> list[_Suspect]:
        """Strikes out who has a gradient now, and returns who has been silent for long."""
        self.first = moment.step if self.first < 0 else self.first
        step = moment.step - self.first
        if step < self.due:
            return []
        self.due = max(1, 2 * step)
        held = held_parameters(moment.module, moment.optimizer)
        if is_sharded(moment.trainer, held):
            return []
        held = [(name, p) for name, p in held if id(p) not in self.reached]
        present = [(p, p.grad) for _, p in held if p.grad is not None]
        norms = read_norms([gradient for _, gradient in present])
        self.reached |= {id(p) for (p, _), one in zip(present, norms, strict=True) if one != 0.0}
        silent = [(name, p) for name, p in held if id(p) not in self.reached]
        self.silent = {
            id(p): self.silent.get(id(p)) or _Suspect(name, p, step, _sample(p).clone())
            for name, p in silent
        }
        for one in self.silent.values():
            one.steps = step - one.since + 1
            one.is_zero = one.parameter.grad is not None
        return [one for one in self.silent.values() if one.steps > _STEPS and not one.is_tended]


def _try_out(moment: Moment, suspects: Sequence[_Suspect]) -> tuple[Cut, ...]:
    with Sandbox(moment.trainer, moment.module) as sandbox:
        trial = _Trial(moment, sandbox, suspects)
        plain, again = trial.plain, trial.run()
        if plain is None or again is None or not all(map(math.isfinite, plain)) or not any(plain):
            return ()  # the step cannot be run again, or there is nothing to learn from it
        noise = max(1e-4, 10.0 * _difference(plain, again))
        is_late = 2 * max(one.steps for one in suspects) > planned_steps(moment.trainer)
        found = (trial.cut(*group) for group in list(trial.groups.items())[:_GROUPS])
        cuts = [cut for cut in found if cut is not None]
        idle = [cut for cut in cuts if cut.change <= noise]
        return (
            *(cut for cut in cuts if cut not in idle),
            *(replace(cut, is_discarded=True) for cut in idle if is_late and trial.is_vain(cut)),
        )


class _Trial:
    """The step of the batch, run again: as it was, and with parameters moved."""

    def __init__(self, moment: Moment, sandbox: Sandbox, suspects: Sequence[_Suspect]) -> None:
        self._moment, self._sandbox = moment, sandbox
        self._arrived: set[str] = set()
        # How modules were called: whether gradients were on, and whether they were training.
        self._calls: dict[str, set[tuple[bool, bool]]] = {}
        # By module: the parameters that what it returns depends on.
        self._offers: dict[str, set[int]] = {}
        # Likewise, what it takes.
        self._takes: dict[str, set[int]] = {}
        self._is_fresh = True
        self.plain = self._watch(suspects)
        self.missing = {one.name: one for one in suspects if one.name not in self._arrived}
        self._strands = strands(moment.module, self.missing)
        self.groups = self._strands | topmost(
            moment.module,
            set(self.missing) - {one for group in self._strands.values() for one in group},
        )

    def run(
        self, moved: Sequence[nn.Parameter] = (), *, grad: bool = False
    ) -> tuple[float, ...] | None:
        """Returns the losses; None if there were none, or the step did not come to its end."""
        if not self._is_fresh:
            self._sandbox.rewind()
        self._is_fresh = False
        _move(moved)
        moment, by_hand = self._moment, not self._moment.module.automatic_optimization
        try:
            replay = self._sandbox.training_step(
                moment.batch, moment.batch_idx, grad=grad or by_hand
            )
            if grad and not by_hand and replay.loss is not None:
                self._sandbox.backward(replay.loss)
        except Exception:
            return None
        # Of a backward that is not Lightning's, nothing is known but what the step returns.
        output = replay.output.get("loss") if isinstance(replay.output, Mapping) else replay.output
        losses = replay.losses or ((output,) if isinstance(output, Tensor) else ())
        return tuple(float(one.mean()) for one in losses) or None

    def cut(self, name: str, members: Sequence[str]) -> Cut | None:
        """Moves a group; returns what came of it, or None where the user has frozen it."""
        owner = name.rpartition(".")[0] if name in self.missing else name
        modes = self._modes(owner)
        no_grad = bool(modes) and not any(enabled for enabled, _ in modes)
        is_training = any(training for _, training in modes)
        if no_grad and (not is_training or self._has_twin(owner)):
            return None
        group = [self.missing[one] for one in members]
        return Cut(
            name=name,
            parameters=tuple(members),
            steps=min(one.steps for one in group),
            is_zero=all(one.is_zero for one in group),
            change=_difference(self.plain or (), self.run([one.parameter for one in group])),
            no_grad=no_grad,
            is_strand=name in self._strands,
        )

    def is_vain(self, cut: Cut) -> bool:
        """Whether the user's own code calls a module, and neither uses nor returns the result.

        What it returns is an offer that this task may ignore, as many do a pooler's. One of several
        modules that are alike, such as the head of another task, may have its turn later; but not
        if one of these takes what another gives: then they are stages, and no heads; nor
        if the code overwrites its result before it is read.

        A layer or direction of a recurrent module is computed each time with the others. Nothing
        is to come of it unless there is more that is idle, such as a term of weight 0.
        """
        if cut.is_strand:
            return self.groups.keys() == self._strands.keys()
        modules = self._modules()
        holder = cut.name.rpartition(".")[0]
        while isinstance(modules.get(holder), (nn.ModuleList, nn.ModuleDict)):
            holder = holder.rpartition(".")[0]
        kind: type = type(modules[holder])
        offered = set().union(*(self._offers.get(one, ()) for one in ("", *_places(cut.name))))
        is_called = cut.name in modules and (True, True) in self._modes(cut.name)
        return not (
            cut.is_zero
            or not (is_called and is_users(kind))
            or any(id(self.missing[one].parameter) in offered for one in cut.parameters)
            or (
                self._has_twin(cut.name)
                and not self._is_stage(cut.name)
                and not _is_lost(kind, cut.name.rpartition(".")[2])
            )
        )

    def _modules(self) -> dict[str, nn.Module]:
        return {plain_name(path): one for path, one in self._moment.module.named_modules()}

    def _shapes(self, names: Sequence[str]) -> set[tuple[Any, ...]]:
        """Returns what the modules are like that hold these parameters."""
        modules = self._modules()
        groups = topmost(self._moment.module, names)
        return {shape(modules[name]) for name in groups if name in modules}

    def _modes(self, name: str) -> set[tuple[bool, bool]]:
        """Returns how a module, or what is in it, was called."""
        return {
            mode
            for path, seen in self._calls.items()
            if path == name or path.startswith(f"{name}.")
            for mode in seen
        }

    def _has_twin(self, name: str) -> bool:
        """Whether there is another of its kind that learns: then it is a target network."""
        modules = self._modules()
        return name in modules and any(
            shape(modules[name]) == shape(other)
            and not any(one.startswith(f"{path}.") for one in self.missing)
            for path, other in modules.items()
            if path != name
        )

    def _is_stage(self, name: str) -> bool:
        """Whether what it takes, or what one that is alike takes, has been through another one."""
        modules = self._modules()
        alike = [path for path, one in modules.items() if shape(one) == shape(modules[name])]
        owned = {path: {id(p) for p in modules[path].parameters()} for path in alike}
        return any(
            owned[other] & self._takes.get(path, set()) and not owned[other] & owned[path]
            for path in alike
            for other in alike
        )

    def _watch(self, suspects: Sequence[_Suspect]) -> tuple[float, ...] | None:
        """Runs forward and backward, and notes who got a gradient and how modules were called."""

        def arriving(name: str, gradient: Tensor | None) -> None:
            if gradient is not None and gradient.any():
                self._arrived.add(name)

        def calling(name: str, module: nn.Module, args: Any) -> None:
            mode = (torch.is_grad_enabled(), module.training)
            self._calls.setdefault(name, set()).add(mode)
            leaves = _leaves(args) if shape(module) in alike else ()
            self._takes.setdefault(name, set()).update(leaves)

        def returning(name: str, _: nn.Module, __: Any, output: Any) -> None:
            self._offers.setdefault(name, set()).update(_leaves(output))

        alike = self._shapes([one.name for one in suspects])
        around = {"", *(place for one in suspects for place in _places(one.name))}
        with ExitStack() as stack:
            for one in suspects:
                if one.parameter.requires_grad:
                    hook = functools.partial(arriving, one.name)
                    stack.callback(one.parameter.register_hook(hook).remove)  # type: ignore[no-untyped-call]
            for name, module in hookable(self._moment.module):
                note = functools.partial(calling, plain_name(name))
                stack.callback(module.register_forward_pre_hook(note).remove)
                if plain_name(name) in around:
                    note = functools.partial(returning, plain_name(name))
                    stack.callback(module.register_forward_hook(note).remove)
            return self.run(grad=True)


def _is_lost(kind: type, attribute: str) -> bool:
    """Whether the methods of a class make nothing of what an attribute returns."""
    own = [
        is_lost(one, f"{one.args.args[0].arg}.{attribute}")
        for one in methods(kind).values()
        if one.args.args
    ]
    told = [one for one in own if one is not None]
    return bool(told) and all(told)


def shape(module: nn.Module) -> tuple[Any, ...]:
    """Returns what makes two modules alike: their class, and the shapes of their parameters."""
    return type(module), *((name, p.shape) for name, p in module.named_parameters())


def topmost(module: nn.Module, missing: Iterable[str]) -> dict[str, list[str]]:
    """Groups parameters by the topmost module that has none to be trained but such."""
    trained = [plain_name(name) for name, p in module.named_parameters() if p.requires_grad]
    total = Counter(place for name in trained for place in _places(name))
    lost = Counter(place for name in missing for place in _places(name))
    groups: dict[str, list[str]] = {}
    for name in missing:
        place = next((one for one in _places(name) if lost[one] == total[one]), name)
        groups.setdefault(place, []).append(name)
    return groups


def strands(module: nn.Module, missing: Iterable[str]) -> dict[str, list[str]]:
    """Groups parameters by the layers and directions of recurrent modules that are missing."""
    missing = set(missing)
    found: dict[str, list[str]] = {}
    for path, one in module.named_modules():
        own: dict[str, list[str]] = {}
        for name, p in one.named_parameters(recurse=False):
            is_part = isinstance(one, nn.RNNBase) and p.requires_grad and _STRAND.fullmatch(name)
            if is_part:
                own.setdefault(is_part[1], []).append(plain_name(f"{path}.{name}".lstrip(".")))
        lost = [names for names in own.values() if missing.issuperset(names)]
        found |= {names[0]: names for names in lost if len(lost) < len(own)}
    return found


def _places(name: str) -> list[str]:
    """Returns the modules around a parameter, the outermost first."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _leaves(output: Any) -> set[int]:
    """Returns the parameters that lead to an output, by their ids."""
    found, waiting = set(), [one.grad_fn for _, one in tensors(output)]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [one for one, _ in node.next_functions]
        found.add(id(getattr(node, "variable", None)))
    return found


def _move(parameters: Sequence[nn.Parameter]) -> None:
    """Adds noise as large as the parameters are; at least to the smallest of them."""
    left = _ENTRIES
    for p in sorted(parameters, key=torch.Tensor.numel):
        if left < _ENTRIES and p.numel() > left:
            return
        left -= p.numel()
        own = torch.Generator(p.device).manual_seed(0)
        noise = torch.randn(p.shape, generator=own, device=p.device, dtype=p.dtype)
        size = norm(p.detach()) / math.sqrt(p.numel())
        with torch.no_grad():
            p.add_(noise * torch.where(size > 0, size, 0.1))


def _difference(plain: Sequence[float], other: Sequence[float] | None) -> float:
    """Returns by how much losses differ, relatively; inf if the step has become another."""
    if other is None or len(other) != len(plain) or not all(map(math.isfinite, other)):
        return math.inf
    return max(abs(a - b) / (abs(a) or 1.0) for a, b in zip(plain, other, strict=True))


def _sample(p: nn.Parameter) -> Tensor:
    return p.detach().reshape(-1)[:: max(1, p.numel() // _SAMPLE)]
