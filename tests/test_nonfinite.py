"""NaN and infinity: what is named, what is kept, and what is left alone."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from cases._parts import Classifier, loader
from core.injections import HEALTHY, INJECTIONS
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from program import Program, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import NonFiniteDetector, TrainingHalted
from lightning_nndebug.core.measurements.autopsy import all_finite
from lightning_nndebug.core.repro import FILE


class NanAt(Classifier):
    """Takes the log of 0 in one step."""

    def __init__(self, step: int, rank: int = -1) -> None:
        super().__init__()
        self.bad_step, self.bad_rank = step, rank
        self.seen = 0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        sick = self.seen == self.bad_step and self.bad_rank in (-1, self.trainer.global_rank)
        self.seen += 1
        return loss + torch.log(loss * 0) if sick else loss


def found(program: Program, *callbacks, **options):
    seed(0)
    detector = NonFiniteDetector(**options)
    fit(program, detector, *callbacks)
    return detector.findings


class SkipsTooLate(Classifier):
    """Leaves the update out when the loss is not finite; its batch norm has seen the batch."""

    def __init__(self, *, bad: bool) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10)))
        self.bad = bad

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x / 0 if self.bad and batch_idx == 3 else x
        loss = F.cross_entropy(self(x), y)
        return loss if loss.isfinite() else None


@pytest.mark.parametrize("bad", [True, False])
def test_running_statistics_remember_a_batch_whose_update_was_left_out(bad: bool) -> None:
    """All else is finite, and only eval mode shows it; it is told once."""
    findings = found(Program(SkipsTooLate(bad=bad), loader(), trainer={"max_epochs": 1}))
    told = [one for one in findings if one.code == "NAN104"]
    assert [one.where for one in told] == ["net.1"] * bad
    assert all(one.message.startswith("running statistics that are not finite") for one in told)


def test_a_halt_comes_before_the_bad_update(tmp_path: Path) -> None:
    """After a NaN the weights in memory are finite, and the last good checkpoint is on disk."""
    program = Program(NanAt(40), loader(), trainer={"max_epochs": 3})
    checkpoint = ModelCheckpoint(dirpath=tmp_path)
    with pytest.raises(TrainingHalted) as halted:
        fit(program, NonFiniteDetector(halt_on="error"), checkpoint, enable_checkpointing=True)
    assert halted.value.findings[0].code == "NAN102"
    assert all(one.isfinite().all() for one in program.module.parameters())
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    assert all(one.isfinite().all() for one in saved["state_dict"].values())


@pytest.mark.parametrize(
    ("tensors", "finite"),
    [
        ([], True),
        ([torch.full((9,), 6e4, dtype=torch.float16), torch.ones(2, 2)], True),
        ([torch.full((3,), 3e38), torch.full((2, 2), 3e38)], True),
        ([torch.ones(2, dtype=torch.complex64), torch.ones(())], True),
        ([torch.ones(3), torch.tensor([float("inf"), float("-inf")])], False),
        ([torch.ones(3, dtype=torch.bfloat16), torch.tensor([[1.0, float("nan")]])], False),
        ([torch.tensor([1.0, complex(0, float("nan"))]), torch.ones(1)], False),
    ],
)
def test_sums_that_overflow_are_no_infinity(tensors: list[torch.Tensor], finite: bool) -> None:
    """The quick look may be wrong, of any types together; what it says is then looked into."""
    assert all_finite(tensors) is finite


def test_the_operation_its_line_and_its_values_are_named() -> None:
    """Not "the loss is NaN" but log, in this file, of a zero."""
    (finding,) = found(Program(NanAt(5), loader(), trainer={"max_steps": 12}))
    assert (finding.code, finding.step) == ("NAN102", 5)
    assert "test_nonfinite.py:" in finding.where
    assert "torch.log(loss * 0)" in finding.message
    assert "with a zero" in finding.message
    assert "Log of 0" in finding.causes[0]


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 4},
        {"precision": "bf16-mixed"},
        {"gradient_clip_val": 1.0},
    ],
    ids=str,
)
def test_it_is_found_in_every_way_to_train(options: dict) -> None:
    """Accumulation (the bad micro-batch is not the last), precision, clipping."""
    findings = found(Program(NanAt(5), loader(), trainer={"max_epochs": 1, **options}))
    assert findings[0].code == "NAN102"
    assert "log" in findings[0].message


def test_manual_optimization_with_raw_optimizers() -> None:
    """No hook of Lightning fires there; the operation is named all the same, before the update."""

    class Raw(NanAt):
        def __init__(self) -> None:
            super().__init__(5)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss}

    module = Raw()
    with pytest.raises(TrainingHalted, match=r"torch\.log"):
        found(Program(module, loader(), trainer={"max_epochs": 1}), halt_on="error")
    assert all(one.isfinite().all() for one in module.parameters())


def test_a_scaler_that_looks_for_its_scale_is_left_alone() -> None:
    """Infinite gradients in the first steps of half precision are how it works."""
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**28))
    assert (
        found(Program(Classifier(), loader(), trainer={"max_steps": 60, "plugins": [precision]}))
        == []
    )


@pytest.mark.parametrize(("interval", "count"), [(1, 1), (2000, 0)])
def test_a_scaler_that_overflows_again_and_again_is_found(interval: int, count: int) -> None:
    """Every other update is lost where the scale doubles after each good one."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=interval)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    program = Program(Classifier(), loader(), trainer={"max_steps": 90, "plugins": [precision]})
    assert [one.code for one in found(program)] == ["NAN106"] * count


