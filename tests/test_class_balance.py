"""Class balance: what the rules make of hand-made measurements."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases._parts import Classifier, loader
from program import Program, digits, fit, seed
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_nndebug import ClassBalanceDetector, NNDebug
from lightning_nndebug.core.measurements.class_counts import ClassCounts
from lightning_nndebug.core.measurements.label_stream import LabelStream, _Past
from lightning_nndebug.core.measurements.labels import MOST_CLASSES, Target
from lightning_nndebug.core.measurements.loss_calls import LabelCalls, Listener, LossCalls

# -- the order of labels


def target(classes: int = 10, **options: Any) -> Target:
    """Labels as they are found."""
    found = Target("batch[1]", None, lambda b: b[1], classes, None, "index", False, None, False)
    return replace(found, **options)


def yes_no(**options: Any) -> Target:
    """Answers of yes and no."""
    return target(2, form="binary", **options)


SORTED = LabelStream(
    target(2),
    counts=(320.0, 320.0),
    purity=0.95,
    purity_p=1e-30,
    order=0.9,
    order_p=1e-12,
    regular=0.0,
    steps=20,
    look=5,
)
GROUPED = replace(SORTED, order=0.05, order_p=0.3)


def grouped(detector: ClassBalanceDetector, stream: LabelStream) -> list[str]:
    """Codes of what is told of the order of labels."""
    rules = {"CLS102": detector.single_class_batches, "CLS103": detector.ordered_labels}
    return [code for code, rule in rules.items() if list(rule(stream))]


@pytest.mark.parametrize(
    ("stream", "codes"),
    [
        (SORTED, ["CLS103"]),
        (GROUPED, ["CLS102"]),
        (replace(GROUPED, regular=0.9), []),
        (replace(GROUPED, purity=0.2), []),
        (replace(GROUPED, purity_p=1e-5), []),
        (replace(GROUPED, steps=15), []),
        (replace(SORTED, steps=15), []),
        (replace(SORTED, purity=0.0, purity_p=1.0), ["CLS103"]),
        (replace(SORTED, purity=0.0, purity_p=1.0, order_p=1e-4), []),
        (replace(SORTED, purity=0.2, order=0.2), []),
    ],
    ids=[
        "sorted",
        "grouped",
        "a sampler for contrastive losses",
        "mild",
        "may be chance",
        "too early, grouped",
        "too early, sorted",
        "one sample at a time, sorted",
        "one sample at a time, may be chance",
        "mild drift",
    ],
)
def test_pure_steps_are_told_as_order_or_as_grouping(stream: LabelStream, codes: list[str]) -> None:
    """Each needs a strong effect, a small chance and enough steps."""
    assert grouped(ClassBalanceDetector(), stream) == codes


def test_the_first_explanation_of_the_order_stands() -> None:
    """A later look may lean to the other rule; one illness is told once."""
    detector = ClassBalanceDetector()
    assert grouped(detector, GROUPED) == ["CLS102"]
    assert grouped(detector, SORTED) == []


def test_later_looks_need_stronger_evidence() -> None:
    """The error of the whole run is divided among its looks."""
    early, late = (replace(GROUPED, purity_p=3e-6, look=look) for look in (2, 20))
    assert grouped(ClassBalanceDetector(), early) == ["CLS102"]
    assert grouped(ClassBalanceDetector(), late) == []


def test_a_message_says_how_often_samples_agree() -> None:
    """95 % of the way from one half to one."""
    (evidence,) = ClassBalanceDetector().single_class_batches(GROUPED)
    assert "in 50% of all cases, within a step in 97%" in evidence.message
    assert (evidence.measured, evidence.limit) == (0.95, 0.25)


# -- training against validation


def counts(
    train: list[float], validation: list[float], look: int = 1, **options: Any
) -> ClassCounts:
    """A look at the end of an epoch."""
    classes = len(train)
    nothing = torch.zeros(4, classes, dtype=torch.float64)
    seen = ClassCounts(
        target(classes), torch.tensor(train).double(), torch.tensor(validation).double(),
        nothing, nothing, passes=1, resampled=False, metrics=(), batches=30 * look, look=look,
    )  # fmt: skip
    return replace(seen, **options)


def compared(seen: ClassCounts) -> list[str]:
    """Codes of what is told of training and validation."""
    detector = ClassBalanceDetector()
    rules = {"CLS104": detector.missing_class, "CLS106": detector.label_shift}
    return [code for code, rule in rules.items() if list(rule(seen))]


TAIL = [400.0, 200, 100, 50]


@pytest.mark.parametrize(
    ("seen", "codes"),
    [
        (counts(TAIL, [80, 40, 20, 10]), []),
        (counts([400, 200, 100, 0], [80, 40, 20, 10]), ["CLS104"]),
        (counts([400, 200, 100, 0], [80, 40, 20, 3]), []),
        (counts([400, 200, 100, 0], [80, 40, 20, 10], passes=0), []),
        (counts(TAIL, [10, 20, 40, 80]), ["CLS106"]),
        (counts(TAIL, [10, 20, 40, 80], resampled=True), []),
        (counts(TAIL, [10, 20, 40, 80], target=target(4, form="soft")), []),
        (counts(TAIL, [10, 20, 40, 80], target=target(4, dense=True)), []),
        (counts(TAIL, [40, 40, 40, 40]), []),
        (counts([200, 200, 200, 200], [80, 40, 20, 10]), []),
        (counts([200, 210, 190, 200], [0, 0, 40, 110]), ["CLS106"]),
        (counts(TAIL, [2, 4, 8, 16]), []),
        (counts(TAIL, [60, 50, 30, 20]), []),
        (counts([300, 0], [0, 100]), ["CLS104"]),
        (counts(TAIL, [0, 0, 0, 0]), []),
    ],
    ids=[
        "alike",
        "missing in training",
        "missing by chance",
        "training is not through",
        "shifted",
        "shifted by a sampler",
        "soft labels",
        "masks",
        "validation balanced on purpose",
        "training balanced on purpose",
        "balanced training, and validation lacks classes",
        "shifted, few samples",
        "shifted a little",
        "nothing in common",
        "no validation",
    ],
)
def test_validation_is_held_against_training(seen: ClassCounts, codes: list[str]) -> None:
    """Only what is strong, significant and not made on purpose is told."""
    assert compared(seen) == codes


def test_a_sampler_that_balances_validation_alone_is_in_the_wrong_place() -> None:
    """Unless the loss weighs the classes: then somebody has thought of both."""
    seen = counts(TAIL, [40, 40, 40, 40], is_drawn=True)
    assert compared(seen) == ["CLS106"]
    assert compared(replace(seen, target=target(4, weight=(1.0, 2, 4, 8)))) == []


def test_many_identities_of_their_own_are_no_shift() -> None:
    """Faces to verify have other numbers; unless a loss gets them, they mean other classes."""
    train, validation = [20.0] * 30, [40.0] * 10 + [0.0] * 20
    table = torch.zeros(4, 30).double()
    assert compared(counts(train, validation)) == []
    assert compared(counts(train, validation, validation_table=table + 1)) == ["CLS106"]


@pytest.mark.parametrize(
    ("classes", "told"), [(1000, ["CLS104"]), (80, ["CLS104"]), (40, []), (0, [])]
)
def test_outputs_that_no_label_uses_are_those_of_another_task(
    classes: int, told: list[str]
) -> None:
    """A few are left over for later, or are those of rare classes."""
    nothing = [0.0] * max(classes - 4, 996)
    seen = counts([100.0] * 4 + nothing, [20.0] * 4 + nothing)
    assert compared(replace(seen, target=target(classes))) == told


@pytest.mark.parametrize(
    ("draws", "told"),
    [
        (((40, 1.0), (80, 2.0), (160, 4.0), (320, 8.0)), True),
        (((40, 8.0), (80, 4.0), (160, 2.0), (320, 1.0)), False),
        (((40, 1.0), (80, 4.0), (160, 2.0), (320, 8.0)), False),
        (((40, 1.0), (320, 8.0)), False),  # two sources of data
        (((4, 1.0), (8, 2.0), (16, 4.0), (32, 8.0)), False),
        (((40, 0.0), (80, 2.0), (160, 4.0), (320, 8.0)), False),
        ((), False),
    ],
)
def test_a_sampler_may_prefer_what_is_frequent(draws: Any, told: bool) -> None:
    """The larger each of several groups, the heavier its samples: that is the wrong way round."""
    seen = counts(TAIL, TAIL, resampled=True, draws=draws)
    assert bool(list(ClassBalanceDetector().imbalanced_classes(seen))) == told


def test_passes_over_the_same_data_are_evidence_once() -> None:
    """After ten epochs, a class that is missing by chance is still missing by chance."""
    once, often = [400.0, 200, 100, 0], [4000.0, 2000, 1000, 0]
    assert compared(counts(often, [80, 40, 20, 4])) == ["CLS104"]
    assert compared(counts(often, [80, 40, 20, 4], passes=10)) == []
    assert compared(counts(once, [80, 40, 20, 4])) == []


def test_what_is_kept_is_bounded_as_the_docstring_says() -> None:
    """Likeness of steps takes a square of the number of classes, and the rest next to nothing."""
    past = _Past(MOST_CLASSES)
    past.add(torch.ones(16, MOST_CLASSES, dtype=torch.float64))
    held = sum(one.nbytes for one in vars(past).values() if isinstance(one, torch.Tensor))
    assert held <= 10e6
    assert "10 MB at most" in ClassBalanceDetector.__doc__


# -- the encoding of labels

LOGITS, SCORE = torch.randn(6, 3, requires_grad=True), torch.randn(6, requires_grad=True)
Y = torch.tensor([0, 1, 2, 2, 1, 0])


def encoded(step: Any) -> list[Any]:
    """What is told of the loss calls of a step, whether it fails or not."""
    with Listener((LOGITS, Y)) as mode, suppress(IndexError, RuntimeError, ValueError):
        step()
    return list(ClassBalanceDetector().invalid_label(LabelCalls(mode.heard()[0])))


def spelled(text: torch.Tensor, lengths: Any, **options: Any) -> Any:
    """CTC on these texts."""
    heard = torch.randn(9, 3, 5, requires_grad=True).log_softmax(-1)
    heards = torch.full((3,), 9)
    return lambda: F.ctc_loss(heard, text, heards, torch.tensor(lengths), **options)


TEXTS = torch.tensor([[1, 2, 0], [3, 0, 0], [2, 4, 1]])


def yes(values: list[float], **options: Any) -> Any:
    """A binary cross entropy on these answers."""
    return lambda: F.binary_cross_entropy_with_logits(SCORE, torch.tensor(values), **options)


@pytest.mark.parametrize(
    ("step", "fix"),
    [
        (lambda: F.cross_entropy(LOGITS, Y + 1), "Count from 0"),
        (lambda: F.cross_entropy(LOGITS, Y - 1), "ignore_index=-1"),
        (lambda: F.cross_entropy(LOGITS, Y.where(Y > 0, 255)), "ignore_index=255"),
        (lambda: F.cross_entropy(LOGITS[:, :2], 255 * (Y > 0)), "(target > 0).long()"),
        (lambda: F.cross_entropy(LOGITS, 4 * Y), "9 outputs"),
        (lambda: F.cross_entropy(LOGITS, Y.float()), "target.long()"),
        (lambda: F.cross_entropy(LOGITS, Y.int()), "target.long()"),
        (lambda: F.cross_entropy(LOGITS, F.one_hot(Y, 3)), "class numbers"),
        (lambda: F.nll_loss(LOGITS.log_softmax(1), Y + 1), "Count from 0"),
        (yes([-1.0, 1, 1, -1, 1, 1]), "(target + 1) / 2"),
        (yes([0.0, 255, 255, 0, 0, 0]), "Divide by 255"),
        (yes([0.0, 1 / 255, 1 / 255, 0, 0, 0]), "Do not divide"),
        (yes([0.0, 17, 255, 38, 1, 0]), "Divide by 255"),
        (yes([1.0, 2, 2, 1, 1, 1]), "Count from 0"),
        (yes([0.0, 1, 7, 3, 2, 1]), "cross_entropy"),
        (lambda: F.soft_margin_loss(SCORE, (Y > 0).float()), "2 * target - 1"),
        (spelled(TEXTS, (3, 3, 3)), "Count letters from 1"),
        (spelled(TEXTS, (2, 1, 3), blank=4), "Count letters from 1"),
        (spelled(TEXTS.flatten(), (3, 3, 3)), "Count letters from 1"),
    ],
)
def test_a_wrong_encoding_is_told_with_its_remedy(step: Any, fix: str) -> None:
    """Whether the loss refuses it or not."""
    (evidence,) = encoded(step)
    assert fix in evidence.fixes[0]
    assert "test_class_balance.py" in evidence.message


@pytest.mark.parametrize(
    "step",
    [
        lambda: F.cross_entropy(LOGITS, Y),
        lambda: F.cross_entropy(LOGITS, Y - 1, ignore_index=-1),
        lambda: F.cross_entropy(LOGITS, Y.where(Y > 0, -100)),
        lambda: F.cross_entropy(LOGITS, Y.byte()),
        lambda: F.cross_entropy(LOGITS.expand(2, 6, 3), 9 * Y.expand(2, 6)),
        lambda: F.cross_entropy(LOGITS, F.one_hot(Y, 3) * 0.9 + 0.05),
        lambda: F.cross_entropy(torch.randn(6, 5, requires_grad=True), Y + 1),
        lambda: F.mse_loss(SCORE, 255.0 * Y),
        yes([0.05, 0.95, 0.5, 0.0, 1.0, 0.3]),
        lambda: F.soft_margin_loss(SCORE, (Y > 0) * 2.0 - 1),
        lambda: F.soft_margin_loss(SCORE, Y - 1.0),
        spelled(TEXTS, (2, 1, 3)),
        spelled(TEXTS.clamp_max(3), (3, 3, 3), blank=4),
        spelled(TEXTS[TEXTS > 0], (2, 1, 3)),
        yes([1.2, 0.9, 0.8, 1.1, 0.7, 1.0]),
        yes([0.0, 0.02, 0, 0, 1 / 255, 0]),
        yes([0.0, 0.9, 0, 0.9, 0, 0.9]),
        yes([-1.0, 1, 0, -1, 0, 1], reduction="none"),
        yes([-1.0, 1, 0, -1, 0, 1], weight=torch.tensor([0.0, 1, 1, 0, 1, 1])),
    ],
    ids=[
        "plain",
        "ignored",
        "ignored by default",
        "bytes",
        "classes that are last",
        "soft",
        "spare outputs",
        "regression",
        "signs",
        "signs, and a mask",
        "texts, filled up with the blank",
        "texts with another blank",
        "texts end to end",
        "smoothed answers",
        "noisy answers",
        "rates",
        "smoothed yes",
        "masked afterwards",
        "masked by weights",
    ],
)
def test_a_right_encoding_is_silent(step: Any) -> None:
    """Also where it looks odd."""
    assert not encoded(step)


@pytest.mark.parametrize(
    ("hinge", "is_wrong"),
    [
        (lambda y: (1 - y * SCORE).clamp_min(0).mean(), True),
        (lambda y: (1 - y * SCORE).clamp(min=0).pow(2).mean(), True),
        (lambda y: 0.1 * SCORE.pow(2).sum() + F.relu(torch.ones(6) - SCORE * y).sum(), True),
        (lambda y: F.relu(1 - (2 * y - 1) * SCORE).mean(), False),
        (lambda y: F.relu(y * SCORE - 1).mean(), False),
        (lambda y: (y * SCORE**2 + (1 - y) * F.relu(1 - SCORE) ** 2).mean(), False),
    ],
)
def test_a_hinge_by_hand_wants_minus_one_as_well(hinge: Any, is_wrong: bool) -> None:
    """Of zeros it says nothing; a contrastive loss, which has its zeros elsewhere, is none."""
    y = (Y > 0).float()
    with Listener((LOGITS, y)) as mode:
        loss = hinge(y)
    mode.trace(loss)
    calls = LossCalls(*mode.heard())
    found = list(ClassBalanceDetector().invalid_label(LabelCalls(calls.hinges)))
    assert [one.where for one in found] == ["batch[1]"] * is_wrong


def test_a_crash_is_explained_although_nobody_listened() -> None:
    """The label is found in the traceback, in the run's last step."""
    x, y = torch.randn(320, 64), torch.arange(320) % 10
    y[319] = 12
    detector = ClassBalanceDetector()
    with pytest.raises(IndexError):
        fit(Program(Classifier(), loader(x, y, shuffle=False)), detector)
    (finding,) = detector.findings
    assert (finding.code, finding.step) == ("CLS105", 9)
    assert "_parts.py" in finding.where


