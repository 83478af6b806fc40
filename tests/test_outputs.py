"""Outputs: what the rules make of hand-made measurements, and what the measurements see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from program import Program, digits, fit, seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import Detector, OutputDetector, Severity, rule
from lightning_nndebug.core.measurements.activations import Activations, Layer
from lightning_nndebug.core.measurements.predictions import Prediction, Predictions
from lightning_nndebug.core.measurements.sensitivity import Mixing, Sensitivity

# -- hand-made measurements


def prediction(spread: float | None = 1.0, **options: Any) -> Prediction:
    """Predictions of a regression."""
    defaults: dict[str, Any] = {
        "function": "mse_loss", "line": None, "shape": (32, 1), "spread": spread, "operation": "",
        "ends": (-math.inf, math.inf), "asked": (0.0, 1.0), "beyond": 0.0, "lonely": False,
    }  # fmt: skip
    return Prediction(**{**defaults, **options})


def collapsed(*spreads: float, start: int = 30) -> list[bool]:
    """Shows looks with these spreads, five steps apart; tells at which of them there is evidence."""
    detector = OutputDetector()
    looks = [Predictions((prediction(one),), step=start + 5 * i) for i, one in enumerate(spreads)]
    return [bool(list(detector.collapsed_predictions(one, Activations(())))) for one in looks]


def sensitive(**options: Any) -> Sensitivity:
    """A net that uses its input, sample by sample."""
    defaults: dict[str, Any] = {
        "inputs": ("batch[0]",), "ignored": False, "samples": 32, "touched": 0, "mixing": None,
    }  # fmt: skip
    return Sensitivity(**{**defaults, **options})


def test_predictions_have_collapsed_if_they_stay_alike() -> None:
    """Five looks in a row."""
    assert collapsed(0.002, 0.001, 0.002, 0.001, 0.001) == [False] * 4 + [True]


def test_predictions_that_come_apart_have_not_collapsed() -> None:
    """A head that begins with zeros is slow, not sick."""
    assert not any(collapsed(0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0029))


def test_a_plateau_is_left_slowly_and_not_in_every_step() -> None:
    """The trend counts; that of rounding errors does not."""
    looks = (1.0e-4, 1.3e-4, 1.2e-4, 1.5e-4, 1.6e-4, 1.9e-4)
    assert not any(collapsed(*looks))
    assert any(collapsed(*(1e-4 * one for one in looks)))


def test_predictions_that_overflow_have_not_collapsed() -> None:
    """A spread that is not finite says nothing, then or later."""
    assert not any(collapsed(1.0, 1e18, math.inf, math.nan, math.inf, math.inf, math.inf))


def test_what_doubles_again_and_again_begins_below_the_noise() -> None:
    """Small embeddings whose product is learned: flat at first, and then by a share of itself."""
    spreads = (2.2e-4, 2.4e-4, 2.7e-4, 2.1e-4, 2.0e-4, 2.7e-4, 3.8e-4, 3.6e-4, 5.4e-4)
    assert not any(collapsed(*spreads, start=-1))


def test_predictions_may_begin_alike() -> None:
    """The first steps are not judged."""
    assert not any(collapsed(0.0, 0.0, 0.0, 0.0, 0.0, start=5))


def test_a_look_at_which_they_vary_begins_anew() -> None:
    """A batch of few targets is no collapse."""
    assert not any(collapsed(0.0, 0.0, 0.5, 0.0, 0.0, 0.0))


def test_embeddings_that_shrink_to_a_point_are_told_before_they_are_there() -> None:
    """They have lost nine tenths of what varied, vary by 3 % of their size, and still shrink."""

    def shrinks(*shares: float) -> bool:
        detector, told = OutputDetector(), []
        for i, one in enumerate(shares):
            layers = (Layer("net.2", 1.0, False, 0, varying=one),)
            look = Predictions((), step=30 + 5 * i), Activations((), layers)
            told.append(bool(list(detector.collapsed_predictions(*look))))
        return told[-1]

    assert shrinks(0.5, 0.2, 0.08, 0.05, 0.02)
    assert not shrinks(0.5, 0.2, 0.08, 0.05, 0.04)  # not yet
    assert not shrinks(0.1, 0.08, 0.06, 0.04, 0.02)  # from little to less
    assert not shrinks(0.5, 0.02, 0.01, 0.02, 0.02)  # settled: some vary little about their mean


def test_pairs_that_are_only_pulled_together_must_stay_apart_from_others() -> None:
    """Nothing else in such a loss keeps a net from one answer for all."""

    def told(*looks: float) -> bool:
        detector, found = OutputDetector(), []
        for i, one in enumerate(looks):
            look = Predictions((), apart=one, step=30 + 5 * i), Activations(())
            found = list(detector.collapsed_predictions(*look))
        return bool(found)

    assert told(0.9, 0.5, 0.15, 0.12, 0.11, 0.12, 0.1)
    assert not told(0.9, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3)  # whitened, or not yet alike
    assert not told(0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15)  # alike at first, as behind ReLUs


def test_targets_are_unreachable_if_an_error_must_remain() -> None:
    """A little of it may be noise."""
    rule_ = OutputDetector().unreachable_targets
    shares = (0.0, 0.04, 0.06, 5.0)
    seen = [Predictions((prediction(beyond=one, ends=(0.0, math.inf)),)) for one in shares]
    assert [len(list(rule_(one))) for one in seen] == [0, 0, 1, 1]


def test_an_input_is_ignored_if_no_bit_depends_on_it() -> None:
    """Anything less is a matter of degree, which other rules judge."""
    rule_ = OutputDetector().ignored_input
    assert [len(list(rule_(sensitive(ignored=one)))) for one in (False, True)] == [0, 1]


def test_a_batch_is_mixed_if_the_operation_is_known() -> None:
    """What mixes samples otherwise may do so on purpose."""
    rule_ = OutputDetector().mixed_batch
    mixing = Mixing("softmax", None, (32, 10), 0)
    seen = (sensitive(touched=31), sensitive(touched=31, mixing=mixing))
    assert [len(list(rule_(one))) for one in seen] == [0, 1]


# -- what is measured


class Watch(Detector):
    """Keeps what it sees."""

    @rule("TST801", severity=Severity.INFO)
    def predicted(self, predictions: Predictions) -> Any:
        """Looks."""
        self.seen.append(predictions)  # type: ignore[attr-defined]
        yield from ()

    @rule("TST802", severity=Severity.INFO)
    def depends(self, sensitivity: Sensitivity) -> Any:
        """Looks."""
        self.seen.append(sensitivity)  # type: ignore[attr-defined]
        yield from ()

    @rule("TST803", severity=Severity.INFO)
    def acts(self, activations: Activations) -> Any:
        """Looks."""
        self.seen.append(activations)  # type: ignore[attr-defined]
        yield from ()


class Learner(pl.LightningModule):
    """Learns with a loss of a net, a batch of pictures and labels."""

    def __init__(self, net: nn.Module, loss: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net, *batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def watch(
    kind: type,
    net: nn.Module,
    loss: Any,
    targets: Any = None,
    *,
    image: bool = False,
    shuffle: bool = False,
) -> Any:
    """Fits a net on digits for 22 steps, and returns what was seen last."""
    seed(0)
    detector = Watch()
    detector.seen = []  # type: ignore[attr-defined]
    x, y = digits(image=image)
    given = TensorDataset(x, y if targets is None else targets(y))
    data = DataLoader(given, batch_size=32, shuffle=shuffle)
    fit(Program(Learner(net, loss), data, trainer={"max_steps": 22}), detector)
    return [one for one in detector.seen if isinstance(one, kind)][-1]  # type: ignore[attr-defined]


def numbers(y: Tensor) -> Tensor:
    """Targets from 0 to 9, in a column."""
    return y.float()[:, None]


@pytest.mark.parametrize(
    ("last", "loss", "beyond"),
    [
        (nn.Tanh(), lambda net, x, y: F.mse_loss(net(x), y), True),
        (nn.Sigmoid(), lambda net, x, y: F.l1_loss(net(x), y), True),
        (nn.Sigmoid(), lambda net, x, y: F.smooth_l1_loss(net(x).squeeze(1), y.squeeze(1)), True),
        (nn.Tanh(), lambda net, x, y: ((net(x) - y) ** 2).mean(), True),
        (nn.Tanh(), lambda net, x, y: (y - net(x)).abs().mean(), True),
        (nn.ReLU(), lambda net, x, y: F.mse_loss(net(x), -y), True),
        (nn.Softplus(), lambda net, x, y: F.huber_loss(net(x), -y), True),
        (nn.ReLU(), lambda net, x, y: F.mse_loss(net(x), y), False),
        (nn.Tanh(), lambda net, x, y: F.mse_loss(net(x), y / 9), False),
        (nn.Tanh(), lambda net, x, y: F.mse_loss(9 * net(x), y), False),
        (nn.Tanh(), lambda net, x, y: F.mse_loss(5 * net(x), y), True),
        (nn.Tanh(), lambda net, x, y: F.mse_loss(net(x) / 0.1, y), False),
        (nn.ReLU(), lambda net, x, y: F.mse_loss(-2 * net(x), y), True),
        (nn.Tanh(), lambda net, x, y: F.mse_loss(5 + 5 * net(x), y), False),
        (nn.ReLU6(), lambda net, x, y: F.mse_loss(net(x), y), True),
        (nn.ReLU6(), lambda net, x, y: F.mse_loss(net(x), y / 2), False),
        (nn.Identity(), lambda net, x, y: F.mse_loss(net(x), y), False),
        (nn.Identity(), lambda net, x, y: F.mse_loss(net(x).clamp(0, 1), y), True),
        (nn.Identity(), lambda net, x, y: F.mse_loss(net(x).clamp(max=5), y), True),
        (nn.Identity(), lambda net, x, y: F.mse_loss(net(x).clamp(min=0), y), False),
        (nn.Identity(), lambda net, x, y: F.mse_loss(y, net(x).clamp(0, 1)), True),
    ],
)
def test_the_ends_of_the_output_are_held_against_the_targets(
    last: nn.Module, loss: Any, beyond: bool
) -> None:
    """Whatever the loss, also one written by hand."""
    net = nn.Sequential(nn.Linear(64, 1), last)
    (one,) = watch(Predictions, net, loss, numbers).pairs
    assert (one.beyond > 0.05) == beyond


@pytest.mark.parametrize(
    ("answer", "beyond"),
    [
        (lambda h: F.binary_cross_entropy(h.mean(1).relu().sigmoid(), YES), True),
        (lambda h: F.binary_cross_entropy(h.mean(1).sigmoid(), YES), False),
        (lambda h: F.binary_cross_entropy_with_logits((h.relu() * h.relu()).sum(1), YES), True),
        (lambda h: F.binary_cross_entropy_with_logits((h.relu() * h).sum(1), YES), False),
        (lambda h: F.binary_cross_entropy_with_logits(h.exp().mean(1) - 1, YES), False),
        (lambda h: F.binary_cross_entropy_with_logits(h.relu().sum(1) + h[:, 0], YES), False),
        (lambda h: F.binary_cross_entropy_with_logits(10 * h.tanh().mean(1), YES), False),
    ],
)
def test_answers_must_be_able_to_say_no(answer: Any, beyond: bool) -> None:
    """A score that is never below 0 is a probability of a half at least."""
    pairs = watch(Predictions, nn.Linear(64, 4), lambda net, x, y: answer(net(x))).pairs
    assert (pairs[0].beyond > 0.05) == beyond


def _doubling(x: Tensor) -> Tensor:
    for _ in range(60):
        x = 0.5 * x + 0.1 * x * x.tanh()
    return x.mean(1)


def test_graphs_in_which_ways_double_are_looked_at_in_no_time() -> None:
    """Each layer leads to the one before by two ways."""
    net = nn.Linear(64, 4)
    (one,) = watch(
        Predictions,
        net,
        lambda net, x, y: F.binary_cross_entropy_with_logits(_doubling(net(x)), YES),
    ).pairs
    assert one.ends == (0.0, 1.0)


YES = (torch.arange(32) % 2).float()


class Recurrent(nn.Module):
    """A recurrent net over the rows of a picture, and what it returns."""

    def __init__(self, net: nn.Module, *, hidden: bool = False, first: bool = False) -> None:
        super().__init__()
        self.net, self.hidden, self.begin = net, hidden, nn.Linear(64, 1) if first else None

    def forward(self, x: Tensor) -> Tensor:
        first = () if self.begin is None else (9 * self.begin(x)[None],)
        out, state = self.net(x.view(-1, 8, 8), *first)
        return (state[0] if isinstance(state, tuple) else state)[-1] if self.hidden else out[:, -1]


@pytest.mark.parametrize(
    ("net", "ends"),
    [
        (Recurrent(nn.LSTM(8, 1, batch_first=True)), 1),
        (Recurrent(nn.LSTM(8, 1, num_layers=2, batch_first=True), hidden=True), 1),
        (Recurrent(nn.GRU(8, 1, batch_first=True)), 1),
        (Recurrent(nn.RNN(8, 1, batch_first=True), hidden=True), 1),
        (Recurrent(nn.RNN(8, 1, nonlinearity="relu", batch_first=True)), math.inf),
        (Recurrent(nn.LSTM(8, 4, proj_size=1, batch_first=True)), math.inf),
        (Recurrent(nn.GRU(8, 1, batch_first=True), first=True), math.inf),
        (nn.Sequential(Recurrent(nn.LSTM(8, 4, batch_first=True)), nn.Linear(4, 1)), math.inf),
    ],
)
def test_states_of_recurrent_nets_have_ends(net: nn.Module, ends: float) -> None:
    """But not what is projected, nor what begins beyond them."""
    (one,) = watch(Predictions, net, lambda net, x, y: F.mse_loss(net(x), y), numbers).pairs
    assert one.ends == (-ends, ends)


@pytest.mark.parametrize(
    ("score", "ends"),
    [
        (F.cosine_similarity, 1),
        (lambda a, b: (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1), 1),
        (lambda a, b: 5 * F.cosine_similarity(a, b), 5),
        (lambda a, b: (a * b).sum(-1), math.inf),
        (lambda a, b: (F.normalize(a, dim=0) * F.normalize(b, dim=0)).sum(-1), math.inf),
    ],
)
def test_cosines_have_ends(score: Any, ends: float) -> None:
    """However they are written, and times what they are scaled by."""

    def loss(net: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(score(net(x), net(x.flip(1))), y)

    (one,) = watch(Predictions, nn.Linear(64, 8), loss, lambda y: y.float()).pairs
    assert one.ends == (-ends, ends)


@pytest.mark.parametrize(
    ("net", "loss", "lonely"),
    [
        (nn.Linear(64, 1), lambda net, x, y: F.cross_entropy(net(x), y), True),
        (nn.Linear(64, 1), lambda net, x, y: F.mse_loss(net(x).softmax(1), y), True),
        (nn.Linear(64, 1), lambda net, x, y: F.mse_loss(net(x).softmax(-1), y), True),
        (nn.Linear(64, 1), lambda net, x, y: F.binary_cross_entropy(net(x).softmax(1), y), True),
        (nn.Linear(64, 1), lambda net, x, y: (net(x).softmax(1) - y).square().mean(), True),
        (nn.Linear(64, 2), lambda net, x, y: F.mse_loss(net(x).softmax(1)[:, :1], y), False),
        (nn.Linear(64, 1), lambda net, x, y: F.mse_loss(net(x).softmax(0), y), False),
        (nn.Linear(64, 2), lambda net, x, y: F.cross_entropy(net(x), y[:, 0].long()), False),
    ],
)
def test_a_softmax_over_one_unit_is_seen(net: nn.Module, loss: Any, lonely: bool) -> None:
    """It is one if the dimension of the classes has the size 1."""
    (one,) = watch(Predictions, net, loss, lambda y: (y > 4).float()[:, None]).pairs
    assert one.lonely == lonely


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b).mean()


def _product(a: Tensor, b: Tensor) -> Tensor:
    return (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1).mean()


@pytest.mark.parametrize(
    ("loss", "only_pulls"),
    [
        (lambda a, b: -_cosine(a, b), True),
        (lambda a, b: 2 - 2 * _product(a, b), True),
        (lambda a, b: 0.5 * ((1 - _cosine(a, b)) - _product(b, a)), True),
        (lambda a, b: -sum(_cosine(*one) for one in ((a, b), (b, a))) / 2, True),
        (_cosine, False),
        (lambda a, b: -_cosine(a, b.detach()), False),
        (lambda a, b: -_cosine(a, b) - _cosine(b, a.detach()), False),
        (lambda a, b: _cosine(a, b.roll(1, 0)) - _cosine(a, b), False),
        (lambda a, b: F.relu(0.2 + _cosine(a, b.roll(1, 0)) - _cosine(a, b)), False),
        (lambda a, b: F.relu(1 - a.std(0)).mean() - _cosine(a, b), False),
        (lambda a, b: -_cosine(a[:, :1], b[:, :1]), False),
        (F.mse_loss, False),
    ],
)
def test_a_loss_that_only_pulls_pairs_together_is_known(loss: Any, only_pulls: bool) -> None:
    """However it is written; what is detached, pushes apart or keeps a variance is another one."""
    net = nn.Linear(64, 16)
    seen = watch(Predictions, net, lambda net, x, y: loss(net(x), net(x + 0.1)))
    assert (seen.apart is not None) is only_pulls


def test_attention_to_a_single_token_is_no_output() -> None:
    """It goes into another layer."""
    net = nn.Sequential(nn.Linear(64, 1), nn.Linear(64, 10))

    def loss(net: Any, x: Tensor, y: Tensor) -> Tensor:
        logits = net[1](net[0](x).softmax(1) * x)
        return -(logits.log_softmax(1) * F.one_hot(y, 10)).sum(1).mean()

    assert watch(Activations, net, loss).lonely == ()


@pytest.mark.parametrize(
    ("weigh", "is_told"),
    [
        (lambda score, x: (score.softmax(2) * x).sum(1), True),
        (lambda score, x: (x * score.softmax(-1)).sum(dim=1), True),
        (lambda score, x: (score.softmax(1) * x).sum(1), False),
        (lambda score, x: (score.softmax(2) * x).sum(2), False),
        (lambda score, x: (score.softmax(2) * x).mean(1), False),
        (lambda score, x: ((score @ x[:, :1]).sum(2, True).softmax(2) * x).sum(1), False),
    ],
)
def test_weights_are_to_add_up_to_one_along_the_axis_that_they_pool(
    weigh: Any, is_told: bool
) -> None:
    """Not so a gate of one expert, nor attention to a single token."""
    net = nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 10)])

    def loss(net: Any, x: Tensor, y: Tensor) -> Tensor:
        x = x.view(-1, 8, 8)
        return F.cross_entropy(net[1](weigh(net[0](x), x)), y)

    assert bool(watch(Activations, net, loss).pooling) == is_told


class Rows(nn.Module):
    """Reads the rows of a picture with a layer that mixes samples, or does not."""

    def __init__(self, layer: nn.Module, way: Any) -> None:
        super().__init__()
        self.layer, self.way, self.head = layer, way, nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.way(self.layer, x.squeeze(1)).mean(1))


def attend(layer: Any, x: Tensor) -> Tensor:
    return layer(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


def cross_entropy(net: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


@pytest.mark.parametrize(
    ("layer", "way", "function"),
    [
        (nn.GRU(8, 8), lambda layer, x: layer(x)[0], "gru"),
        (nn.LSTM(8, 8), lambda layer, x: layer(x)[0], "lstm"),
        (nn.MultiheadAttention(8, 2), attend, "multi_head_attention_forward"),
        (nn.TransformerEncoderLayer(8, 2, 16), lambda layer, x: layer(x), "multi_head"),
        (nn.Linear(8, 8), lambda layer, x: layer(x) * layer(x).softmax(0), "softmax"),
        (nn.Linear(8, 8), lambda layer, x: layer(x).cumsum(0), "cumsum"),
        (
            nn.Linear(8, 8),
            lambda layer, x: layer(x).view(8, len(x), 8).transpose(0, 1),
            "view",
        ),
    ],
)
def test_the_operation_that_mixes_samples_is_named(layer: Any, way: Any, function: str) -> None:
    """With the line of the user's code."""
    seen = watch(Sensitivity, Rows(layer, way), cross_entropy, image=True)
    assert seen.touched > 0
    assert seen.mixing is not None
    assert seen.mixing.function.startswith(function)
    assert seen.mixing.line is None or seen.mixing.line.file == __file__


