"""The rules of generalization, on measurements made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
from cases._parts import Classifier, loader, split
from cases._scored import wide
from cases.gen101_overfitting import sick as overfitting
from lightning.pytorch.callbacks import EarlyStopping
from program import Program, fit, seed
from torch.utils.data import DataLoader

from lightning_nndebug import GeneralizationDetector, LossDetector
from lightning_nndebug.core.measurements.baselines import Baselines, _has_settled, errors
from lightning_nndebug.core.measurements.batches import Place
from lightning_nndebug.core.measurements.loss_calls import LossCall
from lightning_nndebug.core.measurements.loss_curve import LossCurve, _unseen
from lightning_nndebug.core.measurements.scores import (
    Score,
    Scores,
    Stop,
    Tracked,
    direction,
    doubt,
    is_whole,
    turned,
)
from lightning_nndebug.core.measurements.skill import (
    Look,
    Skill,
    Tally,
    logged_apart,
    sums_of,
    tally,
)
from lightning_nndebug.generalization import hidden


def scores(train: list[float], stoppers: tuple[str, ...] = (), **metrics: list[float]) -> Scores:
    history = [
        Score(10 * i, i, loss, {key: values[i] for key, values in metrics.items()})
        for i, loss in enumerate(train)
    ]
    return Scores(tuple(history), stoppers)


def tallied(error: float, samples: int = 1000, classes: int = 10) -> Tally:
    share = samples / classes
    recalls = ((share, (1 - error) * share),) * classes
    return Tally(samples, 3 * error, error, math.log(10), 0.9, classes, recalls)


def skill(*pairs: tuple[float, float], noises: dict[str, float] | None = None, **more) -> Skill:
    looks = [Look(i, tallied(a), tallied(b)) for i, (a, b) in enumerate(pairs)]
    return Skill(tuple(looks), noises or {}, **more)


FALLING = [2.0 * 0.7**i for i in range(12)]
TURNED = [2.0, 1.5, 1.2, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]


def test_a_validation_loss_that_turns_while_training_falls_is_overfitting() -> None:
    """The best validation is named, with its step."""
    (found,) = GeneralizationDetector().overfitting(scores(FALLING, val_loss=TURNED))
    assert found.where == "val_loss"
    assert found.details["best_step"] == 30


@pytest.mark.parametrize(
    "history",
    [
        scores(FALLING, val_loss=FALLING),
        scores(FALLING, ("val_loss",), val_loss=TURNED),
        scores(FALLING, val_loss=TURNED, val_acc=[i / 12 for i in range(12)]),
        scores(FALLING, val_loss=FALLING, val_acc=[-one for one in TURNED]),
        scores(FALLING, val_loss=[*FALLING[:9], *[FALLING[8]] * 3], val_kl=TURNED),
        scores([2.0 + 0.01 * i for i in range(12)], val_loss=TURNED),
        scores(FALLING, val_loss=[1, 0.5, 1.2, 0.9, 1.3, 0.6, 1.1, 0.8, 1.2, 1.0, 0.7, 1.3]),
        scores([math.nan] * 12, val_loss=TURNED),
        scores(FALLING[:4], val_loss=TURNED[:4]),
        scores(FALLING, strange=TURNED),
        scores(FALLING, val_loss=[0.01 * one for one in TURNED]),
    ],
    ids=[
        "falls",
        "stopper",
        "accuracy",
        "loss",
        "traded",
        "train_rises",
        "noise",
        "two",
        "short",
        "name",
        "tiny",
    ],
)
def test_what_looks_like_overfitting_and_is_not(history: Scores) -> None:
    """Noise, a metric that still rises, a callback that stops the run: nothing is said."""
    assert not list(GeneralizationDetector().overfitting(history))


@pytest.mark.parametrize(
    ("pairs", "fires"),
    [
        ([(0.6, 0.7), (0.3, 0.6), (0.1, 0.6), (0.02, 0.6), (0.0, 0.6)], True),
        ([(0.6, 0.7), (0.3, 0.4), (0.1, 0.3), (0.02, 0.3), (0.0, 0.3)], False),
        ([(0.6, 0.8), (0.3, 0.7), (0.1, 0.65), (0.02, 0.6), (0.0, 0.55)], False),
        ([(0.6, 0.7), (0.5, 0.6), (0.4, 0.6), (0.3, 0.6), (0.2, 0.6)], False),
        ([(0.6, 0.9), (0.3, 0.9), (0.1, 0.9), (0.02, 0.9), (0.0, 0.9)], False),
        ([(0.6, 0.7), (0.0, 0.6), (0.0, 0.6)], False),
    ],
    ids=["far behind", "not so far", "still better", "not by heart", "at chance: GEN105", "soon"],
)
def test_a_validation_that_stays_far_behind_is_overfitting(
    pairs: list[tuple[float, float]], fires: bool
) -> None:
    """Without a turn, once training is solved."""
    losses = [2.0 * 0.7**i for i in range(len(pairs))]
    looks = skill(*pairs).looks
    history = replace(scores(losses, val_loss=losses[::-1][:1] * len(pairs)), looks=looks)
    assert bool(list(GeneralizationDetector().overfitting(history))) is fires
    guarded = replace(history, stoppers=("val_loss",))
    assert not list(GeneralizationDetector().overfitting(guarded))


class Logged(Classifier):
    """Logs the loss of training, too."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss


@pytest.mark.parametrize(("monitor", "fires"), [("train_loss", True), ("val_loss", False)])
def test_a_run_that_is_stopped_by_its_training_loss_overfits_all_the_same(
    monitor: str, *, fires: bool
) -> None:
    """That loss falls for ever."""
    seed(0)
    program = overfitting()
    module = Logged(wide(), lr=1e-2)
    stop = EarlyStopping(monitor, patience=100)
    detector = GeneralizationDetector()
    fit(replace(program, module=module, trainer={"max_epochs": 50, "callbacks": [stop]}), detector)
    assert ("GEN101" in [one.code for one in detector.findings]) is fires


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ({"val_auc": [0.4, 0.15, 0.1, 0.05]}, "val_auc"),
        ({"val/pearson_r": [0.0, -0.7, -0.8, -0.9]}, "val/pearson_r"),
        ({"val_auc": [0.01, 0.05, 0.1, 0.15]}, ""),
        ({"val_auc": [0.5, 0.4, 0.3, 0.25]}, ""),
        ({"val_f1": [0.4, 0.15, 0.1, 0.05]}, ""),
    ],
)
def test_a_score_that_gets_ever_worse_than_a_guess_is_turned(metrics, name: str) -> None:
    """If it is known what a guess gets; one that is coming up is only late."""
    assert turned(scores(FALLING[:4], **metrics)).metric == name
    assert not turned(scores(FALLING[:4][::-1], **metrics)).metric


@pytest.mark.parametrize(
    ("metrics", "error", "more", "name"),
    [
        ({"val_acc": [0.1, 0.1]}, 0.1, {}, "val_acc"),
        ({"val/accuracy_epoch": [8.0, 9.0]}, 0.1, {}, "val/accuracy_epoch"),
        ({"val_acc": [0.1, 0.5]}, 0.1, {}, ""),
        ({"val_acc": [0.1, 0.1]}, 0.9, {}, ""),
        ({"val_acc": [0.1, 0.1]}, 0.1, {"is_single": False}, ""),
        ({"val_acc_dog": [0.0, 0.0], "val_f1": [0.0, 0.0]}, 0.1, {}, ""),
        ({"val_acc/dataloader_idx_0": [0.1, 0.1]}, 0.1, {}, "val_acc/dataloader_idx_0"),
        ({"val_acc/dataloader_idx_2": [0.1, 0.1]}, 0.1, {}, ""),
        ({"val_acc": [math.nan, math.nan]}, 0.1, {}, ""),
    ],
    ids=[
        "constant",
        "percent",
        "fair",
        "a net at chance",
        "exact matches",
        "of one class",
        "first loader",
        "of other samples",
        "not a number",
    ],
)
def test_an_accuracy_that_the_answers_contradict(metrics, error, more, name) -> None:
    """It says no more than a guess, twice, and most answers are right."""
    history, looks = scores([1.0, 0.5], **metrics), skill((error, error), (error, error))
    assert doubt(history, replace(looks, **{"is_single": True, **more})).metric == name