def test_values_that_never_reach_the_loss_are_left_alone() -> None:
    """Infinite distances, masked logits and NaN in ignored targets."""

    class Masks(Classifier):
        def loss(self, x, y):
            logits = self(x)
            distance = torch.cdist(x, x).masked_fill(torch.eye(len(x), dtype=torch.bool), torch.inf)
            nearest = distance.argmin(1)
            target = torch.where(y > 0, y.float(), torch.nan)
            known = ~target.isnan()
            masked = logits.masked_fill(torch.arange(10) > 9, -torch.inf)
            return F.cross_entropy(masked[known], y[known]) + 0 * logits[nearest].mean()

    assert found(Program(Masks(), loader(), trainer={"max_steps": 40})) == []


def test_bad_updates_can_be_left_out(caplog) -> None:
    """skip_bad_steps keeps the weights finite, says so, and errs on the one beyond its limit."""
    module = NanAt(5)
    with caplog.at_level(logging.WARNING, "lightning_nndebug"):
        assert found(Program(module, loader(), trainer={"max_steps": 12}), skip_bad_steps=2) == []
    assert "left out the update of step 5" in caplog.text
    assert all(one.isfinite().all() for one in module.parameters())

    class Always(Classifier):
        def loss(self, x, y):
            return torch.log(super().loss(x, y) * 0)

    findings = found(Program(Always(), loader(), trainer={"max_steps": 12}), skip_bad_steps=2)
    assert [(one.code, one.step) for one in findings] == [("NAN102", 2)]


def test_the_rest_of_a_lost_run_is_a_consequence() -> None:
    """One finding, although every later step is NaN too."""
    findings = found(Program(NanAt(3), loader(), trainer={"max_steps": 30}))
    assert [one.code for one in findings] == ["NAN102"]


class Distances(pl.LightningModule):
    """Embeddings and the root of a distance, which has no slope at 0."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.places, self.head = nn.Embedding(20, 4), head

    def training_step(self, batch, batch_idx):
        a, b = batch
        distance = (self.places(a) - self.places(b)).square().sum(1).sqrt()
        return self.head(distance[:, None]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@pytest.mark.parametrize(
    ("head", "where"), [(nn.Identity(), "test_nonfinite.py"), (nn.Linear(1, 1), "places.weight")]
)
def test_a_gradient_that_nobody_has_looked_at_leaves_a_trace(head: nn.Module, where: str) -> None:
    """Embeddings alone are always looked at; else the optimizer's mean tells what spoilt them."""
    seed(0)
    a, b = torch.arange(400) % 20, (torch.arange(400) + 1) % 20
    b[100] = a[100]
    data = DataLoader(TensorDataset(a, b), batch_size=16)
    detector = NonFiniteDetector()
    fit(Program(Distances(head), data, trainer={"max_epochs": 1}), detector)
    assert [(one.code, where in one.where) for one in detector.findings] == [("NAN103", True)]


