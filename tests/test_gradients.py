"""Gradients: what the rules make of hand-made measurements, and what the measurements see."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from cases._parts import Classifier
from program import Program, digits, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import Detector, GradientDetector, Severity, rule
from lightning_nndebug.core.measurements.flow import GradientFlow, Layer, _Attention
from lightning_nndebug.core.measurements.gradients import Gradient, Gradients, _early, _late
from lightning_nndebug.core.measurements.losses import Loss
from lightning_nndebug.core.measurements.noise import GradientNoise
from lightning_nndebug.core.measurements.reach import Cut, Reach, _Roll, strands, topmost
from lightning_nndebug.core.measurements.zeroing import Zeroed, Zeroing

# -- hand-made measurements

DYING = tuple(10.0**i for i in range(-7, 1))


def look(detector: GradientDetector, norm: float, loss: float = 1.0, **options: Any) -> list[Any]:
    """Shows one look to the rule of explosions: a single matrix of norm 1."""
    known = loss_of(loss)
    gradients = Gradients("Adam", (Gradient("w", norm),), loss=known, **options)
    return list(detector.exploding_gradient(gradients, known))


def clipped(detector: GradientDetector, norm: float, looks: int = 40, **options: Any) -> list[Any]:
    """Shows looks at clipped gradients; returns what the last one gives."""
    settings = {"clip": 1.0, "eps": math.inf, "entries": 100, **options}
    gradients = Gradients("SGD", (Gradient("w", norm),), **settings)
    return [list(detector.always_clipped(gradients)) for _ in range(looks)][-1]


def flow(
    *gradients: float | None, sizes: tuple[int, ...] = (), varying: tuple[float, ...] = ()
) -> GradientFlow:
    """Layers with these gradients at their outputs, from the first to the last."""
    count = len(gradients)
    sizes, varying = sizes or (1,) * count, varying or (0.5,) * count
    return GradientFlow(
        tuple(
            Layer(f"layer{i}", size, gradient, share, share)
            for i, (size, gradient, share) in enumerate(zip(sizes, gradients, varying, strict=True))
        )
    )


def loss_of(value: float) -> Loss:
    return Loss(value=value, values=(value,), optimizer=0, step=0)


def told(rule: Any, seen: GradientFlow) -> list[str]:
    """Shows the same flow at the steps 20, 50 and 100 of a run that learns, and what is told."""
    evidence = [
        (age, one.where)
        for age in (20, 50, 100)
        for one in rule(replace(seen, age=age), loss_of(1.0 - age / 200))
    ]
    assert all(age == 100 for age, _ in evidence)
    return [where for _, where in evidence]


def test_a_loss_that_depends_steeply_on_its_weights_explodes_after_ten_looks() -> None:
    """Nine looks are a transient, ten are not."""
    detector = GradientDetector()
    assert [len(look(detector, 1000.0)) for _ in range(10)] == [0] * 9 + [1]


def test_the_units_of_the_loss_do_not_matter() -> None:
    """A sum over a million pixels has a gradient as much larger as the loss is."""
    detector = GradientDetector()
    assert not any(look(detector, 1e6, loss=1e6) for _ in range(20))


def test_a_loss_that_approaches_zero_does_not_explode() -> None:
    """Less than a tenth of the highest loss counts as a tenth."""
    detector = GradientDetector()
    assert not any(look(detector, 10.0, loss=2.0**-step) for step in range(60))


def test_a_loss_that_can_be_negative_has_no_scale() -> None:
    """Where the loss crosses zero, its size says nothing."""
    detector = GradientDetector()
    losses = [1.0, -0.1, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3]
    assert not any(look(detector, 10.0, loss=loss) for loss in losses)


def test_another_step_of_the_same_batch_is_not_judged_by_the_loss_of_this_one() -> None:
    """Gradients of one optimizer are never set against the loss of another."""
    gradients = Gradients("Adam", (Gradient("w", 1e6),), loss=Loss(1.0, (1.0,), 0, 0))
    detector = GradientDetector()
    assert not any(
        list(detector.exploding_gradient(gradients, Loss(1.0, (1.0,), 1, 0))) for _ in range(9)
    )


def test_a_norm_that_stays_far_above_all_that_was_is_an_explosion() -> None:
    """A loss that can be negative is held against its own past."""
    detector = GradientDetector()
    calm = [look(detector, 1.0, loss=-1.0) for _ in range(25)]
    wild = [look(detector, 300.0, loss=-1.0) for _ in range(5)]
    assert not any(calm)
    assert list(map(len, wild)) == [0, 0, 0, 0, 1]


def test_a_spike_that_passes_is_no_explosion() -> None:
    """Three looks are not five."""
    detector = GradientDetector()
    norms = [1.0] * 25 + [1e5] * 3 + [1.0] * 25
    assert not any(look(detector, norm, loss=-1.0) for norm in norms)


def test_leaving_a_plateau_is_no_explosion() -> None:
    """The norm grows a thousandfold when learning begins: the loss falls."""
    detector = GradientDetector()
    rows = [(1e-4, -1.0)] * 25 + [(1e-1, -1.5)] * 10
    assert not any(look(detector, norm, loss=loss) for norm, loss in rows)


def test_a_run_that_diverges_is_for_others_to_name() -> None:
    """Where the loss grows as much as the gradient, the learning rate is to blame."""
    detector = GradientDetector()
    rows = [(1.0, -1.0)] * 25 + [(1e4, 1e4)] * 10
    assert not any(look(detector, norm, loss=loss) for norm, loss in rows)


def test_unfreezing_is_no_explosion() -> None:
    """With more parameters than before, history begins anew."""
    detector, told = GradientDetector(), Loss(-1.0, (-1.0,), 0, 0)
    for norm, other in [(1.0, None)] * 25 + [(1.0, 1e4)] * 10:
        gradients = Gradients("Adam", (Gradient("w", norm), Gradient("v", other)), loss=told)
        assert not list(detector.exploding_gradient(gradients, told))


def test_a_gradient_that_grows_on_its_way_back_explodes() -> None:
    """The first layers get a hundred thousand times more than the last."""
    detector = GradientDetector()
    assert not told(detector.vanishing_gradient, flow(1e5, 1e4, 1e3, 1e2, 1e1, 1.0))
    assert look(detector, 1.0)


def test_a_last_term_of_small_weight_is_no_explosion() -> None:
    """A single steep rise is what weights of losses look like."""
    assert flow(1.0, 1.0, 1.0, 1e-5).growth == pytest.approx(0.0)


def test_a_gradient_that_dies_layer_by_layer_vanishes() -> None:
    """A factor of ten in each of seven layers."""
    assert told(GradientDetector().vanishing_gradient, flow(*DYING)) == ["layer0"]


def test_a_deep_net_may_free_itself() -> None:
    """What is well again at the third look was a slow start."""
    detector = GradientDetector()
    looks = (flow(*DYING), flow(*DYING), flow(*[1.0] * 8))
    assert not [
        one
        for age, seen in zip((20, 50, 100), looks, strict=True)
        for one in detector.vanishing_gradient(replace(seen, age=age), loss_of(1 - age / 200))
    ]


def test_a_net_that_does_not_move_at_all_is_told_of_sooner() -> None:
    """After forty steps on the same spot; a loss without a zero says nothing of that kind."""
    looks = [replace(flow(*DYING), age=age) for age in (4, 19, 40)]
    for value, expected in ((1.0, [0, 0, 1]), (-1.0, [0, 0, 0])):
        detector = GradientDetector()
        told = [list(detector.vanishing_gradient(one, loss_of(value))) for one in looks]
        assert [len(one) for one in told] == expected


def test_one_shut_gate_is_no_vanishing_gradient() -> None:
    """A single steep drop is what zero-init, LayerScale and adapters look like."""
    assert flow(1e-6, 1e-6, 1e-6, 1e-6, 1.0, 1.0, 1.0).decades == 0.0


def test_a_small_side_branch_that_runs_first_is_no_vanishing_gradient() -> None:
    """The largest of the first quarter speaks for it."""
    assert flow(1e-9, 0.5, *[1.0] * 6).decades == pytest.approx(-0.3, abs=0.4)


def test_a_mean_over_positions_is_no_vanishing_gradient() -> None:
    """The mean over a million positions makes the norm of the gradient a thousand times smaller."""
    assert flow(1e-3, 1e-3, 1e-3, 1.0, sizes=(10**6, 10**6, 10**6, 1)).decades == 0.0


def test_two_layers_have_no_depth() -> None:
    """And a layer without gradient, or with one of exactly 0, is none."""
    assert flow(1e-9, 1.0).decades is None
    assert flow(None, 0.0, 1e-9, 1.0).decades is None


def test_a_signal_that_is_lost_on_the_way_is_told_with_the_place() -> None:
    """Half of the first output varies, nothing of the last."""
    assert told(GradientDetector().lost_signal, flow(1.0, 1.0, varying=(0.5, 1e-7))) == ["layer1"]


def test_samples_that_are_alike_have_no_signal_to_lose() -> None:
    """Constant inputs are for another detector to name."""
    assert not told(GradientDetector().lost_signal, flow(1.0, 1.0, varying=(1e-7, 1e-7)))


def test_a_signal_that_comes_back_is_not_lost() -> None:
    """Sigmoids have a plateau, and leave it; what is far too faint would need too long to."""
    for unit, expected in ((5e-4, []), (1e-6, ["layer1"]), (1e-8, ["layer1"])):
        detector = GradientDetector()
        evidence = [
            one.where
            for age, share in ((20, 2.0), (50, 5.0), (100, 9.0))
            for one in detector.lost_signal(
                replace(flow(1.0, 1.0, varying=(0.5, share * unit)), age=age), loss_of(1.0)
            )
        ]
        assert evidence[-1:] == expected


@pytest.mark.parametrize(
    ("first", "last", "is_told"),
    [
        (0.9, (1e-4, 1e-4, 1e-4), True),
        (0.9, (0.5, 1e-4, 1e-4), False),  # well at one look of three
        (0.9, (1e-3, 2e-3, 5e-3), False),  # on its way back
        (0.02, (1e-4, 1e-4, 1e-4), False),  # much alike from the beginning
    ],
)
def test_attention_must_have_something_to_choose_from(first, last, is_told) -> None:
    """Without a way around it, all positions become alike."""
    detector, told = GradientDetector(), []
    for age, share in zip((20, 30, 40), last, strict=True):
        seen = replace(flow(1.0, 1.0), age=age, choices=((None, first), (None, share)))
        told = [one.where for one in detector.lost_signal(seen, loss_of(1 - age / 100))]
    assert told == ["attention"] * is_told


@pytest.mark.parametrize("way", ["module", "fused", "by hand"])
def test_what_attention_chooses_from_is_seen_however_it_is_called(way: str) -> None:
    """All positions alike have a share of 0, and numbers around 0 one of 1."""
    attention = _Attention()
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(4, 50, 8)
    alike = x[:, :1].expand(-1, 50, -1)
    with attention:
        for one in (x, alike):
            if way == "module":
                layer(one, one, one, need_weights=False)
            elif way == "fused":
                F.scaled_dot_product_attention(one, one, one)
            else:
                query = one.clone().requires_grad_()
                F.dropout((query @ one.mT).softmax(-1), 0.1) @ one
    assert [share for _, share in attention.read()] == pytest.approx([1.0, 0.0], abs=0.05)


def test_a_vanishing_gradient_goes_before_a_lost_signal() -> None:
    """Deep sigmoids lose both; the gradient is the cause that can be treated."""
    sick = flow(*DYING, varying=(0.5,) * 6 + (1e-7,) * 2)
    detector = GradientDetector()
    assert told(detector.vanishing_gradient, sick)
    assert not told(detector.lost_signal, sick)


def test_clipping_a_few_times_is_healthy_at_every_step() -> None:
    """A norm of 10 and a limit of 1 is how language models are trained."""
    assert not clipped(GradientDetector(), norm=10.0)


def test_clipping_a_thousandfold_is_a_learning_rate() -> None:
    """For plain SGD it is; and in the first steps nobody knows yet."""
    assert clipped(GradientDetector(), norm=1e3)
    assert not clipped(GradientDetector(), norm=1e3, looks=20)


def test_adam_does_not_care_for_the_length_of_the_gradient() -> None:
    """Until the clipped gradient is smaller than its eps."""
    assert not clipped(GradientDetector(), norm=1e3, eps=1e-8)
    assert clipped(GradientDetector(), norm=1.0, clip=1e-9, eps=1e-8)


def test_what_is_not_known_of_clipping_is_not_judged() -> None:
    """No limit of the Trainer's, or an optimizer that nobody knows."""
    assert not clipped(GradientDetector(), norm=1e9, clip=None)
    assert not clipped(GradientDetector(), norm=1e9, eps=None)