def test_a_metric_of_the_wrong_thing_is_told_as_one() -> None:
    """By its name, while the loss is right."""
    (x, y), val = split()
    seed(0)
    found = LossDetector()
    fit(Program(Mistaken(), loader(x, y), loader(*val, shuffle=False), {"max_epochs": 3}), found)
    assert [(one.code, one.where) for one in found.findings] == [("LOS109", "val_acc")]


class Mistaken(Classifier):
    """Takes the largest scores for the classes."""

    def __init__(self) -> None:
        super().__init__(wide(), lr=5e-3)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(x, y))
        self.log("val_acc", (self(x).max(1).values == y).float().mean())


def test_what_is_computed_for_a_log_hides_no_loss() -> None:
    """A squared error of a second forward, and an absolute one: there is one loss alone."""
    y, place = torch.arange(4.0), Place().item(1)
    calls = [
        LossCall(function, given, y, (4,), place=place)
        for function, given in (("mse_loss", y + 1), ("l1_loss", y + 1), ("mse_loss", y + 1))
    ]
    assert logged_apart(tuple(calls), {"mse_loss"}) == (calls[0],)
    other = replace(calls[0], input=y + 2)
    assert logged_apart((calls[0], other), {"mse_loss"}) == (calls[0], other)
    in_training = (replace(calls[0], factor=1.0), replace(calls[1], factor=0.0))
    assert logged_apart(in_training, set()) == in_training[:1]


def test_new_samples_are_as_good_as_a_validation() -> None:
    """What was reached on them in the first epoch, validation must reach, known or not."""
    rule = GeneralizationDetector().validation_at_chance
    far = skill((0.4, 0.75), (0.2, 0.75), (0.1, 0.75))
    assert not list(rule(far))
    fresh = [replace(one, is_fresh=number == 0) for number, one in enumerate(far.looks)]
    assert list(rule(replace(far, looks=tuple(fresh))))
    reached = [*fresh[:2], replace(fresh[2], validation=fresh[0].train)]
    assert not list(rule(replace(far, looks=tuple(reached))))


@pytest.mark.parametrize(
    ("values", "mode", "waited", "fires"),
    [
        ((1.7, 1.0, 0.6), "min", 1, True),
        ((0.5, 0.7, 0.8, 0.85), "min", 3, True),
        ((1.7, 1.0, 0.6, 0.6, 0.61, 0.6), "min", 3, False),
        ((1.7, 0.2, 0.18), "min", 1, False),
        ((1.7, 1.0, 0.6, 0.5, 0.9), "min", 2, False),
        ((1.7, 1.8, 1.9), "min", 2, False),
    ],
    ids=["too much asked", "the wrong direction", "settled", "little", "worse now", "rises"],
)
def test_a_callback_that_stops_what_gets_better_stops_it_too_early(
    values: tuple[float, ...], mode: str, waited: int, fires: bool
) -> None:
    """While it waited, the metric gained a good part of all that it has gained."""
    name = "val_acc" if values[0] < 1 else "val_loss"
    stop = Stop("EarlyStopping()", name, mode, values, waited)  # type: ignore[arg-type]
    found = list(GeneralizationDetector().stopped_early(stop))
    assert bool(found) is fires
    if name == "val_acc":
        assert found[0].fixes == ("give EarlyStopping mode='max'",)


