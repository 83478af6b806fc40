"""Modes: what counts as wrong, who is named for it, and that looking changes nothing."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import pickle
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from cases._parts import Classifier, loader
from healthy import modes_traps
from lightning.pytorch.callbacks import BackboneFinetuning
from program import Program, digits, fit, seed
from torch import nn
from torch.nn import functional as F

from lightning_nndebug import Detector, InputDetector, ModeDetector, Severity, rule
from lightning_nndebug.core.measurements.both_modes import BothModes, _Shares
from lightning_nndebug.core.measurements.dropouts import ActiveDropouts, DropoutCall, _is_explicit
from lightning_nndebug.core.measurements.graphs import LostGraph
from lightning_nndebug.core.measurements.modes import Modes, Stray
from lightning_nndebug.core.measurements.norms import Drift, NormDrift
from lightning_nndebug.core.mode_calls import ModeCalls
from lightning_nndebug.core.mode_effects import can_thaw, effect, reads_mode
from lightning_nndebug.core.source import Line, nearest_line, statement

TRAIN = nn.Module.train


# -- the rules, on measurements made by hand


def stray(**values) -> Stray:
    defaults = {
        "name": "net",
        "kind": "Net",
        "parts": {"Dropout": 2},
        "effects": frozenset({"noise"}),
    }
    return Stray(**{**defaults, **values})


def found(rule, measurement) -> list[str]:
    return [one.where for one in rule(measurement)]


def in_eval(*strays: Stray) -> list[str]:
    return found(ModeDetector().eval_while_training, Modes(True, strays))


def in_train(*strays: Stray) -> list[str]:
    return found(ModeDetector().train_while_validating, Modes(False, strays))


def at(function: str) -> Line:
    return Line("model.py", 7, function, "self.net.eval()")


def test_a_part_that_trains_in_eval_mode_is_named():
    """The finding names the part, counts what is in it, and says who called eval()."""
    (one,) = ModeDetector().eval_while_training(
        Modes(True, (stray(since="call", line=at("training_step")),))
    )
    assert one.where == "net"
    assert one.measured == "2 Dropout in eval mode while it trains"
    assert "model.py:7 in training_step" in one.causes[0]


def test_the_whole_module_is_named_by_its_class():
    """The LightningModule itself has no name, so its class stands for it."""
    assert in_eval(stray(name="")) == ["Net"]


@pytest.mark.parametrize(
    "meant",
    [
        {"is_kept": True},
        {"effects": frozenset({"norm"}), "is_leaf": True},
        {"effects": frozenset({"norm"}), "is_partly_frozen": True},
        {"since": "call", "line": at("on_train_epoch_start")},
    ],
)
def test_eval_mode_that_is_meant_is_no_finding(meant):
    """Kept by an overridden train(), a norm by itself, half frozen, or put so as training begins."""
    assert in_eval(stray(**meant)) == []


def test_layers_with_parameters_are_not_picked_one_by_one():
    """Two recurrent nets in eval mode are two findings."""
    nets = [stray(name=name, is_leaf=True, parameters=8) for name in ("encoder", "decoder")]
    assert in_eval(*nets) == ["encoder", "decoder"]


def test_a_norm_without_statistics_is_not_kept_in_eval_mode_on_purpose():
    """There is nothing to keep, unless its scale and shift are frozen as well."""
    norms = {"effects": frozenset({"norm"}), "is_kept": True, "is_fresh": True}
    strays = (stray(name="net.1", **norms), stray(name="net.4", **norms))
    (one,) = ModeDetector().eval_while_training(Modes(True, strays))
    assert (one.where, one.severity) == ("net.1", Severity.WARNING)
    assert "and 1 more" in one.measured
    assert in_eval(stray(**norms, is_partly_frozen=True)) == []


def test_nobody_means_to_train_everything_in_eval_mode():
    """A hook that puts all there is into eval mode is no intention."""
    call = {"since": "call", "line": at("on_train_epoch_start")}
    assert in_eval(stray(**call, is_whole=True)) == ["net"]


def test_one_dropout_may_be_an_accident_and_several_are_not():
    """Whoever puts leaf after leaf into eval mode does so on purpose."""
    first, second = stray(name="net.1", is_leaf=True), stray(name="net.4", is_leaf=True)
    assert in_eval(first) == ["net.1"]
    assert in_eval(first, second) == []


def test_modes_of_validation_are_no_matter_of_training_and_conversely():
    """Each rule judges its own phase."""
    assert found(ModeDetector().eval_while_training, Modes(False, (stray(),))) == []
    assert found(ModeDetector().train_while_validating, Modes(True, (stray(),))) == []


def test_a_part_that_is_validated_in_train_mode_is_named():
    """A module with modules in it is not put into train mode for Monte Carlo dropout."""
    assert in_train(stray()) == ["net"]


@pytest.mark.parametrize(
    "meant", [{"is_leaf": True}, {"is_kept": True}, {"effects": frozenset({"code"})}]
)
def test_train_mode_in_validation_that_is_meant_is_no_finding(meant):
    """Dropout modules alone, an overridden train(), or a module that only chooses its output."""
    assert in_train(stray(**meant)) == []


def test_running_statistics_may_wobble_but_not_drift():
    """Evidence begins above the limit."""
    parts = (Drift("stem", 1, 0.19), Drift("backbone", 20, 0.21))
    assert found(ModeDetector().drifting_frozen_norm, NormDrift(parts)) == ["backbone"]


def test_running_statistics_that_were_to_rest_may_not_even_wobble():
    """Somebody has put these norms into eval mode, and somebody else took them out of it."""
    parts = (Drift("stem", 1, 0.0, is_roused=True), Drift("backbone", 20, 0.05, is_roused=True))
    assert found(ModeDetector().drifting_frozen_norm, NormDrift(parts)) == ["backbone"]


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (LostGraph(inference=True), 1),
        (LostGraph(inference=False, outside=True, on=4), 1),
        (LostGraph(inference=False, off=4), 1),
        (LostGraph(inference=False, off=4, on=1), 0),  # a frozen part, and a detached loss
        (LostGraph(inference=False, off=4, on=4, penalty=True), 1),  # which has its gradient
        (LostGraph(inference=False, on=4), 0),
        (LostGraph(inference=False), 0),
    ],
)
def test_gradients_are_off_only_if_nothing_else_explains_the_loss(lost, expected):
    """A detached loss is another illness."""
    assert len(list(ModeDetector().grad_disabled(lost))) == expected


def both(**values) -> BothModes:
    defaults = {
        "train": 0.5, "eval": 0.6, "eval_norms": 0.6, "initial": 2.5, "spread": 0.1,
        "norms": ("BatchNorm2d",), "noises": ("Dropout",), "momentum": 0.1, "batches": 400,
    }  # fmt: skip
    return BothModes(**{**defaults, **values})


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ({}, 0.05),
        ({"eval": 0.3}, -0.1),
        ({"eval": 2.5}, 1.0),
        ({"initial": 0.5, "eval": 0.8}, 1.0),  # no progress yet: three spreads are the measure
        ({"initial": 0.5, "spread": 0.0, "eval": 0.8}, 0.0),
        ({"eval": float("nan")}, float("nan")),
    ],
)
def test_the_share_lost_is_measured_by_what_was_learned(values, share):
    """1 is a net that knows nothing, and dropout makes it negative."""
    assert ModeDetector().share_lost_in_eval(both(**values)) == pytest.approx(share, nan_ok=True)


def test_the_kind_of_module_that_loses_it_is_named():
    """Norms, if they alone lose half of it; else dropout."""
    rule = ModeDetector().train_eval_disagreement
    assert found(rule, both()) == []
    assert found(rule, both(eval=2.4, eval_norms=2.3)) == ["BatchNorm2d"]
    assert found(rule, both(eval=2.4, eval_norms=0.5)) == ["Dropout"]
    assert found(rule, both(eval=float("nan"))) == []


def test_dropout_by_hand_that_scales_nothing_adds_up():
    """A tenth more is no matter; three halves are eight times as much."""
    rule = ModeDetector().train_eval_disagreement
    assert found(rule, both(unscaled={"a": 0.9})) == []
    (one,) = rule(both(unscaled={"a": 0.5, "b": 0.5, "c": 0.5}))
    assert (one.where, one.measured) == ("a", 0.125)


class HandMade(nn.Module):
    """Drops units, or whole rows, and scales what is left, or not."""

    def __init__(self, *, rows: bool = False, scales: bool = False) -> None:
        super().__init__()
        self.p, self.rows, self.scales = 0.5, rows, scales

    def forward(self, x):
        if not self.training:
            return x
        x = x * (torch.rand(x[:, :1].shape if self.rows else x.shape) > self.p)
        return x / (1 - self.p) if self.scales else x


@pytest.mark.parametrize(
    ("drop", "is_first", "told"),
    [
        (HandMade(), False, True),
        (HandMade(scales=True), False, False),
        (HandMade(rows=True), False, False),
        (HandMade(), True, False),
    ],
)
def test_units_that_are_dropped_unscaled_are_told(drop, is_first, told):
    """Whole rows may be left out, and what comes before the first layer is data to be corrupted."""
    layers = [nn.Linear(64, 64), nn.Linear(64, 10)]
    layers.insert(0 if is_first else 1, drop)
    module = Classifier(nn.Sequential(*layers))
    with _Shares(module) as shares:
        for mode in (True, False):
            drop.training = mode
            module(digits()[0][:64])
    assert list(shares.unscaled()) == [f"net.{layers.index(drop)}"] * told


def test_a_momentum_that_lags_is_told():
    """The cause has numbers in it."""
    (one,) = ModeDetector().train_eval_disagreement(
        both(eval=2.4, eval_norms=2.4, momentum=0.001, batches=100)
    )
    assert one.causes == ("momentum 0.001 averages over some 1000 batches, and there were 100",)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, ["BatchNorm2d"]),
        ({"settling": 1.5}, []),
        ({"settling": math.inf}, []),
        ({"train": 0.9}, []),  # much is lost, and still the loss is not twice as large
        ({"eval": 0.3, "eval_norms": 0.3, "train": 0.1}, []),  # little of what was learned
        ({"eval_norms": 0.6}, []),  # it is dropout that makes the difference
    ],
)
def test_statistics_that_cannot_settle_need_to_cost_less(values, told):
    """It will not get better before the run is over."""
    lagging = {"eval": 1.1, "eval_norms": 1.1, "settling": 0.2, "momentum": 0.001, **values}
    assert found(ModeDetector().train_eval_disagreement, both(**lagging)) == told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, []),
        ({"settling": 0.5}, ["BatchNorm2d"]),
        ({"eval": 4.6}, ["BatchNorm2d"]),  # it knows nothing, as before
        ({"eval": 2.4}, ["BatchNorm2d"]),
    ],
)
def test_statistics_that_catch_up_are_no_fault(values, told):
    """While the learning rate is at its height they run behind, and less so at the next look."""
    detector, start = ModeDetector(), {"eval": 3.0, "eval_norms": 3.0, "settling": 15.0}
    assert found(detector.train_eval_disagreement, both(**start)) == ["BatchNorm2d"]
    later = {**start, "eval": 1.7, **values}
    assert found(detector.train_eval_disagreement, both(**later)) == told
    still = {**later, "settling": 15.0}
    assert found(detector.train_eval_disagreement, both(**still)) == ["BatchNorm2d"]


@pytest.mark.parametrize(
    ("momentums", "settling"),
    [((0.001, 0.01), 0.6), ((0.001, None), math.inf), ((0.1, 0.1), 6.0)],
)
def test_the_quickest_norm_says_whether_there_is_time_to_settle(momentums, settling):
    """A norm whose momentum is None takes the mean over all batches, and has no time constant."""
    seen = []

    class Looks(Detector):
        """Looks at both modes."""

        @rule("BEN214", severity=Severity.INFO)
        def look(self, both: BothModes):
            """Looks."""
            seen.append(both.settling)
            yield from ()

    norms = [nn.BatchNorm1d(64, momentum=one) for one in momentums]
    net = nn.Sequential(*norms, nn.Linear(64, 10))
    fit(Program(Classifier(net), loader(), trainer={"max_steps": 60}), Looks())
    assert seen
    assert seen == pytest.approx([settling] * len(seen))


@pytest.mark.parametrize("is_explicit", [True, False])
@pytest.mark.parametrize("is_repeated", [True, False])
def test_dropout_that_says_training_and_is_repeated_is_meant(is_explicit, is_repeated):
    """Monte Carlo dropout writes training=True, and takes the mean of several passes."""
    call = DropoutCall(at("forward"), "net", "Net", is_explicit, False, is_repeated)
    told = found(ModeDetector().functional_dropout, ActiveDropouts((call,)))
    assert bool(told) is not (is_explicit and is_repeated)


@pytest.mark.parametrize(("passes", "told"), [((1, 1), 1), ((1, 2), 0), ((1, 0), 0), ((8, 8), 0)])
def test_dropouts_that_a_batch_goes_through_once_were_left_on(passes, told):
    """Several passes are Monte Carlo dropout, and so may be those that nobody has counted."""
    strays = tuple(
        Stray(f"net.{i}", "Dropout", {"Dropout": 1}, frozenset({"noise"}), is_leaf=True, passes=one)
        for i, one in enumerate(passes)
    )
    detector = ModeDetector()
    assert len(found(detector.train_while_validating, Modes(False, strays))) == told


# -- what the mode changes


class Functional(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=self.training)


class WithRate(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.attention_dropout = rate

    def forward(self, x):
        p = self.attention_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(x, x, x, dropout_p=p)


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(x) if self.training else x


class Checkpointed(nn.Module):
    gradient_checkpointing = False

    def forward(self, x):
        return x if self.gradient_checkpointing and self.training else x + 0


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x) if self.training else x


class HandNorm(nn.Module):
    """Keeps running means, as a batch norm does, or none."""

    def __init__(self, *, keeps: bool = True) -> None:
        super().__init__()
        if keeps:
            self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        return x - (x.mean() if self.training else getattr(self, "mean", 0.0))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Dropout(0.1), "noise"),
        (nn.Dropout(0.0), None),
        (nn.BatchNorm1d(4), "norm"),
        (nn.BatchNorm1d(4, track_running_stats=False), None),
        (nn.InstanceNorm1d(4), None),
        (nn.LSTM(4, 4, num_layers=2, dropout=0.1), "noise"),
        (nn.LSTM(4, 4), None),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "noise"),
        (nn.MultiheadAttention(4, 2), None),
        (nn.RReLU(), "noise"),
        (nn.TransformerEncoderLayer(4, 2), None),  # its dropouts are modules of their own
        (nn.Linear(4, 4), None),
        (Functional(), "noise"),
        (WithRate(0.1), "noise"),
        (WithRate(0.0), None),
        (Holder(), None),
        (Checkpointed(), None),
        (Noisy(), "code"),
        (HandNorm(), "norm"),
        (HandNorm(keeps=False), "code"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_what_the_mode_changes_is_read_from_the_module(module, expected):
    """By its class where it is known, else by the code behind ``self.training``."""
    assert effect(module) == expected
    assert expected is None or reads_mode(type(module))


class Frozen(nn.Module):
    """Freezes its parameters, before the run and in it."""

    def __init__(self):
        super().__init__()
        for parameter in self.parameters():
            parameter.requires_grad = True

    def on_fit_start(self):
        for parameter in self.parameters():
            parameter.requires_grad = False


class Unfrozen(Frozen):
    """Calls what says so."""

    def on_train_epoch_start(self):
        self.net.unfreeze()


class FreedByHand(Frozen):
    """Sets what says so."""

    def on_train_epoch_start(self):
        [parameter.requires_grad_(True) for parameter in self.parameters()]


class Switched(Frozen):
    """Has a method for both."""

    def learn(self, how):
        self.requires_grad_(how)


@pytest.mark.parametrize("kind", [Unfrozen, FreedByHand, Switched, BackboneFinetuning])
def test_code_that_frees_parameters_in_the_run_is_known(kind):
    """Whether it does so by a method, by hand, or by Lightning's own callback."""
    assert can_thaw(kind)


