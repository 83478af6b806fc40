"""Learning rates: what is evidence against one, what is none, and that probing changes nothing."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from cases._parts import Classifier, loader
from lightning.pytorch.plugins import MixedPrecision
from program import Program, digits, fit, seed
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import (
    Detector,
    Evidence,
    LearningRateDetector,
    NNDebug,
    Severity,
    rule,
)
from lightning_nndebug.core.measurements.divergence import Divergence
from lightning_nndebug.core.measurements.losses import Loss
from lightning_nndebug.core.measurements.rewrites import Rewrites
from lightning_nndebug.core.measurements.schedules import (
    Group,
    LearningRates,
    Schedule,
    Schedules,
)
from lightning_nndebug.core.measurements.step_probe import StepProbe, growth, is_due, search
from lightning_nndebug.learning_rate.misuse import misuse, misuse_by_hand, thrown_away
from lightning_nndebug.learning_rate.spikes import new_history, spikes

RUN = Schedules(steps=300, epochs=3)
LONG = Schedules(steps=500, epochs=3)
LATE = (50, 60, 80, 100)
THROWN = {0.0: 1.0, 0.001: 0.99, 0.01: 2.0, 0.1: 9.0, 0.3: 50.0, 1.0: 50.0, 10.0: 50.0, 100.0: 50.0}
FIRST = (0, 1, 2, 3, 4, 10, 20, 30, 40)
TRIAL = (20, 30, 40, 50)  # of 60 steps

# -- too high and too low, on probes made by hand


def probe(step: int, slope: float, bend: float, **values: Any) -> StepProbe:
    """A step on a parabola: the loss is 1 - slope k + bend k^2 after k steps."""

    def loss(k: float) -> float:
        return max(1 - slope * k + bend * k * k, 0.01)

    defaults: dict[str, Any] = {
        "optimizer": "SGD",
        "rate": 0.1,
        "share": 1.0,
        "curve": search(loss),
        "own": (1.0, loss(1.0)),
        "predicted": slope,
        "losses": (1.0,) * 10,
    }
    return StepProbe(step=step, **{**defaults, **values})


class Regression(Classifier):
    """Least squares, with an optimizer of choice."""

    def __init__(self, net: nn.Module, make: Callable[[Any], torch.optim.Optimizer]) -> None:
        super().__init__(net)
        self.make = make

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make(self.parameters())


def low(step: int, **values: Any) -> StepProbe:
    """It would be best to make the step a thousand times as long."""
    return probe(step, slope=1e-4, bend=5e-8, **{"own": (1.001, 1.0009), **values})


def high(step: int, **values: Any) -> StepProbe:
    """It would be best to make the step a fourth as long."""
    return probe(step, slope=0.5, bend=1.0, **values)


def verdict(probes: list[Any], run: Schedules = RUN, **options: Any) -> list[str]:
    detector = LearningRateDetector(**options)
    found = []
    for one in probes:
        found += ["high" for _ in detector.learning_rate_too_high(one, run)]
        if isinstance(one, StepProbe):
            found += ["low" for _ in detector.learning_rate_too_low(one, run)]
    return found


def test_steps_that_promise_nothing_and_could_be_longer_are_too_short() -> None:
    """Four late probes that agree are a verdict, with a number to try."""
    detector = LearningRateDetector()
    for step in LATE:
        found = list(detector.learning_rate_too_low(low(step), RUN))
    (evidence,) = found
    assert 0.1 * 100 < evidence.limit < 0.1 * 1000
    assert evidence.severity is None
    assert "all 300 planned steps" in evidence.message
    assert detector.verdict == "too low"


@pytest.mark.parametrize(
    ("why", "probes", "run"),
    [
        ("there are three of them", [low(s) for s in LATE[:3]], RUN),
        ("they are early", [low(s) for s in FIRST], RUN),
        ("the run has time", [low(s) for s in LATE], Schedules(steps=100_000, epochs=3)),
        ("nobody knows the time", [low(s) for s in LATE], Schedules(steps=math.inf, epochs=3)),
        ("the rate warms up", [low(s, share=0.1) for s in LATE], RUN),
        ("it warms up by hand", [low(s, rate=1e-3 * s) for s in LATE], RUN),
        ("the loss goes below 0", [low(s, losses=(1.0, -0.1)) for s in LATE], RUN),
        ("it has learned", [high(0), *(low(s, losses=(0.5,)) for s in LATE)], RUN),
        ("the net is dead", [low(s, silent=0.75) for s in LATE], RUN),
        ("the weights get about", [low(s, stride=2e-3) for s in LATE], RUN),
        ("it began far too long", [high(0, curve=THROWN), *(low(s) for s in LATE)], RUN),
        ("it is a trial", [probe(s, 5e-4, 2e-6) for s in TRIAL], Schedules(steps=60, epochs=3)),
        ("all are one", [low(s, own=(1.0, 0.9999), stride=2e-4) for s in LATE], RUN),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_short_steps_are_fine(why: str, probes: list[StepProbe], run: Schedules) -> None:
    """Each of these reasons is enough."""
    assert verdict(probes, run) == []


def test_what_no_step_promised_was_not_learned() -> None:
    """A loss that is lower than that of the first batches, which were unlucky, is no progress."""
    assert verdict([low(0), *(low(s, losses=(0.5,)) for s in LATE)]) == ["low"]


def test_a_short_run_is_judged_before_it_is_over() -> None:
    """Its first third is a time of its own, as the first 50 steps of others are."""
    probes = [low(s) for s in TRIAL]
    assert verdict(probes, Schedules(steps=60, epochs=3)) == ["low"]
    assert verdict(probes, RUN) == []


@pytest.mark.parametrize(("bend", "severity"), [(5e-6, Severity.INFO), (5e-7, None)])
def test_slow_steps_deserve_a_word(bend: float, severity: Severity | None) -> None:
    """The loss gets a third of the way: an alarm only if a thousandfold step would be best."""
    detector = LearningRateDetector()
    for step in LATE:
        one = probe(step, 1e-3, bend, own=(1.001, 1.0))
        found = list(detector.learning_rate_too_low(one, RUN))
    assert [evidence.severity for evidence in found] == [severity]


@pytest.mark.parametrize(("span", "severity"), [(5000, None), (1100, Severity.INFO)])
def test_slow_steps_are_an_alarm_when_half_of_the_run_is_lost(
    span: float, severity: Severity | None
) -> None:
    """One longer step would take off more than all that are left, unless the loss is on its way."""
    detector = LearningRateDetector()
    for one in going(lambda s: 1 - s / span, probe, slope=1e-3, bend=5e-6, own=(1.001, 1.0)):
        found = list(detector.learning_rate_too_low(one, RUN))
    (evidence,) = found
    assert evidence.severity is severity
    assert ("250 steps have left 95% of it" in evidence.message) is (severity is None)


@pytest.mark.parametrize(("noise", "severity"), [(0.01, None), (0.1, Severity.INFO)])
def test_what_a_longer_step_gains_must_be_more_than_the_noise(
    noise: float, severity: Severity | None
) -> None:
    """Where most of the loss is noise, no run is lost that stays where it is."""
    detector = LearningRateDetector()
    for one in going(lambda s: 1.0, probe, noise, slope=1e-3, bend=5e-6, own=(1.001, 1.0)):
        found = list(detector.learning_rate_too_low(replace(one, stride=1e-3), RUN))
    assert [evidence.severity for evidence in found] == [severity]


def test_what_the_steps_left_will_do_is_not_lost() -> None:
    """A step a hundred times as long would be best, and 150 are still to come."""
    detector = LearningRateDetector()
    for step in (0, 60, 80, 100, 250):
        one = probe(step, 1e-3, 5e-6, own=(1.001, 1.0), losses=(0.95 if step else 1.0,))
        found = list(detector.learning_rate_too_low(one, Schedules(steps=400, epochs=3)))
    assert all(evidence.severity is Severity.INFO for evidence in found)


def frozen(step: int, **values: Any) -> StepProbe:
    """The next batch hears nothing of the step, however long it is; the step's own batch does."""
    curve = dict.fromkeys((0.0, 0.3, 1.0, 10.0, 100.0), 1.0)
    defaults: dict[str, Any] = {"predicted": 1e-6, "own": (1.001, 1.001), "stride": 1e-6}
    return probe(step, 0.0, 0.0, **{**defaults, "curve": curve, **values})


