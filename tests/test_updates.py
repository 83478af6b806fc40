"""Each truth about updates, without a Trainer where none is needed."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from cases._parts import Classifier, loader
from program import Program, fit, seed
from torch import nn
from torch.nn import functional as F

from lightning_nndebug import NNDebug, Severity, UpdateDetector
from lightning_nndebug.core.measurements.ownership import Fault, Orphans, Ownership
from lightning_nndebug.core.measurements.replicas import Replica, Replicas
from lightning_nndebug.core.measurements.settings import OptimizerSettings, Settings, _drawn
from lightning_nndebug.core.measurements.updates import SampledUpdates, Update
from lightning_nndebug.core.measurements.weights import (
    InitialWeights,
    Weight,
    entries,
    is_drawn,
    kind_of,
    looks_random,
)

ADAM = {"eps": 1e-8, "betas": (0.9, 0.999), "rate": 1e-3}


def update(name="net.0.weight", **changes) -> Update:
    usual = {
        "optimizer": "Adam", "kind": "matrix", "rate": 1e-3, "weight": 0.1, "update": 1e-3,
        "gradient": 1e-2, "start": 0.1, "age": 20, "fan_in": 16,
    }  # fmt: skip
    return Update(name, **{**usual, **changes})


def look(*updates: Update) -> SampledUpdates:
    return SampledUpdates(updates)


def weight(name="net.0.weight", **changes) -> Weight:
    usual = {"kind": "matrix", "fan_in": 64, "size": 0.1, "units": 32, "looks_random": True}
    return Weight(name, **{**usual, **changes})


# -- UPD101


def orphaned(stale: int = 0, **changes) -> list:
    orphans = Orphans("head", ("head.weight", "head.bias"), 3, **changes)
    return list(UpdateDetector().not_optimized(Ownership((orphans,), stale=stale)))


def test_fresh_parameters_without_an_optimizer_are_told_by_name() -> None:
    """They get gradients, and stay random."""
    (found,) = orphaned()
    assert found.where == "head"


def test_trained_parameters_without_an_optimizer_are_a_choice() -> None:
    """A backbone may be frozen by leaving it out."""
    assert not orphaned(is_fresh=False)


@pytest.mark.parametrize("changes", [{"is_unfrozen": True}, {"stale": 2}])
def test_trained_parameters_are_told_when_they_were_meant_to_learn(changes) -> None:
    """Who unfreezes or replaces a layer wants to train it."""
    assert orphaned(is_fresh=False, **changes)


@pytest.mark.parametrize("kind", ["twice", "opposed", "starved", "idle"])
def test_each_fault_of_an_optimizer_has_its_own_advice(kind) -> None:
    """The cause is named, not guessed."""
    fault = Fault("Adam[1]", kind, 5, "Adam[0]")
    (found,) = UpdateDetector().not_optimized(Ownership(faults=(fault,)))
    assert found.where == "Adam[1]"
    assert len(found.causes) == len(found.fixes) == 1


def findings(module: pl.LightningModule, epochs: int = 2) -> list[tuple[str, str]]:
    seed(0)
    detector = UpdateDetector(select=["UPD101"])
    fit(Program(module, loader(), trainer={"max_epochs": epochs}), detector)
    return [(one.where, one.message) for one in detector.findings]


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class Maker(Classifier):
    """Makes something in its forward."""

    def __init__(self, make):
        super().__init__(nn.Linear(64, 64))
        self.head, self.make = nn.Linear(64, 10), make

    def forward(self, x):
        return self.head(self.make(self)(F.relu(self.net(x))))


class Rehearsing(Classifier):
    """Takes a step of its own with a copy."""

    def training_step(self, batch, batch_idx):
        twin = copy.deepcopy(self.net)
        gradients = torch.autograd.grad(F.cross_entropy(twin(batch[0]), batch[1]), twin[0].weight)
        with torch.no_grad():
            twin[0].weight -= 0.1 * gradients[0]
        return super().training_step(batch, batch_idx) + F.cross_entropy(twin(batch[0]), batch[1])


class Drawing(Classifier):
    """Sees each batch by a convolution that is drawn anew, too."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        look = nn.Conv2d(1, 1, 3, padding=1)(x.view(-1, 1, 8, 8)).view(-1, 64)
        return F.cross_entropy(self(torch.cat([x, look])), torch.cat([y, y]))


