"""What becomes of the loss: chance, progress, terms and regularization."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from cases.los105_dominated_loss import ClassAndPrice, items
from program import Program, digits, fit, seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import LossDetector
from lightning_nndebug.core.measurements.fits import Fit, Fits, _is_opposed, constant
from lightning_nndebug.core.measurements.fits import fit as fit_of
from lightning_nndebug.core.measurements.loss_calls import Listener
from lightning_nndebug.core.measurements.loss_curve import LossCurve
from lightning_nndebug.core.measurements.loss_inputs import LossInputs
from lightning_nndebug.core.measurements.loss_terms import LossTerms, Regularization, Term, terms
from lightning_nndebug.core.measurements.schedules import Schedules
from lightning_nndebug.core.measurements.step_probe import StepProbe
from lightning_nndebug.losses.progress import fall, has_diverged, take_up, verdict

BALANCED = torch.tensor([[10.0] * 4 + [40.0]])  # forty labels of four classes
CHANCE = math.log(4)
DDP = {"strategy": "ddp_fork", "devices": 2}


def at(step: int, loss: float, relation: float = 0.0, **options: Any) -> Fits:
    """One look at a cross entropy over four classes."""
    made = {"floor": 0.0, "totals": BALANCED, "kind": "classes", "chance": CHANCE, **options}
    made = {"samples": 40, **made}
    return Fits((Fit("ce", None, loss=loss, relation=relation, **made),), step=step)


def planned(steps: float) -> Schedules:
    """A run of so many steps."""
    return Schedules(steps=steps, epochs=3)


RUN = planned(150)


def told(detector: LossDetector, looks: list[Fits], rule: str, *more: Any) -> list[Any]:
    """What a rule says at the last of several looks, and that it was silent until then."""
    method = getattr(detector, rule)
    said = [list(method(one, *more)) for one in looks]
    return said[-1]


# -- LOS101


@pytest.mark.parametrize(
    ("losses", "options", "fires"),
    [
        ([8.0, 7.0, 6.0], {}, True),
        ([1.5, 1.5, 1.4], {}, False),
        ([0.1, 0.1, 0.1], {}, False),
        ([8.0, 7.0, 6.0], {"scaled": True}, False),
        ([8.0, 7.0, 6.0], {"scaled": True, "matches": True}, False),
        ([8e3, 7e3, 6e3], {"scaled": True}, False),
        ([8e3, 7e3, 6e3], {"scaled": True, "matches": True}, True),
        ([8e3, 7e3, 6.0], {"scaled": True, "matches": True}, False),
        ([8.0, 7.0, 6.0], {"relation": -4.0}, False),
    ],
    ids=[
        "sure and wrong",
        "chance",
        "pretrained",
        "temperature",
        "cosines",
        "other scores",
        "no temperature in use",
        "soon over",
        "margin",
    ],
)
def test_the_first_loss_is_held_against_chance(
    losses: list[float], options: dict[str, Any], fires: bool
) -> None:
    """Far above it is an illness, unless a temperature or a margin means it."""
    looks = [at(step, loss, **options) for step, loss in enumerate(losses)]
    assert bool(told(LossDetector(), looks, "initial_loss_off_chance", RUN)) is fires


class TwoTowers(pl.LightningModule):
    """Matches the halves of an image both ways."""

    def __init__(self, scale: float, *, normalizes: bool = True) -> None:
        super().__init__()
        self.towers = nn.ModuleList(nn.Linear(32, 16) for _ in range(2))
        self.scale, self.normalizes = nn.Parameter(torch.tensor(scale)), normalizes

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        halves = batch[0].chunk(2, dim=1)
        a, b = (tower(half) for tower, half in zip(self.towers, halves, strict=True))
        if self.normalizes:
            a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        logits = self.scale.exp() * a @ b.T
        own = torch.arange(len(a))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@pytest.mark.parametrize(
    ("module", "codes"),
    [
        (lambda: TwoTowers(1 / 0.07), ["LOS101"]),
        (lambda: TwoTowers(math.log(1 / 0.07)), []),
        (lambda: TwoTowers(math.log(100)), []),
        (lambda: TwoTowers(0.0, normalizes=False), []),
        (lambda: TwoTowers(math.log(1 / 0.07), normalizes=False), []),
    ],
    ids=["no logarithm", "0.07", "0.01", "products", "warm products"],
)
def test_a_loss_that_asks_both_ways_is_judged(module: Any, codes: list[str]) -> None:
    """Scores and their transpose are in one place in memory, and are two questions."""
    seed()
    detector = LossDetector()
    data = DataLoader(TensorDataset(*digits()), batch_size=64, shuffle=True)
    fit(Program(module(), data, trainer={"max_steps": 60}), detector)
    assert [one.code for one in detector.findings] == codes
    assert detector.histories


@pytest.mark.parametrize(("steps", "last", "fires"), [(600, 62, False), (150, 16, True)])
def test_a_mean_that_a_tenth_of_the_run_learns_does_no_harm(
    steps: int, last: int, fires: bool
) -> None:
    """Raw ratings begin at ten times their variance, and a long run has long forgotten it."""
    looks = [of_quantities(step, 101.0, 10.0) for step in (0, 1, 2, 8, 16)]
    looks = [one for one in looks if one.step < last] + [of_quantities(last, 95 - 1.4 * last, 10.0)]
    said = told(LossDetector(), looks, "initial_loss_off_chance", planned(steps))
    assert bool(said) is fires


@pytest.mark.parametrize(("then", "later", "fires"), [(40.0, 5.0, False), (40.0, 30.0, True)])
def test_a_mean_that_is_half_way_learned_gets_as_many_steps_again(
    then: float, later: float, fires: bool
) -> None:
    """From 10 deviations off to 6 in sixteen steps, it comes below the limit in sixteen more."""
    looks = [of_quantities(step, 101.0, 10.0) for step in (0, 1, 2, 8)]
    looks += [of_quantities(16, then, 10.0)]
    assert not told(LossDetector(), looks, "initial_loss_off_chance", RUN)
    looks += [of_quantities(32, later, 10.0)]
    assert bool(told(LossDetector(), looks, "initial_loss_off_chance", RUN)) is fires


def test_a_run_that_is_resumed_has_no_first_loss() -> None:
    """Nobody knows what it was."""
    looks = [at(step, 8.0) for step in (500, 501, 502)]
    assert not told(LossDetector(), looks, "initial_loss_off_chance", RUN)


def of_quantities(step: int, loss: float, mean: float) -> Fits:
    """One look at a squared error, of forty targets with this mean and variance 1."""
    totals = torch.tensor([[40.0], [40 * mean], [40 * (mean**2 + 1)]]).double()
    return at(step, loss, totals=totals, kind="quantities", chance=math.nan)


@pytest.mark.parametrize(
    ("first", "last", "mean", "fires"),
    [
        (101.0, 90.0, lambda _: 10.0, True),
        (101.0, 5.0, lambda _: 10.0, False),
        (3.0, 3.0, lambda _: 10.0, False),
        (20.0, 20.0, lambda step: 4.0 - step / 2, False),
    ],
    ids=["far off", "soon learned", "near", "in order"],
)
def test_a_guess_at_quantities_is_their_mean(
    first: float, last: float, mean: Any, fires: bool
) -> None:
    """A squared error ten times the variance is too much, if it takes time to unlearn.

    The first targets of a series are near each other: how far all vary is not known at once.
    """
    totals = of_quantities(0, 1.0, 10.0).fits[0].totals
    assert constant("quantities", totals) == pytest.approx(40 / 39)
    looks = [of_quantities(step, first, mean(step)) for step in (0, 1, 2, 8)]
    looks.append(of_quantities(16, last, mean(16)))
    assert bool(told(LossDetector(), looks, "initial_loss_off_chance", RUN)) is fires
    assert not told(LossDetector(), looks[:-1], "initial_loss_off_chance", RUN)


def test_targets_that_are_all_the_same_have_no_variance() -> None:
    """Any error is infinitely many times theirs: that says nothing of the net."""
    totals = torch.tensor([[40.0], [0.0], [0.0]]).double()
    looks = [
        at(step, loss, totals=totals, kind="quantities", chance=math.nan)
        for step, loss in ((0, 0.1), (1, 0.08), (2, 0.06), (8, 0.02), (16, 0.01), (40, 0.0))
    ]
    assert not told(LossDetector(), looks, "initial_loss_off_chance", RUN)


@pytest.mark.parametrize(("pace", "diverges"), [(0.0, True), (1.0, False)])
def test_a_loss_may_follow_targets_that_wander_off(pace: float, diverges: bool) -> None:
    """Returns of a better policy are larger: the critic is behind them, and has forgotten nothing."""
    histories: dict[str, Any] = {}
    for step in range(12):
        loss = 0.1 if step < 6 else step**2 / 2
        take_up(histories, of_quantities(step, loss, mean=pace * step))
    assert bool(has_diverged(histories["ce"], 1.5)) is diverges


def test_a_batch_of_hardly_any_variance_is_no_merit() -> None:
    """Where most targets are 0, some batches have little to miss."""
    histories: dict[str, Any] = {}
    for step, size in enumerate([1, 1, 1, 0.3, 0.3, 0.3, 1, 1, 1.8, 1.8, 1.8, 1.8]):
        totals = torch.tensor([[40.0], [0.0], [40.0 * size]]).double()
        take_up(histories, at(step, size, totals=totals, kind="quantities", chance=math.nan))
    assert not has_diverged(histories["ce"], 1.5)


class Reversed(torch.autograd.Function):
    """The same forward, the opposite backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return -gradient