ALL = (0, 10, 20, 60, 80, 100, 250)


def going(
    level: Callable[[int], float], make: Any, noise: float = 1e-3, **values: Any
) -> list[StepProbe]:
    """Probes of a run whose loss goes its way, and up and down beside it."""
    return [
        make(s, losses=tuple(level(s) + (-1) ** i * noise for i in range(20)), **values)
        for s in ALL
    ]


NOISY = {0.0: 1.0, 0.3: 1.0, 1.0: 1.0, 10.0: 1.001, 100.0: 1.05}
UNLIKE = {"predicted": 5e-3, "own": (1.001, 0.996), "stride": 3e-4}
NEAR = {**UNLIKE, "curve": NOISY}


@pytest.mark.parametrize(("power", "severity"), [(0.3, None), (3.0, Severity.INFO)])
def test_what_is_as_fast_as_ever_may_still_get_there(
    power: float, severity: Severity | None
) -> None:
    """Half of the run is over with a sixth of the loss gone: it slows down, or has just begun."""
    detector = LearningRateDetector()
    for one in going(
        lambda s: 1 - (s / 250) ** power / 6, probe, slope=1e-3, bend=5e-6, own=(1.001, 1.0)
    ):
        found = list(detector.learning_rate_too_low(one, Schedules(steps=320, epochs=3)))
    assert [evidence.severity for evidence in found] == [severity]