@pytest.mark.parametrize("kind", [Frozen, Classifier, nn.Linear, InputDetector])
def test_to_freeze_is_not_to_free(kind):
    """Nor is what is done before the run."""
    assert not can_thaw(kind)


# -- who called


def test_the_outermost_call_is_recorded_with_the_line_of_the_user():
    """Calls on submodules are part of it."""
    net, calls = nn.Sequential(nn.Sequential(nn.Dropout())), ModeCalls()
    calls.start()
    net.eval()
    calls.stop()
    call = calls.last([net], mode=False)
    assert call is not None
    assert call.line is not None
    assert Path(call.line.file) == Path(__file__)
    assert call.line.function == "test_the_outermost_call_is_recorded_with_the_line_of_the_user"
    assert "net.eval()" in call.line.text
    assert calls.last([net[0], net[0][0]], mode=False) is None
    assert calls.last([net], mode=True) is None
    assert calls.last([net], mode=False, since=call.time + 1) is None


def test_an_overridden_train_is_not_the_caller():
    """The line outside of it is."""

    class Overridden(nn.Module):
        def train(self, mode=True):
            return super().train(mode)

    net, calls = Overridden(), ModeCalls()
    calls.start()
    net.eval()
    calls.stop()
    call = calls.last([net], mode=False)
    assert call is not None
    assert call.line is not None
    assert call.line.function == "test_an_overridden_train_is_not_the_caller"