@pytest.mark.parametrize("opposed", [False, True])
def test_a_loss_may_rise_because_half_of_the_net_wants_it_to(opposed: bool) -> None:
    """The features of an adversary come through a function of the user's own."""
    net, head, y = nn.Linear(4, 8), nn.Linear(8, 4), torch.arange(16) % 4
    features = net(torch.randn(16, 4)).relu()
    with Listener((y,)) as mode:
        F.cross_entropy(head(Reversed.apply(features) if opposed else features), y)
    (call,) = mode.heard()[0]
    assert _is_opposed(call.input.grad_fn) is opposed
    detector = LossDetector()
    looks = [at(step, 0.5 if step < 6 else 5.0, opposed=opposed) for step in range(12)]
    said = [list(detector.diverging_loss(one)) for one in looks]
    assert any(said) is not opposed


# -- LOS104


@pytest.mark.parametrize(
    ("loss", "relation", "fires"),
    [
        (lambda s: CHANCE, 0.0, True),
        (lambda s: 2 * CHANCE, 0.0, True),
        (lambda s: 0.9 * CHANCE, 0.0, False),
        (lambda s: CHANCE, 0.3, False),
        (lambda s: (2 - s / 60) * CHANCE, 0.0, False),
    ],
    ids=["chance", "above chance", "better", "related, if badly scaled", "under way"],
)
def test_nothing_learned(loss: Any, relation: float, fires: bool) -> None:
    """No better than a constant, unrelated, and not about to be better."""
    looks = [at(step, loss(step), relation) for step in (0, 1, 2, 10, 20, 30, 40, 50)]
    assert bool(told(LossDetector(), looks, "nothing_learned", planned(60))) is fires