@pytest.mark.parametrize(
    ("why", "probes", "run", "found"),
    [
        ("it stays where it began", going(lambda s: 1.0, frozen, **UNLIKE), RUN, ["low"]),
        ("it gets on", going(lambda s: 1 - s / 500, frozen, **UNLIKE), RUN, []),
        ("the run is long", going(lambda s: 1 - s / 2500, frozen, **UNLIKE), LONG, []),
        ("it creeps", going(lambda s: 1 - s / 2500, frozen, **NEAR), RUN, []),
        ("it stays", going(lambda s: 1.0, frozen, **NEAR), RUN, []),
        ("it slows down", going(lambda s: 1 - min(s, 100) / 1e3, frozen, **NEAR), RUN, []),
        ("it may be chance", going(lambda s: 1 - s / 2500, frozen, 0.2, **UNLIKE), RUN, []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_half_of_a_run_foretells_the_other(
    why: str, probes: list[StepProbe], run: Schedules, found: list[str]
) -> None:
    """What a step promises its own batch need not come true; what the losses did is a fact."""
    assert verdict(probes, run) == found


WALL = {0.0: 1.0, 0.3: 1.0, 1.0: 1.0, 10.0: 1.0, 100.0: 1.1}
SOON = Schedules(steps=40, epochs=4, epoch=2)


def test_what_not_even_a_thousand_steps_would_change_is_frozen() -> None:
    """It is told as soon as the run has begun in earnest, and a rate is proposed all the same."""
    detector = LearningRateDetector()
    told = [(s, one) for s in FIRST for one in detector.learning_rate_too_low(frozen(s), SOON)]
    assert [step for step, _ in told] == [20, 30, 40]
    assert told[0][1].severity is None
    assert told[0][1].limit == pytest.approx(0.1 * 1e-2 / 1e-6)


@pytest.mark.parametrize(
    ("why", "probes", "run"),
    [
        ("no epoch is over", [frozen(s) for s in FIRST], Schedules(steps=300, epochs=1)),
        ("the loss gets on", [frozen(s, predicted=3e-4, own=(1.0, 0.9997)) for s in FIRST], SOON),
        ("the weights get somewhere", [frozen(s, stride=2e-4) for s in FIRST], SOON),
        ("the gradient is dead", [frozen(s, predicted=1e-8) for s in FIRST], SOON),
        ("longer steps do harm", [frozen(s, curve=WALL) for s in FIRST], SOON),
        ("the rate warms up", [frozen(s, share=0.1) for s in FIRST], SOON),
        ("it was trained before", [frozen(s, scrambled=2.0) for s in FIRST], SOON),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_small_steps_may_be_enough(why: str, probes: list[StepProbe], run: Schedules) -> None:
    """Each of these reasons is enough."""
    assert verdict(probes, run) == []


def cycle(share: Callable[[int], float], **values: Any) -> list[StepProbe]:
    """A run of forty steps whose rate goes its way, and whose loss would bear any step."""
    curve = {10.0**k: 1 - 10.0**k * 1e-6 for k in range(5)} | {0.0: 1.0, 0.3: 1.0}
    usual = {"curve": curve, "predicted": 1e-6, "own": (1.001, 1.001), "stride": 1e-6}
    return [
        probe(s, 0.0, 0.0, share=share(s), rate=0.1 * share(s), **{**usual, **values})
        for s in FIRST
    ]


def test_a_short_cycle_is_judged_by_its_peak() -> None:
    """Few of its steps are near the peak; those of a tenth of it say what these are worth."""
    triangle = cycle(lambda s: max(0.02, 1 - abs(s - 12) / 15))
    detector = LearningRateDetector()
    found = [one for each in triangle for one in detector.learning_rate_too_low(each, SOON)]
    assert found[0].severity is None
    assert found[0].limit > 100 * 0.1
    assert verdict(cycle(lambda s: 0.01 + s / 1e4), SOON) == []  # it has not begun


@pytest.mark.parametrize(
    ("why", "values"),
    [
        ("at the peak the steps would do", {"predicted": 5e-5}),
        ("or get the weights about", {"stride": 3e-5}),
        ("longer ones were not tried", {"curve": {0.0: 1.0, 0.3: 1.0, 1.0: 1.0, 100.0: 1.0}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_flank_of_a_cycle_is_no_peak(why: str, values: dict[str, Any]) -> None:
    """What is enough at the peak is not too little beside it."""
    flank = cycle(lambda s: 0.125, **values)
    assert verdict(flank, SOON) == []
    assert verdict(cycle(lambda s: 1.0, **values), SOON)[:1] == ["low"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: torch.optim.SGD(p, 0.1), 1.0),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), 10.0),
        (lambda p: torch.optim.RMSprop(p, 0.1), 0.1),
        (lambda p: torch.optim.Adagrad(p, 0.1), 0.1),
        (lambda p: torch.optim.AdamW(p, 0.1), 1.0),
    ],
    ids=("sgd", "momentum", "rmsprop", "adagrad", "adamw"),
)
def test_later_steps_are_foretold(make: Any, expected: float) -> None:
    """The same gradient moves the weights farther, or less far, than at the first step."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer, before, way = make([weight]), 0.0, []
    for _ in range(100):
        weight.grad = torch.ones(1)
        optimizer.step()
        way.append(abs(weight.item() - before))
        before = weight.item()
    assert growth(optimizer.param_groups[0]) == pytest.approx(expected)
    assert way[-1] / way[0] == pytest.approx(expected, rel=0.3)


def test_steps_that_overshoot_and_get_nowhere_are_too_long() -> None:
    """The verdict falls when the first window is complete, and says how long a step may be."""
    detector = LearningRateDetector()
    found = [(s, one) for s in FIRST for one in detector.learning_rate_too_high(high(s), RUN)]
    ((step, evidence),) = found
    assert step == 40
    assert evidence.limit < 0.1
    assert detector.verdict == "too high"


@pytest.mark.parametrize(
    ("why", "probes"),
    [
        ("training makes progress", [high(s, losses=(0.5,)) for s in FIRST]),
        ("the step's own batch gains", [high(s, own=(1.0, 0.5)) for s in FIRST]),
        ("a trained net loses nothing", [high(s, scrambled=10.0) for s in FIRST]),
        ("steps are tiny", [high(s, predicted=1e-6, own=(1.0, 1.0)) for s in FIRST]),
        ("the loss goes below 0", [high(s, losses=(1.0, -0.1)) for s in FIRST]),
        ("longer steps would be better", [probe(s, 0.5, 0.1, own=(1.0, 1.1)) for s in FIRST]),
        (
            "the next batch hardly minds",
            [probe(s, 0.004, 0.005, own=(1.0, 0.9), predicted=0.5) for s in FIRST],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_long_steps_are_fine(why: str, probes: list[StepProbe]) -> None:
    """Each of these reasons is enough."""
    assert verdict(probes) == []


def test_no_progress_with_good_steps_is_not_the_learning_rate() -> None:
    """The third answer is kept for others to use."""
    detector = LearningRateDetector()
    for step in FIRST:
        assert not list(detector.learning_rate_too_high(high(step, own=(1.0, 0.6)), RUN))
    assert detector.verdict == "not the learning rate"


@pytest.mark.parametrize("after", [math.inf, math.nan, 1e6])
def test_one_step_that_explodes_is_enough(after: float) -> None:
    """What was finite is not any more, after this very step."""
    curve = {0.0: 2.3, 0.3: 100.0, 1.0: after, 10.0: math.nan, 100.0: math.nan}
    assert verdict([high(0, curve=curve, own=(2.3, after))]) == ["high"]


LENGTHS = (0.0, 0.003, 0.03, 0.3, 1.0, 10.0)


@pytest.mark.parametrize(
    ("why", "losses", "found"),
    [
        ("the loss is high before", (1.0, 1.0, 1.1, 90.0, math.inf, math.inf), ["high"]),
        ("a thirtieth is too long", (1.0, 0.9, 1.3, math.inf, math.inf, math.inf), ["high"]),
        ("so is a thirtieth of it", (1.0, 0.9, math.nan, math.nan, math.nan, math.nan), ["high"]),
        ("it is lower before", (1.0, 1.0, 1.0, 0.9, math.inf, math.inf), []),
        ("it is lower after", (1.0, 1.0, 1.0, 0.9, math.nan, 0.9), []),
        ("a hole just ahead", (1.0, 1.0, math.nan, math.nan, 0.9, 1.1), []),
        ("it ends a little above", (1.0, 0.9, 0.9, 2.0, math.inf, math.inf), []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hole_is_no_height(why: str, losses: tuple[float, ...], found: list[str]) -> None:
    """The logarithm of 0 waits for steps of any length; what overflows has risen before."""
    curve = dict(zip(LENGTHS, losses, strict=True))
    assert verdict([high(0, curve=curve, own=(1.0, curve[1.0]))]) == found


def test_an_odd_batch_throws_the_weights() -> None:
    """With the same weights the next batch has a normal loss: the step is as long as its error."""
    curve = {0.0: 1.0, 0.3: 1e5, 1.0: 1e6, 10.0: 1e8, 100.0: 1e10, 0.03: 1e3}
    assert verdict([high(0, curve=curve, own=(1e4, 1e7))]) == []
    assert verdict([high(0, curve=curve, own=(2.0, 1e7))]) == ["high"]


@pytest.mark.parametrize(("first", "found"), [(1e9, []), (20.0, ["high"])])
def test_where_an_odd_batch_has_led_no_step_is_to_blame(first: float, found: list[str]) -> None:
    """The weights are far off for its error; where they went there by themselves, for the rate."""
    far = {0.0: 1e12, 0.3: 1e15, 1.0: 1e18, 10.0: 1e20, 100.0: 1e22}
    late = high(10, curve=far, own=(1e12, 1e18), losses=(1.0, 0.9, first, 1e12))
    assert verdict([probe(0, 0.5, 0.1), late]) == found


def test_a_small_hill_is_behind_where_steps_are_well_again() -> None:
    """The first steps raised the loss fourfold; the last four probes find no fault."""
    up = {0.0: 4.0, 0.3: 2.0, 1.0: 5.0, 10.0: 500.0, 100.0: 5e4}
    first = [high(s, curve=up, own=(4.0, 5.0), losses=(4.0,)) for s in (1, 2, 3, 4)]
    last = [probe(s, 0.2, 0.1, own=(1.0, 0.95)) for s in (10, 20, 30, 40)]
    assert verdict([high(0), *first, *last]) == []
    assert verdict([high(0), *first, *(high(s) for s in (10, 20, 30, 40))]) == ["high"]
    steep = {k: 10 * loss for k, loss in up.items()}
    first = [high(s, curve=steep, own=(40.0, 50.0), losses=(40.0,)) for s in (1, 2, 3, 4)]
    assert verdict([high(0), *first, *last]) == ["high"]


def test_a_short_run_that_climbs_is_judged_half_way() -> None:
    """Thirty steps leave no time to wait for forty; a loss that is no higher than before might."""
    short = Schedules(steps=30, epochs=3)
    up = [high(s, losses=(1.5,) if s else (1.0,)) for s in FIRST if s < 30]
    assert verdict(up, short) == ["high"]
    assert verdict([high(s) for s in FIRST if s < 30], short) == []
    assert verdict(up, RUN) == []


@pytest.mark.parametrize(
    ("why", "losses", "found"),
    [
        ("it climbs", (1.0, 0.9, 3.0, 40.0, 9e3, 1e20), ["high"]),
        ("it goes up and down", (1.0, 9.0, 2.0, 300.0, 4e3, 2e3), ["high"]),
        ("it has been high for long", (1e10, 1e20, 1e30), ["high"]),
        ("it ends where it began", (1.0, 0.9, 0.8), []),
        ("it ends a little higher", (1.0, 2.0, 3.0), []),
        ("it was high long ago", (1.0, 40.0, 2.0, 1.0, 1.0), []),
        ("one batch is out of all proportion", (1.0, 0.9, 1e16, 1e32), []),
        ("nothing is known", (), []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("last", [math.inf, math.nan])
def test_a_loss_that_climbs_until_it_overflows_is_enough(
    why: str, losses: tuple[float, ...], found: list[str], last: float
) -> None:
    """Between the steps that are probed, the losses themselves tell of it."""
    end = Divergence(losses=losses, loss=last, step=7)
    assert verdict([probe(0, 0.5, 0.1), end]) == found
    assert verdict([end]) == []  # of what it began with nothing is known


def test_the_end_of_the_numbers_is_told_once() -> None:
    """The losses before the first that is not finite are kept, also those that were only noted."""
    memory = SimpleNamespace()

    def look(*losses: float) -> Divergence | None:
        *before, last = (Loss(one, (one,), 0, step) for step, one in enumerate(losses))
        known = replace(last, before=tuple(before))
        return Divergence.take(SimpleNamespace(take=lambda kind: known), memory)  # type: ignore[arg-type]

    assert look(3.0, 2.0) is None
    assert look(5.0, math.inf, math.nan) == Divergence((3.0, 2.0, 5.0), math.inf, 1)
    assert look(math.nan) is None


def test_a_step_that_was_seen_to_leap_needs_no_climb() -> None:
    """The first step of RMSprop is much longer than all that follow, and may be the last."""
    leap = {0.0: 1.0, 0.3: 100.0, 1.0: 1500.0, 10.0: 1e5, 100.0: 1e7, 0.03: 2.0}
    end = Divergence(losses=(1.0, 1500.0), loss=math.inf, step=2)
    first = high(0, curve={**leap, 1.0: 900.0}, own=(1.0, 1500.0), growth=0.1)
    assert verdict([first, end]) == ["high"]
    assert verdict([high(0, growth=0.1, curve=leap, own=(1.0, 0.5)), end]) == []


def test_a_net_that_knew_something_must_lose_all_of_it() -> None:
    """A fine-tuned net begins low: five times that is still less than knowing nothing."""
    start = probe(0, 0.5, 0.1, scrambled=20.0)
    assert verdict([start, Divergence((1.0, 4.0, 20.0), math.inf, 9)]) == []
    assert verdict([start, Divergence((1.0, 4.0, 20.0, 200.0), math.inf, 9)]) == ["high"]


def test_the_rate_leads_where_the_loss_overflows() -> None:
    """What made the first infinity is a consequence of the steps that led there."""
    seed(0)
    x = torch.randn(512, 10)
    net = nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )
    module = Regression(net, lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9))
    suite = NNDebug()
    fit(Program(module, loader(x, x.sum(1, keepdim=True)), trainer={"max_steps": 60}), suite)
    first, *others = [one for one in suite.findings if one.severity != "info"]
    assert first.code == "LRN101"
    assert any(one.code.startswith("NAN") and one.caused_by for one in others)


def test_steps_that_multiply_the_loss_again_and_again_are_enough() -> None:
    """Each throws it fiftyfold, and the last one a thousandfold above where it began."""
    curve = {0.0: 62.0, 0.3: 2e3, 1.0: 3e4, 10.0: 7e6, 100.0: 7e8}
    start = high(0, own=(4.4, 57.0), curve={0.0: 4.4, 0.3: 22.0, 1.0: 79.0, 10.0: 2e4, 100.0: 2e6})
    assert verdict([start, high(1, curve=curve, own=(79.0, 2e4))]) == ["high"]


BLOWN = {0.0: 1.0, 0.3: 1.5, 1.0: 1e4, 10.0: 1e6, 100.0: 1e8}


@pytest.mark.parametrize(
    ("kind", "level", "curve", "found"),
    [
        (1.0, 0.1, BLOWN, [0]),
        (0.1, 0.1, BLOWN, []),
        (0.1, 30.0, BLOWN, [50]),
        (0.1, 0.9, BLOWN, [50]),
        (0.1, 0.1, {**BLOWN, 0.3: 2e3}, [0]),
    ],
    ids=("Adam", "RMSprop", "it does not come back", "nor far", "no rate of RMSprop will do"),
)
def test_long_first_steps_pass(
    kind: float, level: float, curve: dict[float, float], found: list[int]
) -> None:
    """The steps of RMSprop and Adagrad get shorter by themselves: what they threw may come back."""
    detector = LearningRateDetector()
    probes = [
        high(0, curve=curve, growth=kind),
        *(high(s, losses=(level,), own=(level, 2 * level), growth=kind) for s in (10, 20, 50)),
    ]
    told = [one.step for one in probes if list(detector.learning_rate_too_high(one, RUN))]
    assert told[:1] == found


def test_steps_that_get_shorter_are_judged_when_they_have() -> None:
    """Of RMSprop and Adagrad the first twenty steps are no evidence, of others they are."""
    late = [probe(s, 0.5, 0.1, own=(1.0, 1.1)) for s in (20, 30, 40, 50)]
    assert verdict([high(s, growth=0.1) for s in FIRST[:6]] + late) == []
    assert verdict([high(s, growth=0.1) for s in (*FIRST, 50)]) == ["high"]


def hill(back: float, **values: Any) -> list[StepProbe]:
    """The second step is too long, the loss is ten times as high, and then all is calm."""
    calm = {"predicted": 1e-9, "curve": dict.fromkeys((0.0, 0.3, 1.0, 10.0, 100.0), back)}
    return [
        probe(0, 0.1, 0.1, **values),
        high(1, own=(1.0, 3.0), curve={0.0: 1.0, 0.3: 1.5, 1.0: 3.0, 10.0: 50.0, 100.0: 5e3}),
        high(10, own=(10.0, 8.0), curve={0.0: 10.0, 0.3: 8.0, 1.0: 7.0, 10.0: 50.0, 100.0: 5e3}),
        *(probe(s, 0.0, 0.0, own=(back, back), losses=(back,), **calm) for s in (100, 250)),
    ]


@pytest.mark.parametrize(
    ("probes", "run", "found"),
    [
        (hill(1.0), RUN, ["high"]),
        (hill(0.5), RUN, []),
        (hill(1.0), Schedules(steps=600, epochs=3), []),
        (hill(1.0, scrambled=10.0), RUN, []),
    ],
    ids=("it has learned nothing", "it has", "there is time", "it was trained before"),
)
def test_what_comes_back_from_a_hill_may_be_lost(
    probes: list[StepProbe], run: Schedules, found: list[str]
) -> None:
    """Steps that were too long threw the weights to where the loss is calm and nothing is learned."""
    assert verdict(probes, run) == found


def test_far_above_the_start_and_still_overshooting_is_enough() -> None:
    """A loss of a hundred times the first one does not come back."""
    curve = {0.0: 250.0, 0.3: 400.0, 1.0: 900.0, 10.0: 1e5, 100.0: 1e7}
    assert verdict([high(0), high(1, curve=curve, own=(240.0, 800.0))]) == ["high"]


def test_a_loss_near_zero_has_no_scale() -> None:
    """A policy gradient jumps to a thousand times a tiny loss, and means nothing by it."""
    curve = {0.0: 1e-5, 0.3: 0.01, 1.0: 0.03, 10.0: 1.0, 100.0: 5.0}
    assert verdict([high(0, curve=curve, own=(0.02, 0.03))]) == []


def test_the_search_goes_on_while_the_loss_falls() -> None:
    """Longer by decades, until the loss rises again."""
    assert sorted(search(lambda k: (k - 999) ** 2)) == [0.0, 0.3, 1.0, 10.0, 100.0, 1e3, 1e4]


def test_the_search_goes_back_while_the_loss_rises() -> None:
    """Shorter by decades, until the step does no harm."""
    assert pytest.approx(sorted(search(lambda k: 1 + 100 * k))[1]) == 0.0003


@pytest.mark.parametrize(("loss", "farthest"), [(1.04, 100.0), (1.1, 10.0), (math.nan, 10.0)])
def test_the_search_stops_where_it_is_uphill(loss: float, farthest: float) -> None:
    """Ten times the step says enough if it does harm, and a hundred times is then left out."""
    assert max(search(lambda k: loss if k >= 10 else 1.0)) == farthest


def test_the_search_survives_what_is_not_finite() -> None:
    """Losses of NaN are neither better nor worse than anything."""
    curve = search(lambda k: 1.0 if k < 1e-3 else math.nan)
    assert 1e-4 < sorted(curve)[1] < 1e-3


def test_probes_become_rare() -> None:
    """Nine in the first fifty steps, four more up to a hundred, then four in a thousand."""
    assert sum(map(is_due, range(50))) == 9
    assert sum(map(is_due, range(50, 101))) == 4
    assert sum(map(is_due, range(5000, 6000))) == 4


# -- zero


def rates(step: int = 100, **values: Any) -> LearningRates:
    defaults = {"name": "SGD", "rate": 0.0, "peak": 0.0, "trained": 2, "moved": False}
    return LearningRates((Group(**{**defaults, **values}),), step)


def is_zero(measured: LearningRates, epoch: int = 1) -> bool:
    run = Schedules(steps=300, epochs=3, epoch=epoch)
    return bool(list(LearningRateDetector().zero_learning_rate(measured, run)))


def test_a_group_that_never_moves_is_reported() -> None:
    """Once an epoch is over, and a tenth of the run."""
    assert is_zero(rates())


@pytest.mark.parametrize(
    "measured",
    [
        rates(peak=0.1),
        rates(peak=math.inf),
        rates(rate=1e-9, peak=1e-9),
        rates(trained=0),
        rates(moved=True),
        rates(step=10),
    ],
)
def test_a_zero_that_has_a_reason_is_fine(measured: LearningRates) -> None:
    """Warm-up, decay, an unknown schedule, nothing to train, weights that move, the beginning."""
    assert not is_zero(measured)


def test_the_first_epoch_is_waited_for() -> None:
    """A warm-up by hand may begin with the second epoch."""
    assert not is_zero(rates(), epoch=0)


# -- schedules


def schedule(**values: Any) -> Schedule:
    defaults = {"name": "OneCycleLR", "optimizer": "AdamW", "interval": "step", "planned": 1000}
    return Schedule(**{**defaults, **values})


def plateau(**values: Any) -> Schedule:
    return schedule(**{"monitor": "train_loss", "patience": 2, "left": 1e-4, **values})


def run(**values: Any) -> Schedules:
    return Schedules(**{"steps": 1000, "epochs": 10, "batches": 100, **values})


def cosine(half: int, horizon: int) -> tuple[float, ...]:
    """From 1 down to 0 in one half of a period, and up again in the other."""
    return tuple((1 + math.cos(math.pi * k / half)) / 2 for k in range(horizon + 1))


def linear(warm_up: int, length: int, horizon: int) -> tuple[float, ...]:
    """Up to 1, down to 0, and 0 from there."""
    return tuple(
        min(k / warm_up, 1) if k < warm_up else max(0.0, (length - k) / (length - warm_up))
        for k in range(horizon + 1)
    )


@pytest.mark.parametrize(
    ("one", "of", "words"),
    [
        (schedule(interval="epoch", planned=10, length=1000), run(), "once an epoch"),
        (
            schedule(
                name="LambdaLR", interval="epoch", planned=10, factors=linear(100, 1000, 2100)
            ),
            run(),
            "once an epoch",
        ),
        (schedule(name="CosineAnnealingLR", length=10), run(), "10 epochs"),
        (schedule(length=4000), run(accumulation=4, batches=400), "accumulate_grad_batches"),
        (schedule(length=8000), run(accumulation=4, world_size=2), "and devices"),
        (schedule(factors=linear(5000, 9000, 10_000)), run(), "20% of its peak"),
        (schedule(factors=linear(10, 100, 1100)), run(), "is 0 for the last"),
        (schedule(factors=tuple(0.9**k for k in range(1100))), run(), "below 0.0001"),
        (schedule(interval="hand"), run(epoch=4, done=400), "not stepped once"),
        (schedule(factors=cosine(500, 2100)), run(), "ends with 100% of its peak"),
        (schedule(factors=cosine(480, 2100)), run(), "made for 480 steps"),
        (schedule(interval="epoch", planned=8, factors=cosine(5, 40)), run(), "made for 5 epochs"),
        (schedule(monitor="val_loss", mode="max"), run(), "'val_loss'"),
        (schedule(monitor="val/acc", mode="min"), run(), "'val/acc'"),
        (schedule(monitor="val_loss"), run(validates=100), "100 times between validations"),
        (plateau(), run(done=200, epoch=2), "1e-04 of the learning rate is left"),
        (schedule(taken=200, asked=100), run(), "stepped 200 times in 100 steps"),
        (schedule(interval="epoch", taken=7, asked=3), run(), "stepped 7 times in 3 epochs"),
        (schedule(interval="epoch", monitor="val_loss", taken=8, asked=4), run(), "8 times in 4"),
        (schedule(unmet=(0.5, 0.75)), run(), "0.5, 0.75 are no whole numbers"),
        (
            schedule(interval="epoch", planned=10, factors=linear(5, 20, 20)),
            run(),
            "0 for the whole first epoch",
        ),
        (schedule(asked=100, factors=(1.0, 0.9)), run(over=True), "not stepped once"),
        (schedule(interval="hand", length=1000), run(epoch=1, over=True), "not stepped once"),
    ],
)
def test_a_misused_schedule_is_told_how(one: Schedule, of: Schedules, words: str) -> None:
    """Each misuse has its own words."""
    found = misuse(one, of)
    assert found is not None
    assert words in found.seen
    assert found.fix


@pytest.mark.parametrize(
    ("one", "of"),
    [
        (schedule(length=1000, factors=linear(300, 1000, 1000)), run()),
        (schedule(interval="epoch", planned=10, length=10), run()),
        (schedule(interval="epoch", planned=10, length=100), run()),  # the first stage of more
        (schedule(interval="epoch", planned=10, length=1000), run(shortened=True)),
        (schedule(interval="epoch", planned=10, length=40), run(steps=40)),
        (schedule(interval="epoch", planned=10, length=20), run(steps=20, batches=2)),
        (schedule(factors=tuple(1.01**k for k in range(2000))), run()),  # a range test
        (schedule(factors=cosine(1000, 2100)), run()),
        (schedule(factors=cosine(800, 2100)), run()),  # up to a tenth is no harm
        (schedule(factors=cosine(250, 2100)), run()),  # cycles
        (schedule(factors=tuple(1 - k % 400 / 400 for k in range(2100))), run()),  # restarts
        (schedule(name="CyclicLR", factors=cosine(500, 2100)), run()),
        (schedule(factors=linear(50, 1050, 2100)), run()),
        (schedule(factors=linear(1000, 2000, 2100)), run()),  # Smith's range test
        (schedule(factors=tuple(0.1 ** (k // 300) for k in range(2100))), run()),
        (schedule(interval="hand", taken=1), run(epoch=4, done=400)),
        (schedule(interval="hand"), run(epoch=1, over=True)),
        (schedule(monitor="val_loss", interval="epoch"), run(validates=100)),
        (schedule(monitor="train_loss", mode="min"), run(validates=100)),
        (schedule(monitor="neg_loss", mode="max"), run()),
        (schedule(monitor="score", mode="max"), run()),
        (schedule(taken=100, asked=100), run()),
        (schedule(taken=1600, asked=100), run()),  # samples that were seen
        (schedule(taken=50, asked=100), run()),  # steps that a scaler has skipped
        (schedule(interval="epoch", taken=303, asked=3), run()),  # by hand, in each batch
        (schedule(interval="epoch", taken=2, asked=1), run()),
        (schedule(asked=100, factors=(1.0, 0.9)), run()),  # it may come later
        (schedule(asked=100), run(over=True)),  # one that keeps no count
        (schedule(asked=100, factors=(1.0, 0.9), is_still=False), run(over=True)),  # or halves
        (schedule(interval="hand", is_still=False), run(epoch=3, over=True)),
        (plateau(left=0.01), run(done=200, epoch=2)),
        (plateau(patience=100), run(done=200, epoch=2)),  # of all batches none was better
        (plateau(patience=5, frequency=20), run(done=200, epoch=2)),
        (plateau(interval="epoch"), run(done=200, epoch=2)),
        (plateau(), run(done=600, epoch=6)),  # it may have converged
        (plateau(), run(done=200, epoch=2, batches=math.inf)),
        (schedule(), run(steps=math.inf)),
        (schedule(interval="epoch", planned=100, factors=linear(5, 110, 110)), run()),
        (
            schedule(interval="epoch", planned=10, factors=linear(5, 20, 20)),
            run(peaks=((1.0,), (1.0,))),  # one optimizer waits for another
        ),
    ],
)
def test_a_schedule_that_may_be_meant_is_fine(one: Schedule, of: Schedules) -> None:
    """Doubt is silent."""
    assert misuse(one, of) is None


@pytest.mark.parametrize(
    ("of", "where"),
    [
        (run(averaging=50.0), ["StochasticWeightAveraging"]),
        (run(averaging=10.0), []),  # as in Lightning's own example
        (run(done=500, to_come={"Adam": 5e-4}), ["Adam"]),
        (run(done=500, to_come={"Adam": 5e-3}), []),
        (run(done=600, to_come={"Adam": 5e-4}), []),  # a decay may end so
        (run(done=500, to_come={"Adam": 0.0}), []),  # frozen on purpose
    ],
)
def test_other_code_may_misuse_a_learning_rate(of: Schedules, where: list[str]) -> None:
    """A callback that averages, or a hook that lowers it at each call."""
    assert [one for one, _ in misuse_by_hand(of)] == where


class Forgetful(Classifier):
    """Makes a scheduler, and forgets it; or not."""

    keeps = False

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        scheduler = lr_scheduler.StepLR(optimizer, 1)
        return ([optimizer], [scheduler]) if self.keeps else optimizer


class Careless(Classifier):
    """Gives its scheduler a name, and reads it nowhere."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        scheduler = lr_scheduler.StepLR(optimizer, 1)  # noqa: F841
        return optimizer


class Own(Classifier):
    """Keeps a scheduler of its own making, which marks the groups as torch's do."""

    def configure_optimizers(self):
        parameters = []
        for name, p in self.named_parameters():  # noqa: B007
            parameters.append(p)
        optimizer = torch.optim.SGD(parameters, 0.1)
        optimizer.param_groups[0]["initial_lr"] = 0.1
        self.schedule, epochs = optimizer, 2  # noqa: F841
        return optimizer


@pytest.mark.parametrize(
    ("kind", "dropped"), [(Forgetful, {}), (Own, {}), (Careless, {"SGD": "scheduler"})]
)
def test_a_scheduler_that_nothing_reads_is_thrown_away(
    kind: type[Classifier], dropped: dict[str, str]
) -> None:
    """One that is returned under some condition is not left out by accident."""
    found = measure(kind(), Schedules, max_epochs=2)[-1]
    assert found.dropped == dropped
    assert [one for one, _ in thrown_away(found)] == list(dropped)


class Lowered(Classifier):
    """Lowers its rate by hand, batch by batch."""

    factor = 0.8

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for group in self.optimizers().param_groups:
            group["lr"] *= self.factor


@pytest.mark.parametrize(("factor", "found"), [(0.8, ["LRN104"]), (0.98, [])])
def test_what_is_to_come_is_held_against_what_was(factor: float, found: list[str]) -> None:
    """A rate that falls by hand is judged by what it leaves for the rest of the run."""
    module, detector = Lowered(), LearningRateDetector(select=["LRN104"])
    module.factor = factor
    seed(0)
    fit(Program(module, loader(), trainer={"max_epochs": 6}), detector)
    assert [one.code for one in detector.findings] == found


@pytest.mark.parametrize(("middle", "told"), [(1e-3, False), (1e-6, True)])
def test_a_rate_that_is_low_where_an_epoch_ends(middle: float, told: bool) -> None:
    """A cycle by hand that begins anew with each epoch was high in the middle of it."""
    detector = LearningRateDetector()
    detector.rates = {"Adam": [[0, 1e-3], [150, middle], [199, 1e-9]]}
    after = run(done=200, epoch=2, to_come={"Adam": 5e-4})
    assert bool([*detector.misused_schedule(after)]) == told


def test_a_plateau_of_what_is_learned_is_one() -> None:
    """Of a task so easy that an epoch is enough for it, hardly any of the loss is left."""
    early = run(done=200, epoch=2)
    assert misuse(plateau(), early, learned=0.5)
    assert not misuse(plateau(), early, learned=0.95)


@pytest.mark.parametrize(("interval", "found"), [("step", ["LRN104"]), ("epoch", [])])
def test_a_plateau_of_batches_takes_the_rate_down(interval: str, found: list[str]) -> None:
    """What is left of the rate is read from the optimizer."""

    class Plateau(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self):
            adam = torch.optim.Adam(self.parameters(), lr=1e-3)
            scheduler = lr_scheduler.ReduceLROnPlateau(adam, patience=2)
            plan = {"scheduler": scheduler, "monitor": "train_loss", "interval": interval}
            return {"optimizer": adam, "lr_scheduler": plan}

    detector = LearningRateDetector()
    data = DataLoader(TensorDataset(*digits(512)), batch_size=8, shuffle=True)
    fit(Program(Plateau(), data, trainer={"max_epochs": 3}), detector)
    assert [one.code for one in detector.findings] == found


# -- spikes


START = [2.3] * 5


def spiky(losses: list[float]) -> list[int]:
    history = new_history()
    for step, loss in enumerate(losses):
        spikes(history, step, loss, scales=4.0, height=0.2)
    return list(history["spikes"])


def noisy(count: int, level: float = 0.3, noise: float = 0.1) -> list[float]:
    draw = random.Random(0)
    return [level * math.exp(draw.gauss(0, noise)) for _ in range(count)]


def test_spikes_that_last_are_counted() -> None:
    """Each is counted once, at its second step."""
    spike = [3.0, 2.0, 1.5]
    losses = [*START, *noisy(60), *spike, *noisy(30), *spike, *noisy(30)]
    assert spiky(losses) == [66, 99]


@pytest.mark.parametrize(
    "losses",
    [
        [*START, *noisy(60), 5.0, *noisy(30), 5.0, *noisy(30), 5.0],  # hard batches
        [*START, *noisy(60), *noisy(200, level=3.0)],  # a new level
        [*START, *noisy(60, level=1e-6), 1e-3, 1e-3, *noisy(60, level=1e-6)],  # nothing is undone
        [*START, *noisy(60), -1.0, 5.0, 5.0, 5.0],  # no scale
        [*START, *noisy(60), math.nan, 5.0, 5.0],
        noisy(500, level=2.3, noise=1.0),
        [*START, *noisy(60, level=0.01), 900.0, *noisy(30, level=0.01), 900.0],  # clipped
        [*noisy(200, level=1e-4, noise=3.0), 1.0, *noisy(200, level=1e-4, noise=3.0)],  # of one
    ],
)
def test_other_jumps_are_no_spikes(losses: list[float]) -> None:
    """Hard batches, new levels, and noise."""
    assert spiky(losses) == []


@pytest.mark.parametrize("level", [0.3, 2.3])
def test_what_is_out_of_all_proportion_counts_at_once(level: float) -> None:
    """No batch is a thousand times as hard as it was for a net that knew nothing."""
    calm = noisy(33, level=level)
    assert spiky([*START, *calm, *calm, 1e4, *calm, 1e4, *calm, 1e4, *calm]) == [71, 105, 139]


def test_three_spikes_are_too_many() -> None:
    """One is a catapult."""
    detector = LearningRateDetector()
    losses = [*START, *noisy(60), *(3 * [3.0, 2.0, *noisy(30)])]
    found = [
        one.measured
        for step, loss in enumerate(losses)
        for one in detector.recurring_spikes(Loss(loss, (loss,), 0, step), Rewrites())
    ]
    assert found == [3]


def test_where_single_batches_are_hard_two_in_a_row_are_chance() -> None:
    """A few samples that are never learned make a loss jump, and now and then they meet."""
    detector = LearningRateDetector()
    hard = [3.0, *noisy(12), 3.0, *noisy(12), 3.0, 3.0, *noisy(12)]
    for step, loss in enumerate([*START, *noisy(60), *(5 * hard)]):
        assert not list(detector.recurring_spikes(Loss(loss, (loss,), 0, step), Rewrites()))


@pytest.mark.parametrize(
    ("way", "sick"),
    [
        ("reset", True),
        ("load", True),
        ("head", False),
        ("once", False),
        ("ema", False),
        ("zero", False),
    ],
)
def test_an_epoch_that_begins_untrained_undoes_the_one_before(way: str, sick: bool) -> None:
    """A new head leaves the body as it was, an average knows much, and zeros have learned nothing."""

    class Reset(Classifier):
        def on_train_start(self):
            self.start = copy.deepcopy(self.net.state_dict())
            self.mean = copy.deepcopy(self.net.state_dict())

        def on_train_epoch_start(self):
            if way == "load" or (way == "once" and self.current_epoch == 2):
                self.net.load_state_dict(self.start)
            elif way in ("reset", "head"):
                for layer in self.net[-1 if way == "head" else 0 :]:
                    if hasattr(layer, "reset_parameters"):
                        layer.reset_parameters()
            elif way == "ema":
                for name, value in self.net.state_dict().items():
                    self.mean[name].lerp_(value, 0.5)
                self.net.load_state_dict(self.mean)

    seed(0)
    net = nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    torch._foreach_mul_([p.detach() for p in net.parameters()], way != "zero")
    detector = LearningRateDetector(select=["LRN105"])
    fit(Program(Reset(net, lr=1e-2), loader(), trainer={"max_epochs": 5}), detector)
    assert [one.where for one in detector.findings] == ["weights"] * sick


# -- the measurements, in runs


class ListeningDetector(Detector):
    """Keeps what is measured.

    Args:
        seen: The list to keep it in.
    """

    seen: list = None  # type: ignore[assignment]

    @rule("TST901", severity=Severity.INFO)
    def probes(self, probe: StepProbe) -> Any:
        """Keeps the probe.

        Why it matters:
            It is looked at.

        Likely causes:
            - A test

        How to fix:
            - None

        When it is fine:
            Always.

        References:
            none
        """
        self.seen.append(probe)
        return iter(())

    @rule("TST902", severity=Severity.INFO)
    def plans(self, plan: Schedules) -> Any:
        """Keeps the plan.

        Why it matters:
            It is looked at.

        Likely causes:
            - A test

        How to fix:
            - None

        When it is fine:
            Always.

        References:
            none
        """
        self.seen.append(plan)
        return iter(())


def measure(module: pl.LightningModule, kind: type, data: Any = None, **options: Any) -> list[Any]:
    listening = ListeningDetector(seen=[])
    fit(Program(module, data or loader()), listening, **options)
    return [one for one in listening.seen if isinstance(one, kind)]


class Tricky(Classifier):
    """Batch norm, dropout, a random number of its own, and a logged metric."""

    def __init__(self, **options: Any) -> None:
        net = nn.Sequential(
            nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
        )
        super().__init__(net, **options)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(x + 0.1 * torch.randn_like(x), y) * (1 + 0.1 * random.random())
        self.log("train_loss", loss)
        return loss


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 3},
        {"gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
    ],
)
def test_probing_changes_nothing(options: dict[str, Any]) -> None:
    """Weights, statistics and random numbers are the same bit for bit."""
    after = []
    for callbacks in ([], [LearningRateDetector()]):
        seed(0)
        module = Tricky()
        fit(Program(module, loader()), *callbacks, max_epochs=2, **options)
        after.append((weights(module), torch.rand(3), random.random()))
    (plain, *numbers), (probed, *same) = after
    assert all(torch.equal(plain[name], probed[name]) for name in plain)
    assert torch.equal(numbers[0], same[0])
    assert numbers[1] == same[1]


def test_compiled_nets_are_probed_without_a_trace() -> None:
    """The probe runs them eagerly, and the run goes on with what was compiled."""
    after = []
    for callbacks in ([], [LearningRateDetector()]):
        seed(0)
        module = Tricky()
        module.net = torch.compile(module.net, backend="aot_eager")
        fit(Program(module, loader()), *callbacks, max_steps=12)
        after.append(weights(module))
    assert all(torch.equal(value, after[1][name]) for name, value in after[0].items())
    assert len(callbacks[0].probes) == 6


def test_a_probe_knows_the_step_as_it_was() -> None:
    """Twice the step means twice the way, under momentum, clipping and decay alike."""
    seen: list[torch.Tensor] = []

    class Parabola(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([3.0]))

        def training_step(self, batch, batch_idx):
            seen.append(self.w.detach().clone())
            return (self.w**2).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)

    probes = measure(Parabola(), StepProbe, [0] * 12, max_epochs=1, gradient_clip_val=1.0)
    assert [one.step for one in probes] == [0, 1, 2, 3, 4, 10]
    for one in probes:
        before, after = math.sqrt(one.own[0]), math.sqrt(one.own[1])
        for multiple, loss in one.curve.items():
            assert pytest.approx((before + multiple * (after - before)) ** 2, rel=1e-3) == loss
        assert pytest.approx(2 * before * (before - after), rel=1e-3) == one.predicted


@pytest.mark.parametrize(("drift", "runs"), [(0.0, [2, 2, 1, 1, 1]), (1e-3, [2, 2, 2, 2, 2])])
def test_a_step_that_can_be_repeated_need_not_be(drift: float, runs: list[int]) -> None:
    """If two steps came to their own loss when run again, later ones are taken at their word."""
    calls: list[int] = []

    class Drifting(Tricky):
        def training_step(self, batch, batch_idx):
            calls.append(batch_idx)
            return super().training_step(batch, batch_idx) + drift * len(calls)

    probes = measure(Drifting(), StepProbe, max_steps=6)
    along = [len(one.curve) + (one.scrambled is not None) for one in probes]
    # The step itself, its own batch again, and the walk along the step before it.
    assert [calls.count(i) - 1 - walk for i, walk in enumerate([0, *along[:4]])] == runs


def test_a_dead_net_is_seen_to_be_dead() -> None:
    """Where all units are off, three of four parameters get a gradient of exactly zero."""
    module = Classifier(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)))
    alive = measure(module, StepProbe, loader(), max_steps=3)
    nn.init.constant_(module.net[0].bias, -1e3)
    dead = measure(module, StepProbe, loader(), max_steps=3)
    assert [one.silent for one in alive + dead] == [0.0, 0.0, 0.75, 0.75]