def test_train_is_wrapped_only_while_somebody_records():
    """And unwrapped in whatever order they stop."""
    first, second = ModeCalls(), ModeCalls()
    for one in (first, second):
        one.start()
    assert nn.Module.train is not TRAIN
    first.stop()
    first.stop()
    assert nn.Module.train is not TRAIN
    second.stop()
    assert nn.Module.train is TRAIN


def test_the_wrapper_of_somebody_else_is_left_alone(monkeypatch):
    """If it came after ours, ours stays below it, and does nothing."""
    calls = ModeCalls()
    calls.start()
    ours = nn.Module.train

    def theirs(self, mode=True):
        return ours(self, mode)

    nn.Module.train = theirs
    try:
        calls.stop()
        assert nn.Module.train is theirs
        assert not nn.Linear(2, 2).eval().training
    finally:
        nn.Module.train = TRAIN


def test_modules_pickle_copy_and_compile_while_it_is_wrapped():
    """The wrapper has the name of what it wraps, and dynamo sees through it."""
    calls = ModeCalls()
    calls.start()
    try:
        net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        assert not pickle.loads(pickle.dumps(net.eval())).training
        assert pickle.loads(pickle.dumps(net.train)) is not None
        assert not copy.deepcopy(net).training

        def step(x):
            net.eval()
            return net(x)

        compiled = torch.compile(step, backend="eager", fullgraph=True)
        assert torch.equal(compiled(torch.ones(1, 2)), net(torch.ones(1, 2)))
    finally:
        calls.stop()
        torch._dynamo.reset()