@pytest.mark.parametrize(
    ("relations", "fires"),
    [
        ([0.001, 0.0, 0.001, 0.002, 0.002, 0.005, 0.011], False),
        ([0.0, 0.0, 0.0, 0.0, 0.0001, 0.0004, 0.0024], False),
        ([0.001, 0.0, 0.001, 0.002, 0.011, 0.002, 0.003], True),
        ([0.006, -0.004, 0.001, -0.006, -0.002, 0.001, 0.005], True),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 1e-7, 2e-7], True),
    ],
    ids=["leaves", "leaves late", "up and down", "by chance", "rounding"],
)
def test_a_net_that_leaves_its_plateau_is_given_time(relations: list[float], fires: bool) -> None:
    """What predictions have to do with targets grows, before the loss falls."""
    steps = (0, 1, 2, 16, 29, 37, 50)
    looks = [at(step, CHANCE, one) for step, one in zip(steps, relations, strict=True)]
    assert bool(told(LossDetector(), looks, "nothing_learned", planned(60))) is fires


@pytest.mark.parametrize(
    ("level", "relations", "fires"),
    [
        (0.98, (0.04, 0.06, 0.05, 0.07), False),
        (1.02, (0.04, 0.06, 0.05, 0.07), True),
        (0.98, (0.09, -0.02, 0.10, 0.03), True),
        (0.99, (0.002, 0.002, 0.002, 0.002), True),
    ],
    ids=["the rest is noise", "no better", "by chance", "hardly anything"],
)
def test_little_is_not_nothing(level: float, relations: tuple[float, ...], fires: bool) -> None:
    """Predictions that are related to noisy targets in each look are no guesses."""
    steps = (0, 1, 2, 30, 37, 43, 50)
    related = (0.0, 0.0, 0.0, *relations)
    looks = [at(s, level * CHANCE, r) for s, r in zip(steps, related, strict=True)]
    assert bool(told(LossDetector(), looks, "nothing_learned", planned(60))) is fires


