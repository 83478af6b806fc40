"""Calls of loss functions are heard with all that they were given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_nndebug.core.measurements.loss_calls import Listener, LossCall, _running_calls

LOGITS = torch.randn(6, 4, requires_grad=True)
Y = torch.tensor([0, 1, 2, 3, 3, 1])


def heard(step: Any, *batch: Any) -> tuple[LossCall, ...]:
    """The calls that a step makes with this batch."""
    with Listener(batch) as mode:
        step(*batch)
    return mode.heard()[0]


def test_a_call_is_told_with_its_arguments_and_line() -> None:
    """Function, shape, classes, options, place and line of the user."""
    weight = torch.ones(4)
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=3, label_smoothing=0.1)
    (call,) = heard(lambda x, y: loss(LOGITS * 1, y), torch.zeros(6), Y)
    assert (call.function, call.shape, call.axis, call.classes) == ("cross_entropy", (6, 4), 1, 4)
    assert call.input.requires_grad
    assert call.weight is weight
    assert (call.ignored, call.options["label_smoothing"]) == (3, 0.1)
    assert (call.lowest, call.highest, call.strange) == (0, 2, ())
    assert (str(call.place), call.whole, call.failed) == ("batch[1]", True, False)
    assert "test_loss_calls.py" in str(call.line)


@pytest.mark.parametrize(
    ("step", "place", "whole"),
    [
        (lambda x, y: F.cross_entropy(LOGITS, y.clone()), "batch[1]", True),
        (lambda x, y: F.cross_entropy(LOGITS[:3], y[:3]), "batch[1]", False),
        (lambda x, y: F.cross_entropy(LOGITS[:3], y[:3].clone()), "None", False),
        (lambda x, y: F.cross_entropy(LOGITS, F.one_hot(y, 4).float()), "batch[1]", True),
        (lambda x, y: F.cross_entropy(LOGITS, (y + 1) % 4), "None", False),
        (lambda x, y: F.cross_entropy(LOGITS, torch.zeros_like(y)), "None", False),
        (lambda x, y: F.nll_loss(LOGITS.log_softmax(1), y), "batch[1]", True),
        (lambda x, y: -LOGITS.log_softmax(1).gather(1, y[:, None]).mean(), "batch[1]", True),
        (lambda x, y: F.multi_margin_loss(LOGITS, y.int().long()), "batch[1]", True),
    ],
)
def test_targets_are_traced_to_the_batch(step: Any, place: str, whole: bool) -> None:
    """Views, copies and one-hot forms of a tensor are it; parts and other values are not."""
    (call,) = heard(step, torch.randn(6), Y)
    assert (str(call.place), call.whole) == (place, whole)


def test_next_tokens_are_known_as_such() -> None:
    """Also where they had to be copied; those before, or some of them masked, are not they."""
    tokens = torch.tensor([[5, 3, 4, 0], [2, 7, 1, 6]])
    logits = torch.randn(6, 8, requires_grad=True)

    def is_next(targets: Any) -> bool:
        (call,) = heard(lambda one: F.cross_entropy(logits, targets(one).flatten()), tokens)
        return call.is_next

    assert is_next(lambda one: one[:, 1:])
    assert not is_next(lambda one: one[:, :-1])
    assert not is_next(lambda one: one[:, 1:].masked_fill(one[:, 1:] == 0, 7))


@pytest.mark.parametrize(
    ("step", "is_weighed"),
    [
        (lambda each, w: each.mean(), False),
        (lambda each, w: 0.5 * each.sum() / w.sum(), False),
        (lambda each, w: each.view(2, 3).mean(1).mean(), False),
        (lambda each, w: (each * w).sum() / w.sum(), True),
        (lambda each, w: each[w > 2].mean(), True),
        (lambda each, w: ((1 - (-each).exp()) ** 2 * each).mean(), True),
    ],
)
def test_samples_count_alike_unless_they_were_weighed(step: Any, is_weighed: bool) -> None:
    """Of what was not reduced, means and scales leave all entries alike; weights and masks not."""
    with Listener((Y,)) as mode:
        loss = step(F.cross_entropy(LOGITS, Y, reduction="none"), torch.arange(6.0))
    mode.trace(loss)
    assert mode.heard()[0][0].is_weighed is is_weighed


MASK = torch.tensor([1.0, 1, 1, 0, 0, 0])


@pytest.mark.parametrize(
    ("step", "is_masked"),
    [
        (lambda p, y: ((p - y) ** 2).mean(), False),
        (lambda p, y: (MASK * (p - y) ** 2).sum() / MASK.sum(), True),
        (lambda p, y: ((p - y) * MASK).abs().mean(), True),
        (lambda p, y: ((p - y) ** 2)[MASK > 0].mean(), True),
        (lambda p, y: torch.where(MASK > 0, (p - y).abs(), 0.0).mean(), True),
        (lambda p, y: ((p - y) ** 2 / (MASK + 1)).mean(), False),
        (lambda p, y: ((p - y) ** 2).view(3, 2).min(1).values.mean(), True),
        (lambda p, y: (((p - y) ** 2).mean() * torch.tensor([1.0, 0.0])).sum(), False),
    ],
)
def test_what_does_not_count_is_masked(step: Any, is_masked: bool) -> None:
    """Zeros as weights, or entries that are left out; weights of whole tasks are another thing."""
    prediction, y = torch.randn(6, requires_grad=True) * 1, torch.randn(6)
    with Listener((y,)) as mode:
        loss = step(prediction, y)
    mode.trace(loss)
    (call,) = mode.heard()[3]
    assert call.is_masked is is_masked


def test_tasks_may_be_weighed() -> None:
    """A loss that was reduced is one number: a weight of it tells nothing of its samples."""
    with Listener((Y,)) as mode:
        losses = torch.stack([F.cross_entropy(LOGITS, Y), LOGITS.square().mean()])
    mode.trace((losses * torch.tensor([1.0, 0.1])).sum())
    assert not mode.heard()[0][0].is_weighed


def test_targets_may_have_changed_their_axes() -> None:
    """Time first, as a recurrent net may have it."""
    y, logits = torch.arange(12).view(3, 4), torch.randn(12, 12, requires_grad=True)
    (call,) = heard(lambda x, y: F.cross_entropy(logits, y.T.reshape(-1)), torch.randn(3), y)
    assert (str(call.place), call.whole) == ("batch[1]", True)


def test_a_constant_target_is_only_that_of_the_usual_place() -> None:
    """All zeros equal many a tensor by chance."""
    zeros = torch.zeros(6, dtype=torch.long)
    (call,) = heard(lambda x, flag, y: F.cross_entropy(LOGITS, zeros), Y, zeros.clone(), Y)
    assert call.place is None
    (call,) = heard(lambda x, y: F.cross_entropy(LOGITS, zeros), Y, zeros.clone())
    assert str(call.place) == "batch[1]"


def test_yes_and_no_are_two_classes() -> None:
    """One output asks one question, several outputs ask several."""
    answers = torch.tensor([0.0, 1, 1, 0, 1, 0])
    pos_weight = torch.tensor(3.0)
    (call,) = heard(
        lambda x, y: F.binary_cross_entropy_with_logits(LOGITS[:, 0], y, pos_weight=pos_weight),
        Y,
        answers,
    )
    assert (call.classes, call.is_multilabel, call.weight) == (2, False, pos_weight)
    (call,) = heard(lambda x, y: F.binary_cross_entropy_with_logits(LOGITS, y), Y, torch.ones(6, 4))
    assert (call.classes, call.is_multilabel) == (4, True)


def test_regression_has_no_classes() -> None:
    """The mean squared error is noted, and tells no classes apart."""
    (call,) = heard(lambda x, y: F.mse_loss(LOGITS[:, 0], y), Y, torch.randn(6))
    assert (call.function, call.classes, call.tells_classes) == ("mse_loss", None, False)


def test_a_call_that_fails_is_noted_all_the_same() -> None:
    """What was given is read before it is used."""
    with pytest.raises(IndexError), Listener((Y, Y + 1)) as mode:
        F.cross_entropy(LOGITS, Y + 1)
    (call,) = mode.heard()[0]
    assert (call.failed, call.lowest, call.highest, call.strange) == (True, 1, 4, (4,))


def test_a_call_is_found_in_the_traceback_of_its_error() -> None:
    """Nobody needs to have listened."""
    try:
        F.cross_entropy(LOGITS, Y + 1)
    except IndexError as error:
        (call,) = _running_calls(error.__traceback__)
    assert (call.function, call.failed, call.strange) == ("cross_entropy", True, (4,))
    assert "test_loss_calls.py" in str(call.line)


def test_padding_that_counts_is_told() -> None:
    """Labels are 0 wherever the attention mask is, and nothing ignores them."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    labels = torch.tensor([[2, 1, 2, 0], [1, 2, 0, 0]])
    logits = torch.randn(2, 4, 3, requires_grad=True)
    batch = {"input_ids": torch.zeros(2, 4), "attention_mask": mask, "labels": labels}

    def padding(ignore_index: int, reduction: str = "mean") -> int | None:
        with Listener(batch) as mode:
            F.cross_entropy(logits.mT, labels, ignore_index=ignore_index, reduction=reduction)
        return mode.heard()[0][0].padding

    assert padding(-100) == 0
    assert padding(0) is None
    assert padding(-100, "none") is None


