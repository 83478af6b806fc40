"""Misused losses are named with their line, and unusual ones that are right are left alone."""

from __future__ import annotations

import contextlib
import inspect
import linecache
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from losses_right import RIGHT
from losses_wrong import WRONG
from program import Program, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_nndebug import LossDetector
from lightning_nndebug.core.measurements.batches import Place
from lightning_nndebug.core.measurements.loss_calls import Listener, LossCall
from lightning_nndebug.core.measurements.loss_inputs import LossInputs, _is_used, read
from lightning_nndebug.losses.unsuitable import plain_outputs, same_views, unwrapped_angles

ONCE = {"max_epochs": 1}


def judged(step: Any, way: int = 1) -> list[tuple[str, str]]:
    """Codes and messages for the loss of this step, as LossInputs would take it."""
    from losses_parts import Net, batch

    torch.manual_seed(0)
    given = batch()
    detector, evidence = LossDetector(), []
    # Some loss functions refuse what they are given.
    with Listener(given) as mode, contextlib.suppress(RuntimeError):
        mode.trace(step(Net(), given))
    calls, _, _, differences, _, overlaps, _ = mode.heard()
    used = [one for one in (*calls, *differences) if one.failed or _is_used(one)]
    found = LossInputs(tuple(read(one) for one in (*used, *overlaps)), way)
    for one in detector.rules:
        if one.kinds == (LossInputs,):
            evidence += [(one.code, item.sentence()) for item in one.method(detector, found)]
    return evidence


@pytest.mark.parametrize("name", WRONG)
def test_a_misuse_is_named_with_its_line(name: str) -> None:
    """The code, a telling word, and the line of the user's that made the call."""
    step, code, word = WRONG[name]
    lines, first = inspect.getsourcelines(step)
    found = judged(step)
    assert {one for one, _ in found} == ({code} if code else set()), found
    for _, message in found:
        assert word in message
        number = int(message.partition("losses_wrong.py:")[2].partition(" ")[0])
        assert first <= number < first + len(lines)
        assert "# here" in linecache.getline(inspect.getsourcefile(step), number)


def test_views_are_the_same_for_many_samples_in_a_row() -> None:
    """A few that are hardly changed may be the same by chance."""
    scores = torch.randn(16, 16)
    scores = (scores + scores.T).requires_grad_()
    others = torch.randn(16, 16, requires_grad=True)
    masked = others.clone()
    masked[1, 2] = masked[2, 1] = -1e9  # the same item twice, which is no negative
    same, other, hit = (
        LossInputs((read(LossCall("cross_entropy", one, torch.arange(16), (16, 16))),))
        for one in (scores, others, masked)
    )
    seen: dict[str, int] = {}
    told = [bool(list(same_views(one, seen))) for one in (same, same, other, *[same] * 4)]
    assert told == [False] * 6 + [True]
    assert not any(list(same_views(hit, seen)) for _ in range(8))


@pytest.mark.parametrize(
    ("sign", "weight", "fires"), [(1, 0, True), (1, 1, True), (-1, 0, False), (-1, 1, False)]
)
def test_an_overlap_is_to_be_large(sign: int, weight: float, fires: bool) -> None:
    """Also beside a loss that pulls to the very mask from which it is pushed."""

    def step(net: Any, given: Any) -> torch.Tensor:
        p, yes = net.one(given["x"]).squeeze(1).sigmoid(), given["yes"]
        overlap = 2 * (p * yes).sum() / (p.sum() + yes.sum())
        loss = sign * overlap
        return loss + weight * F.binary_cross_entropy(p, yes) if weight else loss

    found = judged(step)
    assert [code for code, _ in found] == ["LOS109"] * fires
    assert all("overlap of predictions and targets is minimized" in text for _, text in found)