def test_the_nearest_line_is_the_users():
    """Frames of torch, Lightning and Python are skipped."""
    lines: list[Line | None] = []

    class Net(nn.Module):
        def forward(self, x):
            return sorted(x, key=self.key)

        def key(self, x):
            lines.append(nearest_line(sys._getframe().f_back))
            return x

    Net()([2, 1])
    assert lines[0] is not None
    assert lines[0].function == "forward"
    assert str(lines[0]).endswith(f"test_modes.py:{lines[0].number} in forward")


def test_a_statement_is_read_to_its_end(tmp_path):
    """Where Python does not tell which call runs, the whole statement has to do."""
    file = tmp_path / "model.py"
    file.write_text("x = dropout(\n    x, 0.5,\n    training=True,\n)\ny = 1\n")
    assert statement(str(file), 1) == "x = dropout( x, 0.5, training=True, )"
    assert statement(str(file), 2) == "x, 0.5,"
    assert statement(str(file), 5) == "y = 1"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("F.dropout(x, 0.5)", False),
        ("F.dropout(x, p=0.5)", False),
        ("F.dropout(x, 0.5, True)", True),
        ("F.dropout(x, 0.5, training=True)", True),
        ("dropout(x, training=always)", True),
        ("torch.dropout(x, 0.5, train=True)", True),
        ("return F.dropout(x, 0.5, True)", True),
        ("F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)", False),
        ("F.dropout(x, training=True) if", True),
    ],
)
def test_a_call_of_dropout_may_say_that_it_is_meant(call, expected):
    """By keyword or by position."""
    assert _is_explicit(call) is expected