@pytest.mark.parametrize(("often", "fires"), [({"val_check_interval": 2}, True), ({}, False)])
def test_a_run_that_is_stopped_within_its_first_epoch_is_stopped_early(
    often: dict[str, int], *, fires: bool
) -> None:
    """Patience counts validations, not epochs."""
    seed(0)
    stop = EarlyStopping("val_loss", patience=2, min_delta=1.0)
    program = Program(Classifier(), loader(), loader(shuffle=False))
    detector = GeneralizationDetector()
    fit(replace(program, trainer={"max_epochs": 4, "callbacks": [stop], **often}), detector)
    found = [one for one in detector.findings if one.code == "GEN103"]
    assert any("of its first epoch" in one.message for one in found) is fires


def test_a_metric_that_is_named_by_the_user_is_followed() -> None:
    """``monitor`` and ``mode`` go before what names say."""
    history = scores(FALLING, strange=TURNED)
    detector = GeneralizationDetector(monitor="strange", mode="min")
    assert [one.where for one in detector.overfitting(history)] == ["strange"]
    falling = scores(FALLING, val_acc=[1 - one / 2 for one in TURNED])
    assert [one.where for one in GeneralizationDetector().overfitting(falling)] == ["val_acc"]


def test_a_part_of_the_loss_may_rise_for_the_sake_of_another() -> None:
    """What is followed is the whole where it is logged; a part must once have been learned."""
    rising, overfit = [0.1 * i for i in range(12)], GeneralizationDetector().overfitting
    assert not list(overfit(scores(FALLING, val_loss=FALLING, val_commit_loss=TURNED)))
    assert not list(overfit(scores(FALLING, val_rec_loss=FALLING, val_kl_loss=rising)))
    assert not list(overfit(scores(FALLING, val_kl=rising)))
    assert not list(overfit(scores(FALLING, val_perplexity=rising)))  # of a codebook
    sides = {"val_precision": [1 - one for one in rising], "val_recall": [0.5] * 12}
    assert not list(overfit(scores(FALLING, **sides)))
    for names in (("val_loss", "val_kl_loss"), ("val_rec_loss",), ("val_mae",)):
        found = list(overfit(scores(FALLING, **dict.fromkeys(names, TURNED))))
        assert [one.where for one in found] == [names[0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val_loss", "min"), ("val/acc", "max"), ("ValAccuracy", "max"), ("valid_rmse", "min"),
        ("val_top5", "max"), ("val_acc/dataloader_idx_0", "max"), ("lr", None), ("epoch", None),
        ("val_f1_macro", "max"), ("val_triplet_loss", "min"), ("val_loss_epoch", "min"),
        ("perplexity", "min"), ("val_r2", "max"), ("speed", None), ("val_elbo", None),
        ("val_score", "max"), ("val_f1_score", "max"), ("val_brier_score", "min"),
        ("val_anomaly_score", None), ("val_neg_log_likelihood", "min"), ("neg_mse", None),
    ],
)  # fmt: skip
def test_a_name_tells_whether_it_should_fall_or_rise(name: str, expected: str | None) -> None:
    """Or it tells nothing, and is not judged."""
    assert direction(name) == expected


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("val_loss", True), ("Test/CrossEntropy", True), ("val_mean_squared_error", True),
        ("val_acc_epoch/dataloader_idx_1", True), ("val_cross_entropy", True),
        ("val_kl_loss", False), ("val_recall", False), ("val_acc_class_3", False),
    ],
)  # fmt: skip
def test_a_name_tells_whether_it_is_of_all_that_counts(name: str, whole: bool) -> None:
    """Of a part or of one side alone, nobody knows what it was given up for."""
    assert is_whole(name) == whole