def test_micro_batches_are_one_step() -> None:
    """Under accumulation a probe begins at the batch that ends in a step."""
    probes = measure(Tricky(), StepProbe, max_steps=12, accumulate_grad_batches=2)
    assert [one.step for one in probes] == [0, 1, 2, 3, 4, 10]
    assert [len(one.losses) for one in probes] == [2, 2, 2, 2, 2, 12]
    assert all(1.5 < one.losses[0] < 3.5 for one in probes), "the loss is not divided"


class ByHand(Tricky):
    """Manual optimization."""

    times = 1

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for _ in range(self.times):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(*batch))
            self.clip_gradients(optimizer, 1.0)
            optimizer.step()


class ByHandTwice(ByHand):
    times = 2


def test_manual_optimization_is_probed_if_a_batch_is_a_step() -> None:
    """Its loss is what went backward."""
    probes = measure(ByHand(), StepProbe, max_epochs=1)
    assert [one.step for one in probes] == [0, 1, 2, 3, 4, 10, 20, 30]
    assert measure(ByHandTwice(), StepProbe, max_epochs=1) == []


def test_lbfgs_is_one_step() -> None:
    """However often it evaluates its closure."""

    class Quasi(Classifier):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)

    probes = measure(Quasi(), StepProbe, max_steps=24)
    assert [one.step for one in probes][:5] == [0, 1, 2, 3, 4]
    assert all(one.own[1] < one.own[0] for one in probes)