def between(layer: Any, x: Tensor) -> Tensor:
    """Attention between the samples, each as one token."""
    return attend(layer, x.mean(1).unsqueeze(1))


def discriminate(layer: Any, x: Tensor) -> Tensor:
    """Minibatch discrimination: distances to all other samples."""
    means = layer(x).mean(1)
    near = (means[:, None] - means[None]).abs().sum(2).neg().exp().sum(1)
    return x + near[:, None, None]


@pytest.mark.parametrize(
    ("layer", "way"),
    [
        (nn.GRU(8, 8, batch_first=True), lambda layer, x: layer(x)[0]),
        (nn.GRU(8, 8), lambda layer, x: layer(x.transpose(0, 1))[0].transpose(0, 1)),
        (nn.MultiheadAttention(8, 2, batch_first=True), attend),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), lambda layer, x: layer(x)),
        (nn.MultiheadAttention(8, 2), between),
        (nn.Linear(8, 8), discriminate),
        (nn.Linear(8, 8), lambda layer, x: layer(x) - layer(x).mean(0)),
        (nn.BatchNorm1d(8), lambda layer, x: layer(x)),
        (nn.Linear(8, 8), lambda layer, x: layer(x.reshape(-1, 8)).view(-1, 8, 8)),
        (nn.Linear(8, 8), lambda layer, x: layer(x).softmax(1)),
        (nn.Conv1d(8, 8, 3), lambda layer, x: layer(x)[..., :1].expand(-1, 8, 8)),
    ],
)
def test_what_keeps_samples_apart_or_mixes_them_on_purpose_is_fine(layer: Any, way: Any) -> None:
    """Means, products and distances between samples are meant."""
    assert watch(Sensitivity, Rows(layer, way), cross_entropy, image=True).mixing is None


