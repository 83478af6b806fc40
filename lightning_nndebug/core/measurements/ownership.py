"""Which parameters learn although no optimizer has them, and which optimizers get nothing."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ..sandbox import running
from ..source import nearest_line
from ..trainer import plain_name
from . import Measurement, Moment
from .gradients import is_sharded, read_norms
from .reach import shape, topmost
from .schedules import optimizer_name
from .unused import is_opaque
from .weights import entries, is_dense, looks_random

_LOOKS = (3, 10, 30, 100, 300)  # batches with a step, in each epoch
_STEPS = 5  # of each optimizer are watched, if there are several
_PATIENCE = 100  # batches without any step, and more than an epoch
_SHORT = 20  # batches, at least, of a run that ends without any; or half of one, by one of several
_OPPOSED = -0.15  # the cosine of gradients that undo each other, in each step; of two tasks it is 0
_WITNESSES = 4  # parameters of an optimizer tell whether gradients come
_MOVES = 8  # that may lie between a parameter and what is kept of it
_NEAR = 0.5  # the cosine of weights and a noisy copy, at least; of weights drawn anew it is 0
_LIGHTNING = ("lightning.", "pytorch_lightning.")

Named = list[tuple[str, nn.Module, Tensor]]


@dataclass(frozen=True)
class Orphans:
    """Parameters that get gradients, that nobody moves, and that no optimizer holds.

    Attributes:
        name: The topmost module all of whose parameters are so, or the parameter.
        parameters: Their names.
        steps: For how many optimizer steps.
        is_hidden: Whether the module does not know of them: they are in a plain list, dict or
            attribute.
        is_fresh: Whether they have the look of a fresh initialization.
        is_unfrozen: Whether they were frozen when the run began.
        is_remade: Whether they are made anew in each step.
    """

    name: str
    parameters: tuple[str, ...]
    steps: int = 1
    is_hidden: bool = False
    is_fresh: bool = True
    is_unfrozen: bool = False
    is_remade: bool = False


@dataclass(frozen=True)
class Fault:
    """An optimizer that does not do what an optimizer is for.

    Attributes:
        optimizer: Its name.
        kind: ``"twice"``: it applies gradients that another optimizer has applied already.
            ``"opposed"``: it moves all parameters of another one against the way that one does.
            ``"starved"``: there is no gradient when it steps, but there is when another one does.
            ``"idle"``: there are gradients, and it never steps.
        batches: In how many batches; in all that were watched.
        other: The other optimizer.
    """

    optimizer: str
    kind: Literal["twice", "opposed", "starved", "idle"]
    batches: int
    other: str = ""


@dataclass(frozen=True)
class Ownership(Measurement):
    """What the optimizers hold, beside what the gradients come to. Not known with shards.

    Attributes:
        orphans: Parameters that are in no optimizer.
        faults: Optimizers that do not do what they are for.
        stale: How many tensors the optimizers hold that are not part of the module, and get no
            gradient.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_start",
        "on_train_epoch_start",
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_train_end",
    )

    orphans: tuple[Orphans, ...] = ()
    faults: tuple[Fault, ...] = ()
    stale: int = 0

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Ownership | None:
        """Lists them in each epoch, and looks a few times whether gradients come to them."""
        if moment.hook == "on_train_start":
            memory.nursery, memory.ledger = _Nursery(moment), _Ledger(moment)
            memory.strangers = _Strangers(moment)
        nursery: _Nursery = memory.nursery
        ledger: _Ledger = memory.ledger
        if nursery.is_sharded:
            return None
        if moment.hook == "on_train_epoch_start":
            nursery.is_listed = False  # the module's own hook, which may unfreeze, comes later
        elif moment.hook == "on_before_optimizer_step":
            nursery.admit(moment)
            ledger.note(moment)
        elif moment.hook != "on_train_start":
            has_stepped = ledger.turn(moment)
            orphans = nursery.orphans(moment.module) if has_stepped else ()
            orphans += memory.strangers.turn() if has_stepped else ()
            faults = tuple(ledger.faults(moment))
            if orphans or faults:
                return cls(orphans, faults, _stale(moment))
        return None

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Lets go of the parameters, and removes the hook."""
        if hasattr(memory, "strangers"):
            memory.strangers.close()
        vars(memory).clear()


@dataclass
class _Ward:
    """A trainable parameter that no optimizer holds."""

    p: Tensor
    since: int
    before: Tensor
    is_hidden: bool

    @property
    def is_orphan(self) -> bool:
        """Whether it gets a gradient, and has not been moved by anybody."""
        return _has_gradient([self.p]) and torch.equal(self.before, entries(self.p))


class _Nursery:
    """The trainable parameters that no optimizer holds."""

    def __init__(self, moment: Moment) -> None:
        named = list(moment.module.named_parameters())
        self.is_sharded = is_sharded(moment.trainer, named)
        self._frozen = {id(p) for _, p in named if not p.requires_grad}
        everything = [] if self.is_sharded else _everything(moment.module)
        # Judged before the first step; and only of those that may become orphans.
        held = {id(p) for p in _held(moment)}
        self._fresh = {
            id(p): None if id(p) in held else looks_random(owner, p, entries(p))
            for _, owner, p in everything
        }
        self._wards: dict[str, _Ward] = {}
        self.is_listed = False
        self._steps = self._steps_of_epoch = 0

    def admit(self, moment: Moment) -> None:
        """Lists them anew in each epoch: some may be unfrozen, or handed to an optimizer."""
        if self.is_listed:
            return
        held = {id(p) for p in _held(moment)}
        own = {id(p) for p in moment.module.parameters()}
        wards = {}
        for name, owner, p in _everything(moment.module):
            if p.requires_grad and id(p) not in held:
                if id(p) not in self._fresh and id(p) in own:  # made since
                    self._fresh[id(p)] = looks_random(owner, p, entries(p))
                known = self._wards.get(name)
                wards[name] = (
                    known
                    if known is not None and known.p is p
                    else _Ward(p, self._steps, entries(p), id(p) not in own)
                )
        self._wards, self._steps_of_epoch, self.is_listed = wards, 0, True

    def orphans(self, module: nn.Module) -> tuple[Orphans, ...]:
        """Counts a step, and returns who is an orphan, if it is time to look."""
        self._steps += 1
        self._steps_of_epoch += 1
        if self._steps_of_epoch not in _LOOKS:
            return ()
        present = {id(p) for _, _, p in _everything(module)}
        found = {
            name: one for name, one in self._wards.items() if id(one.p) in present and one.is_orphan
        }
        own = topmost(module, [name for name, one in found.items() if not one.is_hidden])
        for name in (name for name, one in found.items() if one.is_hidden):
            own.setdefault(name.rpartition("]")[0] + "]" if "]" in name else name, []).append(name)
        return tuple(
            self._told(name, [(one, found[one]) for one in names]) for name, names in own.items()
        )

    def _told(self, name: str, members: Sequence[tuple[str, _Ward]]) -> Orphans:
        looks = [self._fresh.get(id(one.p)) for _, one in members]
        return Orphans(
            name=name,
            parameters=tuple(one for one, _ in members),
            steps=min(self._steps - one.since for _, one in members),
            is_hidden=any(one.is_hidden for _, one in members),
            is_fresh=any(looks) and False not in looks,
            is_unfrozen=all(id(one.p) in self._frozen for _, one in members),
        )


class _Strangers:
    """Layers that are made anew in each of the first steps, with other weights, for one call.

    What is called again may well learn in the step, or be drawn on purpose. So are copies of what
    the module has, with noise or without, and what makes data of another look of the same shape.
    """

    def __init__(self, moment: Moment) -> None:
        self._module = moment.module
        self._known = {id(one) for one in moment.module.modules()}
        self._rounds: list[list[_Stranger]] = [[]]
        is_compiled = any(map(is_opaque, moment.module.modules()))
        self._hook = None if is_compiled else register_module_forward_hook(self._called)

    def turn(self) -> tuple[Orphans, ...]:
        """Begins a step anew, and returns what was there in all of the first ones, if it is so."""
        if self._hook is None:
            return ()
        if len(self._rounds) < _LOOKS[0]:
            self._rounds.append([])
            return ()
        self.close()
        gone = [
            {one.key for one in seen} - {one.key for one in seen if not one.is_for_one_call}
            for seen in self._rounds
        ]
        return tuple(
            Orphans(f"{kind} at {line}", tuple(names), len(gone), is_remade=True)
            for kind, *names, line in sorted(set.intersection(*gone), key=str)
            if not self._are_same((kind, *names, line))
        )

    def close(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def _are_same(self, key: tuple[Any, ...]) -> bool:
        """Whether the weights are those of the step before: then nobody draws them."""
        rows = [next(one.row for one in seen if one.key == key) for seen in self._rounds]
        return any(torch.equal(one, other) for one, other in itertools.pairwise(rows))

    def _called(self, module: nn.Module, args: Any, output: Any) -> None:
        """Notes a layer with weights; it runs in the user's forward, and may not raise."""
        if torch.compiler.is_compiling() or id(module) in self._known or running():
            return
        with suppress(Exception):  # another device, or weights that are still to come
            own = dict(module.named_parameters(recurse=False))
            matrices = [p for p in own.values() if p.requires_grad and p.dim() > 1]
            if not matrices:
                return
            now = self._rounds[-1]
            again = next((one for one in now if one.layer() is module), None)
            if again is not None:
                again.is_meant = True
                return
            if any(_is_copy(module, one) for one in self._module.modules()):
                self._known.add(id(module))
            elif (line := nearest_line(sys._getframe(1))) is not None:
                is_view = all(map(_is_given, args)) and any(x.shape == output.shape for x in args)
                is_meant = is_view or not torch.is_grad_enabled()
                row = entries(matrices[0]).clone()
                key = type(module).__name__, *own, line
                now.append(_Stranger(key, weakref.ref(module), row, is_meant))


