"""What it takes to undo a run of the user's code: random numbers, namespaces and memory."""

from __future__ import annotations

import functools
import pickle
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

PLAIN = (int, float, bool, str, type(None))
_DEPTH = 2  # containers below a namespace that are put back
_LENGTH = 1000  # beyond, we do not look at the items: a replay buffer has a million


def find_generators(module: nn.Module) -> list[Any]:
    """Finds the random number generators that the module holds, in attributes or one level below.

    They are ``torch.Generator``, ``random.Random`` and numpy's ``Generator`` and ``RandomState``.
    """
    numpy = sys.modules.get("numpy.random")
    kinds = (torch.Generator, random.Random)
    kinds += (numpy.Generator, numpy.RandomState) if numpy else ()
    found: dict[int, Any] = {}
    for owner in module.modules():
        for value in vars(owner).values():
            inner: Iterable[Any] = ()
            if isinstance(value, Mapping):
                inner = value.values()
            elif isinstance(value, (list, tuple)):
                inner = value
            elif not isinstance(value, (type, nn.Module, Tensor)):
                inner = getattr(value, "__dict__", {}).values()
            found.update((id(item), item) for item in (value, *inner) if isinstance(item, kinds))
    return list(found.values())


class RngState(NamedTuple):
    """The state of one random number generator, and the function that sets it."""

    write: Callable[[Any], Any]
    state: Any


def read_rng(
    generators: Iterable[Any], *, host: bool = True, device: bool = True
) -> list[RngState]:
    """Reads every global generator in use and these.

    Args:
        generators: The random generators of the module, from ``find_generators``.
        host: Whether to read Python's and numpy's, which takes 40 us: 20 times as long as torch's.
        device: Whether to read all others.
    """
    states = []
    if host:
        states.append(RngState(random.setstate, random.getstate()))
        if numpy := sys.modules.get("numpy.random"):
            states.append(RngState(numpy.set_state, numpy.get_state(legacy=False)))
    if not device:
        return states
    states.append(RngState(torch.set_rng_state, torch.get_rng_state()))
    states += [
        RngState(backend.set_rng_state_all, backend.get_rng_state_all())
        for backend in (torch.cuda, torch.xpu)
        if backend.is_initialized()
    ]
    if torch.backends.mps.is_available():
        states.append(RngState(torch.mps.set_rng_state, torch.mps.get_rng_state()))
    for generator in generators:
        if isinstance(generator, random.Random):
            states.append(RngState(generator.setstate, generator.getstate()))
        elif hasattr(generator, "bit_generator"):
            bits = generator.bit_generator
            states.append(RngState(functools.partial(setattr, bits, "state"), bits.state))
        else:
            states.append(RngState(generator.set_state, generator.get_state()))
    return states


class Draws:
    """Tells which random generators a run's steps draw from, and reads those alone.

    Few steps draw from Python's or numpy's, since data is made before the step, and those of a net
    without dropout from none. So all are compared before and after the first steps, and once in a
    while, and read in between only if they have been drawn from.

    Args:
        generators: The random generators of the module, from ``find_generators``.
    """

    _FIRST, _EVERY = 20, 100

    def __init__(self, generators: Sequence[Any]) -> None:
        self.generators = generators
        self.host = self.device = False
        self._steps = 0
        self._is_look = False
        self._before: tuple[bytes, bytes] = b"", b""

    def begin_step(self) -> list[RngState]:
        """Returns the states of the generators that the step may draw from."""
        self._is_look = self._steps < self._FIRST or self._steps % self._EVERY == 0
        self._steps += 1
        if self._is_look:
            self._before = self._picture()
            return read_rng(self.generators)
        if not (self.host or self.device):
            return []
        return read_rng(self.generators, host=self.host, device=self.device)

    def end_step(self) -> None:
        """Compares, if this is a step to do so."""
        if self._is_look:
            (host, device), now = self._before, self._picture()
            self.host |= now[0] != host
            self.device |= now[1] != device
            self._is_look = False

    def _picture(self) -> tuple[bytes, bytes]:
        host = [one.state for one in read_rng((), device=False)]
        device = [one.state for one in read_rng(self.generators, host=False)]
        return pickle.dumps(host), pickle.dumps(tree_map_only(Tensor, Tensor.tolist, device))


def write_rng(states: Iterable[RngState]) -> None:
    """Sets them again."""
    for write, state in states:
        write(state)


