"""The engine: what it asks, when it tells, how it stops, and what it survives."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from program import Program, fit, seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import (
    Detector,
    Evidence,
    Measurement,
    Moment,
    NNDebug,
    Severity,
    TrainingHalted,
    rule,
    state,
    threshold,
    vital,
)

TAKEN: list[int] = []


@dataclass(frozen=True)
class Clock(Measurement):
    """The number of the step, before the update."""

    hooks: ClassVar[tuple[str, ...]] = ("on_before_optimizer_step",)
    step: int
    rank: int

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Clock:
        TAKEN.append(moment.step)
        return cls(moment.step, moment.trainer.global_rank)


class PlantedDetector(Detector):
    """Finds what it is told to find.

    Args:
        begins: First sick step.
        ends: First step that is well again.
        rank: The only rank that is sick; -1 for all.
        where: How many places are sick.
    """

    begins: int = threshold(default=3, source="the test")
    ends: int = threshold(default=1000, source="the test")
    rank: int = -1
    where: int = 1
    looks: int = state(int)

    @rule("TST101", severity=Severity.ERROR)
    def planted_fact(self, clock: Clock) -> Iterator[Evidence]:
        """A planted fact.

        Likely causes:
            - A test

        How to fix:
            - Remove the test
        """
        self.looks += 1
        if self.begins <= clock.step < self.ends and self.rank in (-1, clock.rank):
            for place in range(self.where):
                yield Evidence(f"place {place}", float(clock.step), 0.0)

    @rule("TST102", severity=Severity.WARNING, patience=4)
    def planted_hint(self, clock: Clock) -> Iterator[Evidence]:
        """A planted hint."""
        if self.begins <= clock.step < self.ends and self.rank in (-1, clock.rank):
            yield Evidence("hint", float(clock.step), 0.0)

    @vital
    def clock(self, clock: Clock) -> float:
        """The step."""
        return float(clock.step)


class OtherDetector(Detector):
    """Asks for the same measurement."""

    @rule("TSU101", severity=Severity.INFO)
    def never(self, clock: Clock) -> Iterator[Evidence]:
        """Never."""
        yield from ()


class DoubtfulDetector(Detector):
    """Is less sure than its rule."""

    @rule("TSV101", severity=Severity.WARNING)
    def planted_doubt(self, clock: Clock) -> Iterator[Evidence]:
        """A planted doubt."""
        yield Evidence("doubt", float(clock.step), severity=Severity.INFO)


@dataclass(frozen=True)
class Bell(Measurement):
    """Rings when an epoch ends."""

    hooks: ClassVar[tuple[str, ...]] = ("on_train_epoch_end",)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Bell:
        return cls()


class EitherDetector(Detector):
    """Listens to one or the other."""

    heard: list[str] = state(list)

    @rule("TSW101", severity=Severity.INFO)
    def either(self, one: Clock | Bell) -> Iterator[Evidence]:
        """Never."""
        self.heard.append(type(one).__name__)
        yield from ()


class Net(pl.LightningModule):
    """A linear regression."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0]) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def program(**options) -> Program:
    data = TensorDataset(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    return Program(Net(), DataLoader(data, batch_size=4), trainer={"max_steps": 12, **options})


def places(detector: Detector) -> list[tuple[str, int]]:
    return [(one.code, one.step) for one in detector.findings]


def test_a_place_is_reported_once_with_the_step_in_which_it_began() -> None:
    """A hint that lasts four looks is dated back to the first of them."""
    detector = PlantedDetector()
    fit(program(), detector)
    assert places(detector) == [("TST101", 3), ("TST102", 3)]


def test_evidence_may_be_weaker_than_usual() -> None:
    """Its own severity goes before the rule's."""
    detector = DoubtfulDetector()
    fit(program(), detector)
    assert [one.severity for one in detector.findings] == ["info"]


def test_a_hint_that_goes_away_is_not_reported() -> None:
    """Three looks in a row are not four."""
    detector = PlantedDetector(begins=3, ends=6)
    fit(program(), detector)
    assert places(detector) == [("TST101", 3)]


def test_advice_that_becomes_grave_is_said_again(caplog: pytest.LogCaptureFixture) -> None:
    """Once as advice, once as a warning, in full; and only the latter is kept."""

    class GrowingDetector(Detector):
        """Finds what gets worse."""

        @rule("TST107", severity=Severity.WARNING)
        def growing_fault(self, clock: Clock) -> Iterator[Evidence]:
            """A fault that grows.

            How to fix:
                - Stop it
            """
            severity = Severity.INFO if clock.step < 4 else None
            yield Evidence("net", 1.0, 0.0, message="it grows", severity=severity)

    detector = GrowingDetector()
    with caplog.at_level(logging.INFO, "lightning_nndebug"):
        fit(program(), detector)
    assert [(one.severity, one.step) for one in detector.findings] == [("warning", 0)]
    said = [one.getMessage() for one in caplog.records if hasattr(one, "finding")]
    assert len(said) == 1
    assert "Stop it" in said[0]


def test_patience_of_the_user_goes_before_the_rules_own() -> None:
    """With patience=2 two looks are enough, for facts and hints alike."""
    detector = PlantedDetector(begins=3, ends=5, patience=2)
    fit(program(), detector)
    assert {"TST101", "TST102"} == {code for code, _ in places(detector)}


def test_ignore_and_select_take_codes_and_prefixes() -> None:
    """What is ignored is not even asked."""
    for options, expected in (
        ({"ignore": ["TST102"]}, {"TST101"}),
        ({"select": ["TST102"]}, {"TST102"}),
        ({"ignore": ["TST"]}, set()),
    ):
        detector = PlantedDetector(**options)
        fit(program(), detector)
        assert expected == {one.code for one in detector.findings}


def test_a_suites_options_hold_for_its_detectors() -> None:
    """The suite ignores and halts for all of its members; a member's own option goes first."""
    suite = NNDebug(detectors=[PlantedDetector()], ignore=["TST102"], halt_on="error")
    with pytest.raises(TrainingHalted):
        fit(program(), suite)
    assert {"TST101"} == {one.code for one in suite.findings}


def test_several_detectors_share_one_measurement() -> None:
    """Two lone detectors and a suite take the clock once a step."""
    TAKEN.clear()
    fit(program(), PlantedDetector(), OtherDetector(), NNDebug())
    assert list(range(12)) == TAKEN


def test_a_rule_may_be_asked_with_one_of_two_measurements() -> None:
    """It gets whichever is there, and names both."""
    detector = EitherDetector()
    fit(program(max_steps=2, limit_train_batches=2), detector)
    assert detector.heard == ["Clock", "Clock", "Bell"]
    assert detector.rules[0].kinds == (Clock, Bell)


def test_the_soft_halt_asks_the_trainer() -> None:
    """halt="stop" ends the run without an exception, and says so in callback_metrics."""
    trainer = fit(program(), PlantedDetector(halt_on="error", halt="stop"))
    assert trainer.global_step == 4
    assert trainer.callback_metrics["nndebug/halted"] == 1.0


def test_an_exception_of_the_user_is_passed_on_and_summed_up(caplog) -> None:
    """The summary is written all the same, and the exception stays what it was."""

    class Crash(Net):
        def training_step(self, batch, batch_idx):
            if batch_idx == 6:
                raise KeyError("mine")
            return super().training_step(batch, batch_idx)

    with caplog.at_level(logging.INFO, "lightning_nndebug"), pytest.raises(KeyError, match="mine"):
        fit(Program(Crash(), program().train), PlantedDetector())
    assert "1 error" in caplog.text


def test_the_record_is_complete_json(tmp_path: Path) -> None:
    """Run card, findings, vitals and the end, each on a line of its own."""
    fit(program(), PlantedDetector(), default_root_dir=tmp_path, log_every_n_steps=5)
    lines = [
        json.loads(one) for one in (tmp_path / "nndebug/record.jsonl").read_text().splitlines()
    ]
    assert lines[0]["kind"] == "run"
    assert [one["code"] for one in lines if one["kind"] == "finding"] == ["TST101", "TST102"]
    assert [one["step"] for one in lines if one["kind"] == "vitals"] == [0, 5, 10]
    assert lines[-1].pop("seconds") < 60
    assert lines[-1] == {"kind": "end", "step": 12, "exception": None}
    assert len(json.loads((tmp_path / "nndebug/findings.json").read_text())) == 2


def test_vitals_reach_the_loggers(tmp_path: Path) -> None:
    """nndebug/<module>/<name>, at the Trainer's cadence."""
    logger = CSVLogger(tmp_path)
    fit(program(), PlantedDetector(), logger=logger, log_every_n_steps=5)
    assert "nndebug/test_session/clock" in (Path(logger.log_dir) / "metrics.csv").read_text()


@pytest.mark.parametrize("sabotage", ["logger", "read-only", "full disk"])
@pytest.mark.breaks_us
def test_a_sink_that_fails_is_told_once_and_the_run_goes_on(
    sabotage: str, tmp_path: Path, monkeypatch, caplog
) -> None:
    """Neither a network logger nor a full disk ends a training run."""

    class BrokenLogger(DummyLogger):
        def log_metrics(self, *args, **kwargs):
            raise ConnectionError("server gone")

        save_dir = str(tmp_path)

    options = {"default_root_dir": tmp_path, "log_every_n_steps": 1}
    if sabotage == "logger":
        options["logger"] = BrokenLogger()
    elif sabotage == "read-only":
        (tmp_path / "nndebug").write_text("a file where the folder should be")
    else:

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("lightning_nndebug.core.record.Record._write", full)
    with caplog.at_level(logging.INFO, "lightning_nndebug"):
        trainer = fit(program(), PlantedDetector(), **options)
    assert trainer.global_step == 12
    told = [
        one
        for one in caplog.records
        if "logger that failed" in one.message
        or "no record" in one.message
        or "Sampled" in one.message
    ]
    assert len(told) == 1, caplog.text


def test_what_a_signal_raises_in_our_code_is_the_users(monkeypatch) -> None:
    """A DataLoader's worker that dies while we run must end the run as it would without us."""

    def handler(*args):
        raise RuntimeError("a worker is dead")

    def take(cls, moment, memory):
        signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(Clock, "take", classmethod(take))
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(RuntimeError, match="a worker is dead"):
            fit(program(), PlantedDetector())
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_many_places_are_one_story_on_the_console(caplog) -> None:
    """A rule that fires in fifty layers says three of them, and sums up the rest."""
    with caplog.at_level(logging.INFO, "lightning_nndebug"):
        detector = PlantedDetector(where=50, ignore=["TST102"])
        fit(program(), detector)
    assert len(detector.findings) == 50
    assert sum(one.levelno == logging.ERROR for one in caplog.records) == 3
    assert "50 errors in 12 steps" in caplog.text
    assert "and 49 more places" in caplog.text


def test_a_resumed_run_remembers_what_it_has_said(tmp_path: Path, caplog) -> None:
    """Findings and memory come back from the checkpoint; nothing is said twice."""
    first = PlantedDetector()
    fit(program(), first).save_checkpoint(tmp_path / "a.ckpt")
    second = PlantedDetector()
    resumed = program(max_steps=20)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lightning_nndebug"):
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=20, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[second],
        )  # fmt: skip
        trainer.fit(resumed.module, resumed.train, ckpt_path=tmp_path / "a.ckpt")
    assert places(first) == places(second)
    assert second.looks == 20
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_second_fit_starts_afresh() -> None:
    """What happened in an earlier run is no evidence in the next one."""
    detector = PlantedDetector()
    fit(program(), detector)
    fit(program(max_steps=2), detector)
    assert detector.findings == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": ["QQQ9"]}, "No rule has a code that begins with 'QQQ9'"),
        ({"select": ["XYZ"]}, "Allowed: a code such as"),
        ({"ignore": "TST"}, "take a list of codes, got the string 'TST'"),
        ({"halt_on": "fatal"}, "None, 'info', 'warning', 'error', got 'fatal'"),
        ({"halt": "kill"}, "'raise', 'stop', got 'kill'"),
        ({"patience": 0}, "at least 1, got 0"),
        ({"begins": -1}, "begins must be between 0 and inf, got -1"),
    ],
)
def test_bad_options_name_the_given_and_the_allowed(options: dict, message: str) -> None:
    """The error comes at construction."""
    with pytest.raises((ValueError, TypeError), match=message):
        PlantedDetector(**options)