@dataclass
class _Stranger:
    """A layer that is no part of the module."""

    key: tuple[Any, ...]  # its kind, its parameters, and the line that called it
    layer: weakref.ref[nn.Module]
    row: Tensor
    is_meant: bool  # by what it does, or by another call of it

    @property
    def is_for_one_call(self) -> bool:
        return self.layer() is None and not self.is_meant


@dataclass
class _Account:
    """One of several optimizers, in its first steps."""

    name: str
    parameters: list[Tensor]
    steps: int = 0
    starved: int = 0
    fed: Counter[str] = field(default_factory=Counter)
    twice: Counter[str] = field(default_factory=Counter)
    opposed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.began = [entries(p) for p in self.witnesses]

    @property
    def witnesses(self) -> list[Tensor]:
        return self.parameters[:_WITNESSES]

    @property
    def has_moved(self) -> bool:
        """Whether anybody has written to them."""
        pairs = zip(self.began, self.witnesses, strict=True)
        return not all(torch.equal(before, entries(p)) for before, p in pairs)


class _Ledger:
    """Which optimizer steps when, and with which gradients."""

    def __init__(self, moment: Moment) -> None:
        optimizers = [one for one in moment.trainer.optimizers if one.param_groups]
        self._accounts = {
            id(one): _Account(
                optimizer_name(moment.trainer, one),
                [p for group in one.param_groups for p in group["params"] if is_dense(p)],
            )
            for one in optimizers
        }
        holders = Counter(id(p) for one in self._accounts.values() for p in one.parameters)
        self._shared = {key for key, count in holders.items() if count > 1}
        self._applied: dict[int, tuple[str, Tensor]] = {}
        self._batches = self._batches_with_step = 0
        self._has_stepped = self._is_fed = False

    def note(self, moment: Moment) -> None:
        """An optimizer is about to step."""
        self._has_stepped = True
        mine = self._accounts.get(id(moment.optimizer))
        if len(self._accounts) == 1 or mine is None or mine.steps >= _STEPS:
            return
        mine.steps += 1
        mine.starved += not _has_gradient(mine.witnesses)
        for one in self._accounts.values():
            if one is not mine and _has_gradient(one.witnesses):
                one.fed[mine.name] += 1
        self._compare(mine)

    def turn(self, moment: Moment) -> bool:
        """A batch is over: returns whether any optimizer has stepped in it."""
        has_stepped, self._has_stepped = self._has_stepped, False
        self._applied = {}
        if moment.hook == "on_train_batch_end":
            self._batches += 1
            self._batches_with_step += has_stepped
            if self._batches >= _SHORT and not (self._is_fed or self._batches_with_step):
                self._is_fed = _has_gradient(self._witnesses)  # a validation zeroes them
        return has_stepped

    def faults(self, moment: Moment) -> Iterator[Fault]:
        """Yields what is wrong with the optimizers."""
        everybody = self._accounts.values() if self._are_idle(moment) else ()
        yield from (Fault(one.name, "idle", self._batches) for one in everybody)
        for one in self._accounts.values():
            if self._is_left_out(one) and _is_half_over(moment):
                yield Fault(one.name, "idle", self._batches)
            if one.steps < _STEPS:
                continue
            if one.starved == one.steps and one.fed.total() >= _STEPS:
                yield Fault(one.name, "starved", one.steps, one.fed.most_common(1)[0][0])
            for other, count in one.twice.items():
                if count >= _STEPS:
                    yield Fault(one.name, "twice", count, other)
            for other, count in one.opposed.items():
                if count >= _STEPS:
                    yield Fault(one.name, "opposed", count, other)

    def _compare(self, mine: _Account) -> None:
        """Holds the gradients that are shared against those that others have used in this batch."""
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for p in mine.parameters:
            if id(p) in self._shared and p.grad is not None and is_dense(p.grad):
                gradient = entries(p.grad)
                name, before = self._applied.get(id(p), (mine.name, gradient))
                if name != mine.name and gradient.any():
                    pairs.setdefault(name, []).append((before, gradient))
                self._applied[id(p)] = mine.name, gradient
        for other in self._accounts.values():
            if other.name not in pairs:
                continue
            before, now = (torch.cat(one) for one in zip(*pairs[other.name], strict=True))
            mine.twice[other.name] += any(torch.equal(*pair) for pair in pairs[other.name])
            # A part of the net may well have two optimizers; an adversary has one of its own.
            larger, smaller = sorted((mine, other), key=lambda one: -len(one.parameters))
            if {*map(id, smaller.parameters)} < {*map(id, larger.parameters)}:
                likeness = float(torch.cosine_similarity(before, now, dim=0))
                larger.opposed[smaller.name] += likeness < _OPPOSED

    def _is_left_out(self, one: _Account) -> bool:
        """Whether it alone does not step, though it is the only one to hold what gets gradients."""
        if one.steps or one.fed.total() < _STEPS or self._batches < _SHORT:
            return False
        is_shared = any(id(p) in self._shared for p in one.parameters)
        return not is_shared and _has_gradient(one.witnesses) and not one.has_moved

    def _are_idle(self, moment: Moment) -> bool:
        if self._batches_with_step or moment.module.automatic_optimization or not self._accounts:
            return False
        is_late = self._batches >= _PATIENCE or moment.hook == "on_train_end"
        is_over = moment.trainer.current_epoch > 0 or moment.hook == "on_train_end"
        if not is_late or not is_over or self._batches < _SHORT:
            return False
        return self._is_fed and not any(one.has_moved for one in self._accounts.values())

    @property
    def _witnesses(self) -> list[Tensor]:
        return [p for one in self._accounts.values() for p in one.witnesses]