# -- whole runs


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10)
    )


class Validated(Classifier):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(*batch))


def findings(module: pl.LightningModule, **trainer) -> list[tuple[str, str]]:
    """Fits for two epochs, through a crash if there is one; returns the codes and places."""
    seed()
    detector = ModeDetector()
    program = Program(module, loader(), loader(shuffle=False), trainer={"max_epochs": 2, **trainer})
    with contextlib.suppress(RuntimeError):
        fit(program, detector)
    assert nn.Module.train is TRAIN
    assert torch._C._len_torch_dispatch_stack() == torch._C._len_torch_function_stack() == 0
    assert not any(one._forward_pre_hooks for one in module.modules())
    return [(one.code, one.where) for one in detector.findings]


class EvalInStep(Validated):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch_idx == 5:
            self.net.eval()
        return loss


class NotRestored(Validated):
    def on_validation_model_train(self): ...


class NeverInEval(Validated):
    def on_validation_model_eval(self): ...


class TrainInValidation(Validated):
    def validation_step(self, batch, batch_idx):
        self.net.train()
        super().validation_step(batch, batch_idx)


class Copied(Validated):
    """Validates a copy that is no part of itself, and so stays in whichever mode it was made."""

    def __init__(self, copy: nn.Module) -> None:
        super().__init__(net())
        self.copies = [copy]

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.copies[0](batch[0]), batch[1]))


class EvalByCallback(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.eval()


class ByHand(Validated):
    def __init__(self) -> None:
        super().__init__(net().eval())
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.loss(*batch).backward()
        optimizer.step()


class Parts(Validated):
    def __init__(self) -> None:
        super().__init__(nn.Linear(32, 10))
        self.backbone = net()[:4].eval()

    def forward(self, x):
        return self.net(self.backbone(x))


def lone_dropout() -> Validated:
    module = Validated(net())
    module.net[3].eval()
    return module


def lone_norm(*, seen: bool = False) -> Validated:
    module = Validated(net())
    if seen:
        module.net(digits()[0])
    module.net[1].eval()
    return module


@pytest.mark.parametrize(
    ("module", "trainer", "expected"),
    [
        (lambda: EvalInStep(net()), {}, [("MOD101", "net")]),
        (lambda: EvalInStep(net()), {"accumulate_grad_batches": 4}, [("MOD101", "net")]),
        (lambda: NotRestored(net()), {}, [("MOD101", "NotRestored")]),
        (lambda: Validated(net()), {"callbacks": [EvalByCallback()]}, [("MOD101", "Validated")]),
        (lambda: Validated(net().eval()), {}, [("MOD101", "net")]),
        (ByHand, {}, [("MOD101", "net")]),
        (Parts, {}, [("MOD101", "backbone")]),
        (lone_dropout, {}, [("MOD101", "net.3")]),
        (lone_norm, {}, [("MOD101", "net.1")]),
        (lambda: lone_norm(seen=True), {}, []),
        (lambda: NeverInEval(net()), {}, [("MOD102", "NeverInEval")]),
        (lambda: TrainInValidation(net()), {}, [("MOD102", "net")]),
        (lambda: Copied(net().requires_grad_(False)), {}, [("MOD102", "copies[0]")]),
        (lambda: Copied(net().requires_grad_(False).eval()), {}, []),
        (lambda: Validated(net()), {}, []),
    ],
)
def test_whoever_changes_the_mode_is_found(module, trainer, expected):
    """In the step, in validation, by a callback, before the run; in any kind of optimization."""
    assert findings(module(), **trainer) == expected


class FreshDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        return self.out(nn.Dropout(0.5)(self.hidden(x)))


class ListedDropout(FreshDropout):
    def __init__(self) -> None:
        super().__init__()
        self.dropouts = [nn.Dropout(0.5)]

    def forward(self, x):
        return self.out(self.dropouts[0](self.hidden(x)))


class AttentionDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.out = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, x):
        h = self.rows(x.view(-1, 8, 8))
        return self.out(F.scaled_dot_product_attention(h, h, h, dropout_p=0.1).mean(1))


class PositionalDropout(AttentionDropout):
    def forward(self, x):
        return self.out(F.dropout(self.rows(x.view(-1, 8, 8)).mean(1), 0.1, True))


@pytest.mark.parametrize(
    ("module", "expected"),
    [(FreshDropout(), 1), (ListedDropout(), 1), (AttentionDropout(), 1), (PositionalDropout(), 1)],
)
def test_dropout_that_no_mode_reaches_is_found(module, expected):
    """Made in forward, kept in a list, inside of attention; or told to train, with a single pass."""
    found = findings(Validated(module))
    assert [code for code, _ in found] == ["MOD106"] * expected
    assert all("test_modes.py" in where and where.endswith("in forward") for _, where in found)


