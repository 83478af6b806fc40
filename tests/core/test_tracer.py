"""The tracer names operation, line and module of what made a NaN, and nothing on a healthy step."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from program import Program, fit, seed

from core import injections
from core.injections import HEALTHY, INJECTIONS, Injection
from lightning_nndebug.core import tracer
from lightning_nndebug.core.sandbox import Sandbox, Snapshot, find_generators
from lightning_nndebug.core.tracer import Culprit, Trace, Tracer, trace


class Tracing(pl.Callback):
    """Traces the first bad step, or every step if told so."""

    def __init__(self, every_step: bool = False) -> None:
        self.every_step = every_step
        self.found: Trace | None = None
        self.exact = False
        self.steps = 0

    def on_train_start(self, trainer, pl_module):
        self.generators = find_generators(pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.snapshot = Snapshot.take(pl_module, batch, self.generators)
        self.batch_idx = batch_idx

    def on_before_backward(self, trainer, pl_module, loss):
        self.loss = loss.detach()
        if trainer.accumulate_grad_batches > 1 and not loss.isfinite():
            self.trace(trainer, pl_module)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if self.every_step or any(map(tracer.is_bad, [self.loss, *grads])):
            self.trace(trainer, pl_module)

    def trace(self, trainer, pl_module):
        if self.found is not None and self.found.culprit is not None:
            return
        self.steps += 1
        with Sandbox(trainer, pl_module, self.snapshot, self.generators) as sandbox:
            self.found = trace(sandbox, self.snapshot.batch, self.batch_idx)
        self.exact = self.found.replay.exact(self.loss)


def run(injection: Injection, *, every_step: bool = False) -> Tracing:
    seed()
    module, batch = injection.build()
    tracing = Tracing(every_step)
    # A list of lists would be taken for several loaders.
    batches = torch.utils.data.DataLoader([batch] * injection.batches, batch_size=None)
    options = {"max_epochs": 1, "logger": False, **injection.trainer}
    fit(Program(module, batches, trainer=options), tracing)
    return tracing


def culprit_of(injection: Injection) -> Culprit:
    tracing = run(injection)
    assert tracing.found is not None, "the injection gives no NaN"
    assert tracing.found.culprit is not None
    return tracing.found.culprit


@pytest.mark.parametrize("name", INJECTIONS)
def test_names_operation_line_and_module(name: str) -> None:
    """Every injected NaN is traced to its operation, line and module, in an exact replay."""
    expected = INJECTIONS[name]
    tracing = run(expected)
    assert tracing.found is not None, "the injection gives no NaN"
    culprit = tracing.found.culprit
    assert culprit is not None
    ops = expected.op if isinstance(expected.op, tuple) else (expected.op,)
    assert culprit.kind == expected.kind
    assert culprit.op in ops
    assert culprit.name == expected.name
    assert culprit.module == expected.submodule
    assert culprit.at is not None
    assert (Path(culprit.at.file).name, culprit.at.line) == ("injections.py", expected.line)
    if expected.contributor is not None:
        assert culprit.contributor is not None
        assert culprit.contributor.op == expected.contributor
    assert tracing.exact
    json.dumps(culprit.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", HEALTHY)
def test_is_silent_on_healthy_steps(name: str) -> None:
    """Infinities that are meant are nobody's fault."""
    tracing = run(HEALTHY[name], every_step=True)
    assert tracing.steps > 0
    assert tracing.found is not None
    assert tracing.found.culprit is None
    assert tracing.exact


# --- what a culprit says


def test_names_the_expression() -> None:
    """From Python 3.11 on, the very call is cut out of its line, also of several lines."""
    if sys.version_info < (3, 11):
        pytest.skip("no positions of instructions")
    frame = culprit_of(INJECTIONS["log_of_zero"]).at
    assert frame is not None
    assert frame.expression == "torch.log(p)"
    assert frame.code == "return -torch.log(p).mean()  # here"
    assert frame.function == "log_of_zero"
    assert frame.own
    frame = culprit_of(INJECTIONS["several_lines"]).at
    assert frame is not None
    assert frame.expression == "torch.exp( # here z.abs() * 1000, )"


def test_shows_the_values_at_the_first_bad_place() -> None:
    """Element-wise operations show what they got there."""
    culprit = culprit_of(INJECTIONS["division_by_zero"])
    assert culprit.first_bad is not None
    assert len(culprit.first_bad) == 2
    assert culprit.values["other"] == 0.0
    assert culprit.values["self"] < 0
    assert [one.name for one in culprit.inputs] == ["self", "other"]
    other = culprit.inputs[1]
    assert (other.dtype, other.shape, other.min, other.nan) == ("float32", (16, 4), 0.0, 0)
    assert other.zeros > 0
    assert culprit.outputs[0].inf + culprit.outputs[0].nan == other.zeros
    assert culprit_of(INJECTIONS["float32_matmul"]).values == {}
    # The first NaN, although infinities stand before it.
    both = culprit_of(INJECTIONS["mask_minus_its_maximum"]).values
    assert both == {"self": -math.inf, "other": -math.inf}