def _is_given(x: Any) -> bool:
    return isinstance(x, Tensor) and not x.requires_grad


def _is_copy(module: nn.Module, of: nn.Module) -> bool:
    if type(module) is not type(of) or shape(module) != shape(of):
        return False
    pairs = [(entries(one), entries(other)) for one, other in _matrices(module, of)]
    return all(torch.cosine_similarity(a, b, 0) > _NEAR for a, b in pairs)


def _matrices(*modules: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    rows = zip(*(one.parameters() for one in modules), strict=True)
    yield from (row for row in rows if row[0].dim() > 1)


def _is_half_over(moment: Moment) -> bool:
    trainer = moment.trainer
    batches = (trainer.max_epochs or -1) * trainer.num_training_batches
    done = trainer.current_epoch * trainer.num_training_batches + moment.batch_idx + 1
    return moment.hook == "on_train_end" or (
        (batches > 0 and 2 * done > batches)
        or (trainer.max_steps > 0 and 2 * trainer.global_step > trainer.max_steps)
    )


def _held(moment: Moment) -> Iterator[Tensor]:
    for optimizer in moment.trainer.optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]


def _stale(moment: Moment) -> int:
    own = {id(p) for _, _, p in _everything(moment.module)}
    return sum(id(p) not in own and p.grad is None for p in _held(moment))