class Penalized(Classifier):
    """A gradient penalty: the step itself differentiates."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.clone().requires_grad_()
        loss = self.loss(x, y)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + slope.pow(2).sum()


def test_a_step_that_differentiates_is_probed() -> None:
    """It gets the graph that it needs."""
    assert len(measure(Penalized(), StepProbe, max_steps=6)) == 5


class TwoOptimizers(ByHand):
    def configure_optimizers(self):
        return [
            torch.optim.SGD(self.net[0].parameters()),
            torch.optim.SGD(self.net[4].parameters()),
        ]

    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss(*batch))
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()


def test_two_optimizers_are_not_probed() -> None:
    """Whose loss is it?"""
    assert measure(TwoOptimizers(), StepProbe, max_epochs=1) == []


def test_a_step_that_cannot_be_run_again_is_left_alone(caplog) -> None:
    """It is told once, and the run goes on."""
    calls = []

    class Once(Classifier):
        def training_step(self, batch, batch_idx):
            if not hasattr(self.log, "__func__"):  # the sandbox has silenced it
                raise ValueError("not again")
            calls.append(batch_idx)
            return self.loss(*batch)

    with caplog.at_level("INFO", "lightning_nndebug"):
        assert measure(Once(), StepProbe, max_steps=12) == []
    assert list(range(12)) == calls
    assert caplog.text.count("cannot be run again: ValueError: not again") == 1


@pytest.mark.parametrize("is_policy", [True, False])
def test_losses_of_actions_that_were_drawn_anew_are_not_compared(is_policy: bool) -> None:
    """What a policy sees depends on its weights; negatives that are drawn by frequency do not."""

    class Drawn(Classifier):
        def training_step(self, batch, batch_idx):
            odds = self.net(batch[0]).softmax(1)
            drawn = torch.multinomial(odds if is_policy else torch.ones_like(odds), 1)
            return -odds.log().gather(1, drawn).mean() + self.loss(*batch)

    assert bool(measure(Drawn(), StepProbe, max_steps=6)) is not is_policy


class Room:
    """An environment, as gym has them: it moves on when it is stepped."""

    def __init__(self) -> None:
        self.visited: list[int] = []

    def step(self, action: int) -> torch.Tensor:
        self.visited.append(action)
        return torch.tensor(float(action))


def test_an_environment_is_not_played_in_twice(caplog) -> None:
    """The first real step shows that it moves, before any step is run again."""

    class Player(Classifier):
        def __init__(self):
            super().__init__()
            self.rooms = [Room()]

        def training_step(self, batch, batch_idx):
            return self.loss(*batch) + 0 * self.rooms[0].step(batch_idx)

    module = Player()
    with caplog.at_level("INFO", "lightning_nndebug"):
        assert measure(module, StepProbe, max_steps=12) == []
    assert list(range(12)) == module.rooms[0].visited
    assert caplog.text.count("they change rooms, which cannot be put back") == 1


def test_batches_that_are_used_up_are_not_probed() -> None:
    """A batch that is an iterator can be read once."""

    class Reader(Classifier):
        def training_step(self, batch, batch_idx):
            return self.loss(*next(batch))

    batches = DataLoader([iter([one]) for one in loader()], batch_size=None)
    assert measure(Reader(), StepProbe, data=batches, max_epochs=1) == []


def test_the_guilty_group_is_named() -> None:
    """If rates differ a lot, each group is tried on its own."""

    class TwoRates(Classifier):
        def configure_optimizers(self):
            body, _, head = self.net
            groups = [{"params": body.parameters(), "lr": 1e-3}, {"params": head.parameters()}]
            return torch.optim.SGD(groups, lr=30.0, momentum=0.9)

    detector = LearningRateDetector(select=["LRN101"])
    fit(Program(TwoRates(), loader()), detector, max_epochs=2)
    (finding,) = detector.findings
    assert finding.where == "SGD.param_groups[1]"
    assert finding.measured == 30.0


def test_skipped_steps_are_not_probed() -> None:
    """A GradScaler that skips a step leaves nothing to probe."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=10_000)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    probes = measure(Tricky(), StepProbe, max_steps=60, plugins=[plugin])
    assert probes
    assert all(one.predicted and math.isfinite(one.predicted) for one in probes)
    assert not {0, 1, 2, 3, 4} & {one.step for one in probes}


