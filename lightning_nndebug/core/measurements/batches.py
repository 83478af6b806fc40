"""Where the tensors of a batch are: in tuples, dictionaries, dataclasses, graphs, or nested."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..findings import Misconfiguration

# How people call the targets, the most telling names first.
NAMES = ("labels", "label", "targets", "target", "y", "gt", "ground_truth", "classes", "class")
_DEPTH = 6


@dataclass(frozen=True)
class Place:
    """Where something is in a batch, as the user would write it: ``batch['image'][0]``.

    Attributes:
        keys: What to take, from the outside in.
        attributes: Whether each of them is an attribute, as in ``batch.y``, or an item.
    """

    keys: tuple[Any, ...] = ()
    attributes: tuple[bool, ...] = ()

    def item(self, key: Any) -> Place:
        """Returns the place of an item of what is here."""
        return Place((*self.keys, key), (*self.attributes, False))

    def attribute(self, name: str) -> Place:
        """Returns the place of an attribute of what is here."""
        return Place((*self.keys, name), (*self.attributes, True))

    def read(self, batch: Any) -> Tensor | None:
        """Returns the tensor that is here in this batch, or None."""
        for key, is_attribute in zip(self.keys, self.attributes, strict=True):
            try:
                batch = getattr(batch, key) if is_attribute else batch[key]
            except (AttributeError, IndexError, KeyError, TypeError):
                return None
        return batch if isinstance(batch, Tensor) else None

    def __str__(self) -> str:
        steps = zip(self.keys, self.attributes, strict=True)
        return "batch" + "".join(f".{key}" if named else f"[{key!r}]" for key, named in steps)


def tensors(batch: Any) -> list[tuple[Place, Tensor]]:
    """Returns the tensors of a batch with their places, in order.

    Those that have no values side by side, such as the sparse ones of a graph, are left out.
    """
    return [(place, one) for place, one in _walk(batch, Place(), 0) if _is_plain(one)]


def find(batch: Any, key: str | int) -> Place | None:
    """Returns the place that a user means by a key: an index, a name, or names joined by dots."""
    whole = [step for step in _steps(batch, Place()) if step[0].keys[-1] == key]
    if whole:
        return whole[0][0]
    place, inner = Place(), batch
    for part in str(key).split("."):
        names: tuple[Any, ...] = (part, int(part)) if part.isdigit() else (part,)
        found = [step for step in _steps(inner, place) if step[0].keys[-1] in names]
        if not found:
            return None
        place, inner = found[0]
    return place


def keys(batch: Any) -> list[str]:
    """Returns what ``find`` would understand, for messages."""
    return [".".join(map(str, place.keys)) for place, _ in tensors(batch) if place.keys]


def asked(batch: Any, option: str, key: str | int | None) -> Place | None:
    """Returns the place that an option of the user's points to; None if it points nowhere.

    Raises:
        Misconfiguration: If there is no tensor in this batch.
    """
    if key is None:
        return None
    place = find(batch, key)
    if place is None or place.read(batch) is None:
        known = ", ".join(keys(batch)) or "none that has a key"
        raise Misconfiguration(
            f"{option}={key!r} is no tensor of the batch. Its tensors are: {known}."
        )
    return place


def conventional(batch: Any) -> Place | None:
    """Returns where targets are by convention: under a telling name, else second of a pair."""
    named = [
        (NAMES.index(place.keys[-1].lower()), len(place.keys), place)
        for place, _ in tensors(batch)
        if place.keys and isinstance(place.keys[-1], str) and place.keys[-1].lower() in NAMES
    ]
    if named:
        return min(named, key=lambda one: one[:2])[2]
    if isinstance(batch, (list, tuple)) and len(batch) == 2 and isinstance(batch[1], Tensor):  # noqa: PLR2004
        return Place().item(1)
    return None


def _is_plain(one: Any) -> bool:
    if not isinstance(one, Tensor) or one.layout is not torch.strided:
        return False
    return not (one.is_quantized or one.is_nested)


def _walk(thing: Any, place: Place, depth: int) -> Iterator[tuple[Place, Any]]:
    if isinstance(thing, Tensor):
        yield place, thing
    elif depth < _DEPTH:
        for inner_place, inner in _steps(thing, place):
            yield from _walk(inner, inner_place, depth + 1)


def _steps(thing: Any, place: Place) -> list[tuple[Place, Any]]:
    """Returns what is directly inside of a container."""
    if isinstance(thing, Mapping):
        return [(place.item(key), value) for key, value in thing.items()]
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return [(place.attribute(name), getattr(thing, name)) for name in thing._fields]
    if isinstance(thing, (list, tuple)):
        return [(place.item(index), value) for index, value in enumerate(thing)]
    if isinstance(thing, type) or not hasattr(thing, "__dict__"):
        return []
    if dataclasses.is_dataclass(thing):
        names = [one.name for one in dataclasses.fields(thing)]
    else:
        # Graph libraries hide their tensors from vars() and list them by keys().
        listed = getattr(thing, "keys", None)
        listed = listed() if callable(listed) else listed
        names = [one for one in listed or vars(thing) if isinstance(one, str)]
    return [(place.attribute(name), getattr(thing, name, None)) for name in names]
