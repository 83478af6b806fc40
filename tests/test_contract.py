"""Every detector, and the suite, keep the public contract."""

from __future__ import annotations

import pytest

from lightning_nndebug import NNDebug
from lightning_nndebug.suite import DETECTORS, OPTIONAL
from lightning_nndebug.testing import CHECKS

SLOW = {"check_ddp"}


@pytest.mark.parametrize("kind", [NNDebug, *DETECTORS, *OPTIONAL], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "check",
    [pytest.param(one, marks=pytest.mark.slow if one.__name__ in SLOW else ()) for one in CHECKS],
    ids=lambda check: check.__name__,
)
def test_contract(kind, check) -> None:
    """The promise that the check is named after."""
    check(kind)
