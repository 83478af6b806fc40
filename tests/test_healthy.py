"""The whole suite is silent on every healthy program."""

from __future__ import annotations

import logging

import pytest
from healthy import all_programs
from program import fit, seed

from lightning_nndebug import NNDebug, Severity

PROGRAMS = all_programs()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_healthy_program_raises_no_alarm(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """No WARNING and no ERROR (advice is no alarm), and nothing of ours has failed."""
    seed(0)
    suite = NNDebug()
    with caplog.at_level(logging.ERROR, "lightning_nndebug"):
        fit(PROGRAMS[name](), suite)
    loud = [one for one in suite.findings if one.level >= Severity.WARNING]
    assert not loud, "\n".join(map(str, loud))
    assert "is off from here" not in caplog.text, caplog.text