# -- classes that are neglected


def looks(
    sizes: list[float],
    recalls: list[list[float]],
    trusts: list[list[float]] | None = None,
    *,
    steps: int = 40,
    **options: Any,
) -> list[ClassCounts]:
    """One look after the other: recall, and mean probability of the own class, of each class."""
    seen = torch.full((len(sizes),), 60.0).double()
    made = []
    for look, recall in enumerate(recalls, 1):
        hits = seen * torch.tensor(recall).double()
        trust = seen * torch.tensor(trusts[look - 1] if trusts else recall).double()
        table = torch.stack([seen, hits, hits, trust])
        one = counts(sizes, [60.0] * len(sizes), look, validation_table=table)
        made.append(replace(one, batches=steps * look, **options))
    return made


def neglected(detector: ClassBalanceDetector, seen: list[ClassCounts]) -> list[tuple[str, int]]:
    """Codes and looks of what is told of neglected classes."""
    rules = {"CLS101": detector.imbalanced_classes, "CLS107": detector.neglected_class}
    found = [(code, one.look) for one in seen for code, rule in rules.items() if list(rule(one))]
    return [one for i, one in enumerate(found) if one[0] not in {code for code, _ in found[:i]}]


RARE, EVEN = [600.0, 600, 600, 20], [300.0, 300, 300, 300]
EVENLY = [0.9, 0.9, 0.9, 0.9]
LOST = [0.9, 0.8, 0.9, 0.0]
FALLING = [[0.9, 0.8, 0.9, 0.05 / i] for i in range(1, 13)]


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (looks(RARE, [LOST] * 5, FALLING), [("CLS101", 4)]),
        (looks(EVEN, [LOST] * 6, FALLING), [("CLS107", 4)]),
        (looks(RARE, [LOST] * 3, FALLING), []),
        (looks(RARE, [LOST, LOST, LOST, [0.9, 0.8, 0.9, 0.2]] * 2, FALLING), []),
        (looks(RARE, [[0.1, 0.1, 0.1, 0.0]] * 9, FALLING), []),
        (looks(RARE, [LOST] * 9, FALLING, target=target(4, reweighted=True)), []),
        (looks(RARE, [LOST] * 5, FALLING, target=target(4, weight=(1.0, 1, 1, 5))), []),
        (
            looks(RARE, [LOST] * 5, FALLING, target=target(4, weight=(1.0, 1, 1, 2))),
            [("CLS101", 4)],
        ),
        (
            looks([400.0, 300, 200, 100], [EVENLY], target=target(4, weight=(1.0, 0.6, 0.3, 0.1))),
            [("CLS101", 1)],
        ),
        (looks([600.0, 150], [[0.9, 0.9]], target=yes_no(weight=(0.25,))), [("CLS101", 1)]),
        (looks([600.0, 150], [[0.9, 0.9]], target=yes_no(weight=(4.0,))), []),
        (looks([600.0, 150], [[0.9, 0.9]], target=yes_no(weight=(0.5,))), []),
        (looks([400.0, 300, 200, 100], [EVENLY], target=target(4, weight=(1.0, 1, 2, 4))), []),
        (looks([400.0, 300, 200, 100], [EVENLY], target=target(4, weight=(1.0, 3, 1, 1))), []),
        (
            looks([400.0, 100, 200, 50], [EVENLY], target=target(4, weight=(1.0, 2, 4, 8))),
            [("CLS101", 1)],
        ),
        (looks([400.0, 100, 200, 50], [EVENLY], target=target(4, weight=(1.0, 4, 2, 8))), []),
        (looks([400.0, 100, 400, 400], [EVENLY], target=target(4, weight=(1.0, 1, 4, 1))), []),
        (looks([9.0, 9, 9, 0.5], [LOST] * 5, FALLING), []),
        (
            looks(EVEN, [LOST] * 6, FALLING, target=target(4, weight=(1.0, 1, 1, 1e-3))),
            [("CLS107", 4)],
        ),
        (looks(EVEN, [LOST] * 6, FALLING, target=target(4, weight=(1.0, 1, 1, 0))), []),
        (looks([300.0, 300], [[1.0, 0.0]] * 9, [[0.5, 0.4]] * 9), []),
        (
            looks([600.0, 20], [[1.0, 0.0]] * 5, [[0.9, 0.05 / i] for i in range(1, 6)]),
            [("CLS101", 3)],
        ),
    ],
    ids=[
        "rare",
        "not rare",
        "too early",
        "recovers",
        "nothing is learned yet",
        "reweighted unseen",
        "weighted",
        "weighted too little",
        "weighted by frequency",
        "yes weighted by frequency",
        "yes weighted by its inverse",
        "yes weighted down",
        "weighted by its inverse",
        "weighted as somebody likes",
        "weighted by the sizes of others",
        "weighted in order",
        "weighted by what a class costs",
        "hardly shown",
        "weighted by next to nothing",
        "left out",
        "two even classes, one predicted",
        "two classes, one rare",
    ],
)
def test_a_class_is_neglected_when_others_have_long_been_learned(
    seen: list[ClassCounts], told: list[tuple[str, int]]
) -> None:
    """A rare one is told as imbalance, any other one as neglect; after enough looks in a row."""
    assert neglected(ClassBalanceDetector(), seen) == told