@pytest.mark.parametrize("seen", [(3, 0, 0), (0, 6, 0), (0, 0, 6)])
def test_never_means_never(seen: tuple[int, int, int]) -> None:
    """Half of the steps are enough where gradients are carried, all are needed elsewhere."""
    rule = GradientDetector().never_zeroed
    assert list(rule(Zeroing((Zeroed("SGD", 6, *seen),))))
    assert not list(rule(Zeroing((Zeroed("SGD", 7, *seen),))))


def test_a_cut_is_told_by_its_kind() -> None:
    """None, exactly 0, and no_grad have causes of their own."""
    cuts = (
        Cut("a", ("a.w",), 33),
        Cut("b", ("b.w",), 33, is_zero=True),
        Cut("c", ("c.w",), 33, no_grad=True),
    )
    causes = [one.causes[0] for one in GradientDetector().missing_gradient(Reach(cuts))]
    assert len(set(causes)) == 3


@pytest.mark.parametrize(
    ("norms", "told"),
    [
        ((1.0, 1e-7, 1.0, 1.0), ["b"]),  # a condition that a norm takes away
        ((1.0, 1e-3, 1.0, 1.0), []),
        ((1.0, 0.0, 1.0, 1.0), []),  # exactly none is told by where it is cut
        ((1e-7, 1e-6, 1.0, 1.0), []),  # it dies on its way to the first layers
    ],
)
def test_a_gradient_of_rounding_errors_is_none(norms: tuple[float, ...], told: list[str]) -> None:
    """For as long as it is that small, and layers before get a real one."""
    detector = GradientDetector()
    parameters = tuple(Gradient(name, one) for name, one in zip("abcd", norms, strict=True))
    look = Gradients("Adam", parameters)
    said = [[one.where for one in detector.missing_gradient(look)] for _ in range(25)]
    assert said == [*[[]] * 24, told]
    larger = Gradients("Adam", tuple(replace(one, norm=1.0) for one in parameters))
    assert not [*detector.missing_gradient(larger), *detector.missing_gradient(look)]