def test_a_constant_is_held_against_the_same_samples() -> None:
    """Batches with large targets make the loss of a net as large as that of a constant."""
    made = {"kind": "quantities", "chance": math.nan}
    looks = []
    for step in (0, 1, 2, 30, 37, 43, 50):
        spread = 1.0 if step < 30 else 2.0
        totals = torch.tensor([[40.0], [0.0], [40.0 * spread]])
        looks.append(at(step, 0.8 * spread, totals=totals, **made))
    assert not told(LossDetector(), looks, "nothing_learned", planned(60))


def test_a_language_model_may_learn_first_how_frequent_tokens_are() -> None:
    """Next tokens are held against a guess at the start alone."""
    looks = [at(10 * i, 2.0, is_next=True) for i in range(10)]
    assert not told(LossDetector(), looks, "nothing_learned", planned(100))
    looks = [at(step, 8.0, is_next=True) for step in range(3)]
    assert told(LossDetector(), looks, "initial_loss_off_chance", RUN)


def test_nothing_is_said_of_progress_as_long_as_there_is_time() -> None:
    """Three quarters of the run, or two thousand steps."""
    looks = [at(step, CHANCE) for step in (0, 1, 2, 10, 20, 30, 40, 50)]
    assert not told(LossDetector(), looks, "nothing_learned", planned(100))
    assert told(LossDetector(), [*looks, at(75, CHANCE)], "nothing_learned", planned(100))
    late = [at(50 * step, CHANCE) for step in range(41)]
    assert told(LossDetector(), late, "nothing_learned", planned(math.inf))
    assert not told(LossDetector(), late[:-1], "nothing_learned", planned(math.inf))


@pytest.mark.parametrize(
    ("level", "said"), [(1.0, "steps are too long"), (0.5, "not the learning rate")]
)
def test_who_has_got_on_was_not_thrown_away(level: float, said: str) -> None:
    """First steps that were too long are forgotten once the loss has fallen since."""
    wild = {0.0: 1.0, 0.3: 1.1, 1.0: 1.5, 10.0: 9.0, 100.0: 99.0}
    calm = {0.0: 1.0, 0.3: 0.9, 1.0: 0.8, 10.0: 0.9, 100.0: 2.0}
    detector = LossDetector()
    for step, curve in enumerate([wild] * 4 + [calm] * 4):
        own, losses = (1.0, curve[1.0]), (level if curve is calm else 1.0,)
        detector.kept(StepProbe("SGD", step, 0.1, 1.0, curve, own, 0.2, losses))
    assert detector.held_up == said


@pytest.mark.parametrize(
    ("relations", "loss", "matches", "fires"),
    [
        ([-0.9, -0.4, -0.2, -0.01], 1.02, True, True),
        ([-0.9, -0.4, -0.2, 0.01], 1.02, True, False),
        ([-0.9, -0.4, -0.2, -0.01], 1.02, False, False),
        ([-0.9, -0.4, -0.2, -0.01], 2.0, True, False),
        ([-0.9, -0.9, -0.9, -0.8], 1.02, True, False),
        ([-0.05, -0.04, -0.02, -0.01], 1.02, True, False),
    ],
    ids=["distances", "learned", "classes", "margin", "never flattened", "by chance"],
)
def test_distances_are_no_similarities(
    relations: list[float], loss: float, matches: bool, fires: bool
) -> None:
    """What belongs together begins with the lowest scores, and all that can be done is level them."""
    detector = LossDetector()
    steps = (0, 1, 2, *range(10, 80, 5))
    values = relations[:3] + relations[3:] * (len(steps) - 3)
    looks = [
        at(step, CHANCE * loss, one, matches=matches)
        for step, one in zip(steps, values, strict=True)
    ]
    before = told(detector, looks, "nothing_learned", planned(100))
    found = list(detector.unsuitable_loss(LossInputs(())))
    assert bool(found) is fires
    assert not (fires and before)


