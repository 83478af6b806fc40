"""Every detector, and the suite, keep the public contract."""

from __future__ import annotations

import pytest

from lightning_nndebug import NNDebug
from lightning_nndebug.suite import DETECTORS, OPTIONAL
from lightning_nndebug.testing import CHECKS

MARKS = ((pytest.mark.slow, "check_ddp"), (pytest.mark.breaks_us, "check_own_errors"))


@pytest.mark.parametrize("kind", [NNDebug, *DETECTORS, *OPTIONAL], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(one, marks=[mark for mark, name in MARKS if one.__name__ == name])
        for one in CHECKS
    ],
    ids=lambda check: check.__name__,
)
def test_contract(kind, check) -> None:
    """The promise that the check is named after."""
    check(kind)
