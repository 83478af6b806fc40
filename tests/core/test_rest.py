"""Long runs of tiny steps are not slowed down: what need not see every batch rests."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from program import Program, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import NNDebug
from lightning_nndebug.core import rest as rest_module
from lightning_nndebug.core.record import read
from lightning_nndebug.core.rest import Rest
from lightning_nndebug.core.sandbox import running


def run(rest: Rest, batches: int, *, full: float, steady: float, step: float) -> list[bool]:
    """Plays batches; returns at which of them the unsteady ones rested."""
    rests = []
    for _ in range(batches):
        rests.append(rest.now)
        rest.end_batch(steady if rest.now else full, step)
    return rests


def test_what_is_cheap_beside_a_step_never_rests() -> None:
    """Half a percent of a step is its share."""
    assert not any(run(Rest(lambda: True), 5000, full=0.005, steady=0.001, step=1.0))


def test_what_is_dear_rests_as_long_as_it_takes() -> None:
    """A tenth of a step at a share of half a percent: one batch of twenty, sixteen in a row."""
    rests = run(Rest(lambda: True), 20_000, full=0.12, steady=0.02, step=1.0)
    assert not any(rests[:200])
    assert rests.count(False) / len(rests) == pytest.approx(0.05, abs=0.015)
    awake = "".join("r" if one else "a" for one in rests[200:]).split("r")
    assert {len(one) for one in awake[:-1] if one} == {16}


def test_nobody_rests_longer_than_a_quarter_of_the_run_so_far() -> None:
    """What shows late is seen in short runs, too."""
    rests = run(Rest(lambda: True), 2000, full=2.0, steady=0.0, step=1.0)
    for end in range(250, 2000, 50):
        assert not all(rests[int(0.75 * end) : end])


def test_a_pause_begins_and_ends_with_an_optimizer_step() -> None:
    """Micro-batches of one step are seen together, or not at all."""
    batch, turns = 0, []
    rest = Rest(lambda: batch % 4 == 3)
    for batch in range(2000):
        before = rest.now
        rest.end_batch(0.12, 1.0)
        if rest.now != before:
            turns.append(batch % 4)
    assert turns
    assert set(turns) == {3}


def test_the_last_steps_of_a_run_are_watched() -> None:
    """What is looked at in the end is seen, however dear."""
    rest = Rest(lambda: True, lambda: 1000 - rest._batches)
    rests = run(rest, 1000, full=2.0, steady=0.0, step=1.0)
    assert any(rests)
    assert not any(rests[-16:])


def test_who_is_woken_goes_back_to_rest() -> None:
    """So many batches are watched by all, from the next one on."""
    rest = Rest(lambda: True)
    run(rest, 205, full=2.0, steady=0.0, step=1.0)
    assert rest.now
    rest.wake(2)
    assert run(rest, 5, full=2.0, steady=0.0, step=1.0) == [True, False, False, True, True]


@pytest.mark.parametrize("often", [True, False])
def test_nothing_is_lost_in_a_rest(
    often: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loss and each label counts, whether all are awake or hardly anybody is."""
    if not often:
        monkeypatch.setattr(rest_module, "_UNRESTED", 20)
        monkeypatch.setattr(rest_module, "_SHARE", 1e-9)
    losses: list[float] = []

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            if not running():
                losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    own = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(400, 4, generator=own), torch.arange(400) % 3)
    suite = NNDebug(select=["LRN105", "CLS", "MOD101"])
    trainer = fit(Program(Net(), DataLoader(data, 4), trainer={"max_epochs": 1}), suite,
                  default_root_dir=tmp_path)  # fmt: skip
    assert trainer.global_step == 100
    lines = read(tmp_path)
    curve = [(one["step"], one["loss"]) for one in lines if one["kind"] == "curve"]
    assert [step for step, _ in curve] == list(range(100))
    assert [loss for _, loss in curve] == pytest.approx(losses, rel=1e-4)
    counts = [one for one in lines if one.get("of") == "ClassCounts"]
    assert sum(sum(one["train"]) for one in counts) == 400