@pytest.mark.ddp
def test_processes_probe_together() -> None:
    """The losses are means over the processes, so that all of them come to the same verdict."""

    class Told(Tricky):
        def on_train_end(self):
            detector = self.trainer.callbacks[0]
            curves = [one["curve"] for one in detector.probes]
            gathered: list[Any] = [None, None]
            torch.distributed.all_gather_object(gathered, curves)
            if len(curves) < 5 or gathered[0] != gathered[1]:
                raise RuntimeError(f"not the same: {gathered}")

    options = {"strategy": "ddp_fork", "devices": 2, "max_steps": 12}
    fit(Program(Told(), loader()), LearningRateDetector(), **options)


class Scheduled(Classifier):
    def __init__(self, make: Any, **config: Any) -> None:
        super().__init__()
        self.make, self.config = make, config

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return [optimizer], [{"scheduler": self.make(optimizer), **self.config}]


def plan(make: Any, **config: Any) -> Schedules:
    options = config.pop("options", {"max_epochs": 2})
    return measure(Scheduled(make, **config), Schedules, **options)[0]


def test_schedules_are_tried_out() -> None:
    """The peak is known before it is reached, and the scheduler has not moved."""
    warm = plan(lambda o: lr_scheduler.LambdaLR(o, lambda k: min(1.0, k / 20)), interval="step")
    assert warm.peaks == ((1.0,),)
    assert pytest.approx(0.25) == warm.schedules[0].factors[5]
    assert (warm.steps, warm.schedules[0].planned, warm.schedules[0].taken) == (64, 64, 0)
    slow = plan(lambda o: lr_scheduler.LambdaLR(o, lambda k: min(1.0, k / 20)))
    assert slow.peaks == ((0.1,),)
    assert slow.schedules[0].planned == 2