def test_a_net_that_simple_models_beat_underfits() -> None:
    """By more than the limit, and only if there is something to be learned."""
    rule = GeneralizationDetector().underfitting
    assert list(rule(Baselines(net=0.7, constant=0.9, linear=0.1, kernel=0.05, samples=512)))
    assert not list(rule(Baselines(net=0.1, constant=0.9, linear=0.1, kernel=0.05, samples=512)))
    assert not list(
        rule(Baselines(0.3, constant=0.9, linear=0.1, kernel=0.1, samples=512, gain=0.1))
    )
    assert not list(rule(Baselines(net=0.95, constant=0.9, linear=0.8, kernel=0.79, samples=512)))


def test_a_linear_net_is_blamed_for_what_no_linear_model_can_do() -> None:
    """If it has not arrived at the linear model, descent is slow, and capacity is no matter."""
    rule = GeneralizationDetector().underfitting
    slow = Baselines(net=0.5, constant=1, linear=0.01, kernel=0.02, samples=512, layers=1)
    curved = Baselines(net=0.5, constant=1, linear=0.48, kernel=0.02, samples=512, layers=1)
    assert not list(rule(slow))
    assert list(rule(curved))


def test_leaving_one_out_is_honest() -> None:
    """Random labels are predicted no better than by chance; a line, or a circle, is found."""
    torch.manual_seed(0)
    x = torch.randn(200, 2)
    line, circle = (x[:, 0] > 0).long(), (x.norm(dim=1) > 1.1).long()
    assert min(errors(x, torch.randint(2, (200,)))[:2]) > 0.38
    assert errors(x, line)[0] < 0.1
    assert errors(x, circle)[0] > 0.3
    assert errors(x, circle)[1] < 0.1


def test_the_errors_of_regressions_are_shares_of_the_variance() -> None:
    """A linear target is explained by the linear model, wholly."""
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    linear, _, constant = errors(x, x.sum(1, keepdim=True) * 7 + 100)
    assert linear < 0.01
    assert constant == 1


def curve(means: list[float], **more) -> LossCurve:
    return LossCurve(tuple(means), 1, len(means), over=True, **more)


def test_a_loss_that_falls_to_the_end_was_stopped_early() -> None:
    """Unless the end was called for, or the learning rate had come down."""
    rule = GeneralizationDetector().stopped_early
    slope = [2 - 0.01 * i for i in range(100)]
    assert list(rule(curve(slope)))
    assert not list(rule(curve(slope, on_purpose=True)))
    assert not list(rule(curve(slope, annealed=True)))
    assert not list(rule(curve([2 * 0.9**i for i in range(100)])))
    assert not list(rule(curve([math.sin(i * i) for i in range(100)])))


def test_a_run_that_was_kept_from_data_need_not_be_seen_to_fall_as_clearly() -> None:
    """It must have been falling all the same, and have had something left to see."""
    rule = GeneralizationDetector().stopped_early
    noise = [0.05 * math.sin(i * i) for i in range(40)]
    falling = [0.1 + 0.9 * 0.95**i + noise[i] for i in range(40)]
    assert not list(rule(curve(falling)))
    [found] = rule(curve(falling, unseen=0.25))
    assert "limit_train_batches has kept 25% of the training data" in found.message
    settled = [0.1 + 0.9 * 0.8**i + noise[i] for i in range(40)]
    assert not list(rule(curve(settled, unseen=0.25)))
    assert not list(rule(curve(falling, unseen=0.25, on_purpose=True)))