@pytest.mark.parametrize(
    ("hits", "options", "told"),
    [
        (0.0, {}, ["CLS101"]),
        (0.3, {}, []),
        (0.0, {"metrics": ("val_mAP",)}, []),
        (0.0, {"metrics": ("BinaryAUROC",)}, []),
        (0.0, {"metrics": ("val/RetrievalNormalizedDCG",)}, []),
        (0.0, {"target": target(5, form="multilabel", weight=(9.0,) * 5)}, []),
    ],
    ids=["none is given", "some are", "ranked", "by torchmetrics", "or its name", "weighted"],
)
def test_of_several_labels_at_once_none_may_be_given(
    hits: float, options: dict[str, Any], told: list[str]
) -> None:
    """All answers are no, which is right for nearly all of them; said when the run is over."""
    seen = torch.tensor([4000.0, 120, 0, 0, 0]).double()
    known = torch.tensor([1.0, hits, 0, 0, 0]).double()
    table = torch.stack([seen, seen * known, seen * known, seen * 0.5 * (1 + known)])
    options = {"target": target(5, form="multilabel"), "train_table": table, **options}
    tags, detector = [30.0, 20, 40, 10, 20], ClassBalanceDetector()
    made = [counts(tags, tags, look, **options) for look in range(1, 8)]
    assert neglected(detector, [replace(one, batches=60 * one.look) for one in made]) == []
    last = replace(made[-1], look=8, batches=480, is_last=True)
    assert [code for code, _ in neglected(detector, [last])] == told