def test_finds_the_place_in_the_batch() -> None:
    """Of a bad batch: which tensor, which sample, which feature, and how many."""
    culprit = culprit_of(INJECTIONS["nan_in_the_batch"])
    assert culprit.first_bad == (3, 2)
    assert culprit.inputs[0].nan == 1
    assert culprit.reached == ("loss",)


def test_tells_overflow_from_undefined() -> None:
    """What is finite in float64 has overflowed its format; what is not, is undefined."""
    half = culprit_of(INJECTIONS["half_cast"]).overflow
    assert half is not None
    assert half.startswith("float16 ends at 6.55e+04; in float64 the result is finite, up to ")
    single = culprit_of(INJECTIONS["float32_square"]).overflow
    assert single is not None
    assert single.startswith("float32")
    assert culprit_of(INJECTIONS["sqrt_of_negative"]).overflow is None
    assert culprit_of(INJECTIONS["fully_masked_softmax"]).overflow is None


def test_shows_exponents_and_the_like() -> None:
    """Numeric arguments come by name."""
    assert culprit_of(INJECTIONS["power_of_negative_base"]).scalars == {"exponent": 1.5}


def test_names_the_node_and_the_gradients_it_reached() -> None:
    """In the backward pass the operation has a node, and no loss to be seen in."""
    culprit = culprit_of(INJECTIONS["where_trap_of_log"])
    assert culprit.node == "LogBackward0"
    assert culprit.reached[0] == "net.0.weight"
    assert culprit.kind == "backward"


def test_an_infinity_leads_to_its_consequence() -> None:
    """The operation that overflowed is to blame, and the one that made NaN of it is named."""
    culprit = culprit_of(INJECTIONS["exp_overflow"])
    assert culprit.op == "exp"
    assert culprit.contributor is not None
    assert culprit.contributor.op == "div"
    assert culprit_of(INJECTIONS["label_is_masked"]).contributor.op == "nll_loss_forward"


def test_user_code_inside_of_the_backward_comes_first() -> None:
    """Then the forward line that brought it there."""
    functions = [f.function for f in culprit_of(INJECTIONS["custom_backward"]).frames]
    assert functions[:2] == ["backward", "forward"]


def test_tensors_of_a_batch_may_share_memory() -> None:
    """Slices of one tensor are told apart."""

    def step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0]), batch[1])

    data = torch.zeros(16, 12)
    data[5, 9] = torch.nan
    module = injections.Step(step, net=torch.nn.Linear(8, 4))
    culprit = culprit_of(
        Injection(lambda: (module, (data[:, :8], data[:, 8:])), "", "", None, "", 0)
    )
    assert (culprit.name, culprit.first_bad) == ("batch[1]", (5, 1))


def test_sparse_gradients() -> None:
    """A gradient may be sparse."""

    def step(self, batch, batch_idx):
        return (self.table(batch).sum(1) * 0).sqrt().mean()

    module = injections.Step(step, table=torch.nn.Embedding(4, 8, sparse=True))
    culprit = culprit_of(Injection(lambda: (module, torch.arange(4)), "", "", None, "", 0))
    assert (culprit.op, culprit.node, culprit.reached) == (
        "div",
        "SqrtBackward0",
        ("table.weight",),
    )


def test_higher_order_operators_come_as_one() -> None:
    """Their inside is not followed."""
    if not hasattr(
        torch.utils._python_dispatch.TorchDispatchMode, "supports_higher_order_operators"
    ):
        pytest.skip("this PyTorch does not run them under a dispatch mode")

    def step(self, batch, batch_idx):
        z = self.net(batch[0])
        return (
            torch.cond(torch.tensor(True), torch.log, torch.exp, (torch.relu(z.detach()),)).mean()
            + z.mean()
        )

    module = injections.Step(step, net=torch.nn.Linear(8, 4))
    culprit = culprit_of(Injection(lambda: (module, injections.labelled()), "", "", None, "", 0))
    assert culprit.op == "cond"


def test_leaves_no_hook_and_no_mode_behind() -> None:
    """Neither after a trace nor after a step that raises."""
    before = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    net = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="own"), Tracer(net):
        raise ValueError("own")
    culprit_of(INJECTIONS["in_a_submodule"])
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()) == before


# --- without private functions of PyTorch


@pytest.mark.parametrize("missing", ["_current_autograd_node", "_get_sequence_nr"])
def test_names_the_forward_line_without_private_functions(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anomaly mode knows it too; the culprit says what it may lack."""
    owner = torch._C if missing == "_current_autograd_node" else torch.autograd
    monkeypatch.delattr(owner, missing)
    for name in ("where_trap_of_log", "pairwise_distances", "custom_backward", "log_of_zero"):
        expected = INJECTIONS[name]
        culprit = culprit_of(expected)
        assert culprit.at is not None
        assert (culprit.op, culprit.kind, culprit.at.line) == (
            expected.op, expected.kind, expected.line
        )  # fmt: skip
        assert culprit.degraded is not None
    assert culprit_of(INJECTIONS["checkpoint_backward"]).op == "div"


def test_private_functions_may_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of another signature counts as missing."""
    monkeypatch.setattr(torch._C, "_current_autograd_node", lambda graph: None)
    assert culprit_of(INJECTIONS["where_trap_of_log"]).degraded is not None
