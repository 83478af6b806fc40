"""The examples run, and show what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


@pytest.mark.slow
def test_optuna_prunes_what_is_lost() -> None:
    """The trial with the absurd rate is pruned and carries the code; the other one finishes."""
    pytest.importorskip("optuna")
    done = run("optuna_pruning.py")
    lines = sorted(done.stdout.strip().splitlines(), key=lambda line: "PRUNED" in line)
    assert len(lines) == 2, done.stderr[-2000:]
    assert "COMPLETE []" in lines[0]
    assert "PRUNED" in lines[1]
    assert "NAN10" in lines[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray_tune.py", "ray_train.py"])
def test_ray_reports_the_reason(name: str) -> None:
    """Every trial ends, on all its workers, and the result of the lost one names the rule."""
    pytest.importorskip("ray.tune")
    done = run(name)
    lines = done.stdout.strip().splitlines()[-2:]
    assert len(lines) == 2, done.stderr[-2000:]
    assert [line.split()[0] for line in lines] == ["0.1", "10000.0"], done.stdout[-2000:]
    assert len(lines[0].split()) == 2
    assert lines[1].split()[1] == "inf"
    assert lines[1].split()[2].startswith("NAN")


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "code"), [("0.1", 0), ("1e4", 86)])
def test_a_scheduler_learns_it_from_the_exit_code(lr: str, code: int) -> None:
    """86 is for a run that is certainly lost, and for nothing else."""
    done = run("slurm.py", "--lr", lr)
    assert done.returncode == code, done.stderr[-2000:]
