"""Two ranks that see different things: they stop together or go on together, and nobody waits."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from program import Program, digits, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import NNDebug
from lightning_nndebug.core.measurements.modes import Modes

SICK_STEP = 7
TIMES = [
    pytest.param(1, marks=pytest.mark.timeout(60)),
    pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
]


class Net(pl.LightningModule):
    """A classifier; on rank 1 it leaves the domain of a function in one step."""

    def __init__(self, function=None) -> None:
        super().__init__()
        self.function = function
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        is_sick = self.function and self.global_rank == 1 and self.global_step == SICK_STEP
        return loss + self.function(-loss) if is_sick else loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def program(function=None) -> Program:
    data = TensorDataset(*digits(512))
    options = {"strategy": "ddp_fork", "devices": 2, "max_steps": 14}
    return Program(Net(function), DataLoader(data, 16, shuffle=True), trainer=options)


def record(directory: Path) -> list[dict]:
    text = (directory / "nndebug" / "record.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.ddp
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("function", [torch.sqrt, torch.log], ids=["gradient", "loss"])
def test_only_rank_1_sees_the_nan(function, times: int, tmp_path: Path) -> None:
    """Both ranks stop in the step in which one of them saw it, and the finding says which.

    The derivative of the root is NaN there, and shared; that of the logarithm is not.
    """
    for i in range(times):
        seed(i)
        directory = tmp_path / str(i)
        with pytest.raises(Exception, match="NAN102"):  # torch hands the error over as text
            fit(program(function), NNDebug(halt_on="error"), default_root_dir=directory)
        # Who raises last is killed by who raises first, so the record may lack its last line.
        first = next(one for one in record(directory) if one["kind"] == "finding")
        assert (first["code"], first["rank"], first["step"]) == ("NAN102", 1, SICK_STEP)


@pytest.mark.ddp
@pytest.mark.parametrize("times", TIMES)
def test_only_rank_1_has_a_broken_part(times: int, tmp_path: Path, monkeypatch) -> None:
    """The rank whose measurement fails still comes to every meeting, and both finish their run."""
    original = Modes.take.__func__

    def breaks(cls, moment, memory):
        if moment.trainer.global_rank == 1 and moment.step == SICK_STEP:
            raise RuntimeError("planted")
        return original(cls, moment, memory)

    monkeypatch.setattr(Modes, "take", classmethod(breaks))
    for i in range(times):
        seed(i)
        directory = tmp_path / str(i)
        fit(program(), NNDebug(halt_on="error"), default_root_dir=directory)
        end = record(directory)[-1]
        assert (end["kind"], end["step"], end["exception"]) == ("end", 14, None)


class Idle(Net):
    """On rank 1 every other step of the optimizer is left out."""

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        if self.global_rank == 1 and batch_idx % 2:
            closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)


@pytest.mark.ddp
@pytest.mark.timeout(60)
def test_only_rank_0_steps(tmp_path: Path) -> None:
    """Nobody waits for a step that does not come, and both are told that they have parted."""
    seed()
    one = program()
    options = {"max_steps": -1, "max_epochs": 2, "default_root_dir": tmp_path}
    fit(Program(Idle(), one.train, trainer=one.trainer), NNDebug(), **options)
    lines = record(tmp_path)
    assert lines[-1]["exception"] is None
    assert "UPD107" in {line.get("code") for line in lines}