def test_detectors_are_final() -> None:
    """Subclass Detector, never another detector."""
    with pytest.raises(TypeError, match="final"):
        type("Sub", (PlantedDetector,), {})


def test_a_code_is_given_once() -> None:
    """A second rule with the same code is refused where it is written."""
    with pytest.raises(TypeError, match="TST101 is planted-fact already"):

        class ThiefDetector(Detector):
            """Takes a code that is taken."""

            @rule("TST101", severity=Severity.INFO)
            def stolen(self, clock: Clock) -> Iterator[Evidence]:
                """Stolen."""
                yield from ()


def test_one_sick_rank_stops_both(tmp_path: Path) -> None:
    """Only rank 1 sees the symptom; both ranks stop at the same step with its finding."""
    seed(0)
    suite = NNDebug(detectors=[PlantedDetector(rank=1)], halt_on="error")
    with pytest.raises(Exception, match="TST101"):  # torch hands the ranks' error over as text
        fit(program(), suite, strategy="ddp_fork", devices=2, default_root_dir=tmp_path)
    lines = [
        json.loads(one) for one in (tmp_path / "nndebug/record.jsonl").read_text().splitlines()
    ]
    (finding,) = [one for one in lines if one["kind"] == "finding" and one["code"] == "TST101"]
    assert (finding["rank"], finding["step"]) == (1, 3)


@pytest.mark.breaks_us
def test_a_crashed_rule_of_one_rank_is_off_on_both(tmp_path: Path, monkeypatch, caplog) -> None:
    """The rank whose check has crashed still comes to every meeting: nobody hangs."""
    original = PlantedDetector.rules[0].method

    def crash(self, clock):
        if clock.rank == 1 and clock.step == 5:
            raise RuntimeError("planted")
        return original(self, clock)

    from dataclasses import replace

    broken = replace(PlantedDetector.rules[0], method=crash)
    monkeypatch.setattr(PlantedDetector, "rules", (broken,))
    suite = NNDebug(detectors=[PlantedDetector(begins=8)], halt_on="error")
    trainer = fit(program(), suite, strategy="ddp_fork", devices=2, default_root_dir=tmp_path)
    assert trainer.state.status.value == "finished"
