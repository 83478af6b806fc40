"""Labels are found by what the loss gets, and counted as the classes that they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from program import Program, fit, seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, WeightedRandomSampler

from lightning_nndebug import Detector, Evidence, Severity, rule
from lightning_nndebug.core.measurements.class_counts import ClassCounts
from lightning_nndebug.core.measurements.label_stream import LabelStream, _Past
from lightning_nndebug.core.measurements.labels import Target


class Collect(Detector):
    """Keeps what is measured."""

    target_key: str | int | None = None
    target_fn: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.streams: list[LabelStream] = []
        self.counts: list[ClassCounts] = []

    @rule("TST903", severity=Severity.INFO)
    def stream(self, stream: LabelStream) -> Iterator[Evidence]:
        """Keeps a stream."""
        self.streams.append(stream)
        yield from ()

    @rule("TST904", severity=Severity.INFO)
    def count(self, counts: ClassCounts) -> Iterator[Evidence]:
        """Keeps counts."""
        self.counts.append(counts)
        yield from ()


class Step(pl.LightningModule):
    """Runs a function of (a linear map of 4 to 6 numbers, the batch) as its step."""

    def __init__(self, step: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.net, self.step = nn.Linear(4, 6), step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(self.net, batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(self.net, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


X = torch.randn(8, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 0, 5, 0])
COUNTS = [4, 2, 1, 0, 0, 1]


def run(step: Any, batch: Any, *, val: Any = None, **options: Any) -> Collect:
    """Sixteen steps on the same batch, and a validation on another."""
    seed()
    collect = Collect(**options)
    loaders = [None if one is None else DataLoader([one], batch_size=None) for one in (batch, val)]
    fit(Program(Step(step), *loaders, trainer={"max_epochs": 16}), collect)
    return collect


def cross_entropy(net: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("step", "y", "form", "counts"),
    [
        (cross_entropy, Y, "index", COUNTS),
        (cross_entropy, F.one_hot(Y, 6).float(), "one_hot", COUNTS),
        (cross_entropy, F.one_hot(Y, 6) * 0.94 + 0.01, "soft", [c * 0.94 + 0.08 for c in COUNTS]),
        (lambda net, b: F.cross_entropy(net(b[0]), b[1].long()), Y.float(), "index", COUNTS),
        (
            lambda net, b: F.cross_entropy(net(b[0]), b[1], ignore_index=0),
            Y,
            "index",
            [0, *COUNTS[1:]],
        ),
        (lambda net, b: F.cross_entropy(net(b[0]), F.one_hot(b[1], 6).float()), Y, "index", COUNTS),
        (
            lambda net, b: -net(b[0]).log_softmax(1).gather(1, b[1][:, None]).mean(),
            Y,
            "index",
            COUNTS,
        ),
        (
            lambda net, b: F.binary_cross_entropy_with_logits(net(b[0])[:, 0], b[1]),
            (Y > 0).float(),
            "binary",
            [4, 4],
        ),
        (
            lambda net, b: F.binary_cross_entropy_with_logits(
                net(b[0])[:, :1], b[1].float()[:, None]
            ),
            (Y > 0).long(),
            "binary",
            [4, 4],
        ),
        (
            lambda net, b: F.binary_cross_entropy(net(b[0]).sigmoid(), b[1]),
            F.one_hot(Y, 6).float() + (torch.arange(6) == 4),
            "multilabel",
            [4, 2, 1, 0, 8, 1],
        ),
    ],
)
def test_labels_are_counted_in_every_form(
    step: Any, y: Tensor, form: str, counts: list[float]
) -> None:
    """Class numbers, one-hot rows, answers and probabilities become samples per class."""
    (look,) = run(step, (X, y)).counts
    assert (look.target.name, look.target.form, look.target.dense) == ("batch[1]", form, False)
    assert look.train.tolist() == pytest.approx([16 * one for one in counts], rel=1e-4)


def test_a_mask_counts_the_samples_that_show_a_class() -> None:
    """However many of its pixels are of it."""
    mask = torch.tensor([[[0, 0], [1, 1]], [[0, 2], [0, 255]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]])

    def step(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0]).movedim(-1, 1), batch[1], ignore_index=255)

    (look,) = run(step, (torch.randn(4, 2, 2, 4), mask)).counts
    assert look.target.dense
    assert (look.train / 16).tolist() == [3, 2, 1, 0, 0, 0]
    # By then, the steps 0 to 3 and 13 have been heard.
    assert (look.train_table[0] / 5).tolist() == [8, 6, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("step", "batch"),
    [
        (lambda net, b: F.mse_loss(net(b[0])[:, 0], b[1]), (X, torch.randn(8))),
        (lambda net, b: net(b[0]).pow(2).mean(), (X, Y)),
        (lambda net, b: F.cross_entropy(net(b[0]), torch.arange(8) % 6), (X, Y)),
        (
            lambda net, b: F.binary_cross_entropy_with_logits(net(b[0])[:, :4], b[0]),
            (X.sigmoid().round(), Y),
        ),
        (
            lambda net, b: -(net(b[0]).gather(1, b[1][:, None])[:, 0] * b[2]).mean(),
            (X, Y, torch.randn(8)),
        ),
    ],
    ids=["regression", "unused", "made in the step", "autoencoder", "actions"],
)
def test_what_is_not_a_label_is_left_alone(step: Any, batch: Any) -> None:
    """Regression, pixels, actions and labels that no loss gets have no balance."""
    collect = run(step, batch)
    assert not collect.streams
    assert not collect.counts


def test_a_language_model_has_no_labels() -> None:
    """What is predicted is also looked up in an embedding, here as a copy."""
    ids = torch.randint(24, (8, 5))

    class Language(Step):
        def __init__(self) -> None:
            super().__init__(lambda net, b: F.cross_entropy(self.embed(b["ids"]).mT, b["labels"]))
            self.embed = nn.Embedding(24, 24)

    collect = Collect()
    train = DataLoader([{"ids": ids, "labels": ids.clone()}], batch_size=None)
    fit(Program(Language(), train, trainer={"max_epochs": 16}), collect)
    assert not collect.counts


def test_tasks_that_take_turns_have_no_common_labels() -> None:
    """The same tensor has six classes, then two."""

    class Turns(Step):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            classes = 6 if self.global_step % 2 else 2
            return F.cross_entropy(self.net(batch[0])[:, :classes], batch[1])

    collect = Collect()
    train = DataLoader([(X, Y % 2)], batch_size=None)
    fit(Program(Turns(cross_entropy), train, trainer={"max_epochs": 20}), collect)
    assert not collect.counts


def test_a_key_or_function_says_where_targets_are() -> None:
    """Then a loss that nobody understands will do."""
    batch = {"image": X, "extra": {"kind": Y}}

    def hinge(net: nn.Module, batch: Any) -> Tensor:
        scores = net(batch["image"])
        own = (scores * F.one_hot(batch["extra"]["kind"], 6)).sum(1, keepdim=True)
        return F.relu(1 + scores - own).mean()

    assert not run(hinge, batch).counts
    for options in ({"target_key": "extra.kind"}, {"target_fn": lambda b: b["extra"]["kind"] + 0}):
        (look,) = run(hinge, batch, **options).counts
        assert (look.train[:6] / 16).tolist() == COUNTS
        assert look.target.reweighted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_key": "labels"}, r"target_key='labels' .* Its tensors are: image, kind\."),
        ({"target_fn": lambda batch: batch["labels"]}, r"target_fn raised KeyError\('labels'\)"),
        ({"target_fn": lambda batch: None}, "target_fn must return a tensor, got NoneType"),
    ],
)
def test_a_wrong_key_or_function_is_an_error_at_the_first_batch(options: Any, message: str) -> None:
    """It names what was given and what there is."""
    with pytest.raises(ValueError, match=message):
        run(lambda net, b: net(b["image"]).mean(), {"image": X, "kind": Y}, **options)


def test_validation_is_counted_by_itself() -> None:
    """A batch that lacks the labels is passed over."""
    looks = run(cross_entropy, (X, Y), val=(X, 5 - Y)).counts
    assert looks[0].validation.tolist() == COUNTS[::-1]
    assert looks[0].validation_table[0].tolist() == COUNTS[::-1]
    assert looks[0].passes == 1
    assert sum(look.train.sum() for look in looks) == 16 * 8


def test_recognition_is_right() -> None:
    """Seen, hit, predicted and trusted, of a net that knows the answer."""
    scores = 9.0 * F.one_hot(torch.tensor([0, 1, 2, 0, 1, 1, 1, 0]), 6).float()
    step = lambda net, b: F.cross_entropy(scores + 0 * net(b[0]), b[1])  # noqa: E731
    (look,) = run(step, (X, Y)).counts
    seen, hits, predicted, trust = (look.train_table / 5).tolist()
    assert (seen, hits, predicted) == (COUNTS, [3, 2, 1, 0, 0, 0], [3, 4, 1, 0, 0, 0])
    assert trust == pytest.approx([3, 2, 1, 0, 0, 0], abs=0.01)


def test_micro_batches_make_one_step() -> None:
    """The order of labels is that of what an optimizer step has seen."""
    seed()
    collect = Collect()
    batches = DataLoader([(X[i : i + 2], Y[i : i + 2]) for i in range(0, 8, 2)], batch_size=None)
    trainer = {"max_epochs": 5, "accumulate_grad_batches": 4}
    fit(Program(Step(cross_entropy), batches, trainer=trainer), collect)
    assert collect.streams[-1].steps == 5
    assert collect.streams[-1].purity < 0


def test_a_weighted_sampler_is_noticed() -> None:
    """Training is then drawn from another distribution, on purpose."""
    data = list(zip(X, Y, strict=True))
    for sampler, expected in ((None, False), (WeightedRandomSampler(torch.ones(8), 8), True)):
        collect = Collect()
        train = DataLoader(data, batch_size=4, sampler=sampler, shuffle=sampler is None)
        fit(Program(Step(cross_entropy), train, trainer={"max_epochs": 8}), collect)
        assert collect.counts[0].resampled is expected


def test_fitting_one_batch_on_purpose_is_not_measured() -> None:
    """With ``overfit_batches`` the loader is not the user's."""
    collect = Collect()
    train = DataLoader([(X, Y)] * 20, batch_size=None)
    fit(
        Program(Step(cross_entropy), train, trainer={"max_steps": 20, "overfit_batches": 1}),
        collect,
    )
    assert not collect.counts