@pytest.mark.parametrize(
    ("curve", "kept", "said"),
    [
        ({0.0: 1.0, 0.3: 0.9, 1.0: 0.8, 10.0: 0.9, 100.0: 2.0}, 0.9, "not the learning rate"),
        ({0.0: 1.0, 0.3: 1.0, 1.0: 1.0, 10.0: 0.99, 100.0: 0.9}, 0.9, "steps are too short"),
        ({0.0: 1.0, 0.3: 1.1, 1.0: 1.5, 10.0: 9.0, 100.0: 99.0}, 0.1, "steps are too long"),
        ({0.0: 1.0, 0.3: 1.1, 1.0: 1.5, 10.0: 9.0, 100.0: 99.0}, 0.9, "not the learning rate"),
        ({0.0: 1.0, 0.3: 0.99, 1.0: 0.991, 10.0: 9.0, 100.0: 99.0}, 0.1, "not the learning rate"),
    ],
)
def test_the_learning_rate_is_acquitted_or_not(
    curve: dict[float, float], kept: float, said: str
) -> None:
    """A step that keeps what it promised is not too long, whatever the next batch says."""
    probes = [{"curve": curve, "kept": kept, "pace": 0.1}] * 4
    assert (verdict(probes), verdict(probes[:2])) == (said, "")
    detector = LossDetector()
    detector.held_up = verdict(probes)
    looks = [at(step, CHANCE) for step in (0, 1, 2, 10, 20, 30, 40, 50)]
    found = told(detector, looks, "nothing_learned", planned(60))
    assert bool(found) is (said == "not the learning rate")
    assert all(said in one.message for one in found)


# -- LOS105, LOS106


def test_a_term_is_drowned_by_a_hundred_times_another() -> None:
    """Unless it is solved, has no targets, or weight 0."""
    detector = LossDetector()
    list(detector.initial_loss_off_chance(at(0, CHANCE), RUN))

    def found(small: float, name: str = "ce") -> list[Any]:
        other = Term("mse", None, norm=500.0, shared=500.0)
        return list(
            detector.dominated_loss(LossTerms((Term(name, None, small, small), other), step=5))
        )

    assert [one.where for one in found(1.0)] == ["ce"]
    assert not found(10.0)
    assert not found(0.0)
    assert not found(1.0, name="")
    for step in (1, 2, 3):
        list(detector.initial_loss_off_chance(at(step, 0.1), RUN))
    assert not found(1.0)


def test_regularization_dominates_only_where_nothing_is_learned() -> None:
    """Strong at the start, and still there."""

    def found(loss: float, ratios: list[float]) -> list[Any]:
        detector = LossDetector()
        told(
            detector,
            [at(s, loss) for s in (0, 10, 20, 30, 40, 50)],
            "initial_loss_off_chance",
            RUN,
        )
        for ratio in ratios:
            pulls = Regularization(ratio, "Adam", 3.0, math.nan, step=50)
            said = list(detector.regularization_dominates(pulls, planned(60)))
        return said

    assert [one.where for one in found(CHANCE, [9, 8, 7, 1, 0.5, 0.5])] == ["Adam(weight_decay=3)"]
    assert not found(CHANCE / 2, [9, 8, 7, 1, 0.5, 0.5])
    assert not found(CHANCE, [0.1] * 6)
    assert not found(CHANCE, [9, 8, 7, 0.01, 0.01, 0.01])
    assert not found(CHANCE, [9, 8])


def test_regularization_is_told_at_once_where_the_loss_has_run_away() -> None:
    """There is nothing to wait for."""
    losses = [1.4, 0.7, 0.4, 0.3, 0.3, 0.3, 1.6, 2.0, 2.5, 3.0, 4.0]
    for runaway in (False, True):
        detector = LossDetector()
        if runaway:
            detector._findings.append(SimpleNamespace(code="LOS108"))  # type: ignore[arg-type]
        told(detector, [at(10 * i, one) for i, one in enumerate(losses)], "diverging_loss")
        for _ in range(3):
            pulls = Regularization(0.0, "Adam", 0.0, 50.0, step=60)
            found = list(detector.regularization_dominates(pulls, planned(1000)))
        assert bool(found) is runaway


def test_a_sum_is_taken_apart() -> None:
    """Sums, means of lists, and constant factors; not what is inside of a net."""
    w = torch.randn(4, requires_grad=True)
    a, b, c = (w * 2).sum(), w.square().mean(), w.abs().sum()
    assert len(terms(a)) == 1
    assert len(terms(a + 2 * b - c / 3)) == 3
    assert len(terms((a + b + c) / 4 * 1024.0)) == 3
    assert len(terms(torch.stack([a, b, c]).mean())) == 3
    assert len(terms(sum([a, b, c]))) == 3
    assert len(terms((w + w.square()).sum())) == 1
    assert len(terms(a * b)) == 1