@pytest.mark.parametrize(
    ("unit", "function"),
    [
        (lambda z: F.normalize(z, dim=0), "normalize"),
        (lambda z: z / z.norm(dim=0), "norm"),
        (lambda z: z.T.reshape(-1, 16), "reshape"),
        (lambda z: F.normalize(z, dim=1), None),
        (lambda z: (z - z.mean(0)) / z.std(0), None),
        (lambda z: F.batch_norm(z, None, None, training=True), None),
    ],
)
def test_samples_may_be_told_from_each_other_and_not_mixed_before(
    unit: Any, function: str | None
) -> None:
    """Whitened embeddings are meant; lengths of columns, and views, are not."""

    def match(net: Any, x: Tensor, y: Tensor) -> Tensor:
        scores = unit(net(x)) @ F.normalize(net(x + 0.1), dim=1).T
        return F.cross_entropy(5 * scores, torch.arange(len(x)))

    seen = watch(Sensitivity, nn.Linear(64, 16), match, shuffle=True)
    assert (seen.mixing and seen.mixing.function) == function


def standardize(layer: Any, x: Tensor) -> Tensor:
    """As a batch norm that keeps no statistics."""
    x = layer(x)
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


@pytest.mark.parametrize(
    ("way", "function"),
    [
        (lambda layer, x: torch.cat([layer(x), x.roll(1, 0)], 2)[..., 4:12], "roll"),
        (lambda layer, x: layer(x) + layer(x).flip(0), "flip"),
        (lambda layer, x: F.normalize(layer(x), dim=0), "normalize"),
        (standardize, "std"),
        (lambda layer, x: layer(x) / layer(x).norm(dim=0), "norm"),
        (lambda layer, x: layer(x) * torch.rsqrt(x.var((0, 1), keepdim=True) + 1e-5), "var"),
    ],
)
def test_samples_that_chance_puts_together_have_nothing_to_do_with_each_other(
    way: Any, function: str
) -> None:
    """Where they come in order, they may be steps in time, or the rows of one table."""
    rows = Rows(nn.Linear(8, 8), way)
    seen = watch(Sensitivity, rows, cross_entropy, image=True, shuffle=True)
    assert seen.mixing is not None
    assert seen.mixing.function == function
    assert watch(Sensitivity, rows, cross_entropy, image=True).mixing is None