def test_labels_that_are_all_lost_are_told() -> None:
    """Of several labels at once, there is not one in all of the data."""
    table = torch.zeros(4, 5).double()
    table[:, 0] = 500.0
    seen = counts([0.0] * 5, [0.0] * 5, target=target(5, form="multilabel"), train_table=table)
    assert compared(seen) == ["CLS104"]
    assert compared(replace(seen, train=torch.tensor([0.0, 1, 0, 0, 0]).double())) == []


def test_a_class_that_is_on_its_way_is_waited_for() -> None:
    """Its probability grows: at this pace it will soon be predicted."""
    rising = [[0.9, 0.8, 0.9, 0.01 * 2.0**i] for i in range(5)]
    assert neglected(ClassBalanceDetector(), looks(RARE, [LOST] * 5, rising)) == []
    slow = [[0.9, 0.8, 0.9, 0.05 + 0.005 * i] for i in range(9)]
    assert neglected(ClassBalanceDetector(), looks(EVEN, [LOST] * 9, slow)) == []


def test_a_class_that_takes_twice_as_long_again_is_waited_for_no_more() -> None:
    """Imbalance that merely delays a class by so much hurts as well."""
    rising = [[0.9, 0.8, 0.9, min(0.2, 0.001 * 1.5**i)] for i in range(9)]
    assert neglected(ClassBalanceDetector(), looks(RARE, [LOST] * 9, rising)) != []


