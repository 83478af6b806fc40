"""Tensors are found wherever a batch keeps them."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch

from lightning_nndebug.core.measurements.batches import Place, conventional, find, keys, tensors

X, Y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])


class Pair(NamedTuple):
    image: Any
    target: Any


@dataclass
class Sample:
    x: Any
    y: Any
    name: str = ""


class Graph:
    """Hides its tensors from vars(), as PyG does."""

    def __init__(self) -> None:
        self._store = {"x": X, "y": Y}

    def keys(self) -> list[str]:
        return list(self._store)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._store[name]


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        ((X, Y), "batch[1]"),
        ([X, Y], "batch[1]"),
        (Pair(X, Y), "batch.target"),
        ({"input_ids": X, "labels": Y}, "batch['labels']"),
        (UserDict(input_ids=X, labels=Y), "batch['labels']"),
        (Sample(X, Y, "cat"), "batch.y"),
        (Graph(), "batch.y"),
        ({"weak": (X,), "strong": {"image": X, "label": Y}}, "batch['strong']['label']"),
        ((X, {"y": Y, "id": X}), "batch[1]['y']"),
    ],
)
def test_targets_are_found_by_convention_and_read_again(batch: Any, name: str) -> None:
    """A place is named as the user writes it, and leads back to the tensor."""
    place = conventional(batch)
    assert str(place) == name
    assert place is not None
    assert place.read(batch) is Y


@pytest.mark.parametrize("batch", [X, (X,), (X, Y, Y), {"image": X, "id": Y}, None, "text", 3])
def test_without_a_convention_nothing_is_guessed(batch: Any) -> None:
    """A lone tensor, triples and unknown names are not labels."""
    assert conventional(batch) is None


def test_a_place_that_a_batch_lacks_is_none() -> None:
    """Batches of validation may have another form."""
    place = Place().item("labels")
    assert place.read({"image": X}) is None
    assert place.read((X, Y)) is None
    assert place.read({"labels": "cat"}) is None


def test_keys_may_be_joined_by_dots() -> None:
    """A key leads through dictionaries, indices and attributes."""
    batch = {"boxes": [Sample(X, Y)], "a.b": X}
    assert str(find(batch, "boxes.0.y")) == "batch['boxes'][0].y"
    assert str(find(batch, "a.b")) == "batch['a.b']"
    assert str(find((X, Y), 1)) == "batch[1]"
    assert find(batch, "boxes.1.y") is None
    assert keys(batch) == ["boxes.0.x", "boxes.0.y", "a.b"]


def test_what_contains_itself_is_not_followed_for_ever() -> None:
    """Depth is limited."""
    batch: dict[str, Any] = {"x": X}
    batch["self"] = batch
    assert tensors(batch)[0][1] is X