class Noisy(Classifier):
    """Learns to answer as it does with noise on its weights."""

    def training_step(self, batch, batch_idx):
        twin = copy.deepcopy(self.net)
        for p in twin.parameters():
            p.data += 0.1 * p.std() * torch.randn_like(p)
        goal = twin(batch[0]).detach()
        return super().training_step(batch, batch_idx) + F.mse_loss(self(batch[0]), goal)


def fixed(_: Maker) -> nn.Module:
    layer = nn.Linear(64, 64)
    nn.init.eye_(layer.weight)
    return layer


def fitted(_: Maker):
    layers = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    return lambda x: layers(x) + layers(x.detach())


def made_once(module: Maker) -> nn.Module:
    if not hasattr(module, "late"):
        module.late = nn.Linear(64, 64)
        module.trainer.optimizers[0].add_param_group({"params": module.late.parameters()})
    return module.late


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (Maker(lambda _: nn.Linear(64, 64)), ["Linear"]),
        (Maker(lambda _: nn.LayerNorm(64)), []),  # which scales by 1
        (Maker(lambda _: nn.Linear(64, 64).requires_grad_(False)), []),
        (Maker(made_once), []),
        (Maker(fixed), []),
        (Maker(fitted), []),
        (Drawing(), []),
        (Noisy(), []),
        (Rehearsing(), []),
    ],
)
def test_a_layer_that_is_made_in_each_step_learns_nothing(module, found) -> None:
    """But a copy is made on purpose, and so is what is called again, or draws another look."""
    told = findings(module)
    assert [where.split()[0] for where, _ in told] == found
    assert all("made anew in each of 3 steps" in message for _, message in told)


def test_a_head_that_was_replaced_leaves_a_stale_optimizer() -> None:
    """The optimizer was made in `__init__`, before the head was replaced."""

    class Replaced(Classifier):
        def __init__(self):
            super().__init__(layers())
            self.optimizer = torch.optim.Adam(self.net.parameters())
            self.net[-1] = nn.Linear(64, 10)

        def configure_optimizers(self):
            return self.optimizer

    ((where, message),) = findings(Replaced())
    assert where == "net.2"
    assert "not part of the module" in message


def test_a_layer_that_is_made_late_must_be_handed_over() -> None:
    """The optimizer is made before `on_train_start`, and knows of nothing that is made there."""

    class Adapted(Classifier):
        def __init__(self, is_handed_over):
            super().__init__(layers())
            self.is_handed_over = is_handed_over

        def on_train_start(self):
            self.net.append(nn.Linear(10, 10))
            if self.is_handed_over:
                self.optimizers().add_param_group({"params": self.net[-1].parameters()})

    ((where, _),) = findings(Adapted(is_handed_over=False))
    assert where == "net.3"
    assert not findings(Adapted(is_handed_over=True))