TARGET = Target("batch[1]", None, lambda batch: batch[1], 3, None, "index", False, None, False)


def test_random_steps_are_neither_pure_nor_ordered() -> None:
    """Both excesses are near 0, and their p-values are not small."""
    torch.manual_seed(0)
    past = _Past(3)
    past.add(
        torch.stack([torch.randint(3, (16,)).bincount(minlength=3) for _ in range(60)]).double()
    )
    stream = past.judged(TARGET)
    assert abs(stream.purity) < 0.05
    assert abs(stream.order) < 0.05
    assert min(stream.purity_p, stream.order_p) > 0.01


def test_steps_of_one_class_are_pure_and_in_blocks_are_ordered() -> None:
    """Ten steps of each class: purity is 1, order nearly."""
    past = _Past(3)
    past.add((16 * torch.eye(3)).repeat_interleave(10, dim=0).double())
    stream = past.judged(TARGET)
    assert stream.purity == pytest.approx(1.0)
    assert stream.order == pytest.approx(0.9, abs=0.02)
    assert max(stream.purity_p, stream.order_p) < 1e-6
    assert stream.regular == 0


def test_what_comes_in_parts_adds_up() -> None:
    """Sixteen steps at once are the same as one after the other."""
    torch.manual_seed(0)
    steps = torch.stack([torch.randint(3, (5,)).bincount(minlength=3) for _ in range(16)]).double()
    whole, parts = _Past(3), _Past(3)
    whole.add(steps)
    for one in steps.split(3):
        parts.add(one)
    a, b = whole.judged(TARGET), parts.judged(TARGET)
    assert (a.purity, a.order) == pytest.approx((b.purity, b.order))
    assert (a.purity_p, a.order_p) == pytest.approx((b.purity_p, b.order_p))


def test_steps_with_equally_many_samples_of_several_classes_are_regular() -> None:
    """As a sampler for contrastive losses draws them."""
    past = _Past(3)
    past.add(torch.tensor([[4, 4, 0], [0, 4, 4], [8, 0, 0], [3, 4, 1]]).double())
    assert past.judged(TARGET).regular == 0.5