class Namespaces:
    """The Python side of the run's state: namespaces and the containers in them."""

    def __init__(self) -> None:
        self.owners: list[Any] = []
        self._copies: dict[int, tuple[Any, Any]] = {}

    def visit(self, value: Any, depth: int = 0) -> None:
        """Notes what is in ``value``, down to two containers below a namespace."""
        if isinstance(value, (nn.Module, Optimizer, LRScheduler)):
            if id(vars(value)) not in self._copies:
                self.owners.append(value)
                self.visit(vars(value))
                for child in vars(value).get("_modules", {}).values():
                    self.visit(child)
        elif isinstance(value, (dict, list, set, deque)):
            if id(value) in self._copies:
                return
            items = dict(value) if isinstance(value, dict) else list(value)
            self._copies[id(value)] = (value, items)
            if depth < _DEPTH and len(items) <= _LENGTH:
                for item in items.values() if isinstance(items, dict) else items:
                    self.visit(item, depth + 1)
        elif depth == 1 and _is_record(value):
            self.visit(vars(value), _DEPTH)

    def parameters(self) -> list[Tensor]:
        """All leaves: parameters of the modules, and what else the optimizers hold."""
        found: dict[int, Tensor] = {}
        for owner in self.owners:
            if isinstance(owner, nn.Module):
                found.update((id(p), p) for p in owner._parameters.values() if p is not None)
            elif isinstance(owner, Optimizer):
                found.update((id(p), p) for group in owner.param_groups for p in group["params"])
        return list(found.values())

    def restore(self) -> None:
        """Fills the same container objects with the same items."""
        for container, items in self._copies.values():
            now = dict(container) if isinstance(items, dict) else list(container)
            if _identical(now, items):
                continue
            container.clear()
            if isinstance(container, (dict, set)):
                container.update(items)
            else:
                container.extend(items)


class CopyOnWrite(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies memory from outside of the sandbox before it is first written to."""

    supports_higher_order_operators = True  # flex_attention, cond: they come as one operation

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own: set[int | None] = {None}
        self._saved: dict[int | None, tuple[Any, Any]] = {}
        self._counters: dict[int, Any] = {}
        self._is_ours = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._is_ours:
            return func(*args, **kwargs)
        for tensor in written(func, args, kwargs):
            self.keep(tensor)
        result = func(*args, **kwargs)
        # Memory that no input has and an output has, was made here.
        made = {address(item) for item in tree_iter(result)} - self._own
        if made:
            self._own |= made - {address(item) for item in tree_iter((args, kwargs))}
        return result

    def keep(self, tensor: Tensor) -> None:
        """Copies the tensor's memory, unless it was made in the sandbox or is copied already."""
        where = address(tensor)
        if where in self._own:
            return
        if where not in self._saved:
            storage = _local(tensor).untyped_storage()
            with self._ours():
                self._saved[where] = (storage, storage.clone())
        # A backward that is still pending refuses tensors whose version has moved.
        keep = getattr(torch.autograd.grad_mode, "_unsafe_preserve_version_counter", None)
        if keep is not None and id(tensor) not in self._counters and not tensor.is_inference():
            self._counters[id(tensor)] = keep(tensor)

    def restore(self) -> None:
        """Writes the copies back, bit for bit."""
        with self._ours():
            for storage, saved in self._saved.values():
                storage.copy_(saved)
            for counter in self._counters.values():
                counter.__exit__()

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Copies of our own are not to be copied."""
        self._is_ours = True
        try:
            yield
        finally:
            self._is_ours = False


def written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """Yields the tensors that an operator writes to, by its schema."""
    for index, name in _writes(func):
        value = args[index] if index < len(args) else kwargs.get(name)
        yield from (item for item in tree_iter(value) if isinstance(item, Tensor))


def address(tensor: Any) -> int | None:
    """The address of a tensor's memory; None if it has none (meta, sparse) or is no tensor."""
    if not isinstance(tensor, Tensor):
        return None
    try:
        return _local(tensor).untyped_storage().data_ptr() or None
    except (NotImplementedError, RuntimeError):
        return None


def _is_record(value: Any) -> bool:
    """An object of numbers, strings and tensors, such as a schedule or an average kept by hand."""
    if isinstance(value, (type, Tensor)):
        return False
    attributes = getattr(value, "__dict__", None)
    return bool(attributes) and all(isinstance(v, (*PLAIN, Tensor)) for v in vars(value).values())


def _identical(now: Any, then: Any) -> bool:
    if len(now) != len(then):
        return False
    if isinstance(then, dict):
        return all(key in now and now[key] is value for key, value in then.items())
    return all(a is b for a, b in zip(now, then, strict=True))


@functools.cache
def _writes(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that the operator writes to."""
    schema = getattr(func, "_schema", None)  # higher-order operators have none
    arguments = enumerate(schema.arguments) if schema else ()
    return tuple((i, a.name) for i, a in arguments if a.alias_info and a.alias_info.is_write)


def _local(tensor: Any) -> Any:
    """The memory-owning tensor: a DTensor (FSDP2) has none itself."""
    return getattr(tensor, "_local_tensor", tensor)