@pytest.mark.parametrize(
    ("milestones", "unmet"), [([0.5, 0.75], (0.5, 0.75)), ([0.57 * 100, 60.0, 80], (0.57 * 100,))]
)
def test_milestones_that_are_no_whole_numbers_are_never_met(
    milestones: list[float], unmet: tuple[float, ...]
) -> None:
    """Also where rounding has made them so; 60.0 is 60."""
    (found,) = plan(lambda o: lr_scheduler.MultiStepLR(o, milestones)).schedules
    assert found.unmet == unmet


@pytest.mark.parametrize(
    ("make", "length"),
    [
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=64), 64),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 30), 30),
        (lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1), None),
        (lambda o: lr_scheduler.StepLR(o, 30), None),
        (
            lambda o: lr_scheduler.SequentialLR(
                o,
                [lr_scheduler.LinearLR(o), lr_scheduler.CosineAnnealingLR(o, 54)],
                milestones=[10],
            ),
            64,
        ),
    ],
)
def test_lengths_are_read(make: Any, length: int | None) -> None:
    """Of schedulers that have one."""
    (found,) = plan(make, interval="step").schedules
    assert length == found.length
    assert found.factors


def test_what_cannot_be_foretold_has_no_peak() -> None:
    """A scheduler with a step of its own may do anything."""

    class Own(lr_scheduler.LRScheduler):
        def get_lr(self):
            return [0.1]

        def step(self, epoch=None):
            self.last_epoch += 1
            self._last_lr = [0.1]

    found = plan(Own)
    assert ((math.inf,),) == found.peaks
    assert found.schedules[0].factors == ()