class NoGrad(Validated):
    training_step = torch.no_grad()(Validated.training_step)


class InferenceMode(Validated):
    training_step = torch.inference_mode()(Validated.training_step)


class TurnedOff(Validated):
    def training_step(self, batch, batch_idx):
        torch.set_grad_enabled(False)
        return super().training_step(batch, batch_idx)


class TurnedOffOutside(ByHand):
    def on_train_batch_start(self, batch, batch_idx):
        torch.set_grad_enabled(False)

    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss(*batch))


class Detached(Validated):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx).detach()


class PenaltyAlone(Validated):
    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            loss = super().training_step(batch, batch_idx)
        return loss + 1e-4 * sum(one.pow(2).sum() for one in self.parameters())


class Shrinking(Validated):
    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.log("outputs", self(batch[0]).mean())
        return sum(one.abs().sum() for one in self.parameters())


class SomeLeftOut(Validated):
    def training_step(self, batch, batch_idx):
        if batch_idx % 3:
            with torch.no_grad():
                super().training_step(batch, batch_idx)
            return torch.zeros((), requires_grad=True)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (NoGrad, ["MOD104"]),
        (InferenceMode, ["MOD104"]),
        (TurnedOff, ["MOD104"]),
        (TurnedOffOutside, ["MOD104"]),
        (Detached, []),
        (SomeLeftOut, []),
        (PenaltyAlone, ["MOD104"]),
        (Shrinking, []),  # nothing else was asked for
    ],
)
def test_gradients_that_are_off_are_found_before_the_backward_raises(kind, expected):
    """The finding survives the crash, and a detached loss is not mistaken for it."""
    try:
        found = findings(kind())
    finally:
        torch.set_grad_enabled(True)
    assert [code for code, _ in found] == expected


def test_a_fit_in_inference_mode_is_found():
    """It fails in its first backward."""
    with torch.inference_mode():
        assert findings(Validated(net())) == [("MOD104", "training_step")]