def test_padding_without_a_mask_is_told_by_its_place() -> None:
    """A token and a label that fill up sequences of several lengths, and are nothing else."""
    tokens = torch.tensor([[5, 3, 4, 0, 0], [2, 7, 0, 0, 0], [9, 8, 7, 6, 5], [1, 2, 3, 4, 0]])
    tags = torch.where(tokens > 0, tokens % 2 + 1, 0)
    table = torch.randn(10, 6)

    def padding(tokens: torch.Tensor, tags: torch.Tensor, **options: Any) -> int | None:
        logits = torch.randn(tags.numel(), 6, requires_grad=True)
        with Listener((tokens, tags)) as mode:
            F.embedding(tokens, table)
            F.cross_entropy(logits, tags.flatten(), **options)
        return mode.heard()[0][0].padding

    assert padding(tokens, tags) == 0
    assert padding(tokens, tags + 1) == 1
    assert padding(tokens, tags, ignore_index=0) is None
    assert padding(tokens, tags, weight=torch.tensor([0.0, 1, 1, 1, 1, 1])) is None
    # The end of a text is to be predicted: that of the third is its own class, and no padding.
    assert padding(tokens, torch.where(tokens > 0, tokens % 2, 0)) is None
    assert padding(tokens[2:], tags[2:]) is None
    assert padding(torch.full_like(tokens, 3), torch.ones_like(tags)) is None