@pytest.mark.parametrize(
    ("limit", "seen", "unseen"),
    [
        (0.25, 20, 0.5),
        (0.25, 40, 0.0),  # a pass, in parts
        (0.25, 400, 0.0),
        (10, 10, 0.75),
        (1.0, 10, 0.0),  # max_steps says how long a run is to be
        (None, 10, 0.0),
    ],
)
def test_what_a_limit_keeps_from_a_run_is_known(limit, seen: int, unseen: float) -> None:
    """It is what the run cannot have shown, however its data were shuffled."""
    loop = SimpleNamespace(total_batch_idx=seen - 1)
    trainer = SimpleNamespace(limit_train_batches=limit, fit_loop=loop)
    trainer.train_dataloader = DataLoader(range(40))
    assert _unseen(trainer) == unseen
    trainer.train_dataloader = {"a": DataLoader(range(40))}
    assert _unseen(trainer) == 0.0


def test_a_loss_has_settled_if_it_gains_little_of_what_is_left() -> None:
    """Most of it may have gone at first: what remains may yet go, too."""
    noise = [0.01 * math.sin(i * i) for i in range(100)]
    assert _has_settled(curve([0.5 + 1.5 * 0.9**i + noise[i] for i in range(100)]))
    assert not _has_settled(curve([2 * 0.9**i + 0.3 * 0.99**i + noise[i] for i in range(100)]))
    assert not _has_settled(curve([2 - 0.01 * i for i in range(100)]))


def test_a_loss_that_stands_still_with_its_learning_rate_has_not_settled() -> None:
    """Time is counted in learning rates: at the end of a decay, hardly any of it goes by."""
    noise = [0.005 * math.sin(i * i) for i in range(200)]
    rates = [0.97**i for i in range(200)]
    done = list(accumulate(rates))
    falling = curve([2 - 0.03 * done[i] + noise[i] for i in range(200)], rates=tuple(rates))
    assert _has_settled(replace(falling, rates=()))
    assert not _has_settled(falling)
    stuck = [1 + 0.9 ** done[i] + noise[i] for i in range(200)]
    cosine = tuple(0.5 + 0.5 * math.cos(math.pi * i / 200) for i in range(200))
    assert _has_settled(curve([1 + 0.9**i + noise[i] for i in range(200)], rates=cosine))
    assert not _has_settled(curve(stuck, rates=(1.0, *[0.0] * 199)))  # one stretch tells nothing


def test_equal_learning_rates_make_equal_stretches() -> None:
    """And none is shorter than it was: where the rate is low, several become one."""
    means = tuple(float(i) for i in range(60))
    assert curve(means, rates=(0.1,) * 60).by_rate().means == means
    warm = curve(means, rates=(0.05,) * 20 + (0.1,) * 40).by_rate().means
    assert len(warm) == 50
    assert warm[:2] == (0.5, 2.5)
    assert warm[-1] == 59.0
    assert curve(means, rates=(0.0,) * 60).by_rate().means == means


def test_training_that_stays_behind_is_made_too_hard() -> None:
    """What disturbs it is named."""
    found = list(
        GeneralizationDetector().training_harder(
            skill((0.75, 0.15), (0.7, 0.1), noises={"drop": 0.9})
        )
    )
    assert "drop (p=0.9)" in found[0].causes[0]


@pytest.mark.parametrize(
    "looks",
    [
        ((0.3, 0.2), (0.2, 0.1)),
        ((0.8, 0.3), (0.4, 0.2)),
        ((0.9, 0.7), (0.89, 0.7)),
        ((0.9, 0.6), (0.7, 0.1)),
    ],
    ids=["mild", "closing", "nothing_learned", "a step behind"],
)
def test_mild_differences_between_training_and_validation_are_normal(looks) -> None:
    """Dropout, and the mean over an epoch, make training look a little worse."""
    detector = GeneralizationDetector()
    measured = skill(*looks, noises={"drop": 0.5})
    assert not list(detector.training_harder(measured))
    assert not list(detector.too_good_validation(measured))


def test_what_training_lacks_in_the_first_epochs_is_no_matter() -> None:
    """All of it was new to the net then."""
    lacking = skill((0.75, 0.15), (0.7, 0.1), noises={"drop": 0.9})
    fresh = replace(lacking, looks=tuple(replace(one, is_fresh=True) for one in lacking.looks))
    assert not list(GeneralizationDetector().training_harder(fresh))