def test_a_kernel_that_cannot_be_traced_is_said_to_be_so() -> None:
    """If the step, run again, is finite, nothing is guessed."""

    class Fickle(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.calls = iter(range(1000))  # state that no sandbox can put back

        def loss(self, x, y):
            return super().loss(x, y) * (float("nan") if next(self.calls) == 4 else 1.0)

    (finding,) = found(Program(Fickle(), loader(), trainer={"max_steps": 6}))
    assert (finding.code, finding.where) == ("NAN102", "loss")
    assert "depends on state" in finding.message


def test_the_step_can_be_run_again_from_its_file(tmp_path: Path) -> None:
    """nan_repro.pt loads without unpickling anything and shows the same operation."""
    source = tmp_path / "steps.py"
    source.write_text(
        "import torch, lightning.pytorch as pl\n"
        "class Net(pl.LightningModule):\n"
        "    def __init__(self, width=4):\n"
        "        super().__init__()\n"
        "        self.save_hyperparameters()\n"
        "        self.net = torch.nn.Linear(3, width)\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        noise = torch.rand(())\n"
        "        return torch.log(self.net(batch['x']).mean() * 0 * noise)\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), 0.1)\n"
    )
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "import torch, lightning.pytorch as pl\n"
        "from steps import Net\n"
        "from lightning_nndebug import NonFiniteDetector\n"
        "data = torch.utils.data.DataLoader([{'x': torch.ones(3)}] * 8, batch_size=2)\n"
        "pl.Trainer(accelerator='cpu', max_steps=2, logger=False, enable_checkpointing=False,\n"
        "    callbacks=[NonFiniteDetector(halt_on='error')]).fit(Net(5), data)\n"
    )
    options = {
        "cwd": tmp_path,
        "capture_output": True,
        "text": True,
        "check": False,
        "timeout": 120,
    }
    first = subprocess.run([sys.executable, "-c", script], **options)
    assert "log in" in first.stderr, first.stderr
    assert torch.load(tmp_path / "nndebug" / FILE, weights_only=True)["batch"]["x"].shape == (2, 3)
    again = subprocess.run(
        [sys.executable, "nndebug/nan_repro.py"],
        **{**options, "env": {"PYTHONPATH": ".", "PATH": ""}},
    )
    assert "NAN102" in again.stderr, again.stderr
    assert "steps.py:9" in again.stderr


@pytest.mark.ddp
def test_the_guilty_rank_names_the_operation(tmp_path: Path) -> None:
    """NaN gradients are on both ranks; the one that made them has the finding."""
    program = Program(NanAt(3, rank=1), loader(), trainer={"max_steps": 6})
    with pytest.raises(Exception, match="NAN102") as halted:
        fit(
            program, NonFiniteDetector(halt_on="error"), strategy="ddp_fork", devices=2,
            default_root_dir=tmp_path,
        )  # fmt: skip
    assert "rank 1" in str(halted.value)
    assert "torch.log" in str(halted.value)


def run_injection(injection) -> NonFiniteDetector:
    seed(0)
    module, batch = injection.build()
    detector = NonFiniteDetector(repro_mb=0)
    steps = max(12, injection.batches)
    data = torch.utils.data.DataLoader([batch] * steps, batch_size=None)
    options = {"max_steps": steps, **injection.trainer}
    with contextlib.suppress(RuntimeError):  # some of them end in an error of their own
        fit(Program(module, data, trainer=options), detector)
    return detector


@pytest.mark.parametrize("name", INJECTIONS)
def test_every_injection_is_found_in_its_line_and_gets_advice_of_its_own(name: str) -> None:
    """The whole way through the Trainer: canary, replay, rule, advice."""
    injection = INJECTIONS[name]
    finding = run_injection(injection).findings[0]
    codes = {"input": {"NAN101"}, "parameter": {"NAN104"}, "buffer": {"NAN104"}}
    assert finding.code in codes.get(injection.kind, {"NAN102", "NAN103"})
    if finding.code in {"NAN102", "NAN103"} and injection.line:
        assert finding.where.endswith(f"injections.py:{injection.line}")
    assert "not defined for these values" not in finding.causes[0], finding


@pytest.mark.parametrize("name", HEALTHY)
def test_every_look_alike_is_left_alone(name: str) -> None:
    """Causal masks, infinite distances, CTC, a scaler's search."""
    assert run_injection(HEALTHY[name]).findings == []