def test_parameters_are_told_by_the_topmost_module_that_is_missing_as_a_whole() -> None:
    """Frozen parameters do not stand in the way; one parameter alone is told by its own name."""
    net = nn.ModuleDict(
        {"a": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "b": nn.Linear(2, 2)}
    )
    net["a"][0].bias.requires_grad_(False)
    missing = ["a.0.weight", "a.1.weight", "a.1.bias", "b.bias"]
    assert {"a": missing[:3], "b.bias": ["b.bias"]} == topmost(net, missing)


def test_a_layer_of_a_recurrent_module_is_missing_as_a_whole_or_not_at_all() -> None:
    """Weights of the states alone have no gradient in sequences of one step; and none is too few."""
    net = nn.ModuleDict({"rnn": nn.GRU(2, 2, num_layers=2), "head": nn.Linear(2, 2)})
    upper = [f"rnn.{one}_l1" for one in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    assert {upper[0]: upper} == strands(net, [*upper, "rnn.weight_hh_l0", "head.bias"])
    assert not strands(net, [name for name, _ in net.named_parameters()])


@pytest.mark.parametrize("pick", [0, 1])
@pytest.mark.parametrize("two_ways", [False, True])
def test_the_layers_below_the_last_one_are_not_all(pick: int, two_ways: bool) -> None:
    """Who takes the wrong state of a recurrent net leaves a layer or a direction without a use."""

    class Last(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            layers = 1 if two_ways else 2
            self.rnn = nn.LSTM(3, 4, layers, batch_first=True, bidirectional=two_ways)
            self.head = nn.Linear(4, 1)

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            _, (state, _) = self.rnn(batch[0])
            return self.head(state[pick]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    detector = GradientDetector()
    data = DataLoader(TensorDataset(torch.randn(240, 5, 3)), 4)
    fit(Program(Last(), data, trainer={"max_epochs": 1}), detector)
    found = [one.where for one in detector.findings if one.code == "GRD103"]
    lost = "rnn.weight_ih_l0" if two_ways and pick else "rnn.weight_ih_l0_reverse"
    lost = lost if two_ways else "rnn.weight_ih_l1"
    assert found == ([lost] if two_ways or not pick else [])


def test_the_steps_without_a_gradient_are_those_of_the_run() -> None:
    """Whether or not all of them are seen."""
    net, trainer = nn.Linear(2, 2), SimpleNamespace(strategy=None)
    optimizer = torch.optim.SGD(net.parameters())
    roll, told = _Roll(), []
    for step in [*range(50), *range(50, 300, 7)]:
        moment = SimpleNamespace(step=step, module=net, optimizer=optimizer, trainer=trainer)
        told += [(step, one.steps) for one in roll.call(moment) if one.name == "bias"]
    assert told == [(32, 33), (64, 65), (134, 135), (274, 275)]


# -- the measurements, in small runs


class Net(pl.LightningModule):
    """An encoder and a head, connected as the test likes."""

    def __init__(self, forward: Any = None, *, manual: bool = False) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(64, 16), nn.Linear(16, 10)
        self.connect = forward or (lambda net, x: net.head(net.encoder(x).tanh()))
        self.automatic_optimization = not manual

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.connect(self, batch[0]), batch[1])
        if not self.automatic_optimization:
            self.by_hand(loss, self.optimizers(), batch_idx)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def found(module: pl.LightningModule, **trainer: Any) -> list[tuple[str, str]]:
    """Fits for 40 steps and returns what is found, and where."""
    seed(0)
    detector = GradientDetector()
    data = DataLoader(TensorDataset(*digits(640)), batch_size=16)
    fit(Program(module, data, trainer={"max_steps": 40, **trainer}), detector)
    return [(one.code, one.where) for one in detector.findings]


def under_no_grad(net: Net, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        hidden = net.encoder(x)
    return net.head(hidden)


def in_eval_mode(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.encoder.eval()
    return under_no_grad(net, x)


def unused(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.encoder(x)
    return net.head(x[:, :16])


CONNECTIONS: dict[Any, list[tuple[str, str]]] = {
    "whole": (None, []),
    "detach": (lambda net, x: net.head(net.encoder(x).detach()), [("GRD103", "encoder")]),
    "data": (
        lambda net, x: F.linear(net.encoder(x), net.head.weight.data, net.head.bias),
        [("GRD103", "head.weight")],
    ),
    "no_grad": (under_no_grad, [("GRD103", "encoder")]),
    "round": (lambda net, x: net.head(net.encoder(x).round()), [("GRD103", "encoder")]),
    "argmax": (
        lambda net, x: net.head(F.one_hot(net.encoder(x).argmax(1), 16).float()),
        [("GRD103", "encoder")],
    ),
    "unused": (unused, [("GRD103", "encoder")]),
    "not called": (lambda net, x: net.head(x[:, :16]), []),
    "frozen by eval mode": (in_eval_mode, []),
    "weight 0": (lambda net, x: net.head(x[:, :16] + 0 * net.encoder(x)), []),
}


@pytest.mark.parametrize("name", CONNECTIONS)
@pytest.mark.parametrize("manual", [False, True])
def test_what_takes_part_must_get_a_gradient(name: str, *, manual: bool) -> None:
    """Whether it shapes the loss, or is called for nothing; what is not called, need not."""
    connect, expected = CONNECTIONS[name]
    module = Net(connect, manual=manual)
    module.by_hand = in_order
    assert expected == found(module)


def test_frozen_parameters_are_not_missing() -> None:
    """They say so by requires_grad, and the optimizer may hold them."""
    module = Net(lambda net, x: net.head(net.encoder(x).detach()))
    module.encoder.requires_grad_(False)
    assert found(module) == []


def in_order(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def zero_last(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def never_zero(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    loss.backward()
    optimizer.step()


def zero_between(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()


def accumulate(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    loss.backward()
    if batch_idx % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()


def accumulate_nothing(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    optimizer.zero_grad()
    loss.backward()
    if batch_idx % 4 == 3:
        optimizer.step()


def zero_now_and_then(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    if batch_idx % 2 == 0:
        optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def step_twice(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    optimizer.step()


def skip_some(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    if batch_idx % 3:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def step_by_hand(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    for group in getattr(optimizer, "optimizer", optimizer).param_groups:
        gradients = torch.autograd.grad(loss, group["params"])
        for p, gradient in zip(group["params"], gradients, strict=True):
            p.grad = gradient
    optimizer.step()


def accumulate_for_ever(loss: torch.Tensor, optimizer: Any, batch_idx: int) -> None:
    loss.backward()
    if batch_idx % 4 == 3:
        optimizer.step()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("by_hand", "codes"),
    [
        (in_order, []),
        (zero_last, []),
        (accumulate, []),
        (step_twice, []),
        (skip_some, []),
        (step_by_hand, []),
        (zero_now_and_then, ["GRD106"]),
        (never_zero, ["GRD106"]),
        (accumulate_for_ever, ["GRD106"]),
        (accumulate_nothing, ["GRD106"]),
        (zero_between, ["GRD106"]),
    ],
)
def test_zeroing_is_judged_by_what_gradients_were_added_to(
    by_hand: Any, codes: list[str], *, raw: bool
) -> None:
    """Manual optimization in any order, with Lightning's optimizers and with torch's own."""
    module = Net(manual=True)
    module.by_hand = lambda loss, optimizer, i: by_hand(
        loss, optimizer.optimizer if raw else optimizer, i
    )
    assert codes == [code for code, _ in found(module, max_steps=-1, max_epochs=1)]


class Careless(Net):
    """Zeroes nothing, in automatic optimization."""

    def optimizer_zero_grad(self, *_: Any) -> None: ...


def test_an_overridden_hook_that_does_not_zero_is_found() -> None:
    """Automatic optimization can be broken too."""
    assert found(Careless()) == [("GRD106", "SGD")]


class Patient(Net):
    """Zeroes at each fourth batch; whether it steps there alone is another hook's matter."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if batch_idx % 4 == 0:
            optimizer.zero_grad()


class PatientInBoth(Patient):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        if batch_idx % 4 == 3:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


def test_gradients_of_several_batches_are_for_one_step() -> None:
    """Zeroed at each fourth batch, they have to wait there for the step as well."""
    assert found(Patient()) == [("GRD106", "SGD")]
    assert found(PatientInBoth(), max_steps=-1, max_epochs=1) == []


class ClipsEarly(Net):
    """Taken over from a plain loop."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        return loss


class AsksForTheNorm(Net):
    """Clips to infinity, to know the norm of the last step."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        torch.nn.utils.clip_grad_norm_(self.parameters(), float("inf"))
        return loss


ZERO, BACK, CLIP, STEP = (
    "o.zero_grad()",
    "self.manual_backward(loss)",
    "clip_grad_norm_(p, 1)",
    "o.step()",
)
EVERY = "if i % 4 == 3:\n        "


@pytest.mark.parametrize(
    ("lines", "late"),
    [
        ([ZERO, BACK, STEP, CLIP], True),
        ([BACK, STEP, ZERO, CLIP], True),
        ([BACK, STEP, "self.clip_gradients(o, gradient_clip_val=1.0)", ZERO], True),
        ([BACK, f"{EVERY}{STEP}\n        {CLIP}\n        {ZERO}"], True),
        ([ZERO, BACK, CLIP, STEP, "schedule.step()"], False),
        ([ZERO, BACK, STEP, "norm = clip_grad_norm_(p, math.inf)"], False),
        ([BACK, STEP, CLIP], False),  # gradients add up, and what is left of them counts
        ([f"{EVERY}{ZERO}", BACK, STEP, CLIP], False),
        ([BACK, f"{EVERY}{STEP}\n        {ZERO}", CLIP], False),  # while they add up
        ([ZERO, BACK, STEP, ZERO, BACK, CLIP, STEP], False),  # of two optimizers
        ([ZERO, BACK, STEP, ZERO, BACK, CLIP], False),
        ([ZERO, f"for _ in range(2):\n        {BACK}\n        {STEP}\n        {CLIP}"], False),
    ],
)
def test_what_is_clipped_after_its_step_is_lost_if_it_is_zeroed(
    lines: list[str], late: bool
) -> None:
    """Where nothing comes between, and nothing may happen at some batches alone."""
    source = "\n    ".join(["def training_step(self, batch, i):", *lines, "return loss"])
    assert (_late(ast.parse(source)) is not None) is late
    assert _early(ast.parse(source)) is None


class ClipsLate(Net):
    """A loop by hand with two of its lines exchanged."""

    def __init__(self) -> None:
        super().__init__(manual=True)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.connect(self, batch[0]), batch[1]))
        optimizer.step()
        self.clip_gradients(optimizer, gradient_clip_val=1.0)


def test_clipping_after_the_step_is_found() -> None:
    """The gradients are those of a step that was made, and zeroed before the next one."""
    assert found(ClipsLate()) == [("GRD105", "training_step")]


def test_clipping_before_the_backward_is_found() -> None:
    """There is nothing to clip yet; asking for a norm is no clipping."""
    assert found(ClipsEarly()) == [("GRD105", "training_step")]
    assert found(AsksForTheNorm()) == []


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Gradients]:
    """Whatever is measured during the test."""
    seen: list[Gradients] = []
    take = Gradients.take.__func__
    monkeypatch.setattr(
        Gradients, "take", classmethod(lambda *args: (seen.append(take(*args)), seen[-1])[1])
    )
    return seen


def test_norms_are_those_of_the_gradients(looks: list[Gradients]) -> None:
    """As torch computes them, one parameter after another; a missing one is None."""
    module, expected = Net(unused), []
    module.on_before_optimizer_step = lambda optimizer: expected.append(
        [
            p.grad if p.grad is None else pytest.approx(float(p.grad.norm()))
            for p in module.parameters()
        ]
    )
    found(module, max_steps=3)
    assert expected == [[one.norm for one in look.parameters] for look in looks]


def test_the_objective_is_what_went_backward(looks: list[Gradients]) -> None:
    """The mean over accumulated batches; by hand, the sum over all that went backward."""
    found(Net(), max_steps=1, accumulate_grad_batches=4)
    module = Net(manual=True)
    module.by_hand = lambda loss, optimizer, i: [
        optimizer.zero_grad(),
        *(module.manual_backward(loss, retain_graph=True) for _ in range(4)),
        optimizer.step(),
    ]
    found(module, max_steps=1)
    automatic, manual = looks
    assert manual.objective == pytest.approx(4 * automatic.objective, rel=0.1)


def test_hooks_do_not_outlive_the_run() -> None:
    """Not even where it ends in the middle of a look."""
    module = Net()
    module.on_before_zero_grad = lambda optimizer: 1 / (module.global_step < 5)
    with pytest.raises(ZeroDivisionError):
        found(module)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())
    assert not any(p._backward_hooks for p in module.parameters())


@pytest.mark.parametrize(
    ("signal", "noise", "told"),
    [(1.0, 0.01, "too large"), (-0.1, 5.0, "too small"), (1.0, 1.0, ""), (1.0, 0.0, "too large")],
)
def test_a_batch_is_judged_by_what_noise_it_leaves(signal: float, noise: float, told: str) -> None:
    """Ten times more signal than noise is too much of a batch, ten times less too little."""
    look = GradientNoise("Adam", signal, 0.01, noise, 0.001)
    found = [one.message for one in GradientDetector().noisy_gradient(look)]
    assert [one.partition(":")[0] for one in found] == ([told] if told else [])


def test_an_uncertain_noise_is_not_judged() -> None:
    """What one standard error more would turn round is not told."""
    assert not list(GradientDetector().noisy_gradient(GradientNoise("Adam", 1.0, 0.5, 0.01, 0.05)))


def test_signal_and_noise_of_a_known_gradient_are_found(monkeypatch) -> None:
    """Of a gradient of mean 0.3 and variance 1 in each of 50 entries, averaged over 16 samples."""

    class Mean(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(50))

        def training_step(self, batch, batch_idx):
            return (batch[0] @ self.weight).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    seen: list[GradientNoise | None] = []
    take = GradientNoise.take.__func__
    spy = classmethod(lambda *args: (seen.append(take(*args)), seen[-1])[1])
    monkeypatch.setattr(GradientNoise, "take", spy)
    seed(0)
    data = DataLoader(TensorDataset(0.3 + torch.randn(4096, 50)), batch_size=4, shuffle=True)
    options = {"max_steps": 250, "accumulate_grad_batches": 4}
    fit(Program(Mean(), data, trainer=options), GradientDetector())
    last = [one for one in seen if one][-1]
    assert abs(last.signal - 50 * 0.3**2) < 3 * last.error
    assert abs(last.noise - 50 / 16) < 3 * last.noise_error


# -- what is lost on the way


class Stages(nn.Module):
    """Three stages, of which the last may take what the first gives."""

    def __init__(self, is_lost: bool, are_heads: bool = False):
        super().__init__()
        stages = [nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(3)]
        self.one, self.two, self.three = stages
        self.out, self.is_lost, self.are_heads = nn.Linear(64, 10), is_lost, are_heads

    def forward(self, x):
        first = x if self.are_heads else self.one(x)
        second = self.two(first)
        return self.out(self.three(first if self.is_lost else second))


class Overwritten(Stages):
    """Gives the result of one stage to a name that another's then takes."""

    def forward(self, x):
        h = F.relu(self.one(x))
        h = self.two(x)
        return self.out(h + self.three(x))


class Read(Stages):
    """Has two heads of which one counts."""

    def forward(self, x):
        h = self.one(x)
        first, h = h, self.two(x)
        return self.out((first if self.are_heads else h) + self.three(x))


@pytest.mark.parametrize(
    ("net", "lost"),
    [
        (Overwritten(is_lost=True), ["net.one"]),
        (Read(is_lost=True), []),
        (Stages(is_lost=True), ["net.two"]),
        (Stages(is_lost=False), []),
        (Stages(is_lost=True, are_heads=True), []),
    ],
)
def test_a_stage_whose_result_is_lost_is_no_head_of_another_task(net, lost) -> None:
    """Heads stand side by side, stages one behind the other."""
    seed(0)
    detector = GradientDetector(select=["GRD103"])
    data = DataLoader(TensorDataset(*digits(256)), batch_size=8)
    fit(Program(Classifier(net), data, trainer={"max_steps": 40}), detector)
    assert [one.where for one in detector.findings] == lost


# -- clipping and time


def test_clipping_counts_sooner_if_it_leaves_the_loss_no_hope() -> None:
    """Twenty times smaller is much, where all planned steps together lower the loss by little."""
    options = {"loss": loss_of(2.0), "norm": 20.0}
    assert clipped(GradientDetector(), **options, stride=0.05)
    assert not clipped(GradientDetector(), **options, stride=10.0)
    assert not clipped(GradientDetector(), **options, stride=0.001)
    assert not clipped(GradientDetector(), **options)


class Descent(Classifier):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("value", "found"), [(1e-4, ["GRD105"]), (1e-2, [])])
def test_clipping_each_number_leaves_at_most_so_much_of_the_norm(
    value: float, found: list[str]
) -> None:
    """What a limit for the norm leaves of it, if each number is clipped, is next to nothing."""
    detector = GradientDetector()
    data = DataLoader(TensorDataset(*digits(512)), batch_size=32)
    clip = {"gradient_clip_val": value, "gradient_clip_algorithm": "value", "max_steps": 48}
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    fit(Program(Descent(net), data, trainer=clip), detector)
    assert [one.code for one in detector.findings] == found


def forgotten(fading: float, last_loss: float) -> list[str]:
    detector = GradientDetector()
    recurrent = GradientFlow((Layer("rnn", 1, 1.0, 0.5, 0.5, fading),))
    ages = zip((20, 50, 100), (1.0, 1.0, last_loss), strict=True)
    found = [detector.vanishing_gradient(replace(recurrent, age=a), loss_of(b)) for a, b in ages]
    return [one.where for row in map(list, found) for one in row]


def test_a_recurrent_net_forgets_if_its_loss_stays() -> None:
    """Most do without the distant past, and learn."""
    assert forgotten(-8.0, 1.0) == ["rnn"]
    assert forgotten(-8.0, 0.5) == []
    assert forgotten(-1.0, 1.0) == []


class Recurrent(nn.Module):
    """Reads forty numbers by a layer, or cell by cell."""

    def __init__(self, rnn: nn.Module):
        super().__init__()
        self.rnn, self.out = rnn, nn.Linear(8, 10)

    def forward(self, x):
        x = x[:, :40, None]
        if isinstance(self.rnn, nn.RNNBase):
            return self.out(self.rnn(x)[0][:, -1])
        state = None
        for step in x.unbind(1):
            state = self.rnn(step, state)
        return self.out(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize(
    "rnn", [nn.LSTM(1, 8, batch_first=True), nn.RNN(1, 8, batch_first=True), nn.LSTMCell(1, 8)]
)
def test_the_gradient_of_a_recurrent_layer_is_followed_through_time(rnn) -> None:
    """Also where the layer reads the data itself, which needs no gradient."""
    seen: list[GradientFlow] = []

    class Watch(Detector):
        """Asks for the flow."""

        @rule("BEN212", severity=Severity.INFO)
        def look(self, flow: GradientFlow, loss: Loss):
            """Looks."""
            seen.append(flow)
            yield from ()

        @rule("BEN213", severity=Severity.INFO)
        def ask(self, gradients: Gradients):
            """Has the flow looked at."""
            yield from ()

    seed(0)
    data = DataLoader(TensorDataset(*digits(64)), batch_size=32)
    fit(Program(Classifier(Recurrent(rnn)), data, trainer={"max_epochs": 1}), Watch())
    layer = seen[0].fading
    assert layer is not None
    assert (layer.name, layer.fading < -2.0) == ("net.rnn", True)
    assert not rnn._forward_pre_hooks


def test_a_frozen_recurrent_layer_is_left_alone() -> None:
    """Its answer needs no gradient, and must not need one for our sake."""
    seen: list[bool] = []

    class Frozen(Recurrent):
        def forward(self, x):
            seen.append(self.rnn(x[:, :40, None])[0].requires_grad)
            return super().forward(x)

    seed(0)
    net = Frozen(nn.LSTM(1, 8, batch_first=True).requires_grad_(False))
    data = DataLoader(TensorDataset(*digits(64)), batch_size=32)
    fit(Program(Classifier(net), data, trainer={"max_epochs": 1}), GradientDetector())
    assert seen == [False, False]