def test_rankings_may_neglect_a_class() -> None:
    """Who logs an AUC cares for the order of the scores, not for a threshold."""
    seen = looks([600.0, 20], [[1.0, 0.0]] * 5, [[0.9, 0.01]] * 5)
    for metrics, told in ((("val_auroc",), []), (("val_loss", "mapping"), [("CLS101", 3)])):
        made = [replace(one, metrics=metrics) for one in seen]
        assert neglected(ClassBalanceDetector(), made) == told


def test_the_mean_recall_is_logged() -> None:
    """Of the classes that were seen."""
    (seen,) = looks(EVEN, [LOST])
    assert ClassBalanceDetector().mean_recall(seen) == pytest.approx(0.65)
    assert ClassBalanceDetector().mean_recall(counts([1.0, 1.0], [0.0, 0.0])) is None


@pytest.mark.parametrize(
    ("sizes", "trusts", "number", "told"),
    [
        (RARE, FALLING, 2, [("CLS101", 2)]),
        (RARE, FALLING, 1, []),  # nothing had been learned before
        (RARE, [[0.9, 0.8, 0.9, 0.02 * i] for i in (1, 2, 3)], 2, []),  # on its way
        (EVEN, FALLING, 3, [("CLS107", 3)]),
        (EVEN, FALLING, 2, []),
        (EVEN, [[0.9, 0.8, 0.9, 0.2]] * 3, 3, []),  # as chance would have it
    ],
)
def test_at_the_end_of_a_run_there_is_nothing_to_wait_for(
    sizes: list[float], trusts: list[list[float]], number: int, told: list[tuple[str, int]]
) -> None:
    """Fewer looks are enough then, if no class is on its way."""
    seen = looks(sizes, [LOST] * number, trusts)
    assert neglected(ClassBalanceDetector(), seen) == []
    seen[-1] = replace(seen[-1], is_last=True)
    assert neglected(ClassBalanceDetector(), seen) == told


