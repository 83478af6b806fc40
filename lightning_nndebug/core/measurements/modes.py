"""The modes of the modules, scan by scan: which of them are in the wrong one, and who did it."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ..mode_calls import ModeCalls
from ..mode_effects import FRAMEWORKS, Effect, effect, is_norm, reads_mode
from ..sandbox import named_tensors, running
from ..source import Line
from ..trainer import plain_name
from . import Measurement, Moment
from .ownership import plainly_held

# Parameters may be frozen or freed without any mode changing.
_LOOK_AGAIN = 50
_WAKE = 16  # batches are watched when a mode has changed

Since = Literal["call", "start", "validation", "hidden", "unknown"]


@dataclass(frozen=True)
class Stray:
    """A part of the module tree that was in the wrong mode all the time, as far down as it goes.

    Attributes:
        name: Where its root is; empty for the LightningModule itself.
        kind: The class of its root.
        parts: The classes in it that the mode makes a difference to, with their number.
        effects: What difference it makes.
        is_leaf: Whether its root has no submodules.
        parameters: How many parameters there are in it.
        is_whole: Whether it holds every parameter that is being trained.
        is_partly_frozen: Whether it holds parameters that do not require a gradient.
        is_kept: Whether a class of the user's overrides ``train`` around it; in validation, only
            one that has called it since.
        is_fresh: Whether it holds norms, and no batch has gone into their statistics yet.
        passes: How often a batch of validation went through it, if it is a dropout: twice if that
            was repeated. 0 if that is not known, or if other dropouts were in eval mode.
        since: ``"call"`` of train() or eval(); ``"start"`` of the run; ``"validation"``, which
            Lightning begins with eval(); ``"hidden"`` in a plain attribute, where no call on the
            module above comes to it; or ``"unknown"``.
        line: The line that called.
    """

    name: str
    kind: str
    parts: Mapping[str, int]
    effects: frozenset[Effect]
    is_leaf: bool = False
    parameters: int = 0
    is_whole: bool = False
    is_partly_frozen: bool = False
    is_kept: bool = False
    is_fresh: bool = False
    passes: int = 0
    since: Since = "unknown"
    line: Line | None = None


@dataclass(frozen=True)
class Modes(Measurement):
    """The parts of the module tree that were in the wrong mode.

    In training: from one update of their parameters to the next, in every scan, of which there are
    several in each step, and with no call of ``train()`` in between. In validation: likewise, from
    the start of a batch to its end; and unregistered modules that were called in train mode.

    Attributes:
        training: Whether this is about a training step rather than a batch of validation.
        strays: The parts that were in the other mode.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_start",
        "on_train_epoch_start",
        "on_train_batch_start",
        "on_before_backward",
        "on_before_optimizer_step",
        "on_validation_start",
        "on_validation_batch_start",
        "on_validation_batch_end",
    )
    noted: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step",)

    training: bool
    strays: tuple[Stray, ...] = ()

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Modes | None:
        """Scans, and judges at every update and after every batch of validation."""
        if not hasattr(memory, "watch"):
            memory.watch = _Watch()
            memory.watch.calls.start()
        watch: _Watch = memory.watch
        hook = moment.hook
        if hook in ("on_train_start", "on_train_epoch_start", "on_validation_start"):
            watch.meet(moment.module, moment.trainer.model)
            return None
        if hook == "on_validation_batch_start":
            watch.validation_began = watch.calls.tick()
            watch.listen(moment.batch)
        watch.scan()
        if hook == "on_validation_batch_end":
            watch.stop()
            return cls(False, watch.strays(False, watch.validation_began))
        if hook == "on_before_optimizer_step":
            return cls(True, watch.updated(moment.optimizer))
        return None

    @classmethod
    def note(cls, moment: Moment, memory: SimpleNamespace) -> int:
        """Looks whether the modes are still what they were at the last update that was watched."""
        return _WAKE if memory.watch.has_changed(moment.optimizer) else 0

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Unwraps ``nn.Module.train``."""
        if hasattr(memory, "watch"):
            memory.watch.stop()
            memory.watch.calls.stop()
            del memory.watch


@dataclass
class _Watch:
    """What was seen so far; a scan costs 40 to 80 ns a module while all are in one mode."""

    calls: ModeCalls = field(default_factory=ModeCalls)
    validation_began: int = 0
    _tree: dict[str, nn.Module] = field(default_factory=dict)
    _wrapper: Any = None
    _names: list[str] = field(default_factory=list)
    _modules: list[nn.Module] = field(default_factory=list)
    # When all of them were last seen in a mode, and when each one was.
    _all_seen: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    _seen: dict[bool, dict[int, int]] = field(default_factory=lambda: {True: {}, False: {}})
    # Modules that no other one knows of; those that were called in train mode in this batch.
    _hidden: dict[str, nn.Module] = field(default_factory=dict)
    _called: list[str] = field(default_factory=list)
    # How often a batch of validation went through each dropout in train mode.
    _passes: Counter[int] = field(default_factory=Counter)
    _handles: list[Any] = field(default_factory=list)
    # By optimizer: its last update; which modules were off then without harm, for how many looks.
    _updates: dict[int, int] = field(default_factory=dict)
    _last: dict[int, list[bool]] = field(default_factory=dict)
    _healthy: dict[int, tuple[list[int], int]] = field(default_factory=dict)
    _fresh: dict[int, bool] = field(default_factory=dict)

    def meet(self, module: nn.Module, wrapper: nn.Module) -> None:
        """Lists the modules to watch; they may have changed since the last time."""
        self._wrapper = wrapper
        self._fresh.clear()
        self._tree = dict(module.named_modules())
        readers = [(name, one) for name, one in self._tree.items() if reads_mode(type(one))]
        self._names = [name for name, _ in readers]
        self._modules = [one for _, one in readers]
        self._hidden = {
            ".".join(filter(None, (path, place, name))): one
            for path, owner in self._tree.items()
            for place, root in _unregistered(owner, self._tree)
            for name, one in root.named_modules()
        }
        self._tree = {**self._hidden, **self._tree}

    def listen(self, batch: Any) -> None:
        """Notes which unregistered modules and which dropouts are called in train mode."""

        def called(name: str, module: nn.Module, _: Any) -> None:
            if module.training and not running():
                self._called.append(name)

        def passed(module: nn.Module, args: Any) -> None:
            rows = len(args[0]) if args and isinstance(args[0], Tensor) and args[0].dim() else 0
            self._passes[id(module)] += 0 if running() else 1 + (rows >= 2 * largest > 0)

        self._called.clear()
        self._passes.clear()
        self._handles += [
            one.register_forward_pre_hook(functools.partial(called, name))
            for name, one in self._hidden.items()
            if effect(one) in ("norm", "noise")
        ]
        drops = [one for one in self._modules if isinstance(one, _DropoutNd) and one.p > 0]
        fused = any(
            isinstance(one, nn.TransformerEncoderLayer) and not one.training
            for one in self._tree.values()
        )
        if drops and all(one.training for one in drops) and not fused:
            largest = max((len(one) for _, one in named_tensors(batch) if one.dim()), default=0)
            self._handles += [one.register_forward_pre_hook(passed) for one in drops]

    def stop(self) -> None:
        """Ends to listen."""
        while self._handles:
            self._handles.pop().remove()

    def scan(self) -> None:
        """Looks at the mode of every module."""
        now = self.calls.tick()
        modes = [one.training for one in self._modules]
        if all(modes):
            self._all_seen[True] = now
        elif not any(modes):
            self._all_seen[False] = now
        else:
            for one, mode in zip(self._modules, modes, strict=True):
                self._seen[mode][id(one)] = now

    def updated(self, optimizer: Any) -> tuple[Stray, ...]:
        """Returns the strays among what this optimizer is about to update."""
        key = id(optimizer)
        self._last[key] = [one.training for one in self._modules]
        since = self._updates.get(key, 0)
        self._updates[key] = self.calls.tick()
        if self._all_seen[True] > since:
            return ()
        off = [i for i, one in enumerate(self._modules) if self._last_seen(one, True) <= since]
        known, looks = self._healthy.get(key, ([], 0))
        if off == known and looks % _LOOK_AGAIN:
            self._healthy[key] = known, looks + 1
            return ()
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        strays = self.strays(True, since, {id(p) for p in parameters if p.grad is not None})
        self._healthy[key] = (off, 0 if strays else 1)
        return strays

    def has_changed(self, optimizer: Any) -> bool:
        """Returns whether a mode is another one than before the last update of this optimizer."""
        return [one.training for one in self._modules] != self._last.get(id(optimizer))

    def strays(
        self, right: bool, since: int, learning: set[int] | None = None
    ) -> tuple[Stray, ...]:
        """Returns what has not been in the right mode since then.

        Args:
            right: The mode that it should be in.
            since: A time on the clock of ``calls``.
            learning: The parameters to go by; None if it matters to modules without any as well.
        """
        found: dict[str, list[str]] = defaultdict(list)
        for name in () if right else dict.fromkeys(self._called):
            found[self._top(name)].append(name)
        if self._all_seen[right] > since and not found:
            return ()
        for name, one in zip(self._names, self._modules, strict=True):
            what = effect(one)
            if what is None or self._last_seen(one, right) > since:
                continue
            if not name and what == "code":  # `prefix = "train" if self.training else "val"`
                continue
            if learning is not None and not self._learns(name, learning):
                continue
            if self.calls.last(self._chain(name), mode=right, since=since) is None:
                found[self._top(name)].append(name)
        return tuple(self._stray(top, names, right, learning) for top, names in found.items())

    def _stray(self, top: str, names: list[str], right: bool, learning: set[int] | None) -> Stray:
        root, parts = self._tree[top], [self._tree[name] for name in names]
        above = self._chain(top)[1:] if right or not top else self._chain(top)
        parameters = list(root.parameters())
        last_right = min(self._last_seen(one, right) for one in parts)
        around = [*self._chain(names[0]), self._wrapper]
        if top in self._hidden:
            around = [one for one in around if one in self._hidden.values()]
        call = self.calls.last(around, mode=not right, since=last_right)
        since: Since = "hidden" if top in self._hidden else "unknown"
        if call is not None:
            since = "call" if call.line is not None else "validation"
        elif last_right == 0 and since == "unknown":
            since = "start"
        return Stray(
            name=plain_name(top),
            kind=type(root).__name__,
            parts=Counter(type(one).__name__ for one in parts),
            effects=frozenset(what for what in map(effect, parts) if what is not None),
            is_leaf=not root._modules,
            parameters=len(parameters),
            is_whole=learning is not None and learning <= set(map(id, parameters)),
            is_partly_frozen=not all(one.requires_grad for one in parameters),
            # Whoever keeps a part in train mode says so to it; else it was forgotten.
            is_kept=any(_overrides_train(type(one)) for one in above)
            and (right or call is not None),
            is_fresh=right and self._is_fresh([one for one in parts if is_norm(one)]),
            passes=0 if right else self._passes[id(root)],
            since=since,
            line=None if call is None else call.line,
        )

    def _is_fresh(self, norms: list[Any]) -> bool:
        for one in norms:
            if id(one) not in self._fresh:  # in eval mode, it stays what it is
                self._fresh[id(one)] = bool(
                    ((one.running_mean == 0) & (one.running_var == 1)).all()
                )
        return bool(norms) and all(self._fresh[id(one)] for one in norms)

    def _last_seen(self, module: nn.Module, mode: bool) -> int:
        return max(self._all_seen[mode], self._seen[mode].get(id(module), 0))

    def _chain(self, name: str) -> list[nn.Module]:
        """The module and all that it is in, itself first."""
        chain = [self._tree[name]]
        while name:
            name = name.rpartition(".")[0]
            chain.append(self._tree[name])
        return chain

    def _top(self, name: str) -> str:
        """Climbs up from a module as long as the mode is the same."""
        mode = self._tree[name].training
        while name and self._tree[name.rpartition(".")[0]].training is mode:
            name = name.rpartition(".")[0]
        return name

    def _learns(self, name: str, learning: set[int]) -> bool:
        """Whether the module has parameters that are updated; or else what it is a part of."""
        module = self._tree[name]
        parameters = set(map(id, module.parameters()))
        while not parameters and name:
            name = name.rpartition(".")[0]
            parent = self._tree[name]
            if parent.training is not module.training:
                # Somebody has chosen among siblings, such as the frozen half of a Sequential.
                chosen = [one for one in parent.children() if one.training is module.training]
                parameters = {id(p) for one in chosen for p in one.parameters()}
            parameters = parameters or set(map(id, parent.parameters()))
        return not parameters.isdisjoint(learning)


def _unregistered(
    owner: nn.Module, tree: Mapping[str, nn.Module]
) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules in plain attributes of the user's modules."""
    if f"{type(owner).__module__}.".startswith(FRAMEWORKS):
        return
    for place, one in plainly_held(owner):
        if isinstance(one, nn.Module) and "." not in place and one not in tree.values():
            yield place, one


def _overrides_train(kind: type) -> bool:
    owners = (one for one in kind.__mro__ if "train" in vars(one) or "eval" in vars(one))
    owner = next(owners, nn.Module)
    return not f"{owner.__module__}.".startswith(FRAMEWORKS)
