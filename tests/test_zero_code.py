"""Zero code: what ``NNDEBUG=1`` and ``nndebug run`` do to a script that has never heard of us."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import lightning.pytorch as pl
import pytest
import torch
from program import fit

import lightning_nndebug
from lightning_nndebug import GradientDetector, NNDebug, zero_code
from lightning_nndebug.suite import ZeroCode

ROOT = Path(lightning_nndebug.__file__).parents[1]

# A script as users write them, sick: its backbone is in eval mode.
SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
import {namespace} as pl
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)

class Net(pl.LightningModule):
    def __init__(self, width: int = 8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, 1)).{mode}()

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0]) - batch[1]).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

class Data(pl.LightningDataModule):
    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64, 4, generator=generator)
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4, shuffle=True)

OPTIONS = dict(accelerator="cpu", devices=1, max_steps=12, logger=False, enable_checkpointing=False,
               enable_progress_bar=False, enable_model_summary=False)
"""
PLAIN = """
if __name__ == "__main__":
    print("arguments:", *sys.argv[1:])
    trainer = pl.Trainer(callbacks=[{callbacks}], **OPTIONS)
    trainer.fit(Net(), Data())
    print("callbacks:", sorted(type(one).__name__ for one in trainer.callbacks))
    sys.exit({code})
"""
CLI = """
from {namespace}.cli import LightningCLI
if __name__ == "__main__":
    LightningCLI(Net, Data, trainer_defaults=OPTIONS, save_config_callback=None, seed_everything_default=0)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch) -> dict[str, str]:
    """An environment in which the package is installed, with the entry points of pyproject.toml."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = tmp_path / "site" / "lightning_nndebug-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: lightning-nndebug\nVersion: 0\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(groups))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NNDEBUG")}
    return {
        **environment,
        "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
    }


def script(tmp_path: Path, body: str = PLAIN, **parts: object) -> Path:
    parts = {"namespace": "lightning.pytorch", "mode": "eval", "callbacks": "", "code": 0, **parts}
    path = tmp_path / "train.py"
    path.write_text((SCRIPT + body).format(**parts))
    return path


