"""FSDP2 on two processes: what applies is right, and what does not is said once, in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # Lightning starts rank 1 with this file, not pytest

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from program import Program, digits, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import NNDebug


class Net(pl.LightningModule):
    """A classifier whose linear layers are sharded; on rank 1 one loss may be NaN."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        for part in (self.net[0], self.net[3], self.net):
            fully_shard(part, mesh=mesh)
        self.net.train(self.fault != "eval")

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        is_sick = self.fault == "nan" and self.global_rank == 1 and self.global_step == 5
        return loss + (-loss).sqrt() if is_sick else loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(directory: str, fault: str) -> None:
    """Runs in each of the two processes."""
    torch.set_num_threads(1)
    seed()
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    options = {"strategy": strategy, "devices": 2, "max_steps": 25}
    program = Program(
        Net(fault), DataLoader(TensorDataset(*digits(512)), 16, shuffle=True), trainer=options
    )
    suite = [] if fault == "bare" else [NNDebug()]
    fit(program, *suite, default_root_dir=directory)
    weights = [one.full_tensor().tolist() for one in program.module.parameters()]
    Path(directory, f"weights{program.module.global_rank}.json").write_text(json.dumps(weights))
    torch.distributed.destroy_process_group()  # threads of gloo that outlive Python end it


def run(directory: Path, fault: str) -> tuple[dict[str, str], str, str]:
    """Returns the findings, the final weights and what was printed."""
    directory.mkdir()
    command = [sys.executable, __file__, str(directory), fault]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=dict(os.environ), cwd=directory
    )
    assert done.returncode == 0, done.stderr[-3000:]
    file = directory / "nndebug" / "findings.json"
    found = json.loads(file.read_text()) if file.exists() else []
    weights = (directory / "weights0.json").read_text()
    loud = {one["code"]: one["where"] for one in found if one["severity"] != "info"}
    return loud, weights, done.stderr


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="torch.distributed.fsdp has fully_shard from torch 2.6 on",
)
def test_sharded_parameters(tmp_path: Path) -> None:
    """A healthy run is silent and bit for bit the same; a NaN and a lost mode are found."""
    bare = run(tmp_path / "bare", "bare")
    found, weights, printed = run(tmp_path / "healthy", "")
    assert found == {}
    assert weights == bare[1]
    assert printed.count("holds only a part of each parameter") == 1
    assert "off from here" not in printed
    assert "NAN102" in run(tmp_path / "nan", "nan")[0]
    assert run(tmp_path / "eval", "eval")[0] == {"MOD101": "net"}


if __name__ == "__main__":
    main(*sys.argv[1:])
