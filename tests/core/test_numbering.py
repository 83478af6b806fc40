"""Names that are numbered are told from quantities by what else their order could be."""

from __future__ import annotations

import pytest
import torch
from program import digits

from lightning_nndebug.core.measurements.loss_calls import LossCall
from lightning_nndebug.core.measurements.numbering import Numbering, _is_of_numbers, judged


def _known(inputs: torch.Tensor, numbers: torch.Tensor) -> Numbering:
    distinct, kinds = torch.unique(numbers, return_inverse=True)
    return Numbering("y", len(distinct), *judged(inputs, kinds, distinct))


def test_digits_are_names() -> None:
    """Of ten digits, any other order is as easy to predict."""
    x, y = digits(384)
    known = _known(x.flatten(1), y)
    assert known.are_names
    assert not known.are_quantities


@pytest.mark.parametrize("kind", ["counted", "ranked", "summed"])
def test_what_is_counted_ranked_or_summed_has_an_order(kind: str) -> None:
    """Numbers that say how much there is are easier to predict than the same in another order."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(384, 8, generator=generator)
    if kind == "counted":
        y = torch.randint(8, (384,), generator=generator)
        x = (torch.rand(384, 100, generator=generator).argsort(1) < y[:, None]).float()
    elif kind == "ranked":
        y = torch.bucketize(x[:, 0] * x[:, 1] + x[:, 2], torch.linspace(-1.5, 1.5, 6))
    else:
        places = torch.randint(6, (384, 2), generator=generator)
        x, y = torch.nn.functional.one_hot(places, 6).flatten(1).float(), places.sum(1)
    known = _known(x, y)
    assert known.are_quantities
    assert not known.are_names


def test_numbers_that_nothing_predicts_are_neither() -> None:
    """Where the inputs do not tell the kinds apart, nothing is said of their order."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(6, (384,), generator=generator)
    known = _known(torch.randn(384, 8, generator=generator), y)
    assert not known.are_names
    assert not known.are_quantities


@pytest.mark.parametrize(
    ("target", "is_one"),
    [
        (torch.arange(4), True),
        (torch.arange(4.0)[:, None], True),
        (torch.tensor(3.0), False),
        (torch.arange(4) / 3, False),
        (torch.arange(4) * 1j, False),
        (torch.ones(4, dtype=torch.bool), False),
        (torch.ones(0), False),
        (torch.ones(4, 2), False),
    ],
)
def test_one_whole_number_to_a_sample_may_be_a_name(target: torch.Tensor, is_one: bool) -> None:
    """A single number, fractions, complex ones and several to a sample are none."""
    given = torch.zeros(target.shape)
    call = LossCall("mse_loss", given, target, tuple(target.shape))
    assert _is_of_numbers(call) is is_one