def python(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def nndebug(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess:
    return python(environment, "-m", "lightning_nndebug", *arguments)


def alarms(run: subprocess.CompletedProcess) -> list[str]:
    """The codes that a run has printed as JSON, without mere advice."""
    return [one["code"] for one in json.loads(run.stdout) if one["severity"] != "info"]


@pytest.mark.slow
def test_the_variable_brings_the_suite(tmp_path, installed) -> None:
    """The finding is printed, and a run of ``lightning`` does not import ``pytorch_lightning``."""
    path = script(tmp_path, code='"pytorch_lightning" in sys.modules')
    run = python({**installed, "NNDEBUG": "1"}, path)
    assert run.returncode == 0
    assert "ZeroCode" in run.stdout
    assert "MOD101 eval-while-training" in run.stderr


@pytest.mark.slow
def test_run_halts_with_its_own_exit_code(tmp_path, installed) -> None:
    """86, and the script's own arguments stay its own."""
    run = nndebug(installed, "run", "--halt-on", "error", script(tmp_path), "--halt-on", "never")
    assert (run.returncode, run.stdout) == (86, "arguments: --halt-on never\n")
    assert "MOD101" in run.stderr
    assert "Traceback" not in run.stderr
    assert (tmp_path / "nndebug" / "report.html").is_file()


@pytest.mark.slow
def test_run_passes_the_scripts_exit_code_and_output_on(tmp_path, installed) -> None:
    """A script that ends with 3 ends with 3; with --format json stdout is JSON and nothing else."""
    path = script(tmp_path, code=3, mode="train")
    run = nndebug(installed, "run", "--no-report", "--format", "json", path)
    assert (run.returncode, alarms(run)) == (3, [])
    assert "arguments:" in run.stderr


@pytest.mark.slow
def test_run_takes_a_script_of_pytorch_lightning(tmp_path, installed) -> None:
    """Its Trainer asks under another name for the same callbacks."""
    path = script(tmp_path, namespace="pytorch_lightning")
    run = nndebug(installed, "run", "--no-report", "--ignore", "GRD", "--format", "json", path)
    assert alarms(run) == ["MOD101"]


@pytest.mark.slow
def test_run_takes_a_lightning_cli_project(tmp_path, installed) -> None:
    """Its subcommands, options and YAML are as without us."""
    path = script(tmp_path, CLI)
    (tmp_path / "config.yaml").write_text("model:\n  width: 16\n")
    run = nndebug(
        installed, "run", "--halt-on", "error", path, "fit", "--config", tmp_path / "config.yaml"
    )
    assert run.returncode == 86, run.stderr
    assert "MOD101" in run.stderr


@pytest.mark.slow
def test_run_takes_a_module_and_shows_the_scripts_own_traceback(tmp_path, installed) -> None:
    """As python -m; an exception of the script's looks as it always does."""
    (tmp_path / "broken.py").write_text("def main():\n    raise KeyError('mine')\nmain()\n")
    run = nndebug(installed, "run", "-m", "broken")
    assert run.returncode == 1
    assert run.stderr.rstrip().endswith("KeyError: 'mine'")


def test_a_suite_of_the_users_own_goes_before_ours() -> None:
    """Each detector is there once: the user's lone one, else his suite's, else the environment's."""
    mine, suite, ours = GradientDetector(ignore=["GRD105"]), NNDebug(), ZeroCode(halt_on="error")
    from lightning_nndebug.core.session import _watches

    watches = _watches([mine, suite, ours])
    assert len(watches) == len({type(one.detector) for one in watches}) == len(suite.members)
    owners = {type(one.detector): one.owner for one in watches}
    assert owners.pop(GradientDetector) is mine
    assert set(owners.values()) == {suite}


def test_a_trainer_takes_both_and_its_checkpoint_is_the_scripts_own(tmp_path) -> None:
    """Two suites under one name would be refused; what the environment brings is not saved."""
    from cases.mod101_eval_while_training import healthy

    trainer = fit(healthy(), NNDebug(), ZeroCode(report=False), max_steps=3, max_epochs=None)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"]
    assert not [name for name in saved if "ZeroCode" in name]


@pytest.mark.parametrize("value", ["", "0", "off", "False", " no "])
def test_off_is_off(value: str, monkeypatch) -> None:
    """Every way to say no."""
    monkeypatch.setenv(zero_code.VARIABLE, value)
    assert zero_code.callbacks() == []


def test_an_error_of_ours_never_kills_a_trainer(monkeypatch, caplog) -> None:
    """An option that does not exist is told, and training goes on without us."""
    monkeypatch.setenv(zero_code.VARIABLE, "1")
    monkeypatch.setenv(zero_code.OPTIONS, '{"no_such_option": 1}')
    assert zero_code.callbacks() == []
    assert "the run goes on without it" in caplog.text
    monkeypatch.setenv(zero_code.OPTIONS, "no JSON at all")
    assert zero_code.callbacks() == []
    assert pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu").callbacks


def test_off_costs_less_than_five_milliseconds(installed) -> None:
    """Nothing but the standard library is imported: neither torch nor Lightning, nor our detectors."""
    code = dedent("""
        import importlib, json, logging, os, sys, time, typing  # a Trainer has all of these
        known = set(sys.modules)
        began = time.process_time()
        from lightning_nndebug.zero_code import callbacks
        assert callbacks() == []
        took = time.process_time() - began
        print(took, *{one.partition(".")[0] for one in set(sys.modules) - known})
    """)
    times = []
    for _ in range(3):
        took, *imported = python(installed, "-c", code).stdout.split()
        times.append(float(took))
        assert set(imported) <= {
            "lightning_nndebug",
            "importlib",
            "typing",
            "__future__",
            *sys.stdlib_module_names,
        }
    assert min(times) < 0.005


def test_the_module_imports_only_the_standard_library() -> None:
    """At its top level; the suite comes when it is asked for."""
    tree = ast.parse(Path(zero_code.__file__).read_text())
    names = {one.names[0].name for one in tree.body if isinstance(one, ast.Import)}
    assert names <= sys.stdlib_module_names