class Encoder(nn.Module):
    """Takes PyTorch's fast path for transformers in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.rows, self.encoder, self.out = (
            nn.Linear(8, 16),
            nn.TransformerEncoder(layer, 1),
            nn.Linear(16, 10),
        )

    def forward(self, x):
        return self.out(self.encoder(self.rows(x.view(-1, 8, 8))).mean(1))


@pytest.mark.parametrize(
    "build",
    [
        net,
        Encoder,
        lambda: nn.Sequential(net()[:4].eval().requires_grad_(False), nn.Linear(32, 10)),
    ],
)
def test_looking_changes_nothing(build):
    """Weights, statistics, modes, scores and random numbers are the same bits as without us."""
    runs = []
    for callbacks in ([ModeDetector()], []):
        seed()
        module = Validated(build())
        trainer = fit(
            Program(module, loader(), loader(shuffle=False), trainer={"max_epochs": 3}), *callbacks
        )
        modes = [one.training for one in module.modules()]
        score = {k: v for k, v in trainer.callback_metrics.items() if "nndebug" not in k}
        runs.append((module.state_dict(), modes, score, torch.get_rng_state()))
    (weights, modes, score, rng), (weights_, modes_, score_, rng_) = runs
    assert all(torch.equal(weights[key], weights_[key]) for key in weights_)
    assert modes == modes_
    assert {k: v.item() for k, v in score.items()} == {k: v.item() for k, v in score_.items()}
    assert torch.equal(rng, rng_)


class Crashes(Validated):
    def __init__(self, where: str) -> None:
        super().__init__(net())
        self.where = where

    def training_step(self, batch, batch_idx):
        if self.where == "training" and batch_idx == 3:
            raise RuntimeError
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        if self.where == "validation" and batch_idx == 1:
            raise RuntimeError
        super().validation_step(batch, batch_idx)


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_crash_leaves_nothing_behind(where):
    """No wrapper, no torch mode, no hook; ``findings`` looks for them."""
    assert findings(Crashes(where)) == []


def test_a_part_that_is_unfrozen_in_eval_mode_is_found_later():
    """Parameters may be freed without any mode changing."""

    class Unfrozen(Validated):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.net[:4].requires_grad_(True)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    body = net()[:4].eval().requires_grad_(False)
    module = Unfrozen(nn.Sequential(body, nn.Linear(32, 10)))
    assert findings(module, max_epochs=4) == [("MOD101", "net.0")]


def test_a_teacher_in_train_mode_drifts_and_an_averaged_one_does_not():
    """Weights that somebody moves by hand are not frozen."""

    class Teacher(Validated):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.rate = rate
            self.teacher = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32)).requires_grad_(
                False
            )
            self.teacher(0.5 * digits()[0] - 1)

        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.teacher(batch[0])
                self.teacher[0].weight.data.mul_(1 - self.rate)
            return super().training_step(batch, batch_idx)

    assert findings(Teacher(0.0), max_epochs=3) == [("MOD103", "teacher")]
    assert findings(Teacher(1e-3), max_epochs=3) == []


@pytest.mark.parametrize(("momentum", "found"), [(0.9, True), (0.1, False)])
def test_statistics_that_hold_no_more_than_the_last_batch_are_noise(momentum, found):
    """In some frameworks, 0.9 is what 0.1 is here; in a large batch, that does no harm."""
    seed()
    detector = ModeDetector()
    layers = [nn.Linear(64, 32), nn.BatchNorm1d(32, momentum=momentum), nn.ReLU()]
    module = Validated(nn.Sequential(*layers, nn.Linear(32, 10)))
    fit(Program(module, loader(batch_size=8), trainer={"max_epochs": 1}), detector)
    assert [one.code for one in detector.findings] == ["MOD105"] * found
    measured = both(wobble=0.19), both(wobble=0.21)
    detector = ModeDetector()
    assert [len(list(detector.train_eval_disagreement(one))) for one in measured] == [0, 1]


class Roused(Validated):
    """A frozen body in eval mode, until somebody calls train() on the whole."""

    def __init__(self, *, calls: bool, keeps: bool = False, rests: bool = True):
        body = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
        for _ in range(50):
            body(digits()[0])  # the very data that it will see again
        super().__init__(nn.Sequential(body.requires_grad_(False), nn.Linear(32, 10)))
        self.calls, self.keeps = calls, keeps
        body.train(not rests)

    def on_train_epoch_start(self):
        if self.calls:
            self.train()
        if self.keeps:
            self.net[0].eval()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"calls": True}, [("MOD103", "net.0")]),
        ({"calls": True, "keeps": True}, []),
        ({"calls": False}, []),
        ({"calls": True, "rests": False}, []),
    ],
)
def test_train_on_the_whole_rouses_what_was_put_into_eval_mode(options, expected):
    """Its statistics move then, if only a little; and they were not to."""
    assert findings(Roused(**options), max_epochs=3) == expected


def test_a_frozen_norm_behind_a_trained_layer_may_follow_it():
    """What it normalizes is being learned, so its statistics have to move."""
    body = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
    body(0.5 * digits()[0] - 1)
    stack = nn.Sequential(nn.Linear(64, 64), body.requires_grad_(False), nn.Linear(32, 10))
    assert findings(Validated(stack), max_epochs=3) == []


@pytest.mark.parametrize(
    "name", ["norm_eval", "toggled_in_every_step", "alternating_nets", "eval_without_consequences"]
)
def test_modes_that_are_meant_are_silent(name):
    """See ``healthy/modes_traps.py`` for more of them."""
    seed()
    detector = ModeDetector()
    fit(getattr(modes_traps, name)(), detector)
    assert detector.findings == []


class Uncertain(Validated):
    """Switches its dropouts on before it validates, and goes through a batch so many times."""

    def __init__(self, passes: int) -> None:
        super().__init__(net())
        self.passes = passes

    def on_validation_epoch_start(self):
        self.net[3].train()

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = torch.stack([self(x) for _ in range(self.passes)]).mean(0)
        self.log("val_loss", F.cross_entropy(logits, y))


@pytest.mark.parametrize(("passes", "told"), [(1, [("MOD102", "net.3")]), (4, [])])
def test_dropout_is_on_in_validation_to_be_averaged_over(passes, told):
    """Whoever wants samples of it, goes through the batch several times."""
    assert findings(Uncertain(passes)) == told


class Keeping(Validated):
    """Keeps its first layers in eval mode, by a train() of its own."""

    def __init__(self) -> None:
        super().__init__(nn.ModuleList([net()[:2], net()[2:]]))

    def forward(self, x):
        return self.net[1](self.net[0](x))

    def train(self, mode=True):
        self.training = mode
        self.net[0].eval()
        return self


class Sampling(Keeping):
    """Keeps the others in train mode on purpose."""

    def train(self, mode=True):
        super().train(mode)
        self.net[1].train()
        return self


@pytest.mark.parametrize(("kind", "told"), [(Keeping, [("MOD102", "net")]), (Sampling, [])])
def test_an_overridden_train_that_forgets_a_part_does_not_keep_it(kind, told):
    """eval() calls train(False), which has to be passed on."""
    assert findings(kind()) == told


class Flagged(nn.Module):
    """Has a flag for its dropout, which is on unless somebody says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x, training=True):
        return self.out(F.dropout(self.inner(x).relu(), 0.3, training=training))


