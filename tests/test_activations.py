"""Activations: what the rules make of hand-made measurements, and what the measurement sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from program import Program, digits, fit, seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import ActivationDetector, Detector, Severity, rule
from lightning_nndebug.core.measurements.activations import Activation, Activations, Layer

# -- hand-made measurements


def relu(idle: int | None, **options: Any) -> Activation:
    """A layer of 64 units, of which so many are idle."""
    defaults: dict[str, Any] = {
        "function": "relu", "where": "net.0", "line": None, "units": 64, "idle": idle,
        "inputs": 64, "rows": 160, "flat": None, "is_hidden": True,
    }  # fmt: skip
    return Activation(**{**defaults, **options})


def tanh(flat: float, **options: Any) -> Activation:
    """A layer of which so much goes into the flat ends of tanh."""
    return relu(None, function="tanh", flat=flat, **options)


def told(question: Any, *calls: Activation, step: int = 20) -> list[str]:
    """Asks a rule about these activations; returns the places it tells of."""
    return [one.where for one in question(Activations(calls, step=step))]


def chain(*stds: float, normed: tuple[int, ...] = ()) -> Activations:
    """Hidden layers with these standard deviations, in order."""
    norms = normed or (0,) * len(stds)
    layers = [Layer(f"net.{i}", std, True, norms[i]) for i, std in enumerate(stds)]
    return Activations((), tuple(layers))


def test_a_layer_is_dead_if_more_than_its_share_is_idle() -> None:
    """A few dead units are normal."""
    rule_ = ActivationDetector().dead_units
    assert [told(rule_, relu(idle)) for idle in (20, 50, 51, 64)] == [[], [], ["net.0"], ["net.0"]]


def test_units_are_not_dead_before_five_looks() -> None:
    """Until then it is not known how many are idle."""
    assert told(ActivationDetector().dead_units, relu(None)) == []


def test_a_wide_dictionary_may_have_dead_entries() -> None:
    """If more live than it has inputs, the layer has room for all of them."""
    rule_ = ActivationDetector().dead_units
    assert told(rule_, relu(800, units=1024, inputs=64)) == []
    assert told(rule_, relu(1000, units=1024, inputs=64)) == ["net.0"]


def test_only_the_first_dead_layer_is_told() -> None:
    """Those behind it have nothing to answer to."""
    layers = [relu(64, where="net.0"), relu(64, where="net.2")]
    assert told(ActivationDetector().dead_units, *layers) == ["net.0"]


def test_a_flat_function_is_told_if_it_was_never_well() -> None:
    """Weights that are too large show from the first look on."""
    assert told(ActivationDetector().saturated_units, tanh(0.6)) == ["net.0"]


def test_a_net_may_learn_to_decide() -> None:
    """What becomes flat in training is told only if nearly all of it does."""
    detector = ActivationDetector()
    shares = [0.1, 0.4, 0.6, 0.8, 0.95]
    assert [told(detector.saturated_units, tanh(one)) for one in shares] == [[]] * 4 + [["net.0"]]


def test_gates_and_outputs_may_be_flat() -> None:
    """A gate learns to be shut or open, and an output is sure of itself."""
    detector = ActivationDetector()
    assert told(detector.saturated_units, tanh(1.0, is_hidden=False)) == []
    gates = [tanh(one, is_hidden=False, is_gate=True) for one in (0.4, 1.0)]
    assert [told(detector.saturated_units, one, step=2) for one in gates] == [[], []]


def test_a_gate_that_was_never_half_open_is_told() -> None:
    """It is open or shut for every sample before it has learned anything."""
    gate = tanh(0.8, is_hidden=False, is_gate=True)
    assert told(ActivationDetector().saturated_units, gate, step=2) == ["net.0"]


def test_draws_are_cold_if_nearly_all_were_sure_from_the_first_look_on() -> None:
    """Chance alone is sure of many at a temperature of 0.1, and learning of the others."""

    def drawn(flat: float) -> Activation:
        return relu(None, function="gumbel_softmax", flat=flat)

    cold, usual = ActivationDetector(), ActivationDetector()
    assert [told(cold.saturated_units, drawn(one)) for one in (0.88, 0.95)] == [[], ["net.0"]]
    assert [told(usual.saturated_units, drawn(one)) for one in (0.55, 0.95)] == [[], []]


@pytest.mark.parametrize("stds", [(1, 0.3, 0.1, 0.03), (3, 9, 30, 90)])
def test_a_scale_drifts_if_it_goes_a_decade_and_out_of_bounds(stds: tuple[float, ...]) -> None:
    """It shrinks or grows by the same factor in every layer."""
    evidence = list(ActivationDetector().scale_drift(chain(*stds)))
    assert [one.where for one in evidence] == ["net.3"]


@pytest.mark.parametrize(
    "seen",
    [
        chain(0.3, 0.15, 0.06),  # less than a decade
        chain(0.1, 1.0, 9.0),  # within the bounds
        chain(500.0, 20.0, 12.0),  # raw features, which it brings down
        chain(0.01, 0.02, 0.05),  # small from the start, and it grows
        chain(1.0, 0.001),  # not deep
        chain(1.0, 100.0, float("nan")),  # an illness of its own
        chain(1.0, 0.1, 0.01, 0.001, normed=(0, 1, 2, 3)),  # a norm after each
        chain(1.0, 0.1, 0.01, 0.001, 1.0, normed=(0, 0, 0, 0, 1)),  # a norm behind them
    ],
)
def test_a_scale_that_does_not_go_astray_is_fine(seen: Activations) -> None:
    """Where it begins is the business of the data, and what norms mend is none of ours."""
    assert not list(ActivationDetector().scale_drift(seen))


def test_a_scale_that_drifts_later_was_learned() -> None:
    """Large targets make the last layers grow."""
    detector = ActivationDetector()
    assert not list(detector.scale_drift(chain(1.0, 1.0, 1.0)))
    assert not list(detector.scale_drift(chain(1.0, 10.0, 100.0)))


def test_units_that_die_where_the_scale_is_well_are_no_drift() -> None:
    """What is behind them shrinks because they give nothing; the other way round, it is."""
    layers = chain(0.6, 1e-7, 1e-7, 1e-7).layers
    rule_ = ActivationDetector().scale_drift
    assert not list(rule_(Activations((relu(64, where="net.0"),), layers)))
    assert list(rule_(Activations((relu(64, where="net.3"),), layers)))


# -- what is measured


class Watch(Detector):
    """Keeps what it sees."""

    @rule("TST701", severity=Severity.INFO)
    def looks(self, activations: Activations) -> Any:
        """Looks."""
        self.seen.append(activations)  # type: ignore[attr-defined]
        yield from ()


class Learner(pl.LightningModule):
    def __init__(self, net: nn.Module, forward: Callable[[Any, Tensor], Tensor] | None) -> None:
        super().__init__()
        self.net, self.way = net, forward

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.way(self.net, x) if self.way else self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def watch(
    net: nn.Module, forward: Any = None, *, image: bool = False, size: int = 32
) -> list[Activations]:
    """Fits a net on digits for 30 steps, and returns what was seen."""
    seed(0)
    detector = Watch()
    detector.seen = []  # type: ignore[attr-defined]
    data = DataLoader(TensorDataset(*digits(image=image)), batch_size=size, shuffle=True)
    fit(Program(Learner(net, forward), data, trainer={"max_steps": 30}), detector)
    return detector.seen  # type: ignore[attr-defined, no-any-return]


def net(activation: nn.Module) -> nn.Sequential:
    """Sixty-four units, of which forty are dead."""
    layers = nn.Sequential(nn.Linear(64, 64), activation, nn.Linear(64, 10))
    with torch.no_grad():
        layers[0].bias[:40] = -100.0  # type: ignore[index]
    return layers


def called(function: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """The same net, with its activation called as a function."""
    return lambda net, x: net[2](function(net[0](x)))


@pytest.mark.parametrize(
    ("activation", "forward"),
    [
        (nn.ReLU(), None),
        (nn.ReLU(inplace=True), None),
        (nn.ReLU6(), None),
        (nn.GELU(), None),
        (nn.SiLU(), None),
        (nn.Identity(), called(F.relu)),
        (nn.Identity(), called(torch.relu)),
        (nn.Identity(), called(torch.relu_)),
        (nn.Identity(), called(lambda x: x.relu())),
        (nn.Identity(), called(lambda x: F.relu(x, inplace=True))),
        (nn.Identity(), called(F.gelu)),
        (nn.ReLU(), lambda net, x: checkpoint(net, x, use_reentrant=False)),
        (nn.ReLU(), lambda net, x: checkpoint(net, x.requires_grad_(), use_reentrant=False)),
    ],
)
def test_dead_units_are_counted_however_they_are_called(activation: Any, forward: Any) -> None:
    """As a module or a function, in place or not, checkpointed or not."""
    (call,) = watch(net(activation), forward)[-1].calls
    assert (call.where, call.units, call.inputs, call.is_hidden) == ("net.0", 64, 64, True)
    assert call.idle is not None
    assert 40 <= call.idle < 55


def test_channels_of_a_convolution_are_its_units() -> None:
    """A unit lives if it answers anywhere in any picture."""
    body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    body[1].bias.data[:3] = -100.0  # type: ignore[union-attr, operator, index]
    whole = nn.Sequential(body, nn.Flatten(), nn.Linear(8 * 36, 10))
    (call,) = watch(whole, image=True)[-1].calls
    assert (call.where, call.units, call.idle) == ("net.0.0", 8, 3)


def test_a_hinge_in_the_loss_is_no_hidden_unit() -> None:
    """It is meant to become zero."""
    linear = nn.Linear(64, 10)
    calls = watch(linear, lambda net, x: net(x) + 0 * F.relu(1 - net(x)))[-1].calls
    assert [one.is_hidden for one in calls] == [False]


@pytest.mark.parametrize(
    "gate",
    [
        lambda net, x: net[2](x * net[0](x).sigmoid()),
        lambda net, x: net[2](x * torch.sigmoid(net[0](x)).view(-1, 64)),
        lambda net, x: net[2](x * (1 - torch.sigmoid(net[0](x)))),
        lambda net, x: net[2](0.5 * x * (1.0 + torch.tanh(net[0](x)))),
        lambda net, x: net[2](torch.lerp(x, x.flip(1), torch.sigmoid(net[0](x)))),
    ],
)
def test_a_factor_is_a_gate(gate: Any) -> None:
    """Whether it is reshaped, subtracted from one or interpolated with."""
    (call,) = watch(net(nn.Identity()), gate)[-1].calls
    assert not call.is_hidden


def swish(x: Tensor) -> Tensor:
    """As it is written by hand."""
    return x * torch.sigmoid(1.7 * x)


@pytest.mark.parametrize(
    ("gate", "is_gate"),
    [
        (lambda net, x: net[0](x).sigmoid() * net[2](x)[:, :1], True),
        (lambda net, x: net[0](x).sigmoid() * x, False),
        (lambda net, x: net[0](x).mul(100).sigmoid() * net[2](x)[:, :1], False),
        (lambda net, x: swish(net[0](x)), False),
        (lambda net, x: net[0](x).softmax(1) * net[2](x)[:, :1], True),
        (lambda net, x: net[0](x).softmax(1) * torch.arange(64.0), False),
    ],
)
def test_a_gate_weighs_what_is_learned_elsewhere(gate: Any, is_gate: bool) -> None:
    """Not the batch, not its own input, no positions; and a steep step of it is meant."""
    calls = watch(net(nn.Identity()), lambda net, x: gate(net, x) + 0 * net(x).mean())[-1].calls
    assert [one.is_gate for one in calls] == [is_gate] * len(calls)


@pytest.mark.parametrize(("bias", "flat"), [(0.0, 0.9), (1e4, 0.0)])
def test_a_gate_may_begin_open(bias: float, flat: float) -> None:
    """A bias opens all of them; inputs that are too large open some and shut the others."""

    def wide(net: nn.Module, x: Tensor) -> Tensor:
        net[0].bias.data.fill_(bias)  # type: ignore[index,union-attr,operator]
        out: Tensor = net[0](1e3 * x).sigmoid() * net[2](x)[:, :1]  # type: ignore[index,operator]
        return out

    (call,) = watch(net(nn.Identity()), wide)[-1].calls
    assert call.is_gate
    assert call.flat == pytest.approx(flat, abs=0.1)


@pytest.mark.parametrize(("bias", "flat"), [(-20.0, 1.0), (-8.0, 0.0)])
def test_a_gate_that_lets_nothing_through_is_shut(bias: float, flat: float) -> None:
    """One that is ajar may be opened."""

    def shut(net: nn.Module, x: Tensor) -> Tensor:
        net[0].bias.data.fill_(bias)  # type: ignore[index,union-attr,operator]
        out: Tensor = net[0](x).sigmoid() * net[2](x)[:, :1]  # type: ignore[index,operator]
        return out

    (call,) = watch(net(nn.Identity()), shut)[-1].calls
    assert (call.is_gate, call.flat) == (True, flat)


@pytest.mark.parametrize(
    ("tau", "hard", "flat"), [(0.001, False, 1.0), (1.0, False, 0.0), (0.001, True, None)]
)
def test_draws_of_a_gumbel_softmax_are_heard(tau: float, hard: bool, flat: float | None) -> None:
    """Hard ones are meant to be."""
    calls = watch(
        net(nn.Identity()),
        lambda net, x: net[2](F.gumbel_softmax(net[0](x), tau=tau, hard=hard)),
    )[-1].calls
    found = [one.flat for one in calls if one.function == "gumbel_softmax"]
    assert found == ([] if flat is None else [pytest.approx(flat, abs=0.1)])


@pytest.mark.parametrize(("factor", "idle"), [(0.0, 0), (-1.0, 64)])
def test_zeros_that_no_layer_has_made_are_no_dead_units(factor: float, idle: int) -> None:
    """A branch that is multiplied by zero has lost its signal, and not its units."""

    def joined(net: Any, x: Tensor) -> Tensor:
        out: Tensor = net[2]((factor * (net[0](x).abs() + net[0](-x).abs())).relu())
        return out

    (*_, call) = watch(net(nn.Identity()), joined)[-1].calls
    assert call.idle == idle


def test_the_expected_position_may_be_sharp() -> None:
    """A soft argmax is no choice between things that are learned."""
    rows = torch.arange(64.0)
    (call,) = watch(
        net(nn.Identity()), lambda net, x: net[2](net[0](x).mul(100).softmax(1) * rows)
    )[-1].calls
    assert (call.is_hidden, call.is_gate) == (False, False)


def test_the_flat_share_of_both_ends_is_seen_before_the_function() -> None:
    """Forty of sixty-four inputs are at -100."""
    (call,) = watch(net(nn.Tanh()))[-1].calls
    assert call.flat == pytest.approx(40 / 64, abs=0.02)
    assert call.idle is None


def test_units_that_get_nan_are_not_dead() -> None:
    """That is another illness, with a detector of its own."""
    (call,) = watch(net(nn.ReLU()), lambda net, x: net(x * float("nan")))[-1].calls
    assert call.idle == 0


def test_what_is_frozen_is_not_judged() -> None:
    """Nobody trains it."""
    frozen = net(nn.ReLU())
    frozen[0].requires_grad_(False)
    assert watch(frozen)[-1].calls == ()


def test_units_are_not_dead_on_the_word_of_a_few_samples() -> None:
    """Seven looks at batches of eight show no more than 56 of them; batches of sixteen, enough."""
    assert watch(net(nn.ReLU()), size=8)[-1].calls[0].idle is None
    assert watch(net(nn.ReLU()), size=16)[-1].calls[0].idle is not None


class Attention(nn.Module):
    """Attends over the rows of a digit, with scores multiplied by this."""

    def __init__(self, scale: float, kind: str) -> None:
        super().__init__()
        self.embed, self.query, self.key = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.out, self.scale, self.kind = nn.Linear(32, 10), scale, kind

    def forward(self, x):
        x = self.embed(x.view(-1, 8, 8))
        q, k = self.query(x), self.key(x)
        if self.kind == "fused":
            x = F.scaled_dot_product_attention(q, k, x, scale=self.scale)
        else:
            scores = q @ k.mT * self.scale
            if self.kind == "causal":
                scores = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
            x = scores.softmax(-1) @ x
        return self.out(x.mean(1))


@pytest.mark.parametrize("kind", ["plain", "causal", "fused"])
def test_attention_that_is_sure_of_one_choice_is_flat(kind: str) -> None:
    """However it is called; a row in which the mask leaves few choices does not count."""
    for scale, is_flat in ((100.0, True), (0.1, False)):
        (one,) = [
            one for one in watch(Attention(scale, kind))[0].calls if one.function == "softmax"
        ]
        assert one.is_hidden
        assert one.flat is not None
        assert (one.flat > 0.5) is is_flat


def test_two_activations_after_one_layer_are_judged_each() -> None:
    """The second gets nothing but what the first has made positive, negated."""

    class Negative(nn.Module):
        def forward(self, x):
            return -x

    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), Negative(), nn.ReLU(), nn.Linear(16, 10))
    first, second = watch(net)[-1].calls
    assert (first.where, second.where) == ("net.0", "net.0")
    assert first.idle is not None
    assert first.idle < 16 == second.idle