def test_what_was_never_predicted_is_not_waited_for_at_the_end() -> None:
    """A rare class is on its way in every look, and the run is over before it has come."""
    rising = [[0.9, 0.8, 0.9, 0.01 * 2.0**i] for i in range(4)]
    for number, told in ((4, [("CLS101", 4)]), (3, [])):  # one look is before the others are known
        seen = looks(RARE, [LOST] * number, rising)
        seen[-1] = replace(seen[-1], is_last=True)
        assert neglected(ClassBalanceDetector(), seen) == told
    seen = looks(RARE, [LOST] * 3 + [[0.9, 0.8, 0.9, 0.2]], rising)
    seen[-1] = replace(seen[-1], is_last=True)
    assert neglected(ClassBalanceDetector(), seen) == []


def test_memory_goes_through_a_checkpoint(tmp_path: Any) -> None:
    """Builtins and tensors only; after a resume, what was seen before still counts."""
    seen = looks(RARE, [LOST] * 5, FALLING)
    before, after = ClassBalanceDetector(), ClassBalanceDetector()
    assert neglected(before, seen[:3]) == []
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert neglected(after, seen[3:]) == [("CLS101", 4)]


# -- in a run


class Quadratic(Classifier):
    """A classifier whose loss is written by hand."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return (self(x).softmax(1) - nn.functional.one_hot(y, 10)).pow(2).mean()


class Candidates(Classifier):
    """Gives a score to each of several candidates, of which the last one is the right one."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        given = torch.stack([x.roll(k + 1, 0) for k in range(3)] + [x + 1], 1)
        scores = self.net[:1](given).mean(2) + x.new_zeros(4)
        return nn.functional.cross_entropy(scores, y.argmax(1) * 0 + 3)