def test_undisturbed_training_far_behind_validation_is_suspicious() -> None:
    """With noise in the inputs it is not: then training is harder."""
    detector = GeneralizationDetector()
    assert list(detector.too_good_validation(skill((0.7, 0.1), (0.55, 0.1), (0.65, 0.1))))
    assert not list(detector.too_good_validation(skill((0.7, 0.1), (0.65, 0.1))))
    assert not list(detector.too_good_validation(skill((0.4, 0.1), (0.35, 0.1), (0.65, 0.1))))
    assert not list(detector.training_harder(skill((0.7, 0.1), (0.65, 0.1))))
    noisy = skill((0.7, 0.1), (0.65, 0.1), (0.65, 0.1), shift=0.5)
    assert not list(detector.too_good_validation(noisy))
    assert list(detector.training_harder(noisy))
    remade = replace(noisy, shift=0.0, is_remade=True)  # by the step, after the loader
    assert not list(detector.too_good_validation(remade))
    (found,) = detector.training_harder(remade)
    assert found.causes[0].startswith("the step changes the inputs")


def test_validation_at_chance_is_told_from_overfitting() -> None:
    """A net that overfits has known something at least once."""
    rule = GeneralizationDetector().validation_at_chance
    assert list(rule(skill((0.2, 0.9), (0.1, 0.91))))
    assert not list(rule(skill((0.2, 0.6), (0.0, 0.91))))
    assert not list(rule(skill((0.9, 0.9), (0.85, 0.91))))
    assert not list(rule(skill((0.2, 0.9), (0.1, 0.91), is_settling=True)))


def test_a_run_that_tracks_only_a_loss_is_told_so() -> None:
    """Advice, not an alarm; not for a trial of one epoch."""
    rule = GeneralizationDetector().no_metric
    assert list(rule(Tracked(("val_loss",), True, 3, classifies=True)))
    assert list(rule(Tracked(("val_acc",), True, 3, regresses=True)))
    assert list(rule(Tracked((), False, 3)))
    assert not list(rule(Tracked(("val_loss",), True, 3)))
    assert not list(rule(Tracked(("val_loss", "val_f1"), True, 3, classifies=True)))
    assert not list(rule(Tracked((), False, 1)))


def call(function: str, inputs: torch.Tensor, target: torch.Tensor, **options) -> LossCall:
    return LossCall(function, inputs, target, tuple(inputs.shape), options)


def test_skill_does_not_depend_on_the_weights_of_the_loss() -> None:
    """It is computed from predictions and targets."""
    logits, y = torch.eye(10).repeat(10, 1) * 5, torch.arange(10).repeat(10)
    sums = sums_of(call("cross_entropy", logits, y, label_smoothing=0.3, reduction="sum"))
    found = tally("cross_entropy", [sums])
    assert found is not None
    assert found.skill == 1
    assert found.constant_loss == pytest.approx(math.log(10))


def test_skill_does_not_depend_on_how_frequent_the_classes_are() -> None:
    """To name the frequent class is no skill, and to find a rare one half of the time is."""
    y = (torch.arange(400) % 20 == 0).long()
    never, half = (
        torch.tensor([1.0, 0.0]).repeat(400, 1),
        torch.eye(2)[y * (torch.arange(400) % 40 == 0)],
    )
    skills = [
        tally("cross_entropy", [sums_of(call("cross_entropy", one, y))]) for one in (never, half)
    ]
    assert [one and one.skill for one in skills] == [0.0, 0.5]
    assert [one and one.is_known for one in skills] == [False, True]


