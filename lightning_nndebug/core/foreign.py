"""What a step may change and the sandbox cannot put back: environments, buffers, iterators."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

_PLAIN = (int, float, complex, bool, str, bytes, type(None))
_FIXED = (type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)
_CONTAINERS = (dict, list, tuple, set, deque)
_KNOWN = {"torch", "torchmetrics", "lightning", "pytorch_lightning", "lightning_nndebug", "logging"}
_SKIPPED = ("_parameters", "_buffers", "_modules", "_trainer", "_fabric")
# Other measurements watch the same step by hooks that come and go.
_HOOKS = ("_forward_", "_backward_", "_state_dict_", "_load_state_dict_")
_LENGTH = 100  # items of a container that are looked at
_NODES = 10_000  # objects that are looked at altogether
_BYTES = 2**20  # of an array that is looked at


def picture(module: nn.Module) -> dict[str, list[Any]]:
    """Returns a comparable picture of the objects that a sandbox would not restore, by attribute.

    Take one before a real step and one after it: a step that changes such an object, as one does
    that plays in an environment, must not be run again in a run that is well.
    """
    painter = _Painter()
    pictures: dict[str, list[Any]] = {}
    for name, owner in module.named_modules():
        for key, value in vars(owner).items():
            is_known = key in _SKIPPED or key.startswith(_HOOKS)
            if not is_known and (strangers := list(_strangers(value))):
                place = f"{name}.{key}" if name else key
                pictures[place] = [painter.paint(one) for one in strangers]
    return pictures


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Names an attribute that is not what it was, or None."""
    return next((name for name in before if name in after and before[name] != after[name]), None)


def is_consumable(batch: Any) -> bool:
    """Tells whether a batch is used up by looking at it."""
    return any(isinstance(one, Iterator) for one in (batch, *_items(batch)))


def _strangers(value: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(value, _CONTAINERS):
        if depth < 2:  # noqa: PLR2004 -- as deep as the sandbox goes
            for item in _items(value):
                yield from _strangers(item, depth + 1)
    elif isinstance(value, Iterator) or (_is_strange(value) and (depth or not _is_record(value))):
        yield value


def _is_strange(value: Any) -> bool:
    if isinstance(value, (*_PLAIN, *_FIXED, Tensor, nn.Module)) or not hasattr(value, "__dict__"):
        return False
    return type(value).__module__.partition(".")[0] not in _KNOWN


def _is_record(value: Any) -> bool:
    """Such as the sandbox does restore."""
    return all(isinstance(one, (*_PLAIN, Tensor)) for one in vars(value).values())


def _items(value: Any) -> list[Any]:
    if not isinstance(value, (*_CONTAINERS, Mapping)):
        return []
    return list(value.values() if isinstance(value, Mapping) else value)[:_LENGTH]


class _Painter:
    """Follows objects into their attributes, each once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def paint(self, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, Iterator):
            return object()  # unlike any other: somebody may draw from it at any time
        if id(value) in self._seen or len(self._seen) > _NODES:
            return None
        self._seen.add(id(value))
        if isinstance(value, _CONTAINERS):
            return len(value), [self.paint(one) for one in _items(value)]
        if _is_strange(value):
            return [(name, self.paint(one)) for name, one in vars(value).items()]
        return id(value), _content(value)


def _content(value: Any) -> int | None:
    """Returns a number that changes with a tensor or an array."""
    if isinstance(value, Tensor):
        return None if value.is_inference() else value._version
    if type(value).__module__ == "numpy" and getattr(value, "nbytes", _BYTES) < _BYTES:
        return zlib.crc32(value.tobytes())
    return None