def test_a_perturbation_that_is_made_anew_in_each_step_is_no_layer() -> None:
    """It gets a gradient, stays as random as it was, and is gone with its step."""

    class Perturbed(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            self.noise = nn.Parameter(0.1 * torch.rand_like(x))
            return super().training_step((x + self.noise, y), batch_idx)

    assert not findings(Perturbed(layers()))


def test_a_layer_that_is_unfrozen_must_be_handed_over() -> None:
    """An optimizer of what was trainable at the start does not have it."""

    class Thawed(Classifier):
        def __init__(self):
            super().__init__(layers())
            self.net[0].requires_grad_(False)

        def configure_optimizers(self):
            return torch.optim.Adam(p for p in self.parameters() if p.requires_grad)

        def on_train_epoch_start(self):
            self.net[0].requires_grad_(self.current_epoch > 0)

    ((where, message),) = findings(Thawed())
    assert where == "net.0"
    assert "unfrozen" in message


def test_a_tensor_that_is_no_parameter_is_found() -> None:
    """`requires_grad_()` does not make a parameter of a tensor."""

    class Plain(Classifier):
        def __init__(self):
            super().__init__()
            self.scale = torch.ones(64).requires_grad_()

        def forward(self, x):
            return self.net(x * self.scale)

    ((where, _),) = findings(Plain())
    assert where == "scale"


@pytest.mark.parametrize("form", [lambda p: p[None], lambda p: p.double()])
def test_what_is_made_of_a_parameter_is_none(form) -> None:
    """Reshaped or moved, it is a result: the parameter itself is known to nobody."""

    class Scaled(Classifier):
        def __init__(self):
            super().__init__()
            self.scale = form(nn.Parameter(torch.ones(64)))

        def training_step(self, batch, batch_idx):
            x, y = batch
            return super().training_step(((x * self.scale).float(), y), batch_idx)

    ((where, message),) = findings(Scaled())
    assert where == "scale"
    assert "plain" in message


def test_what_a_step_leaves_behind_is_no_parameter() -> None:
    """An output that is kept was made of parameters that the optimizer has."""

    class Kept(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.last, self.weight = loss, self.net[0].weight[:5]
            return loss

    assert not findings(Kept())


class GAN(pl.LightningModule):
    def __init__(self, *, swapped: bool = False, greedy: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.g = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
        self.d = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        self.swapped, self.greedy = swapped, greedy

    def training_step(self, batch, batch_idx):
        x, g, d = batch[0], *self.optimizers()
        fake = self.g(torch.randn(len(x), 8))
        d.zero_grad()
        self.manual_backward(
            F.softplus(-self.d(x)).mean() + F.softplus(self.d(fake.detach())).mean()
        )
        d.step()
        g.zero_grad()
        self.manual_backward(F.softplus(-self.d(fake)).mean())
        g.step()

    def configure_optimizers(self):
        parts = (self if self.greedy else self.g, self.d)
        both = [torch.optim.Adam(part.parameters()) for part in parts]
        return both[::-1] if self.swapped else both


def test_swapped_optimizers_are_starved() -> None:
    """The one that holds the generator steps after the loss of the critic."""
    ((where, message),) = findings(GAN(swapped=True), epochs=1)
    assert where == "Adam[1]"
    assert "no gradients" in message


def test_a_generator_that_moves_its_critic_is_found() -> None:
    """Its optimizer holds both, and trains the critic to be fooled."""
    ((where, message),) = findings(GAN(greedy=True), epochs=1)
    assert where == "Adam[0]"
    assert "Adam[1]" in message


def test_an_optimizer_that_never_steps_is_found_behind_a_validation() -> None:
    """Lightning zeroes the gradients before it validates."""

    class Idle(Classifier):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.manual_backward(self.loss(*batch))

        def validation_step(self, batch, batch_idx): ...

    detector = UpdateDetector(select=["UPD101"])
    fit(Program(Idle(), loader(), loader(), trainer={"max_epochs": 2}), detector)
    assert [one.measured for one in detector.findings] == ["idle"]


class TwoByHand(Classifier):
    """A body and a head with an optimizer each; that of the body begins to step in this epoch."""

    def __init__(self, epoch: float, *, is_shared: bool = False):
        super().__init__(layers())
        self.automatic_optimization = False
        self.epoch, self.is_shared = epoch, is_shared

    def training_step(self, batch, batch_idx):
        body, head = self.optimizers()
        body.zero_grad()
        head.zero_grad()
        self.manual_backward(self.loss(*batch))
        if self.current_epoch >= self.epoch:
            body.step()
        head.step()

    def configure_optimizers(self):
        body = self.net if self.is_shared else self.net[0]
        return [torch.optim.Adam(one.parameters()) for one in (body, self.net[2])]


def test_an_optimizer_that_alone_never_steps_is_idle() -> None:
    """Half of the run is enough to know."""
    ((where, message),) = findings(TwoByHand(math.inf))
    assert where == "Adam[0]"
    assert "not stepped once" in message


@pytest.mark.parametrize("options", [{"epoch": 1}, {"epoch": math.inf, "is_shared": True}])
def test_an_optimizer_may_begin_later(options) -> None:
    """Or hold what another one moves."""
    assert not findings(TwoByHand(**options))


def test_optimizers_of_a_gan_are_well() -> None:
    """Each has its part, and gets what the other one gets as well."""
    assert not findings(GAN(swapped=False), epochs=1)


# -- UPD102


def unchanged(**changes) -> bool:
    one = update(**{"moved": False, "update": 0.0, **changes})
    return bool(list(UpdateDetector().unchanged_parameter(look(one))))


def test_a_weight_that_is_put_back_is_unchanged() -> None:
    """It moves in the step, and is where it was before the next."""
    assert unchanged(update=1e-3)


def test_the_rounding_errors_of_others_do_not_ask_a_weight_to_move() -> None:
    """Such is the gradient of a bias before a batch norm, with SGD."""
    bias = update("net.0.bias", moved=False, update=0.0, gradient=1e-9)
    others = [update(f"net.{i}.weight") for i in range(3)]
    assert not list(UpdateDetector().unchanged_parameter(look(bias, *others)))


def test_half_precision_rounds_small_updates_away() -> None:
    """A norm's weight of 1 needs steps of 0.4 % in bfloat16."""
    assert unchanged(weight=1.0, rounding=2**-8)


@pytest.mark.parametrize(
    "changes",
    [
        {"age": 5},
        {"gradient": 0.0},
        {"gradient": None},
        {"rate": 0.0},
        {"rate": 1e-12},
        {"numel": 1},
        {"moved": True},
    ],
)
def test_a_weight_may_have_its_reasons(changes) -> None:
    """Too early, no gradient, a rate that is far too low, a number at its bound, or it did move."""
    assert not unchanged(**changes)


# -- UPD103


def out_of_band(*changes) -> list:
    updates = [update(f"net.{i}.weight", **one) for i, one in enumerate(changes)]
    return list(UpdateDetector().update_ratio(look(*updates)))


def test_a_step_of_the_size_of_the_weights_is_too_long() -> None:
    """The layer forgets with every batch what it has learned."""
    (found,) = out_of_band({"update": 0.5}, {})
    assert found.where == "net.0.weight"
    assert found.measured == pytest.approx(5.0)


def test_a_layer_that_stands_still_beside_others_is_told() -> None:
    """A millionth of its size, where others move by a hundredth."""
    (found,) = out_of_band({"update": 1e-9, "rate": 1e-9}, {}, {})
    assert found.where == "net.0.weight"
    assert "1e-09" in found.causes[0]


@pytest.mark.parametrize(("rate", "count"), [(1e-7, 1), (1e-5, 0)])
def test_rates_that_fall_from_layer_to_layer_leave_the_usual_one_behind(rate, count) -> None:
    """What stands still is then no thousand times slower than its neighbour, but than the fastest."""
    layers = {"update": 1e-8, "rate": rate}, {"update": 1e-6, "rate": 1e-5}, {"rate": 1e-3}
    assert len(out_of_band(*layers)) == count


@pytest.mark.parametrize(
    ("stride", "weight", "count"), [(0.05, 0.4, 1), (0.01, 0.4, 0), (0.05, 0.2, 0)]
)
def test_first_steps_that_leave_nothing_of_all_layers_are_too_long(
    stride: float, weight: float, count: int
) -> None:
    """Each of them is a good part of what the layers were, and little of that is left."""
    detector = UpdateDetector()
    layers = [update(f"net.{i}.weight", update=stride, weight=weight) for i in range(3)]
    looks = [list(detector.update_ratio(look(*layers))) for _ in range(5)]
    assert [0, 0, 0, 0, count] == [len(found) for found in looks]


@pytest.mark.parametrize(
    "changes",
    [
        ({"update": 0.5},),
        ({"update": 1e-9}, {"update": 1e-9}),
        ({"update": 0.5, "weight": 20.0}, {}),
        ({"update": 0.5, "kind": "bias"}, {}, {}),
        ({"update": 1e-9, "age": 3}, {}, {}),
        ({"update": 0.05, "weight": 1e-3, "start": 0.0}, {}, {}),
    ],
)
def test_steps_are_judged_where_they_mean_something(changes) -> None:
    """Not of a lone layer, not where all crawl, not after running away, not of zeros."""
    assert not out_of_band(*changes)


# -- UPD104


def badly_initialized(weights=(), updates=()) -> list:
    rule = UpdateDetector().bad_initialization
    return [one.measured for one in rule(InitialWeights(tuple(weights)), look(*updates))]


def test_units_that_stay_alike_are_told() -> None:
    """They get the same gradient for ever."""
    assert badly_initialized(updates=[update(is_alike=True, age=5)]) == ["alike"]


def test_columns_of_a_table_that_stay_alike_are_told() -> None:
    """Where it has moved: a scale that starts at ones may be too near to them to tell."""
    table = {"is_alike": True, "age": 5, "kind": "embedding"}
    assert badly_initialized(updates=[update(**table)]) == ["alike"]
    assert not badly_initialized(updates=[update(**table, moved=False)])
    idle = update(**{**table, "age": 20}, weight=0.0, start=0.0, gradient=0.0)
    assert not badly_initialized(updates=[idle, idle])


def test_a_lone_layer_of_zeros_comes_free() -> None:
    """The last layer of a branch gets a gradient in the first step."""
    still = update(is_alike=True, weight=0.0, start=0.0, gradient=0.0)
    assert not badly_initialized(updates=[still])
    assert badly_initialized(updates=[still, still]) == ["zero"]


def test_an_idle_branch_of_zeros_is_not_stuck() -> None:
    """No gradient is not a gradient of zero."""
    idle = update(is_alike=True, weight=0.0, start=0.0, gradient=None)
    assert not badly_initialized(updates=[idle, idle])


def test_huge_weights_are_told() -> None:
    """Drawn with the default scale of `nn.init.normal_`."""
    assert badly_initialized([weight(size=1.0)]) == [8.0]


def row_of(*gains: float, last: float, first: float = 0.0) -> list:
    """What is told of layers with these gains, if so much of the gradient gets to them."""
    names = [f"net.{i}.weight" for i in range(len(gains))]
    layers = [weight(name=name, size=gain / 8) for name, gain in zip(names, gains, strict=True)]
    updates = [update(name=name, gradient=last, age=0) for name in names]
    updates[0] = replace(updates[0], gradient=first or last)
    return badly_initialized(layers, [*updates, update(name="head.bias", kind="bias", age=0)])


def test_a_row_of_tiny_weights_is_told_by_its_gradient() -> None:
    """Of a signal that shrinks in each layer, next to no gradient is left in the usual one."""
    assert row_of(0.1, 0.1, 0.1, 0.1, last=1e-8) == [pytest.approx(1e-6)]
    assert not row_of(0.1, 0.1, 0.1, 0.1, last=1e-2)
    assert not row_of(0.1, 0.1, 0.1, 0.1, last=1e-7, first=1e-2)
    assert not row_of(0.1, 0.1, 0.6, 0.6, last=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 1.0, "is_normalized": True},
        {"size": 1.0, "looks_random": False},
        {"size": 1.0, "kind": "embedding"},
        {"size": 1.0, "fan_in": 4},
        {"is_alike": True, "size": 0.25, "units": 1},
        {"is_alike": True, "size": 0.0},
    ],
)
def test_large_or_even_weights_may_be_meant(changes) -> None:
    """Before a norm, after training, in a table, of few inputs, a mean, a zero."""
    assert not badly_initialized([weight(**changes)])


def test_fresh_and_trained_layers_are_told_apart() -> None:
    """Training moves a bias out of the bounds that it was drawn from."""
    layer, norm = nn.Linear(64, 64), nn.LayerNorm(8)
    fresh = [looks_random(layer, p, entries(p)) for p in layer.parameters()]
    assert fresh == [True, True]
    assert looks_random(norm, norm.bias, entries(norm.bias))
    with torch.no_grad():
        for p in (*layer.parameters(), norm.bias):
            p.add_(0.05 * torch.randn(p.shape))
    assert not looks_random(layer, layer.bias, entries(layer.bias))
    assert not looks_random(norm, norm.bias, entries(norm.bias))


def test_a_layer_with_a_forward_of_its_own_is_no_matrix() -> None:
    """It may scale its weights as it likes."""

    class Scaled(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight / 8, self.bias)

    kinds = [kind_of(one, "weight", one.weight) for one in (Scaled(2, 2), nn.Linear(2, 2))]
    assert kinds == ["other", "matrix"]


def test_sampled_entries_meet_every_row_and_column() -> None:
    """Of any memory format, without a copy of the tensor."""
    x = torch.arange(4096.0).view(64, 64)
    assert len((entries(x) // 64).unique()) == len((entries(x) % 64).unique()) == 64
    assert entries(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)).all()


# -- UPD105


def runs(sizes, steps) -> bool:
    detector = UpdateDetector()
    looks = [
        look(update(weight=w, update=u, age=10 * i))
        for i, (w, u) in enumerate(zip(sizes, steps, strict=True))
    ]
    return any(list(detector.diverging_weights(one)) for one in looks)


def test_growth_that_feeds_on_itself_is_told() -> None:
    """Each update is a share of the weight."""
    sizes = [0.1 * math.exp(0.5 * i) for i in range(14)]
    assert runs(sizes, [0.05 * one for one in sizes])


def test_a_lone_layer_may_go_far_at_a_steady_pace() -> None:
    """Adam on its way to large targets."""
    assert not runs([0.1 + i for i in range(30)], [0.1] * 30)


def test_a_whole_net_may_not_grow_so_much_so_soon() -> None:
    """At whatever pace."""
    detector = UpdateDetector()
    looks = [look(update("a", weight=5.0), update("b", weight=4.0))] * 5
    assert any(list(detector.diverging_weights(one)) for one in looks)


def falls(losses, growth: float = 4.0) -> bool:
    """Whether a net that has grown so much is told, with this loss at every fifth step."""
    detector = UpdateDetector()
    looks = [
        SampledUpdates(
            (update("a", weight=growth / 8, age=5 * i, start=1 / 8),),
            losses={"Adam": loss},
        )
        for i, loss in enumerate(losses)
    ]
    return any(list(detector.diverging_weights(one)) for one in looks)


def test_a_loss_that_falls_faster_and_faster_has_no_minimum() -> None:
    """The larger the weights of a critic, the faster they grow."""
    assert falls([-((i / 10) ** 3) for i in range(40)])


@pytest.mark.parametrize(
    ("losses", "growth"),
    [
        ([-((i / 10) ** 2) for i in range(40)], 2.0),
        ([5.0 - (i / 20) ** 2 for i in range(40)], 4.0),
        ([-1.0 + math.exp(-i / 8) for i in range(40)], 4.0),
        ([1.0 - i / 10 for i in range(40)], 4.0),
    ],
)
def test_a_loss_may_fall_below_zero(losses, growth) -> None:
    """A net that keeps its size, a loss above zero, one with a bound, one at a steady pace."""
    assert not falls(losses, growth)


# -- UPD106


def audited(**changes) -> str:
    settings = OptimizerSettings((Settings("Adam", "Adam", **{**ADAM, **changes}),), trainable=1)
    return "".join(one.message for one in UpdateDetector().optimizer_audit(settings))


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_decay": 0.01},
        {"weight_decay": 0.1, "decouples": True, "decayed": 2, "parameters": 4},
        {"eps": 0.1},
        {"betas": (0.999, 0.9)},
        {"rate": 1.0},
        {"momentum": 1.0},
        {"momentum": 0.9, "dampening": 0.9},
        {"left": 0.01},
    ],
)
def test_an_odd_setting_is_told(changes) -> None:
    """One sentence for each."""
    assert audited(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.01, "decouples": True, "decayed": 2, "parameters": 4, "is_usual": True},
        {"eps": 1e-3},
        {"rate": None},
        {"weight_decay": 0.01, "is_torchs": False},
        {"momentum": 0.9, "dampening": 0.1},
        {"dampening": 0.9},
        {"left": 0.5},
    ],
)
def test_a_usual_setting_is_not(changes) -> None:
    """Defaults, an eps that is large with care, and optimizers that we do not know."""
    assert not audited(**changes)


