"""Tests see the programs and cases beside them, run on one thread, and leave no file behind."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # two cores are shared by the test processes


@pytest.fixture(autouse=True)
def _quiet_and_tidy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test runs in a folder of its own: a Trainer without a logger writes where it stands."""
    torch.manual_seed(0)  # the order of the tests is nobody's business
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MASTER_PORT", raising=False)  # Lightning leaves that of the last run
    os.environ.setdefault("TQDM_DISABLE", "1")
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
    # What one test has begun, the processes of the next would inherit, and wait for ever.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def _nothing_of_ours_fails(request: pytest.FixtureRequest) -> Iterator[None]:
    """A part of ours that fails is only logged and switched off: no test may overlook that."""
    failures: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and "failed and is off" in record.getMessage():
                failures.append(self.format(record))

    listener = Listener()
    logging.getLogger("lightning_nndebug").addHandler(listener)
    yield
    logging.getLogger("lightning_nndebug").removeHandler(listener)
    if not request.node.get_closest_marker("breaks_us"):
        assert not failures, "\n".join(failures)
