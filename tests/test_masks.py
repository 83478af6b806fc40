"""Random masks: what is dropout, by whatever name, and what only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lightning_nndebug.core.masks import RandomMasks


class Listener(TorchFunctionMode):
    """Tells the storages of what was dropped from."""

    def __init__(self) -> None:
        super().__init__()
        self.masks, self.found = RandomMasks(), []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        with torch.no_grad(), torch._C.DisableTorchFunction():
            source = self.masks.follow(func.__name__, args, kwargs or {}, result)
        self.found += [source] * (source is not None)
        return result


def dropped(compute: Callable[[Tensor], Any]) -> bool:
    """Returns whether something is dropped from ones, and from nothing else."""
    x = torch.ones(64, 64)
    with Listener() as listener:
        compute(x)
    assert set(listener.found) <= {x.untyped_storage().data_ptr()}
    return bool(listener.found)


def in_place(x: Tensor) -> Tensor:
    """Draws, multiplies and divides without a new tensor."""
    x *= x.new_empty(64, 1).bernoulli_(0.8)
    return x.div_(0.8)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x * (torch.rand_like(x) > 0.3).float() / 0.7,
        lambda x: x * ((torch.rand_like(x) > 0.3) / 0.7),
        lambda x: x * torch.floor(0.7 + torch.rand(64, 64)) * (1 / 0.7),
        lambda x: x * torch.bernoulli(torch.full((64, 1), 0.5)) * 2,
        lambda x: x.masked_fill(torch.rand(64, 64) < 0.3, 0.0) / 0.7,
        lambda x: torch.where(torch.rand(64, 64) > 0.5, x, torch.zeros(64)) * 2,
        lambda x: F.linear(x, x * torch.rand(64, 1).gt(0.5).expand_as(x) * 2),
        in_place,
    ],
)
def test_what_drops_a_share_and_scales_the_rest_is_dropout(compute: Any) -> None:
    """However it is written, and whatever it is called."""
    assert dropped(compute)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x * (torch.rand_like(x) > 0.3),
        lambda x: x * (torch.rand_like(x) > 0.3) / 8,
        lambda x: x * (1 + 0.1 * torch.rand_like(x)),
        lambda x: x * torch.bernoulli(torch.linspace(0, 1, 64)) * 2,
        lambda x: x * (torch.rand(4, 1, 1) > 0.5) * 2,
        lambda x: nn.functional.relu(x) / 0.7,
    ],
)
def test_a_mask_or_noise_alone_is_no_dropout(compute: Any) -> None:
    """Nor is a unit that is drawn with a probability of its own, nor the chance of a few."""
    assert not dropped(compute)