@pytest.mark.parametrize(
    ("betas", "severity"),
    [
        ((0.999, 0.9), Severity.WARNING),
        ((0.99, 0.9), Severity.WARNING),
        ((0.9, 0.0), None),
        ((0.95, 0.9), None),
    ],
)
def test_exchanged_betas_are_more_than_odd(betas, severity) -> None:
    """A step is then a hundred old gradients by the size of the last ten."""
    settings = OptimizerSettings((Settings("Adam", "Adam", **{**ADAM, "betas": betas}),), 1)
    (found,) = UpdateDetector().optimizer_audit(settings)
    assert found.severity == severity


@pytest.mark.parametrize(("trainable", "large"), [(0, 0), (1, 0)])
def test_nothing_to_train_is_told(trainable, large) -> None:
    """All parameters are frozen, or all but a bias."""
    settings = OptimizerSettings((), trainable=trainable, frozen=4, large=large)
    assert [one.where for one in UpdateDetector().optimizer_audit(settings)] == ["optimizer"]


def test_a_head_on_a_frozen_backbone_is_enough() -> None:
    """So is a net of nothing but biases."""
    audit = UpdateDetector().optimizer_audit
    assert not list(audit(OptimizerSettings((), trainable=2, frozen=4, large=1)))
    assert not list(audit(OptimizerSettings((), trainable=2, frozen=0, large=0)))