def _has_gradient(parameters: Sequence[Tensor]) -> bool:
    present = [p.grad for p in parameters if p.grad is not None]
    return any(read_norms(present))


def _everything(module: nn.Module) -> Named:
    """Lists the parameters of a module, and those that it holds without knowing of them."""
    found: Named = []
    known = {id(one) for one in module.modules()}
    own = {id(p) for p in module.parameters()}
    seen = set()
    for path, owner in module.named_modules():
        values = [(name, owner, p) for name, p in owner.named_parameters(recurse=False)]
        if not f"{type(owner).__module__}.".startswith("torch."):
            values += [(name, one, p) for name, one, p in _hidden(owner, known) if id(p) not in own]
        for name, one, p in values:
            if id(p) not in seen and is_dense(p):
                seen.add(id(p))
                found.append((plain_name(f"{path}.{name}" if path else name), one, p))
    return found


def plainly_held(owner: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields what is in the plain attributes of a module, in lists, dicts and functions there."""
    for name, value in vars(owner).items():
        if name in ("_parameters", "_buffers", "_modules", "_trainer", "_fabric"):
            continue
        yield from _unfolded(name, value)
        for key, one in _enclosed(value):
            yield from _unfolded(f"{name}.{key}", one)


def _unfolded(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", one) for key, one in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{name}[{index}]", one) for index, one in enumerate(value))
    else:
        yield name, value


def _enclosed(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields what a function holds: the variables around it, or what it is bound to."""
    if isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            with suppress(ValueError):  # a variable that has no value yet
                yield name, cell.cell_contents
    elif isinstance(value, MethodType):
        yield "__self__", value.__self__
    elif isinstance(value, partial):
        yield from _enclosed(value.func)
        yield from ((f"args[{index}]", one) for index, one in enumerate(value.args))
        yield from value.keywords.items()


def _hidden(owner: nn.Module, known: set[int]) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yields the trainable tensors in the plain attributes of a module."""
    for place, one in plainly_held(owner):
        if isinstance(one, Tensor) and (leaf := _leaf(one)) is not None:
            yield place, owner, leaf
        elif isinstance(one, nn.Module) and id(one) not in known:
            for path, part in one.named_modules():
                for key, p in part.named_parameters(recurse=False):
                    yield ".".join(filter(None, (place, path, key))), part, p


def _leaf(tensor: Tensor) -> Tensor | None:
    """Returns the trainable tensor that another one was reshaped or moved from, if any."""
    if tensor.is_leaf:
        return tensor if tensor.requires_grad else None
    node: Any = tensor.grad_fn
    for _ in range(_MOVES):
        before = [one for one, _ in node.next_functions if one is not None]
        if len(before) != 1:
            break
        node = before[0]
        if hasattr(node, "variable"):
            return cast("Tensor", node.variable)
    return None