class DropPath(nn.Module):
    """Leaves a branch out, whatever the mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.inner, self.out = rate, nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        kept = torch.rand(len(x), 1) >= self.rate
        return self.out(x + kept * self.inner(x))


class Noisy(DropPath):
    """Draws what is none of our business."""

    def forward(self, x):
        return self.out(x + 0.1 * torch.rand_like(x))


Residual = type("Residual", (Noisy,), {})


class Unnamed(DropPath):
    """Drops units, and is not called so."""

    def forward(self, x):
        h = self.inner(x)
        return self.out(h * (torch.rand_like(h) > self.rate) / (1 - self.rate))


class Corrupted(DropPath):
    """Drops from the batch itself, as a denoising autoencoder does."""

    def forward(self, x):
        return self.out(self.inner(x * (torch.rand_like(x) > 0.3) / 0.7))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Flagged, 1),
        (functools.partial(DropPath, 0.2), 1),
        (functools.partial(DropPath, 0.0), 0),
        (functools.partial(Residual, 0.2), 0),
        (functools.partial(Unnamed, 0.2), 1),
        (functools.partial(Corrupted, 0.2), 0),
    ],
)
def test_dropout_by_a_flag_or_by_hand_is_found(make, told):
    """A rate of 0 drops nothing, and only what is called so is dropout."""
    assert [code for code, _ in findings(Validated(make()))] == ["MOD106"] * told


class Shared(DropPath):
    """Drops by one module in two places."""

    def forward(self, x):
        return self.out(self.drop(self.inner(self.drop(x.relu() + 1))))

    def __init__(self) -> None:
        super().__init__(0.2)
        self.drop = _Mask()


class _Mask(nn.Module):
    def forward(self, x):
        mask = x.new_empty(x.shape).bernoulli_(0.8)
        return x * mask / 0.8


def test_one_dropout_in_two_places_is_not_averaged_over():
    """Each of them calls it once; the draw of its mask and the product with it are one finding."""
    assert [code for code, _ in findings(Validated(Shared()))] == ["MOD106"]


class Sampled(DropPath):
    """Averages over many masks of the same answers, inside of its forward."""

    def forward(self, x):
        h = self.inner(x)
        return torch.stack([self.out(F.dropout(h, 0.3, training=True)) for _ in range(4)]).mean(0)


def test_a_loop_over_masks_is_an_average():
    """The same tensor comes to the same line again."""
    assert findings(Validated(Sampled(0.3))) == []


class Averaged(Validated):
    """Validates by a moving average of its weights, with the statistics of the norm or without."""

    def __init__(self, *, whole: bool, trained: bool = True) -> None:
        super().__init__(net())
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.whole, self.trained = whole, trained

    def on_train_batch_end(self, *_):
        old, new = self.average, self.net
        for one, other in zip(old.parameters(), new.parameters(), strict=True):
            if self.trained:
                one.lerp_(other.detach(), 0.1)
        if self.whole:
            old[1].load_state_dict(new[1].state_dict())

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.average(x), y))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"whole": False}, [("MOD105", "average.1")]),
        ({"whole": True}, []),
        ({"whole": False, "trained": False}, []),
    ],
)
def test_a_norm_that_no_batch_went_into_validates_by_nothing(options, told):
    """Its weights were learned elsewhere; a net that stays random was meant to."""
    assert [one for one in findings(Averaged(**options)) if one[0] == "MOD105"] == told


class HeadAlone(Validated):
    """Leaves the backbone out of the optimizer, and its norm at work."""

    def __init__(self) -> None:
        backbone = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
        backbone[1].running_mean.fill_(2.0)
        super().__init__(nn.Sequential(backbone, nn.Linear(32, 10)))

    def configure_optimizers(self):
        return torch.optim.Adam(self.net[1].parameters(), lr=1e-3)


def test_what_no_optimizer_holds_is_frozen():
    """Its statistics drift, although its weights require a gradient."""
    assert ("MOD103", "net.0") in findings(HeadAlone(), max_epochs=3)


class LeafOfItsOwn(Validated):
    """Computes without gradients, and lets what comes out require one."""

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            logits = self(batch[0])
        return F.cross_entropy(logits.requires_grad_(), batch[1])


def test_a_graph_without_any_parameter_is_none():
    """A loss may have one that ends in its own logits."""
    assert ("MOD104", "training_step") in findings(LeafOfItsOwn(net()))


class ByParts(Classifier):
    """Has its layers in the LightningModule, and calls them in the step."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.out, self.how = nn.Linear(64, 32), nn.Linear(32, 10), how

    def loss(self, x, y):
        if self.how == "data":  # as a denoising autoencoder does
            x = F.dropout(x.relu() + 1, 0.2)
        h = self.inner(x).relu()
        if self.how == "always" or (self.how == "training" and self.training):
            h = F.dropout(h, 0.2)
        if self.how == "draws":
            h = torch.stack([F.dropout(h, 0.2) for _ in range(4)]).mean(0)
        return F.cross_entropy(self.out(h), y)

    def validation_step(self, batch, batch_idx):
        passes = 4 if self.how == "passes" else 1
        if self.how == "passes":
            self.how = "always"
        losses = [self.loss(*batch) for _ in range(passes)]
        self.log("val_loss", sum(losses) / passes)
        if passes > 1:
            self.how = "passes"


@pytest.mark.parametrize(
    ("how", "told"), [("always", 1), ("training", 0), ("data", 0), ("draws", 0), ("passes", 0)]
)
def test_dropout_in_a_step_is_that_of_the_net_if_parameters_came_before(how: str, told: int):
    """What is dropped from data, and what is averaged over, is meant."""
    assert [code for code, _ in findings(ByParts(how))] == ["MOD106"] * told