def test_what_was_frozen_as_it_was_drawn_has_learned_nothing() -> None:
    """Trained weights leave the interval, or do not fill it; other draws are not told."""
    layer = nn.Linear(64, 64)
    assert is_drawn(layer, layer.weight)
    for other in (layer.weight * 1.1, layer.weight * 0.9, torch.randn(64, 64) / 24):
        assert not is_drawn(layer, other)
    settings = OptimizerSettings((), trainable=2, frozen=4, drawn=("net.0.weight", "net.2.weight"))
    (one,) = UpdateDetector().optimizer_audit(settings)
    assert one.where == "net.0.weight"


@pytest.mark.parametrize(("drawn", "severity"), [(("head.weight",), Severity.WARNING), ((), None)])
def test_biases_of_weights_that_know_nothing_learn_little(drawn, severity) -> None:
    """Biases alone may be tuned where all else was trained before."""
    settings = OptimizerSettings((), trainable=1, frozen=4, large=0, drawn=drawn)
    (one,) = UpdateDetector().optimizer_audit(settings)
    assert one.severity == severity


def test_a_target_net_is_a_copy_and_not_as_it_was_drawn() -> None:
    """It starts from the weights that are trained, and follows them."""
    net = nn.ModuleDict({"online": nn.Linear(64, 64), "random": nn.Linear(64, 64)})
    net["target"] = copy.deepcopy(net["online"])
    net["random"].requires_grad_(False)
    net["target"].requires_grad_(False)
    assert _drawn(net) == ["random.weight"]