def test_looked_up_tensors_are_inputs() -> None:
    """Embeddings tell what is a token, and how large the vocabulary is."""
    tokens = torch.tensor([[0, 1], [2, 3]])
    with Listener((tokens, Y)) as mode:
        nn.Embedding(9, 2)(tokens[:, 1:])
    assert [str(place) for place in mode.heard()[1]] == ["batch[0]"]
    assert mode.heard()[2] == {9}


def test_huge_predictions_are_kept_in_part() -> None:
    """The first rows stand for all; the shape is that of all."""
    logits, y = torch.zeros(70_000, 64, requires_grad=True), torch.zeros(70_000, dtype=torch.long)
    (call,) = heard(lambda x, y: F.cross_entropy(logits, y), Y, y)
    assert call.shape == (70_000, 64)
    assert call.target is not None
    assert call.input.numel() <= 2**22
    assert len(call.input) == len(call.target)


def test_what_cannot_be_read_does_not_hurt_the_step() -> None:
    """Under vmap tensors have no values; the step goes on."""
    loss = torch.func.vmap(F.cross_entropy)
    with Listener((Y,)) as mode:
        result = loss(torch.randn(3, 6, 4), Y.expand(3, 6))
    assert result.shape == (3,)
    assert all(one.place is None for one in mode.heard()[0])


def test_a_recurrent_loss_is_heard_a_limited_number_of_times() -> None:
    """A loss at each of a hundred time steps costs no more than one at each of 32."""
    calls = heard(lambda x, y: [F.cross_entropy(LOGITS, y) for _ in range(100)], Y, Y)
    assert len(calls) == 32