class WithoutOptimizer(Classifier):
    """Descends by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.zero_grad()
        self.manual_backward(self.loss(*batch))
        with torch.no_grad():
            for one in self.parameters():
                one.sub_(0.1 * one.grad)

    def configure_optimizers(self) -> None:
        return None


def test_a_run_without_an_optimizer_is_watched(caplog) -> None:
    """Lightning puts one in its place that has no groups."""
    fit(Program(WithoutOptimizer(), loader()), NNDebug(), max_steps=-1, max_epochs=2)
    assert "is off" not in caplog.text


def test_of_a_rate_of_0_nothing_is_foretold() -> None:
    """It has no peak to be a share of: that it is 0 is another matter."""

    def nothing(optimizer):
        optimizer.param_groups[0]["lr"] = 0.0
        return lr_scheduler.CosineAnnealingLR(optimizer, 2)

    assert plan(nothing).schedules[0].factors == ()


def test_the_run_is_as_long_as_lightning_says() -> None:
    """Steps and epochs come from whatever ends the run first."""

    def never(optimizer):
        return lr_scheduler.ConstantLR(optimizer)

    whole, part = plan(never), plan(never, options={"max_steps": 48})
    assert (whole.steps, whole.epochs, part.steps, part.epochs) == (64, 2, 48, 1.5)
    short = plan(never, options={"max_epochs": 2, "limit_train_batches": 5})
    assert (short.steps, short.shortened) == (10, True)
    accumulated = plan(never, options={"max_epochs": 2, "accumulate_grad_batches": 5})
    assert accumulated.steps == 14


def test_the_evidence_is_plain() -> None:
    """It goes into a JSON record as it is."""
    detector = LearningRateDetector()
    evidence: list[Evidence] = []
    for step in LATE:
        evidence += detector.learning_rate_too_low(low(step), RUN)
    assert {"lr", "curve"} == set(evidence[0].details)