class ByHand(ClassAndPrice):
    """Goes backward itself, and steps with clipped gradients."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.clip_gradients(optimizer, 1.0, "norm")
        optimizer.step()


@pytest.mark.parametrize("way", [{}, pytest.param(DDP, marks=pytest.mark.ddp)], ids=["one", "two"])
@pytest.mark.parametrize("kind", [ClassAndPrice, ByHand])
def test_terms_are_told_apart_however_the_run_goes_backward(
    kind: type[ClassAndPrice], way: dict[str, Any], tmp_path: Path
) -> None:
    """By hand, and in several processes; what is well is left alone."""
    for dollars, codes in ((300.0, ["LOS105"]), (1.0, [])):
        seed(0)
        data = DataLoader(items(dollars), batch_size=16, shuffle=True)
        directory = tmp_path / str(dollars)
        options = {"max_steps": 25, "default_root_dir": directory, **way}
        fit(Program(kind(), data, trainer=options), LossDetector(select=["LOS105"]))
        lines = (directory / "nndebug" / "record.jsonl").read_text().splitlines()
        found = [one for one in map(json.loads, lines) if one["kind"] == "finding"]
        assert [one["code"] for one in found] == codes


# -- LOS108


@pytest.mark.parametrize(
    ("losses", "fires"),
    [
        ([1.4, 0.7, 0.4, 0.3, 0.3, 0.3, 1.6, 2.0, 2.5, 3.0, 4.0], True),
        ([1.4, 0.7, 0.4, 0.3, 0.3, 0.3, 1.6, 0.4, 0.3, 0.3, 0.3], False),
        ([1.4, 0.7, 0.4, 0.3, 0.1, 0.1, 0.4, 0.5, 0.5, 0.5, 0.5], False),
        ([1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4], False),
        ([1.4, 0.7, 0.4, 0.3, 0.3, 0.3, 9.0, 8.0, 6.0, 4.0, 2.0], False),
        ([1.4, 0.8, 0.8, 3.6, 1.4, 0.6, 0.5, 0.5, 0.4, 0.5, 2.9, 2.6, 2.2], False),
        ([1.4, 0.8, 0.8, 0.7, 0.7, 0.6, 0.5, 0.5, 0.4, 0.5, 2.9, 2.6, 2.2], True),
    ],
    ids=[
        "gone",
        "spike",
        "worse, and better than none",
        "flat",
        "recovers",
        "passes again",
        "stays",
    ],
)
def test_diverging(losses: list[float], fires: bool) -> None:
    """Above its own best and above a constant, to stay."""
    looks = [at(10 * step, loss) for step, loss in enumerate(losses)]
    assert bool(told(LossDetector(), looks, "diverging_loss")) is fires


@pytest.mark.parametrize(("samples", "fires"), [(1, False), (16, True), (64, True)])
def test_single_samples_do_not_tell_that_a_loss_diverges(samples: int, fires: bool) -> None:
    """Their losses have long tails: some are far above chance until the end."""
    losses = [1.4] * 12 + [0.6, 0.5, 0.6, 0.5] * 3 + [2.5, 2.3, 2.4, 2.5, 2.4, 2.5]
    looks = [at(10 * i, one, samples=samples) for i, one in enumerate(losses)]
    assert bool(told(LossDetector(), looks, "diverging_loss")) is fires


@pytest.mark.parametrize(
    ("loss", "fires"),
    [
        (lambda t: 0.5 - 0.01 * t**2, True),
        (lambda t: 0.5 - math.exp(t / 30), True),
        (lambda t: 0.5 - 0.1 * t, False),
        (lambda t: 90 - 40 * math.log(1 + t), False),
        (lambda t: 0.01 * t**2, False),
        (lambda t: 2.0 - 0.0001 * t**2, False),
        (lambda t: 0.5 - min(0.01 * t**2, 20), False),
    ],
    ids=["square", "ever faster", "line", "density", "rises", "above 0", "critic with a bound"],
)
def test_a_loss_without_a_floor_runs_away(loss: Any, fires: bool) -> None:
    """Below 0, and over twice the steps more than twice as far, at two looks in a row."""
    detector = LossDetector()
    for steps in (64, 128):
        detector.growth(LossCurve(tuple(loss(t) for t in range(steps)), 1, steps))
        found = told(detector, [at(steps, 1.0)], "diverging_loss")
        assert [one.where for one in found] == ["loss"] * (fires and steps == 128)


# -- what is measured


def measured(step: Any, *batch: Any) -> Fit | None:
    """The fit of the only call that a step makes."""
    with Listener(batch) as listener:
        step(*batch)
    calls, _, _, differences, *_ = listener.heard()
    return fit_of([*calls, *differences][0])


X, Y = torch.randn(400, 5), torch.arange(400) % 4
LAYER = nn.Linear(5, 4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.2},
        {"weight": torch.tensor([1.0, 2.0, 3.0, 4.0])},
        {"reduction": "sum"},
        {"ignore_index": 3},
    ],
    ids=str,
)
def test_what_we_evaluate_is_what_torch_does(options: dict[str, Any]) -> None:
    """With weights, smoothing, ignored labels; per sample, also of a sum."""
    fit = measured(lambda x, y: F.cross_entropy(LAYER(x), y, **options), X, Y)
    mean = F.cross_entropy(LAYER(X), Y, **{**options, "reduction": "mean"})
    assert fit is not None
    assert fit.loss == pytest.approx(mean.item(), rel=1e-4)


def test_the_constant_is_the_best_that_there_is() -> None:
    """Found by descent: the same weights, the same smoothing."""
    weight, skewed = torch.tensor([1.0, 2.0, 3.0, 4.0]), Y.clamp(max=2)
    options = {"weight": weight, "label_smoothing": 0.1}
    scores = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(scores.expand(400, 4), skewed, **options)
        value.backward()
        return value

    optimizer.step(loss)
    fit = measured(lambda x, y: F.cross_entropy(LAYER(x), y, **options), X, skewed)
    assert fit is not None
    assert constant(fit.kind, fit.totals) == pytest.approx(loss().item(), rel=0.02)


def test_answers_and_quantities() -> None:
    """Several answers are columns; quantities have a variance and a correlation."""
    many = (torch.rand(400, 4) < 0.25).float()
    fit = measured(lambda x, y: F.binary_cross_entropy_with_logits(LAYER(x), y), X, many)
    assert fit is not None
    assert (fit.kind, fit.chance) == ("answers", pytest.approx(math.log(2)))
    assert constant("answers", fit.totals) == pytest.approx(0.562, abs=0.03)
    target = LAYER(X).detach() + torch.randn(400, 4)
    fit = measured(lambda x, y: F.huber_loss(LAYER(x), y), X, target)
    assert fit is not None
    assert fit.loss == pytest.approx(1.0, abs=0.2)
    assert fit.relation > 0.1


def test_targets_that_the_step_has_scaled_are_those_of_the_batch() -> None:
    """By one factor and one offset; numbers that are not made of them are others."""
    quantity = torch.randn(400, 1) * 3 + 100
    fit = measured(lambda x, y: F.mse_loss(LAYER(x)[:, :1], (y - 100) / 3), X, quantity)
    assert fit is not None
    assert fit.where == "mse_loss(batch[1])"
    assert constant(fit.kind, fit.totals) == pytest.approx(1.0, abs=0.2)
    assert measured(lambda x, y: F.mse_loss(LAYER(x)[:, :1], y.log()), X, quantity) is None
    assert measured(lambda x, y: F.mse_loss(LAYER(x)[:, :1], y.roll(1) / 3), X, quantity) is None


def test_quantities_that_are_far_away_teach_nothing() -> None:
    """Worse than their mean by half all along, and no nearer: however the predictions turn."""
    steps = (0, 1, 2, 10, 20, 30, 40, 50)
    for unit, losses, fires in (
        (1.0, [3.0] * 8, True),
        (100.0, [3e4] * 8, True),
        (1.0, [1.2] * 8, False),
        (1.0, [3, 3, 3, 3, 3, 2, 1, 0.5], False),
    ):
        totals = torch.tensor([[400.0], [0.0], [400.0 * unit**2]]).double()
        looks = [
            at(step, float(loss), 0.4, totals=totals, kind="quantities", chance=math.nan)
            for step, loss in zip(steps, losses, strict=True)
        ]
        detector = LossDetector()
        detector.held_up = "steps are too short"
        found = told(detector, looks, "nothing_learned", planned(60))
        assert bool(found) is fires
        told_of = "learning rate" if unit == 1 else "scale of the targets"
        assert all(told_of in one.causes[0] for one in found)


def test_what_is_no_loss_on_targets_of_the_batch_is_not_judged() -> None:
    """Targets made in the step, shapes that broadcast, predictions of the future."""
    assert measured(lambda x: F.mse_loss(LAYER(x), torch.randn(400, 4)), X) is None
    assert measured(lambda x, y: F.mse_loss(LAYER(x)[:, :1], y), X, torch.randn(400)) is None
    assert measured(lambda x, y: F.smooth_l1_loss(LAYER(x), LAYER(y)), X, X + 1) is None


# -- whole runs


class Task(pl.LightningModule):
    """A small net with any loss and any optimizer."""

    def __init__(self, loss: Any, optimizer: Any, outputs: int = 10) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))
        self.decoder = nn.Linear(10, 64)
        self.loss, self.optimizer = loss, optimizer

    def training_step(self, batch, batch_idx):
        return self.loss(self, *batch)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


def adam(p: Any) -> Any:
    return torch.optim.Adam(p, lr=3e-3)


def penalized(weight: float) -> Any:
    """Cross entropy and a penalty on all weights."""
    return lambda task, x, y: (
        F.cross_entropy(task.net(x), y) + weight * sum(p.square().sum() for p in task.parameters())
    )


def drowned_autoencoder(task: Task, x: Tensor, y: Tensor) -> Tensor:
    """Its decoder is a part of the encoder's output: enough to see what the divergence does."""
    code = task.net(x)
    z = code[:, :10] + 0.1 * torch.randn_like(code[:, :10])
    return F.mse_loss(task.decoder(z), x) + 100.0 * code.square().sum(1).mean()