# -- UPD107


def parted(*spreads: float, told: list[str] | None = None, **changes) -> list:
    ones = [Replica(f"net.{i}.weight", spread, **changes) for i, spread in enumerate(spreads)]
    detector = UpdateDetector()
    detector.parted = told or []
    return list(detector.diverged_replicas(Replicas(tuple(ones), 2, 8)))


def test_what_differs_between_processes_is_told_by_name() -> None:
    """What is alike is not."""
    (found,) = parted(0.0, 0.2, 0.3)
    assert found.where == "net.1.weight"
    assert found.measured == 0.3
    assert found.details == {"parameters": ["net.1.weight", "net.2.weight"]}
    assert "net.1.weight and 1 other differ by up to 30.0% of their size" in found.message


def test_replicas_may_differ_by_rounding() -> None:
    """Unequal machines do not add up in the same order; half precision rounds coarsely."""
    assert not parted(1e-5)
    assert not parted(0.02, rounding=2**-8)
    assert parted(0.05, rounding=2**-8)


@pytest.mark.parametrize("kind", ["hidden", "added", "unfrozen"])
def test_what_ddp_does_not_average_has_its_own_advice(kind) -> None:
    """The cause is known, and told once, however many layers it comes to."""
    (found,) = parted(0.2, kind=kind)
    assert len(found.causes) == 1
    assert not parted(0.2, kind=kind, told=[kind])