class OneHot(Classifier):
    """Gets classes as ones and zeros, and makes numbers of them."""

    def __init__(self, numbers: Any) -> None:
        super().__init__()
        self.numbers = numbers

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self(x), self.numbers(y))


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        (lambda y: y.max(1)[0].long(), ["CLS104"]),
        (lambda y: y.long()[:, 0] * 0, ["CLS104"]),
        (lambda y: y.max(1)[1], []),
        (None, []),
    ],
)
def test_labels_that_the_step_makes_alike_are_told(numbers: Any, told: list[str]) -> None:
    """The batch has them all, and the loss gets one."""
    seed()
    detector = ClassBalanceDetector()
    x, y = digits(640)
    data = loader(x, nn.functional.one_hot(y, 10).float())
    module = Candidates() if numbers is None else OneHot(numbers)
    fit(Program(module, data), detector, max_epochs=8)
    assert [one.code for one in detector.findings] == told


class WithNoise(OneHot):
    """Has a class for what is none of the others."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        nothing = nn.functional.cross_entropy(self(torch.randn_like(x)), torch.full((len(x),), 9))
        return nothing + super().loss(x, y)


def test_a_class_of_noise_is_one_of_several() -> None:
    """Its labels are made in the step, and the others are not all alike."""
    seed()
    detector = ClassBalanceDetector()
    data = loader(*digits(640))
    fit(Program(WithNoise(lambda y: y), data), detector, max_epochs=8)
    assert detector.findings == []


def test_a_key_makes_labels_of_a_hand_written_loss_known() -> None:
    """The option may be the suite's or the detector's own."""
    x, y = torch.randn(640, 64), torch.arange(640) // 64
    for callback in (NNDebug(target_key=1, select=["CLS"]), ClassBalanceDetector(target_key=1)):
        seed()
        fit(Program(Quadratic(), loader(x, y, shuffle=False)), callback, max_epochs=2)
        assert {one.code for one in callback.findings} == {"CLS103"}


def test_a_wrong_key_ends_the_run_with_a_clear_error() -> None:
    """It is the one error of ours that reaches the user."""
    with pytest.raises(ValueError, match=r"target_key='label' is no tensor .* are: 0, 1\."):
        fit(Program(Classifier(), loader()), NNDebug(target_key="label"), max_epochs=1)