def shuffled(task: Task, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(task.net(x)[:, 0], y)


def price(task: Task, x: Tensor, y: Tensor) -> Tensor:
    return F.l1_loss(task.net(x)[:, 0], y)


RUNS: dict[str, tuple[Any, Any, str]] = {
    "penalty": (penalized(10.0), adam, "LOS106"),
    "slight penalty": (penalized(1e-5), adam, ""),
    "decay": (
        penalized(0.0),
        lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=100.0),
        "LOS106",
    ),
    "decay of sgd": (
        penalized(0.0),
        lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=3.0),
        "LOS106",
    ),
    "usual decay": (penalized(0.0), lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.1), ""),
    "divergence of an autoencoder": (drowned_autoencoder, adam, "LOS106"),
    "targets without a scale": (price, adam, "LOS101"),
    "random quantities": (shuffled, adam, "LOS104"),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs_of_a_hundred_steps(name: str) -> None:
    """The code that leads, if any."""
    seed(0)
    loss, optimizer, code = RUNS[name]
    x, y = digits(1024)
    if loss is price:
        y = 200.0 + y
    if loss is shuffled:
        y = torch.randn(len(y))
    data = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    detector = LossDetector()
    epochs = 6 if loss is shuffled else 3  # it takes a while to unlearn what it started with
    fit(Program(Task(loss, optimizer), data, trainer={"max_epochs": epochs}), detector)
    assert [one.code for one in detector.findings] == ([code] if code else [])