class Replicated(Classifier):
    """A classifier that is trained on two processes, in some way or other."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.scale = [nn.Parameter(torch.ones(10))] if way == "in a list" else []
        if way == "unused":
            self.side = nn.Linear(64, 10)
        if way == "ignored":
            self._ddp_params_and_buffers_to_ignore = ["net.0.weight", "net.0.bias"]
        self.automatic_optimization = way not in ("no_sync", "by hand")

    def forward(self, x):
        out = self.net(x)
        if self.way == "unused" and self.global_rank and self.global_step % 2:
            out = out + self.side(x)
        return out * self.scale[0] if self.scale else out

    def training_step(self, batch, batch_idx):
        loss = self.loss(*batch)
        if self.automatic_optimization:
            return loss
        (own,) = [self.optimizers()]
        own.zero_grad()
        ddp = self.trainer.strategy.model
        if self.way == "no_sync":
            with ddp.no_sync():
                ddp.require_backward_grad_sync = False
                self.manual_backward(loss)
        else:
            self.manual_backward(loss)
        if self.way == "by hand" or self.global_rank == 0 or batch_idx % 2:
            own.step()
        with torch.no_grad():
            self.net[2].weight.clamp_(-0.2, 0.2)
        return None

    def optimizer_step(self, epoch, batch_idx, optimizer, closure=None):
        if self.way == "on one rank" and self.global_rank and batch_idx % 2:
            closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def configure_optimizers(self):
        if self.way == "lbfgs":
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)
        return torch.optim.Adam([*self.parameters(), *self.scale], lr=1e-3)

    def on_train_start(self):
        if self.way == "drawn anew":
            torch.manual_seed(self.global_rank)
            self.net[2].reset_parameters()
        if self.way == "added":
            self.net.append(nn.Linear(10, 10))
            self.trainer.optimizers[0].add_param_group({"params": self.net[3].parameters()})
        if self.way == "average" and self.global_rank == 0:
            self.average = copy.deepcopy(self.net)

    def on_train_batch_end(self, *_):
        if self.way == "average" and self.global_rank == 0:
            with torch.no_grad():
                for old, new in zip(self.average.parameters(), self.net.parameters(), strict=True):
                    old.lerp_(new, 0.1)


SICK = {
    "in a list": "plain list",
    "added": "made after DDP",
    "drawn anew": "One process steps",
    "on one rank": "One process steps",
    "no_sync": "One process steps",
}
SOUND = {
    "plain": {"gradient_clip_val": 0.1},
    "accumulating": {"accumulate_grad_batches": 3},
    "unused": {"strategy": "ddp_fork_find_unused_parameters_true"},
    "lbfgs": {},
    "average": {},
    "by hand": {},
    "ignored": {},
    "bf16": {"precision": "bf16-true"},
}


@pytest.mark.ddp
@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", [*SICK, *SOUND])
def test_replicas_of_a_real_run(way: str) -> None:
    """All that parts them is found, nobody waits, and whatever keeps them alike is silent."""
    seed()
    options = {"strategy": "ddp_fork", "devices": 2, "max_steps": 24, **SOUND.get(way, {})}
    detector = UpdateDetector(select=["UPD107"], halt_on="error")
    told = pytest.raises(Exception, match=SICK[way]) if way in SICK else nullcontext()
    with told:
        fit(Program(Replicated(way), loader(batch_size=16)), detector, **options)


def test_lazy_layers_switch_nothing_off(caplog) -> None:
    """They have no size before their first forward, when the run begins."""
    net = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(10))
    fit(Program(Classifier(net), loader(), trainer={"max_steps": 12}), NNDebug())
    assert "off from here" not in caplog.text


class ByHand(Classifier):
    """Is made of bare matrices, which begin as one number."""

    def __init__(self, way: str) -> None:
        super().__init__(nn.Identity())
        self.first = nn.Parameter(torch.full((64, 32), 0.01))
        self.last = nn.Parameter(torch.full((32, 10), 0.01))
        self.gate = nn.Parameter(torch.ones(8, 8))
        if way == "random":
            nn.init.normal_(self.first, std=0.1)
            nn.init.normal_(self.last, std=0.1)

    def forward(self, x):
        x = (x.reshape(-1, 8, 8) * self.gate).flatten(1)
        return torch.tanh(x @ self.first) @ self.last


@pytest.mark.parametrize(("way", "told"), [("one number", ["UPD104"]), ("random", [])])
def test_matrices_of_one_number_stay_alike(way: str, told: list[str]) -> None:
    """Their units are columns; what only weighs other numbers comes apart."""
    seed()
    detector = UpdateDetector(select=["UPD104"])
    fit(Program(ByHand(way), loader(), trainer={"max_steps": 30}), detector)
    assert [one.code for one in detector.findings] == told


def enclosing(*layers: nn.Module):
    """Returns a function around layers."""

    def encode(x):
        for one in layers:
            x = F.relu(one(x))
        return x

    return encode


class Enclosed(Classifier):
    """Has a layer that only a function knows of, or that a function knows of as well."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, layer = way, nn.Linear(64, 64)
        if way == "own":
            self.layer = layer
        if way == "frozen":
            layer.requires_grad_(False)
        if way == "trained":
            nn.init.constant_(layer.bias, 0.3)
            with torch.no_grad():
                layer.weight.copy_(torch.eye(64) + 0.1 * torch.rand(64, 1) * torch.rand(1, 64))
        self.encode = {
            "partial": partial(F.linear, weight=layer.weight, bias=layer.bias),
            "method": layer.forward,
            "lambda": lambda x: F.relu(layer(x)),
        }.get(way, enclosing(layer))
        self.known = list(layer.parameters()) if way == "optimized" else []

    def forward(self, x):
        return super().forward(self.encode(x))

    def configure_optimizers(self):
        return torch.optim.Adam([*self.parameters(), *self.known], lr=1e-3)


@pytest.mark.parametrize("way", ["function", "lambda", "method", "partial"])
def test_layers_that_a_function_holds_are_not_optimized(way: str) -> None:
    """The module does not know of them, however they are enclosed."""
    seed()
    detector = UpdateDetector(select=["UPD101"])
    fit(Program(Enclosed(way), loader(), trainer={"max_steps": 12}), detector)
    assert {one.code for one in detector.findings} == {"UPD101"}
    assert all(one.where.startswith("encode.") for one in detector.findings)


@pytest.mark.parametrize("way", ["own", "frozen", "optimized", "trained"])
def test_a_function_may_hold_layers_that_are_cared_for(way: str) -> None:
    """Those of the module or an optimizer, frozen ones, and what has been trained before."""
    seed()
    detector = UpdateDetector(select=["UPD101"])
    fit(Program(Enclosed(way), loader(), trainer={"max_steps": 12}), detector)
    assert not [one for one in detector.findings if one.severity >= Severity.WARNING]
