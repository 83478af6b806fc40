"""Every logger, with its real package: numbers at the Trainer's cadence, findings as text."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import (
    CometLogger,
    CSVLogger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from program import Program, fit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import NNDebug
from lightning_nndebug.core.trainer import run_directory

STEPS, EVERY = 40, 10
VITAL = "nndebug/gradients/norm"
FIGURE = "nndebug/The loss"


class Net(pl.LightningModule):
    """A regression that is left in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1)).eval()

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0]) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(*loggers, **options) -> NNDebug:
    data = TensorDataset(torch.randn(4 * STEPS, 4, generator=torch.Generator().manual_seed(0)))
    trainer = {"max_steps": STEPS, "log_every_n_steps": EVERY}
    detector = NNDebug(select=["GRD", "MOD101"], **options)
    fit(Program(Net(), DataLoader(data, batch_size=4), trainer=trainer), detector, logger=loggers)
    assert [one.code for one in detector.findings] == ["MOD101"]
    return detector


def test_tensorboard(tmp_path: Path) -> None:
    """Scalars every ``log_every_n_steps``, the finding in the text tab, figures at the end."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    run(logger, report=True)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert [one.step for one in events.Scalars(VITAL)] == [0, 10, 20, 30]
    assert any("MOD101" in tag for tag in events.Tags()["tensors"])
    assert {FIGURE, "nndebug/Weights, start to end"} <= set(events.Tags()["images"])
    (picture,) = events.Images(FIGURE)
    assert (picture.step, picture.width > 1000) == (STEPS, True)


def test_csv(tmp_path: Path) -> None:
    """All columns are there from the first row on, so the file is never written anew."""
    logger = CSVLogger(tmp_path)
    run(logger)
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").open()))
    assert VITAL in rows[0]
    assert [int(one["step"]) for one in rows if one[VITAL]] == [0, 10, 20, 30]


def test_csv_keys_never_change(tmp_path: Path, monkeypatch) -> None:
    """What is not known yet is an empty cell."""
    from lightning.fabric.loggers.csv_logs import _ExperimentWriter

    rewritten = []
    monkeypatch.setattr(
        _ExperimentWriter, "_rewrite_with_new_header", lambda *args: rewritten.append(args)
    )
    run(CSVLogger(tmp_path, flush_logs_every_n_steps=1))
    assert rewritten == []


def test_wandb_offline(tmp_path: Path, monkeypatch) -> None:
    """Offline runs keep the numbers, and one table of findings."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="nndebug")
    try:
        run(logger, report=True)
        summary = dict(logger.experiment.summary)
    finally:
        wandb.finish()
    assert VITAL in summary
    assert "nndebug/findings" in summary
    assert FIGURE in summary


def test_mlflow_on_a_local_store(tmp_path: Path) -> None:
    """Numbers are metrics with their step, findings are text artifacts."""
    pytest.importorskip("mlflow")
    logger = MLFlowLogger(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=str(tmp_path / "files")
    )
    run(logger, report=True)
    history = logger.experiment.get_metric_history(logger.run_id, VITAL)
    assert [one.step for one in history] == [0, 10, 20, 30]
    texts = [one.read_text() for one in (tmp_path / "files").rglob("*.txt")]
    assert any("MOD101" in one for one in texts)
    assert "The loss" in {one.stem for one in (tmp_path / "files").rglob("nndebug/*.png")}


def test_comet_offline(tmp_path: Path, monkeypatch) -> None:
    """Numbers are metrics, findings are texts that carry their code."""
    pytest.importorskip("comet_ml")
    from comet_ml.offline import OfflineExperiment

    numbers, texts, figures = [], [], []
    monkeypatch.setattr(
        OfflineExperiment,
        "__internal_api__log_metrics__",
        lambda self, metrics, **kwargs: numbers.append((kwargs["step"], set(metrics))),
    )
    monkeypatch.setattr(
        OfflineExperiment, "log_text", lambda self, text, **kwargs: texts.append((text, kwargs))
    )
    monkeypatch.setattr(
        OfflineExperiment, "log_image", lambda self, data, name, step: figures.append((name, step))
    )
    logger = CometLogger(online=False, offline_directory=str(tmp_path), project="nndebug")
    run(logger, report=True)
    assert [step for step, keys in numbers if VITAL in keys] == [0, 10, 20, 30]
    ((text, kwargs),) = texts
    assert "MOD101" in text
    assert kwargs["metadata"]["code"] == "MOD101"
    assert (FIGURE, STEPS) in figures


def test_several_at_once_and_one_that_fails(tmp_path: Path, caplog) -> None:
    """A logger that fails is told of once and left alone; the others go on."""
    pytest.importorskip("tensorboard")

    class Unreachable(TensorBoardLogger):
        def log_metrics(self, metrics, step=None):
            if any(key.startswith("nndebug/") for key in metrics):
                raise ConnectionError("planted")
            super().log_metrics(metrics, step)

    first, second = CSVLogger(tmp_path), Unreachable(tmp_path)
    with caplog.at_level(logging.WARNING, "lightning_nndebug"):
        run(first, second)
    told = [one for one in caplog.messages if "planted" in one]
    rows = list(csv.DictReader((Path(first.log_dir) / "metrics.csv").open()))
    assert len(told) == 1
    assert len([one for one in rows if one[VITAL]]) == STEPS // EVERY


def test_a_logger_that_takes_no_figures_draws_none(tmp_path: Path, monkeypatch) -> None:
    """Nor does one that fails at it end the run."""
    monkeypatch.setattr("lightning_nndebug.report.pictures", lambda story: pytest.fail("drawn"))
    run(CSVLogger(tmp_path), report=True)
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("lightning_nndebug.report.pictures", lambda story: {"broken": None})
    run(TensorBoardLogger(tmp_path), report=True)


@pytest.mark.parametrize(
    ("log_dir", "logger", "expected"),
    [
        ("logs/version_1", {"log_dir": "logs/version_1"}, "logs/version_1/nndebug"),
        (None, None, "here/nndebug"),
        ("s3://bucket/logs", {"log_dir": "s3://bucket/logs"}, "here/nndebug"),
        ("logs", {"name": "project", "version": "xyz"}, "logs/project/xyz/nndebug"),
        (None, {"name": "project", "version": 3}, "here/project/version_3/nndebug"),
        ("logs", {"name": None, "version": None}, "logs/nndebug"),
    ],
)
def test_the_record_is_on_this_machine(log_dir, logger, expected) -> None:
    """Each run has its own directory, even if the logger's runs share one, or are elsewhere."""
    trainer = SimpleNamespace(
        log_dir=log_dir,
        fast_dev_run=False,
        default_root_dir="here",
        logger=logger and SimpleNamespace(**logger),
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    assert run_directory(trainer) == Path(expected)


def test_a_fast_dev_run_leaves_nothing() -> None:
    """Nobody looks for files of a run that only tries the code."""
    assert run_directory(SimpleNamespace(fast_dev_run=True)) is None


def test_no_logger(tmp_path: Path) -> None:
    """The record has it all."""
    detector = run()
    lines = [json.loads(one) for one in Path("nndebug/record.jsonl").read_text().splitlines()]
    assert {one["code"] for one in lines if one["kind"] == "finding"} == {
        one.code for one in detector.findings
    }