def test_few_samples_of_validation_are_no_evidence_of_chance() -> None:
    """What cannot be told from chance cannot be told from something that was learned, either."""
    rule_ = GeneralizationDetector().validation_at_chance
    for samples, error, expected in ((2000, 1.0, True), (20, 0.7, False)):
        train, validation = (Tally(n, e, e, 1, 1, 0) for n, e in ((2000, 0.1), (samples, error)))
        looks = (Look(9, train, validation),)
        assert bool(list(rule_(Skill(looks, {})))) is expected


def test_a_loss_that_loses_little_of_what_it_has_gained_has_not_turned() -> None:
    """From 2.3 to 0.1 and up to 0.17: a few answers are wrong, and given with confidence."""
    losses = [0.1 * one for one in TURNED]
    for start, expected in ((2.3, False), (0.2, True)):
        history = replace(scores(FALLING, val_loss=losses), start=start)
        falling = replace(
            history, history=tuple(replace(one, train=one.train / 10) for one in history.history)
        )
        assert bool(list(GeneralizationDetector().overfitting(falling))) is expected


def test_masks_and_padding_count_as_they_do_in_the_loss() -> None:
    """Ignored pixels are no samples."""
    logits, y = torch.randn(4, 3, 5, 5), torch.randint(3, (4, 5, 5))
    y[0] = -100
    sums = sums_of(call("cross_entropy", logits, y, ignore_index=-100))
    assert sums is not None
    assert sums[0] == 75


def test_a_regression_is_measured_against_its_variance() -> None:
    """The mean of each column is the best constant."""
    y = torch.randn(500, 2, dtype=torch.float64) + torch.tensor([5.0, -5.0])
    mean = y.mean(0).expand_as(y)
    found = tally("mse_loss", [sums_of(call("mse_loss", mean, y))])
    assert found is not None
    assert found.skill == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_answers_that_overflow_have_no_skill(value: float) -> None:
    """Neither good nor bad: that they are not finite is told elsewhere."""
    y = torch.randn(100, 2)
    assert tally("mse_loss", [sums_of(call("mse_loss", y * value, y))]) is None
    logits = torch.full((100, 3), value)
    sums = sums_of(call("cross_entropy", logits, torch.arange(100) % 3))
    assert tally("cross_entropy", [sums]) is None


def test_later_targets_of_a_series_are_measured_against_what_was_known_before() -> None:
    """They keep near a level of their own, and so does no constant of before."""
    before, y = torch.randn(500, 1), 5 + torch.randn(500, 1) / 10
    known = sums_of(call("mse_loss", before, before))
    sums = sums_of(call("mse_loss", y + 0.2, y))
    alone, found = tally("mse_loss", [sums]), tally("mse_loss", [sums], [known])
    assert alone is not None
    assert alone.skill < 0
    assert found is not None
    assert found.skill > 0.99
    same = Tally(500, 0.5, 0.5, 1.0, 1.0, 0)
    assert hidden(Look(100, same, replace(same, constant_error=25.0))) < 0  # no merit of its own


def test_soft_labels_and_several_losses_are_not_compared() -> None:
    """As in mixup and in multi-task nets."""
    assert sums_of(call("cross_entropy", torch.randn(8, 3), torch.rand(8, 3))) is None
    assert sums_of(call("mse_loss", torch.randn(8, 1), torch.randn(8))) is None


def test_a_run_that_is_resumed_or_has_no_validation_is_no_error(caplog) -> None:
    """What is missing is not judged."""
    seed(0)
    detector = GeneralizationDetector()
    train, _ = split()
    fit(Program(Classifier(), loader(*train), trainer={"max_epochs": 2}), detector)
    assert "is off" not in caplog.text
    assert {one.code for one in detector.findings} == {"GEN103", "GEN106"}


def test_a_loss_that_was_nan_for_a_while_has_gained_nothing() -> None:
    """What it gained before and since is not known; nothing is divided by it."""
    means = (1.0,) * 40 + (float("nan"),) + (1.0,) * 59
    assert LossCurve(means, 1, 100).gain(0.5) == (0.0, float("inf"))