def test_a_fall_below_zero_is_judged_by_curves_of_any_length() -> None:
    """What falls as the square of the steps has no floor; of a short run that is not said."""
    for stretches in range(20, 257):
        level, growth = fall(LossCurve(tuple(-(i**2.0) for i in range(stretches)), 1, stretches))
        assert level < 0
        assert growth == 0 or 2.5 < growth < 8


class Kept(pl.LightningModule):
    """Computes a loss in each step, and returns it as told."""

    def __init__(self, returned: str) -> None:
        super().__init__()
        self.net, self.returned = nn.Linear(64, 10), returned

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if self.returned == "by a memory that is full" and batch_idx < 25:
            return None
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        if self.returned == "by hand":
            loss.backward()
            self.optimizers().step()
        return loss if self.returned == "later" and batch_idx > 15 else None

    def configure_optimizers(self) -> Any:
        return adam(self.parameters())


@pytest.mark.parametrize("returned", ["never", "later", "by hand", "by a memory that is full"])
def test_a_loss_that_is_computed_and_never_returned_is_lost(returned: str) -> None:
    """Unless the step does something with it by itself, or there was none so far."""
    detector = LossDetector(select=["LOS107"])
    data = DataLoader(TensorDataset(*digits(480)), batch_size=16)
    fit(Program(Kept(returned), data, trainer={"max_epochs": 1}), detector)
    assert [one.code for one in detector.findings] == ["LOS107"] * (returned == "never")
