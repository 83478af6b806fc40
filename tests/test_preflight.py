"""The preflight: one batch learned by heart, and nothing left behind."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from cases._parts import Classifier, loader
from program import Program, digits, fit, seed
from torch import nn
from torch.nn import functional as F

from lightning_nndebug import NNDebug, PreflightDetector, check
from lightning_nndebug.core.measurements.rehearsal import Rehearsal, _checked

TANH = nn.Sequential(nn.Linear(64, 10), nn.Tanh())


def rehearsal(own: float, users: float = 0.05, **more) -> Rehearsal:
    return Rehearsal(own, users, 100, more.pop("has_floor", True), "Adam", **more)


def found(measured: Rehearsal) -> list[str]:
    return [one.where for one in PreflightDetector().cannot_overfit_one_batch(measured)]


def test_the_module_and_the_optimizer_are_told_apart() -> None:
    """With our own optimizer a healthy module learns, whatever the user's does."""
    assert found(rehearsal(0.05)) == []
    assert found(rehearsal(0.5)) == ["module"]
    assert found(rehearsal(0.05, 0.999)) == ["optimizer"]
    assert found(rehearsal(0.05, math.inf)) == ["optimizer"]
    assert found(rehearsal(0.9, jump=1e6)) == ["optimizer"]
    assert found(rehearsal(math.nan)) == ["module"]


def test_a_loss_without_a_known_floor_must_only_move() -> None:
    """As those of variational and contrastive nets, which never come near to 0."""
    assert found(rehearsal(0.6, has_floor=False)) == []
    assert found(rehearsal(0.99, has_floor=False)) == ["module"]


def test_it_is_added_by_the_user_or_not_at_all() -> None:
    """It costs some hundred steps."""
    assert PreflightDetector not in map(type, NNDebug().members)
    assert PreflightDetector in map(type, NNDebug(detectors=[PreflightDetector()]).members)


def weights(*callbacks) -> tuple[dict, torch.Tensor]:
    seed(3)
    net = nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10)
    )
    module = Classifier(net)
    fit(Program(module, loader(), trainer={"max_steps": 8}), *callbacks)
    return module.state_dict(), torch.rand(1)


def test_training_goes_on_bit_by_bit_as_without() -> None:
    """Weights, running statistics and random numbers."""
    without, with_it = weights(), weights(PreflightDetector())
    assert all(torch.equal(one, with_it[0][name]) for name, one in without[0].items())
    assert torch.equal(without[1], with_it[1])


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return loader()


@pytest.mark.parametrize("data", [loader, Data, lambda: [one[:32] for one in digits()]])
def test_check_takes_a_loader_a_datamodule_or_a_batch(data) -> None:
    """``assert not check(module, data)`` is a test of the user's own; the module stays as it is."""
    seed(0)
    module = Classifier()
    before = {name: one.clone() for name, one in module.state_dict().items()}
    assert not check(module, data())
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())
    assert [one.code for one in check(Classifier(TANH), data(), steps=60)] == ["PRE101"]


def test_check_says_what_it_needs() -> None:
    """Not any module, but one of Lightning's."""
    with pytest.raises(TypeError, match="LightningModule"):
        check(nn.Linear(2, 2), loader())


class Plays(Classifier):
    """Its step raises when it is run again."""

    calls: list[int]

    def training_step(self, batch, batch_idx):
        self.calls = [*getattr(self, "calls", []), 1]
        if torch.is_grad_enabled() and len(self.calls) > 1:
            raise RuntimeError("once is enough")
        return super().training_step(batch, batch_idx)


def test_a_step_that_cannot_be_run_again_is_left_alone(caplog) -> None:
    """That is no error of ours, and no finding."""
    detector = PreflightDetector()
    fit(Program(Plays(), loader(), trainer={"max_steps": 1}), detector)
    assert not detector.findings
    assert "is off from here" not in caplog.text


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return factor * x**2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad, None  # the factor is forgotten


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -grad


def test_a_forgotten_factor_is_found() -> None:
    """Whatever the dtype that the run is in."""
    wrong = _checked(Square, (torch.randn(5), 3.0))
    assert wrong is not None
    assert wrong.numeric == pytest.approx(3 * wrong.analytic, rel=1e-3)
    assert _checked(Square, (torch.randn(5), 1.0)) is None


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(x, slope):
        return torch.where(x > 0, x, slope * x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.slope = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grad, ctx.slope / 2 * grad), None  # the slope is another one


class Leaky(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(64, 64)

    def forward(self, x):
        return self.net(Halved.apply(self.before(x), 0.5))


def test_a_context_may_be_set_up_after_the_forward() -> None:
    """As functions are written that ``torch.func`` can transform."""
    seed(0)
    assert [one.code for one in check(Leaky(), loader())] == ["PRE102"]


@pytest.mark.parametrize("function", [StraightThrough, Reversal])
def test_a_gradient_that_is_another_on_purpose_is_no_error(function) -> None:
    """Straight-through estimators and gradient reversal are understood."""
    assert _checked(function, (torch.randn(50),)) is None


def test_label_smoothing_has_a_floor() -> None:
    """The loss cannot fall below the entropy of its targets."""

    class Smoothed(Classifier):
        def loss(self, x, y):
            return F.cross_entropy(self(x), y, label_smoothing=0.3)

    assert not check(Smoothed(), loader())


def test_two_samples_less_are_tried_only_where_that_means_something() -> None:
    """Not where a net keeps a state for each sample of the batch."""

    class Stateful(Classifier):
        def __init__(self):
            super().__init__()
            self.state = torch.zeros(32, 10)

        def forward(self, x):
            out = self.net(x) + self.state
            self.state = 0.5 * out.detach()
            return out

    assert not check(Stateful(), loader(drop_last=True))