def mixed_up(net: Any, x: Tensor, y: Tensor) -> Tensor:
    """Images are mixed with the next one, and their labels likewise."""
    out = net(0.7 * x + 0.3 * x.roll(1, 0))
    return 0.7 * F.cross_entropy(out, y) + 0.3 * F.cross_entropy(out, y.roll(1))


@pytest.mark.parametrize(
    ("way", "loss"),
    [
        (lambda layer, x: layer(x), mixed_up),
        (lambda layer, x: layer(x) - layer(x).mean(0), cross_entropy),
        (lambda layer, x: layer(x).roll(1, 1) + x.flip(2), cross_entropy),
        (lambda layer, x: x / (x.std(1, keepdim=True) + 1) + x / (x.std() + 1), cross_entropy),
        (lambda layer, x: layer(x) + x.std(0).mean(), cross_entropy),  # of a critic
        (lambda layer, x: F.normalize(layer(x), dim=2), cross_entropy),
    ],
)
def test_what_is_done_along_other_axes_or_to_whole_images_is_fine(way: Any, loss: Any) -> None:
    """So is one number for the whole batch."""
    rows = Rows(nn.Linear(8, 8), way)
    assert watch(Sensitivity, rows, loss, image=True, shuffle=True).mixing is None


@pytest.mark.parametrize(
    ("way", "ignored"),
    [
        (lambda x: x * 0, True),
        (torch.randn_like, True),
        (torch.ones_like, True),
        (lambda x: x * 1e-3, False),
        (lambda x: x + 10.0, False),
        (lambda x: F.dropout(x, 0.9), False),
    ],
)
def test_an_input_that_is_ignored_is_known(way: Any, ignored: bool) -> None:
    """To the last bit, under the same random numbers."""
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    seen = watch(Sensitivity, net, lambda net, x, y: F.cross_entropy(net(way(x)), y))
    assert (seen.ignored, seen.touched) == (ignored, 0)
    assert seen.inputs == ("batch[0]",)


def flow(net: Any, x: Tensor, y: Tensor) -> Tensor:
    """The velocity from data to noise, which nobody has learned."""
    noise, t = torch.randn_like(x), torch.rand(len(x), 1)
    return F.mse_loss(net((1 - t) * x + t * noise), noise - x)


def test_noise_minus_data_is_no_prediction() -> None:
    """It is the same whatever label there is."""
    seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))
    data, detector = DataLoader(TensorDataset(*digits()), batch_size=32), OutputDetector()
    fit(Program(Learner(net, flow), data, trainer={"max_steps": 40}), detector)
    assert detector.findings == []


def test_a_target_that_is_the_input_is_not_called_an_input() -> None:
    """The labels of an autoencoder's batch may well be ignored."""
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64))
    seen = watch(Sensitivity, net, lambda net, x, y: F.mse_loss(net(x), x))
    assert not seen.ignored