@pytest.mark.parametrize(
    ("turn", "lowest", "error", "is_learned", "fires"),
    [
        (6.2832, -3.1416, 1.0, True, True),
        (360.0, 0.0, 1.0, True, True),
        (360.0, -180.0, 1.0, True, True),
        (360.0, 0.0, 1.0, False, False),
        (360.0, 0.0, 0.4, True, False),
        (300.0, 0.0, 1.0, True, False),
        (380.0, 0.0, 1.0, True, False),
    ],
    ids=["radians", "degrees", "to 180", "at first", "near", "a part", "more"],
)
def test_angles_are_no_quantities(
    turn: float, lowest: float, error: float, is_learned: bool, fires: bool
) -> None:
    """They fill a turn, and those at its ends are missed by nearly all of it."""
    target = torch.linspace(lowest, lowest + turn, 101)[:, None]
    given = target.clone()
    given[:3] += error * turn
    call = LossCall("mse_loss", given, target, (101, 1), place=Place((1,), (False,)), whole=True)
    seen: dict[str, list[float]] = {}
    told = [
        list(unwrapped_angles(LossInputs((read(call),)), seen, lambda _: is_learned))
        for _ in range(2)
    ]
    assert [bool(one) for one in told] == [False, fires]


def dice(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 1 - ((2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))


def jaccard(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    both = (y * p.flatten(1)).sum(1)
    return -(both / (p.sum(1) + y.sum(1) - both).clamp(min=1)).mean()


@pytest.mark.parametrize(
    ("step", "fires"),
    [
        (lambda net, b: dice(net.classes(b["x"]), b["many"]), True),
        (lambda net, b: jaccard(net.classes(b["x"]), b["many"]), True),
        (lambda net, b: dice(net.classes(b["x"]).sigmoid(), b["many"]), False),
        (lambda net, b: dice(net.classes(b["x"]).softmax(1), b["many"]), False),
        (lambda net, b: dice(net.classes(b["x"]).clamp(0, 1), b["many"]), False),
        (lambda net, b: (net.classes(b["x"]) * b["many"]).sum() / b["many"].sum(), False),
        (lambda net, b: dice(net.classes(b["x"]), b["soft"]), False),
    ],
    ids=["dice", "jaccard", "sigmoid", "softmax", "clamped", "masked mean", "other targets"],
)
def test_an_overlap_of_raw_scores_is_told(step: Any, fires: bool) -> None:
    """Its fraction has no bounds."""
    assert [code for code, _ in judged(step)] == ["LOS102"] * fires


@pytest.mark.parametrize("name", RIGHT)
def test_a_loss_that_is_right_is_left_alone(name: str) -> None:
    """Whatever it looks like."""
    assert not judged(RIGHT[name])


def digits(count: int) -> DataLoader:
    """Batches of noise, and classes."""
    batches = [(torch.randn(16, 8), torch.arange(16) % 10) for _ in range(count)]
    return DataLoader(batches, batch_size=None)


class Task(pl.LightningModule):
    """Trains one linear layer on whatever ``loss`` makes of its ten outputs."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.net, self.loss = nn.Linear(8, 10), loss

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def found(loss: Any, **options: Any) -> list[Any]:
    """What the detector finds in four steps, whether or not they come to their end."""
    detector = LossDetector(**options)
    with contextlib.suppress(RuntimeError):
        fit(Program(Task(loss), digits(4), trainer=ONCE), detector)
    return detector.findings


@pytest.mark.parametrize(
    ("loss", "cutter"),
    [
        (lambda s, y: F.cross_entropy(s, y).detach(), "detach"),
        (lambda s, y: F.cross_entropy(s.detach(), y), "detach"),
        (lambda s, y: torch.tensor(F.cross_entropy(s, y).item()), "item"),
        (lambda s, y: F.cross_entropy(s.data, y), "data"),
        (lambda s, y: F.mse_loss(s.argmax(1).float(), y.float()).requires_grad_(), "argmax"),
        (lambda s, y: F.cross_entropy(s.detach().requires_grad_(), y), "detach"),
        (lambda s, y: F.cross_entropy(torch.tensor(s.tolist(), requires_grad=True), y), "tolist"),
        (lambda s, y: 1 - (s.argmax(1) == y).float().mean(), "argmax"),
        (lambda s, y: torch.tensor((s.detach().numpy() ** 2).mean()), "detach"),
    ],
)
def test_a_loss_without_a_graph_is_told_before_the_backward_fails(loss: Any, cutter: str) -> None:
    """With what has cut it, and where."""
    (one,) = found(loss)
    assert one.code == "LOS107"
    assert f"the last cut is {cutter} at" in one.message
    assert "test_losses.py" in one.message


def test_gradients_that_are_turned_off_are_not_our_business() -> None:
    """MOD104 tells it."""

    def loss(s: Any, y: Any) -> Any:
        return F.cross_entropy(s, y)

    class Off(Task):
        @torch.no_grad()
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx)

    detector = LossDetector()
    with pytest.raises(RuntimeError):
        fit(Program(Off(loss), digits(1), trainer=ONCE), detector)
    assert not detector.findings


def test_a_crash_in_the_loss_is_explained() -> None:
    """Raw scores into binary_cross_entropy: the exception ends the step, the finding is told."""
    (one,) = found(lambda s, y: F.binary_cross_entropy(9 * s, F.one_hot(y, 10).float()))
    assert (one.code, one.fixes) == ("LOS102", ["Use binary_cross_entropy_with_logits"])


def test_manual_optimization_is_understood() -> None:
    """A discriminator and a generator; what is not in any loss is not judged."""

    class Manual(Task):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            x, y = batch
            scores = self.net(x)
            F.cross_entropy(scores.softmax(1), y)  # for a log
            self.manual_backward(self.loss(scores, y))
            self.optimizers().step()

    for loss, codes in ((F.cross_entropy, []), (F.nll_loss, ["LOS102"])):
        detector = LossDetector()
        module = Manual(loss)
        fit(Program(module, digits(3), trainer=ONCE), detector)
        assert [one.code for one in detector.findings] == codes


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda z, y: z.sum(1).mean(), True),
        (lambda z, y: -z.reshape(-1).sum() / 10, True),
        (lambda z, y: z.square().mean(), False),
        (lambda z, y: z[y < 5].mean() - z[y >= 5].mean(), False),
        (lambda z, y: z.sigmoid().mean(), False),
        (lambda z, y: z.mean() + 0.1 * z.square().mean(), False),
    ],
)
def test_the_mean_of_raw_scores_is_no_loss(loss: Any, told: bool) -> None:
    """Nothing holds it; a critic has two sides, or a penalty."""
    seed()
    detector = LossDetector()
    fit(Program(Task(loss), digits(150), trainer=ONCE), detector)
    assert ("LOS109" in [one.code for one in detector.findings]) == told


def test_a_mean_that_is_held_elsewhere_does_not_fall_for_ever() -> None:
    """Weights may be clipped or projected, and signs may take turns."""
    looks = [LossInputs((), 1, plain=(32, 4), level=-float(i)) for i in range(20)]
    held = [replace(one, level=-0.1 * (i % 3)) for i, one in enumerate(looks)]
    for run, told in ((looks, True), (held, False)):
        levels: list[float] = []
        said = [bool([*plain_outputs(one, levels)]) for one in run]
        assert any(said) == told


def test_maximize_turns_a_loss_around() -> None:
    """maximize=True is found, and cancels a minus sign."""

    class Upward(Task):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-5, maximize=True)

    for loss, codes in (
        (F.cross_entropy, ["LOS109"]),
        (lambda s, y: -F.cross_entropy(s, y), []),
    ):
        detector = LossDetector()
        fit(Program(Upward(loss), digits(3), trainer=ONCE), detector)
        assert [one.code for one in detector.findings] == codes


def test_an_accuracy_does_not_fit_a_regression() -> None:
    """It is told when it is logged."""

    class Regression(Task):
        def training_step(self, batch, batch_idx):
            x, y = batch
            prediction = self.net(x)[:, 0]
            self.log("train_acc", (prediction == y).float().mean())
            return F.mse_loss(prediction, y)

    batches = DataLoader([(torch.randn(16, 8), torch.randn(16))] * 4, batch_size=None)
    detector = LossDetector()
    fit(Program(Regression(None), batches, trainer=ONCE), detector)
    assert [(one.code, one.where) for one in detector.findings] == [("LOS109", "train_acc")]
