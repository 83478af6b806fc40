"""Inputs: what the rules make of hand-made measurements."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from cases._parts import Classifier, loader
from program import Program, digits, fit, seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    get_worker_info,
)

from lightning_nndebug import InputDetector, NNDebug
from lightning_nndebug.core.findings import Misconfiguration, Severity
from lightning_nndebug.core.measurements import Moment
from lightning_nndebug.core.measurements.axes import Axes
from lightning_nndebug.core.measurements.batches import Place
from lightning_nndebug.core.measurements.doubles import Doubles
from lightning_nndebug.core.measurements.features import Features, Likeness
from lightning_nndebug.core.measurements.first_layers import (
    FirstLayer,
    FirstLayers,
    FirstNorm,
    Recurrent,
    _cut,
    _likeness,
)
from lightning_nndebug.core.measurements.foresight import Foresight
from lightning_nndebug.core.measurements.inputs import Inputs, _described, new_weights
from lightning_nndebug.core.measurements.leaks import Leaks
from lightning_nndebug.core.measurements.learned import Learned, _cross, _joined
from lightning_nndebug.core.measurements.loaders import TrainLoader
from lightning_nndebug.core.measurements.loss_calls import LossCall, LossCalls
from lightning_nndebug.core.measurements.padding import Padding
from lightning_nndebug.core.measurements.processors import Processor, _normalization
from lightning_nndebug.core.measurements.rows import _FEATURES, _ROWS, Rows, _planes, _Pool
from lightning_nndebug.core.measurements.samples import FIRST, Overlap, Samples, _Roll, _Sketch
from lightning_nndebug.core.measurements.succession import (
    _BATCHES,
    _LARGE,
    _TOGETHER,
    Succession,
    _judged,
    _moments,
    _values,
    lag,
)
from lightning_nndebug.inputs import _told_in_training
from lightning_nndebug.inputs.axes import (
    askew,
    misplaced_masks,
    scrambled_images,
    turned_images,
)
from lightning_nndebug.inputs.relatedness import are_distinct, leak, relation, row_number

# -- which tensors are inputs


def found(batch, *calls: LossCall, embedded=(), **options) -> Inputs | None:
    """What is found in a batch whose loss was called like this."""
    asked = {**dict.fromkeys(Inputs.options), **options}
    heard = LossCalls(calls, frozenset(embedded))
    return _described(Inputs, batch, heard, SimpleNamespace(**asked))


def against(place: Place) -> LossCall:
    """A loss whose target is there."""
    return LossCall("mse_loss", torch.zeros(8, 1), torch.zeros(8, 1), (8, 1), place=place)


X, Y = torch.randn(8, 5), torch.arange(8)


class Pair(NamedTuple):
    """A batch as a named tuple."""

    image: torch.Tensor
    target: torch.Tensor


@dataclass
class Sample:
    """A batch as a dataclass."""

    image: torch.Tensor
    label: torch.Tensor


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        (X, ["batch"]),
        ((X, Y), ["batch[0]"]),
        ([X, Y], ["batch[0]"]),
        ({"image": X, "label": Y}, ["batch['image']"]),
        ({"image": X, "idx": Y, "lengths": Y, "mask": X > 0}, ["batch['image']"]),
        ({"input_ids": Y.expand(5, 8).T, "attention_mask": X, "labels": Y}, ["batch['input_ids']"]),
        (Pair(X, Y), ["batch.image"]),
        (Sample(X, Y), ["batch.image"]),
        ({"a": (X, Y), "b": (X + 1, Y)}, ["batch['a'][0]", "batch['b'][0]"]),
        ((X, X + 1), ["batch[0]", "batch[1]"]),
        ({"x": X, "edge_index": torch.zeros(2, 9)}, None),
        ({"name": "a"}, None),
    ],
)
def test_inputs_are_what_is_no_target_mask_length_or_number(batch, names) -> None:
    """Whatever the structure of the batch is."""
    inputs = found(batch)
    assert (inputs and [str(one) for one in inputs.places]) == names


def test_the_loss_tells_targets_that_no_name_tells() -> None:
    """The second image of a pair is a target if the loss compares with it, else an input."""
    second = Place().item(1)
    assert len(found((X, X + 1)).places) == 2
    inputs = found((X, X + 1), against(second))
    assert inputs.places == (Place().item(0),)
    assert inputs.target == second


@pytest.mark.parametrize(
    ("batch", "calls"),
    [
        ((X[0], Y[0]), ()),
        ({"image": X, "label": Y[0]}, ()),
        (X[0], (against(Place()),)),
    ],
)
def test_a_single_sample_is_no_batch(batch, calls) -> None:
    """What comes without a batch has one answer, or is restored value by value."""
    assert found(batch, *calls) is None


@pytest.mark.parametrize(
    "batch",
    [
        (X.to_sparse(), Y),
        (["a text"] * 8, torch.eye(8)),
        {"text": ["a text"] * 8, "label": Y},
        (nn.utils.rnn.pack_sequence(list(X.unsqueeze(1))), Y),
    ],
)
def test_inputs_may_be_no_tensors_of_samples(batch) -> None:
    """Labels that come with text, with something sparse or with packed sequences are no inputs."""
    assert found(batch) is None
    assert found(batch, against(Place().item(1))) is None


def test_what_is_to_be_restored_is_an_input() -> None:
    """An autoencoder's target is its input; the labels beside it are neither."""
    assert found((X, Y), against(Place().item(0))).places == (Place().item(0),)
    assert found(X, against(Place())).places == (Place(),)


def test_samples_may_come_second() -> None:
    """Where time comes first, the number of targets tells where the samples are."""
    inputs = found((torch.randn(20, 8, 3), Y))
    assert inputs.axes == (1,)
    assert inputs.read_main((torch.randn(20, 6, 3), Y[:6])).shape == (6, 20, 3)


def test_offsets_are_no_samples() -> None:
    """Where the words of all texts lie end to end, what tells where each begins is none of them."""
    words, begins = torch.arange(50), torch.arange(8) * 6
    first = Place().item(0)
    assert found((Y, words, begins), against(first)) is None
    assert found((Y, begins), against(first)).places == (Place().item(1),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_key": "images"}, r"input_key='images' is no tensor .* are: image, label, n, id\."),
        (
            {"target_key": 4},
            r"target_key=4 is no tensor of the batch\. Its tensors are: image, label",
        ),
        ({"target_key": "note"}, "target_key='note' is no tensor"),
        ({"target_fn": lambda batch: batch["y"]}, r"target_fn raised KeyError\('y'\)"),
        ({"target_fn": lambda batch: batch["note"]}, "target_fn must return a tensor, got str"),
        ({"target_fn": "label"}, "target_fn raised TypeError"),
        ({"sample_id_key": "ids"}, r"sample_id_key='ids' is no tensor .* label, n, id\."),
        ({"sample_id_key": "n"}, "sample_id_key='n' is a single number"),
    ],
)
def test_an_option_that_points_nowhere_is_told(options, message: str) -> None:
    """With what was given, and what is there."""
    batch = {"image": X, "label": Y, "n": torch.tensor(8), "id": torch.arange(8), "note": "none"}
    with pytest.raises(Misconfiguration, match=message):
        found(batch, **options)


def test_an_action_is_no_target() -> None:
    """What Q-learning picks scores by is neither input nor target; a label that is, is one."""
    q, action = torch.randn(8, 2, requires_grad=True), torch.randint(2, (8,))
    picked = LossCall("gather", q, action, (8, 2), {"dim": 1}, place=Place().item("action"))
    inputs = found({"state": X, "action": action, "next": X.clone()}, picked)
    assert inputs.target is None
    assert Place().item("action") not in inputs.places
    named = replace(picked, place=Place().item("label"))
    assert found({"state": X, "label": action}, named).target == named.place


def test_what_is_asked_for_is_what_is_found() -> None:
    """Among tensors that nobody could tell apart otherwise."""
    batch = {"a": X, "b": X.clone(), "c": Y, "d": Y.clone()}
    assert found(batch, input_key="b").main == Place().item("b")
    assert found(batch, target_key="d").target == Place().item("d")
    assert found(batch, target_fn=lambda batch: batch["d"]).target == Place().item("d")
    assert (found(batch, target_fn=lambda batch: batch["d"] + 1).target.read(batch) == Y + 1).all()
    named = found(batch, sample_id_key="c")
    assert named.fingerprints(batch, WEIGHTS).tolist() == marks(Y)


def test_the_suite_hands_its_keys_to_the_detector() -> None:
    """Numbers of samples tell augmented copies from new samples."""
    x, y = digits(256)
    seed()
    numbers = torch.arange(256) % 128
    data = DataLoader(TensorDataset(x, y, numbers), batch_size=32, shuffle=True)

    class Noisy(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[:2], batch_idx)

        validation_step = training_step

    suite = NNDebug(select=["INP203"], sample_id_key=2)
    held = DataLoader(TensorDataset(x + 0.1 * torch.randn_like(x), y, numbers), batch_size=32)
    fit(Program(Noisy(), data, held, trainer={"max_epochs": 1}), suite)
    assert [one.code for one in suite.findings] == []  # all of the data: on purpose
    half = DataLoader(TensorDataset(x[:64] + 0.1, y[:64], numbers[:64]), batch_size=32)
    suite = NNDebug(select=["INP203"], sample_id_key=2)
    fit(Program(Noisy(), data, half, trainer={"max_epochs": 1}), suite)
    assert [one.code for one in suite.findings] == ["INP203"]


# -- fingerprints

WEIGHTS = new_weights()


def marks(x: torch.Tensor) -> list[int]:
    """Fingerprints of a batch of one tensor."""
    return Inputs((Place(),), (0,), Place()).fingerprints(x, WEIGHTS).tolist()


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.uint8,
        torch.int64,
        torch.bool,
        torch.complex64,
    ],
)
def test_equal_samples_and_no_others_have_equal_fingerprints(dtype) -> None:
    """In every dtype, whatever the batch that they are in."""
    x = torch.randint(0, 9, (2000, 30)).to(dtype)
    both = torch.cat([x, x[:7]])
    own = marks(both)
    assert own[2000:] == own[:7]
    assert len(set(marks(x))) == len({tuple(row) for row in x.tolist()})
    assert marks(x[5:6]) == own[5:6]


def test_memory_formats_do_not_change_a_fingerprint_from_batch_to_batch() -> None:
    """And large samples are told apart by a part of their values."""
    x = torch.randn(6, 3, 90, 91)
    assert len(set(marks(x))) == 6
    last = x.to(memory_format=torch.channels_last)
    assert marks(last)[:2] == marks(last[:2])


def test_fingerprints_may_be_made_of_several_batches_at_once() -> None:
    """They are what each batch would get by itself, whatever their forms."""
    batches = [torch.randn(4, 5), torch.randn(3, 5), torch.randn(4, 6), torch.randn(2**15, 2)]
    roll = _Roll(Inputs((Place(),), (0,), Place()))
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=0))
    roll.batches = FIRST
    for number, batch in enumerate(batches):
        trainer.fit_loop.total_batch_idx = number
        roll.hear(Moment("on_train_batch_start", trainer, None, number, None, None, batch=batch))
    assert roll._marks() == [mark for batch in batches for mark in marks(batch)]


def test_a_blank_sample_has_no_fingerprint() -> None:
    """A constant is no evidence that two samples are the same."""
    assert marks(torch.tensor([[0.0, 0.0], [3.0, 3.0], [0.0, 3.0]]))[:2] == [-1, -1]
    assert marks(torch.tensor([[0.0], [3.0]])) != [-1, -1]
    assert marks(torch.tensor([[0.0, 0.0], [1.0, -2.0]]) * 0) == [-1, -1]


def test_fingerprints_draw_no_random_number() -> None:
    """The global generator stays where it was."""
    before = torch.get_rng_state()
    marks(X)
    new_weights()
    assert torch.equal(before, torch.get_rng_state())


def test_a_sketch_stays_small_and_keeps_the_same_samples_everywhere() -> None:
    """Of two sets, it keeps the common ones in both."""
    one, other = _Sketch(), _Sketch()
    many = marks(torch.randn(150_000, 2))
    one.add(many)
    other.add(many[:10])
    assert len(one.marks) <= 2**16
    assert {mark for mark in other.marks if one.keeps(mark)} <= one.marks


def test_what_is_kept_is_bounded_as_the_docstring_says() -> None:
    """The fingerprints of many samples with labels, the rows, and the variances of batches."""
    roll, peak = _Roll(Inputs((Place(),), (0,), Place())), 0
    bits = random.Random(0).getrandbits
    tracemalloc.start()
    for _ in range(130_000 // 256):
        roll.add([bits(62) for _ in range(256)], [j % 10 for j in range(256)], 0.0)
        peak = max(peak, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    batch = _values(torch.randn(8, 3, 224, 224), torch.arange(8))
    table = _moments([batch])[0][1]
    kept = (
        _BATCHES * table.nbytes + _TOGETHER * 4 * _LARGE + 3 * 2 * 4 * _ROWS * _FEATURES
    )  # pooled, told, and told before
    assert (peak <= 25e6, peak + kept <= 40e6) == (True, True), (peak, kept)
    assert "40 MB at most" in InputDetector.__doc__


def test_agreement_is_added_up_in_little_space() -> None:
    """However many batches there are."""
    known: list[torch.Tensor] = []
    for _ in range(1000):
        known = _joined(known, [torch.ones(3)])
    assert len(known) <= 64
    assert torch.stack(known).sum(0).tolist() == [1000.0] * 3


# -- the same again and again

SAMPLES = Samples("batch[0]", 32, 40, pairs=39, seen=1280, distinct=1280, often={1: 1280})
KINDS = {"seen": 40, "distinct": 4, "often": {10: 4}}  # four categories
LOADER = TrainLoader("RandomSampler", True, False, 5000, collates=True)
VALIDATION = Overlap(seen=400, distinct=400, known=0, trained=64, repeats=0, look=1)
FEW = replace(SAMPLES, distinct=64, overlap=VALIDATION)  # two batches that take turns


def torch_rand(*shape: int) -> torch.Tensor:
    """Uniform values that are always the same."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def fired(rule, *values) -> bool:
    """Whether a rule says something."""
    return bool(list(rule(*values)))


@pytest.mark.parametrize(
    ("samples", "sick"),
    [
        (replace(SAMPLES, alike=8), True),
        (replace(SAMPLES, alike=8, blank=8), True),
        (replace(SAMPLES, alike=7), False),  # environments that have just been reset
        (replace(SAMPLES, size=4, alike=20, blank=20), False),  # most slices of a scan are black
        (replace(SAMPLES, size=4, alike=32, blank=32), True),
        (SAMPLES, False),
    ],
)
def test_constant_input(samples: Samples, sick: bool) -> None:
    """Samples must all be the same, for many batches in a row."""
    assert fired(InputDetector().constant_input, samples, Doubles()) == sick


@pytest.mark.parametrize(
    ("columns", "options", "sick"),
    [
        ([0, 1, 4], {}, True),
        ([0, 1], {}, False),  # sensors that show nothing
        ([2, 3, 4], {}, False),  # the table was made wider
        ([0, 1, 3, 4], {}, False),
        ([0, 1, 4], {"train": (torch_rand(400, 5) - 0.7).relu()}, False),  # counts of words
        ([0, 1, 4], {"labels": None}, False),  # the state of a robot in a plane
        ([0, 1, 4], {"is_image": True}, False),
    ],
)
def test_columns_that_were_never_filled(columns: list[int], options, sick: bool) -> None:
    """Most columns are 0 in all samples, and the others never without cause."""
    given = {"train": torch_rand(400, 5), "labels": torch.arange(400.0), **options}
    given["train"] = given["train"].index_fill(1, torch.tensor(columns), 0.0)
    found = list(InputDetector().constant_input(SAMPLES, Doubles(Rows("x", "y", **given))))
    assert [one.severity for one in found] == [Severity.INFO] * sick  # a triangle looks like this


def test_blank_batches_do_not_repeat_each_other() -> None:
    """Two of them say nothing of the loader; two others that are equal do."""
    blank, other = torch.zeros(4, 9), torch_rand(4, 9)
    for batch, same in ((blank, 0), (other, 9)):
        roll = _Roll(Inputs((Place(),), (0,), Place()))
        for _ in range(10):
            roll.add(marks(batch), None, float(batch[0, 0]))
        assert (roll.pairs, roll.same) == (9, same)


@pytest.mark.parametrize(
    ("samples", "loader", "sick"),
    [
        (replace(SAMPLES, same=39), LOADER, True),
        (replace(SAMPLES, same=19), LOADER, True),  # two workers with the same data
        (replace(SAMPLES, same=5), LOADER, False),
        (replace(SAMPLES, same=39), replace(LOADER, collates=False), False),  # [batch] * 40
        (replace(SAMPLES, same=39), replace(LOADER, samples=32), False),  # all data in one batch
        (replace(SAMPLES, same=5, pairs=5), LOADER, False),
        (replace(SAMPLES, same=39, alike=40), LOADER, False),  # that is INP101
        (FEW, replace(LOADER, collates=False), True),  # what validation has, is not shown
        (FEW, replace(LOADER, samples=None, is_stream=True), True),
        (replace(FEW, same=39), replace(LOADER, samples=None, collates=False), False),
        (FEW, replace(LOADER, samples=64), False),  # that is all there is
        (replace(FEW, seen=256), LOADER, False),
        (replace(FEW, overlap=replace(VALIDATION, distinct=128)), LOADER, False),
        (replace(FEW, overlap=None), LOADER, False),
        (replace(SAMPLES, size=1, same=18, **KINDS), LOADER, False),  # four kinds, one at a time
        (replace(SAMPLES, size=1, same=39, **KINDS), LOADER, True),  # sorted by kind, or stuck
        (replace(SAMPLES, size=4, same=39, **KINDS), LOADER, True),
    ],
)
def test_repeated_batch(samples: Samples, loader: TrainLoader, sick: bool) -> None:
    """A batch that holds all the data, or that the user hands over ready-made, may come again."""
    assert fired(InputDetector().repeated_batch, samples, loader) == sick


DOUBLED = replace(SAMPLES, is_whole=True, distinct=640, often={2: 640})
JOINED = replace(DOUBLED, often={1: 320, 3: 320}, steady=0.99)


@pytest.mark.parametrize(
    ("samples", "loader", "sick"),
    [
        (DOUBLED, LOADER, False),  # repeated, for longer epochs
        (replace(DOUBLED, steady=1.0), LOADER, False),
        (replace(DOUBLED, often={1: 320, 3: 320}), LOADER, False),  # drawn at random, perhaps
        (replace(DOUBLED, often={1: 320, 3: 320}, steady=0.99), LOADER, True),
        (replace(DOUBLED, often={1: 320, 3: 320}, steady=0.5), LOADER, False),
        (replace(JOINED, by_class={0: 1.0, 1: 9.0}), LOADER, False),  # a rare class, on purpose
        (replace(JOINED, by_class={0: 2.0, 1: 2.0}), LOADER, True),
        (JOINED, replace(LOADER, replaces=True), False),
        (JOINED, replace(LOADER, replaces=None), False),
        (JOINED, replace(LOADER, collates=False), False),
        (replace(JOINED, is_whole=False), LOADER, False),
        (replace(JOINED, distinct=1200), LOADER, False),
    ],
)
def test_duplicate_samples(samples: Samples, loader: TrainLoader, sick: bool) -> None:
    """Copies must be in the data, and nobody may have chosen them."""
    doubles = Doubles(Rows("batch[0]", "", torch_rand(300, 5)))
    assert fired(InputDetector().duplicate_samples, samples, loader, doubles) == sick


@pytest.mark.parametrize(
    ("share", "told_by_label", "options", "sick"),
    [
        (0.5, False, {}, True),
        (0.5, True, {}, False),  # nothing is to be seen, and the label says so
        (0.1, False, {}, False),
        (1.0, False, {}, False),  # a matter of INP101
        (0.5, False, {"is_class": False}, False),
        (0.5, False, {"labels": None}, False),
        (0.5, False, {"blank": None}, False),  # other inputs may tell them apart
        (0.5, False, {"train": (torch_rand(400, 3) > 0.5).float()}, False),
    ],
)
def test_blank_samples_are_copies(share: float, told_by_label: bool, options, sick: bool) -> None:
    """Unless their labels tell that there is nothing to be seen."""
    blank = torch.arange(400) * 7 % 400 < share * 400
    labels = torch.arange(400.0).remainder(5)
    labels = labels.masked_fill(blank, 9) if told_by_label else labels
    rows = Rows("batch[0]", "batch[1]", torch_rand(400, 5), labels, is_class=True, blank=blank)
    loads = InputDetector().duplicate_samples(JOINED, LOADER, Doubles(replace(rows, **options)))
    assert any("blank" in one.message for one in loads) == sick


@pytest.mark.parametrize(
    ("rows", "distinct"),
    [
        (torch_rand(300, 3), True),
        (torch_rand(300, 1), True),
        (digits(300)[0], True),
        ((3 * torch_rand(300, 4)).round(), False),
        ((torch_rand(300, 30) < 0.1).float(), False),
        (F.one_hot(torch.arange(300) % 5).float(), False),
        (torch.zeros(300, 4), False),
    ],
)
def test_rows_of_few_categories_repeat_by_nature(rows: torch.Tensor, distinct: bool) -> None:
    """They have near copies as well; images and continuous columns have not."""
    assert are_distinct(rows) == distinct
    loads = InputDetector().duplicate_samples(JOINED, LOADER, Doubles(Rows("batch[0]", "", rows)))
    assert bool(list(loads)) == distinct


def read(loader) -> TrainLoader:
    """What a loader says of itself."""
    combined = SimpleNamespace(flattened=[loader])
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(_combined_loader=combined))
    return TrainLoader.take(SimpleNamespace(trainer=trainer), SimpleNamespace())


def test_drawing_with_replacement_and_repeated_data_sets_are_known() -> None:
    """What the loader says of itself."""
    data = TensorDataset(X, Y)
    assert read(DataLoader(data, shuffle=True)).shuffles is True
    assert read(DataLoader(data)).shuffles is False
    assert read(DataLoader(data, sampler=RandomSampler(data, replacement=True))).replaces is True
    assert read(DataLoader(ConcatDataset([data] * 3), shuffle=True)).replaces is True
    assert read(DataLoader(data, batch_sampler=[[0, 1], [2]])).shuffles is None
    assert read([(X, Y)]) == TrainLoader("list")


def test_a_data_set_of_batches_does_not_tell_how_many_samples_it_has() -> None:
    """Unlike one that is asked for several samples at once."""
    batches = [(X[:2], Y[:2]), (X[2:4], Y[2:4])] * 5
    assert read(DataLoader(batches, batch_size=None)).samples is None
    assert read(DataLoader(batches, batch_size=None, shuffle=True)).samples is None
    data = TensorDataset(X, Y)
    several = BatchSampler(RandomSampler(data), 4, drop_last=False)
    assert read(DataLoader(data, sampler=several, batch_size=None)).samples == len(X)
    drawn = RandomSampler(batches[:2], replacement=True, num_samples=40)
    assert read(DataLoader(batches[:2], sampler=drawn, batch_size=None)).samples == 2


# -- scale


def layer(x: torch.Tensor, **options) -> FirstLayer:
    """A linear layer that gets this."""
    made = FirstLayer(
        name="net.0", kind="Linear", is_weighing=True, is_normed=False, place="batch[0]",
        shape=tuple(x.shape), origin=tuple(x.shape), is_reinterpreted=False, features=x.shape[-1],
        low=float(x.min()), high=float(x.max()), means=tuple(x.mean(0).tolist()),
        deviations=tuple(x.std(0).tolist()),
    )  # fmt: skip
    return replace(made, **options)


def first(*layers: FirstLayer, **options) -> FirstLayers:
    """What a net with these first layers was given."""
    return replace(
        FirstLayers(layers, None, (), carries_state=False, samples=32, looks=1), **options
    )


U = torch_rand(64, 6)
LARGE = torch.tensor([1.0, 1, 1, 1, 1, 900])


@pytest.mark.parametrize(
    ("one", "sick"),
    [
        (layer(255 * U), True),
        (layer(LARGE * U), True),
        (layer(U / 255), True),
        (layer(2005 + 10 * U), True),
        (layer(255 * U, is_normed=True), False),
        (layer(255 * U, is_weighing=False), False),
        (layer(U), False),
        (layer(16 * U), False),
        (layer((U > 0.99).float()), False),
        (layer(0 * U), False),
        (layer(torch.full((4, 2), float("nan"))), False),
        (layer((U - 123) / 58, kind="Conv2d"), True),  # units of 0..255, for images of 0..1
        (layer((U - 123) / 58), False),
        (layer((255 * U - 123) / 58, kind="Conv2d"), False),
        (layer(torch.cat([U, U - 123], 1) / 58, kind="Conv2d"), False),  # one channel is not
        (layer(0 * U + 0.3, kind="Conv2d"), False),  # blank
    ],
)
def test_unscaled_input(one: FirstLayer, sick: bool) -> None:
    """Only what weighs its input suffers from its scale; a norm takes care of it."""
    assert fired(InputDetector().unscaled_input, first(one)) == sick


def test_only_the_norm_of_a_pretrained_net_knows_better() -> None:
    """One that is new has nothing to compare with, and one that is freed will follow new data."""
    rule, none = InputDetector().pretrained_mismatch, Processor()
    norm = FirstNorm("net.1", was_fresh=False, shift=0.4, ratio=1.3)
    assert not fired(rule, first(norm=norm), none)
    assert not fired(rule, first(), none)
    assert fired(rule, first(norm=replace(norm, shift=3.0)), none)
    assert fired(rule, first(norm=replace(norm, ratio=0.2)), none)
    assert not fired(rule, first(norm=replace(norm, ratio=90.0, was_fresh=True)), none)
    assert not fired(rule, first(norm=replace(norm, shift=3.0, thaws=True)), none)


class ImageProcessor:
    """Has what an image processor of Hugging Face has."""

    def __init__(self, *, do_normalize: bool = True) -> None:
        self.image_mean, self.image_std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        self.do_normalize = do_normalize

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in (self.image_mean, self.image_std))
        return (images - mean) / std


class Patches(pl.LightningModule):
    """A small vision transformer's beginning, which has no running statistics."""

    def __init__(self, *, is_trained: bool, **options) -> None:
        super().__init__()
        self.processor = ImageProcessor(**options)
        self.patches, self.norm, self.head = (
            nn.Conv2d(3, 8, 4, 4),
            nn.LayerNorm(8),
            nn.Linear(8, 10),
        )
        if is_trained:
            nn.init.normal_(self.norm.weight, 1, 0.1)

    def training_step(self, batch, batch_idx):
        tokens = self.patches(batch[0]).flatten(2).mT
        return F.cross_entropy(self.head(self.norm(tokens).mean(1)), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


PIXELS = torch_rand(96, 3, 16, 16)
NORMALIZE = ImageProcessor()


@pytest.mark.parametrize(
    ("module", "images", "fix"),
    [
        (Patches(is_trained=True), NORMALIZE(PIXELS), ""),
        (Patches(is_trained=True), PIXELS, "self.processor"),
        (Patches(is_trained=True), NORMALIZE(NORMALIZE(PIXELS)), "once"),
        (Patches(is_trained=True), 2 * PIXELS - 1, ""),  # another one, which may be right
        (Patches(is_trained=True), NORMALIZE(PIXELS) + torch.randn(96, 3, 16, 16), ""),
        (Patches(is_trained=True), NORMALIZE(0.3 * PIXELS), ""),
        (Patches(is_trained=True, do_normalize=False), PIXELS, ""),
        (Patches(is_trained=False), PIXELS, ""),
    ],
)
def test_an_image_processor_knows_what_a_pretrained_net_expects(module, images, fix: str) -> None:
    """Also where no norm does; a net that is new may learn from whatever it gets."""
    detector = InputDetector(select=["INP105"])
    train = loader(images, torch.arange(96) % 10)
    fit(Program(module, train, trainer={"max_epochs": 3}), detector)
    assert [fix in one.fixes[0] for one in detector.findings] == [True] * bool(fix)


@pytest.mark.parametrize("module", ["torchvision.models", "torchvision.transforms._presets"])
def test_torchvision_says_how_its_weights_were_trained(module: str) -> None:
    """By the transforms that the weights bring along, or by these themselves."""
    kind = type("Preset", (), {"__module__": "torchvision.transforms._presets"})
    preset = kind()
    preset.mean, preset.std = [0.5], [0.2]
    weights = type(
        "Weights", (), {"__module__": module, "meta": {}, "transforms": lambda _: preset}
    )
    given = weights() if module.endswith("models") else preset
    assert _normalization(given) == ((0.5,), (0.2,))
    assert _normalization(SimpleNamespace(mean=[0.5], std=[0.2])) is None


# -- axes

IMAGES = layer(U, kind="Conv2d", shape=(8, 3, 20, 24), origin=(8, 20, 24, 3), is_reinterpreted=True)


@pytest.mark.parametrize(
    ("one", "sick"),
    [
        (IMAGES, True),
        (replace(IMAGES, is_reinterpreted=False), False),  # permuted
        (replace(IMAGES, shape=(8, 1, 20, 24), origin=(8, 20, 24, 1)), False),
        (replace(IMAGES, shape=(8, 28, 28, 1), origin=(8, 28, 28, 1)), True),
        (replace(IMAGES, shape=(8, 64, 128, 1), origin=(8, 64, 128, 1)), False),  # a signal
        (replace(IMAGES, shape=(8, 3, 24, 24), origin=(8, 1728)), False),
        (replace(IMAGES, kind="Linear"), False),
    ],
)
def test_images_with_their_channels_last(one: FirstLayer, sick: bool) -> None:
    """A view of what is not a permutation, or rows that are taken for channels."""
    assert fired(InputDetector().swapped_axes, Axes("x", first(one), None)) == sick


@pytest.mark.parametrize(
    ("batch_first", "shape", "sick"),
    [
        (False, (32, 20, 5), True),
        (True, (20, 32, 5), True),
        (True, (32, 20, 5), False),
        (False, (20, 32, 5), False),
        (False, (32, 32, 5), False),  # nobody can tell
        (True, (64, 32, 5), False),  # two views of 32 samples, 32 points in time
        (True, (1, 32, 5), False),
    ],
)
def test_sequences_with_samples_for_time(batch_first: bool, shape, sick: bool) -> None:
    """Where the samples are, and where the module takes them."""
    one = Recurrent("net.lstm", "LSTM", batch_first, shape)
    assert fired(InputDetector().swapped_axes, Axes("x", first(recurrent=(one,)), None)) == sick


@pytest.mark.parametrize(
    ("origin", "shape", "sick"),
    [
        ((32, 20, 6), (32, 6, 20), True),
        ((32, 20, 6), (20, 32, 6), True),
        ((32, 12), (12, 32), True),
        ((32, 20, 6), (32, 120), False),
        ((32, 20, 1), (32, 1, 20), False),  # which is the same as a transposition
        ((32, 20, 20), (32, 20, 20), False),
        ((32, 4, 8, 6), (32, 8, 4, 6), False),  # heads, perhaps
        ((32, 6, 3, 8, 8), (32, 3, 6, 8, 8), True),  # clips
    ],
)
def test_a_view_is_no_transposition(origin, shape, sick: bool) -> None:
    """The same sizes in another order, while the numbers lie as they were."""
    kind = "Conv3d" if len(shape) > 4 else "Conv1d"
    one = layer(U, kind=kind, shape=shape, origin=origin, is_reinterpreted=True)
    for made, expected in ((one, sick), (replace(one, is_reinterpreted=False), False)):
        axes = Axes("x", first(made), None)
        assert fired(InputDetector().swapped_axes, axes) == expected


@pytest.mark.parametrize(
    ("train", "validation", "sick"),
    [
        ([(20, 24)], [(24, 20)], True),
        ([(20, 24)], [(20, 24)], False),
        ([(24, 24)], [(24, 24)], False),
        ([(20, 24)], [(28, 20)], False),
        ([(20, 24), (24, 20)], [(24, 20)], False),  # landscapes and portraits
        ([(20, 24)], [(24, 20), (20, 24)], False),
    ],
)
@pytest.mark.parametrize("is_last", [False, True], ids=["channels first", "channels last"])
def test_height_and_width_that_are_exchanged(train, validation, sick: bool, is_last: bool) -> None:
    """Only where each set has one size can it be known, and it is known in the first epoch."""
    seed()

    def batches(sizes):
        images = [torch.randn(8, 3, *size) for size in sizes for _ in range(3)]
        images = [x.movedim(1, -1) for x in images] if is_last else images
        return DataLoader([(x, torch.randint(10, (8,))) for x in images], batch_size=None)

    class Pooled(Classifier):
        def forward(self, x):
            return self.net(x.movedim(-1, 1) if is_last else x)

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    detector = InputDetector(select=["INP104"])
    options = {"max_epochs": 1}
    fit(Program(Pooled(net), batches(train), batches(validation), trainer=options), detector)
    assert [one.code for one in detector.findings] == ["INP104"] * sick


def waves(features: int, *, common: bool = False) -> Tensor:
    """Series (N, 48, features), each feature with waves of its own, or all with the same."""
    phase = 6.3 * torch.rand(320, 1, 1 if common else features)
    series = torch.sin(torch.arange(48)[:, None] / 3 + phase)
    return series + 0.3 * torch.randn(320, 48, features)


class SequenceReader(Classifier):
    """Reads sequences, and says one of ten things about the whole."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.head = nn.LazyLinear(10)
        self.head(torch.zeros(1, 8))

    def forward(self, x):
        x = self.net(x)
        return self.head(x[0].mean(1) if isinstance(x, tuple) else x.mean(2))


def convolution(channels: int, size: int = 3) -> nn.Module:
    return nn.Conv1d(channels, 8, size, padding=1)


def recurrent(features: int) -> nn.Module:
    return nn.GRU(features, 8, batch_first=True)


@pytest.mark.parametrize(
    ("layer", "make", "sick"),
    [
        (lambda: convolution(48), lambda: waves(6), True),
        (lambda: convolution(48), lambda: waves(6, common=True), True),
        (lambda: convolution(48), lambda: waves(1), True),
        (lambda: recurrent(48), lambda: waves(6).mT, True),
        (lambda: convolution(6), lambda: waves(6).mT, False),
        (lambda: recurrent(6), lambda: waves(6), False),
        (lambda: recurrent(48), lambda: waves(1).mT, False),  # in one step
        (lambda: convolution(48, 1), lambda: waves(6), False),  # features of each by itself
        (lambda: convolution(48), lambda: torch.randn(320, 48, 6), False),
        (lambda: convolution(48), lambda: torch.randn(320, 48, 6).cumsum(1).cumsum(2), False),
        (lambda: convolution(10), lambda: waves(10).mT, False),
        (lambda: recurrent(48), lambda: waves(30).mT, False),  # changes of many maturities
    ],
)
def test_sequences_are_read_along_their_order(layer: Any, make: Any, sick: bool) -> None:
    """What has no order, beside what has one, are the features, and not the steps in time."""
    seed()
    data = DataLoader(TensorDataset(make().contiguous(), torch.randint(10, (320,))), 64)
    detector = InputDetector(select=["INP104"])
    fit(Program(SequenceReader(layer()), data, trainer={"max_epochs": 1}), detector)
    assert [one.code for one in detector.findings] == ["INP104"] * sick


@pytest.mark.parametrize("colours", [3, 4])
@pytest.mark.parametrize("make", ["smooth", "grainy", "noise"])
@pytest.mark.parametrize("is_viewed", [False, True])
def test_images_that_were_read_in_the_wrong_order(colours: int, make: str, is_viewed: bool) -> None:
    """A row of an image is like the next one, not like the one after some others."""
    noise = torch_rand(32, colours, 16, 16) - 0.5
    coarse = torch.kron(torch_rand(32, 1, 4, 4) - 0.5, torch.ones(4, 4))
    x = noise + {"smooth": 4, "grainy": 1, "noise": 0}[make] * coarse
    x = x.permute(0, 2, 3, 1).reshape(x.shape) if is_viewed else x
    rows = tuple(_likeness(x, 2 * colours).tolist())
    made = layer(
        x.flatten(1), kind="Conv2d", shape=tuple(x.shape), origin=tuple(x.shape), rows=rows
    )
    sick = is_viewed and make != "noise"
    assert bool([*scrambled_images(first(made))]) == sick


@pytest.mark.parametrize("noise", [0.0, 2.0])
@pytest.mark.parametrize(("height", "width"), [(12, 20), (20, 12), (48, 64)])
def test_images_that_were_cut_into_rows_of_the_wrong_width(
    height: int, width: int, noise: float
) -> None:
    """In an image, a row ends elsewhere than the next begins, and pixels are like those below."""
    x = torch_rand(32, 1, height + 8, width + 8) - 0.5
    x = F.avg_pool2d(F.avg_pool2d(x, 5, 1), 5, 1)
    x = x + noise * x.std() * (12**0.5) * (torch_rand(*x.shape) - 0.5)

    def found(images: Tensor) -> bool:
        made = layer(images.flatten(1), kind="Conv2d", shape=tuple(images.shape))
        return bool([*askew(first(replace(made, cut=tuple(_cut(images, made).tolist()))))])

    assert not found(x)
    assert found(x.reshape(32, 1, width, height))
    assert not found(torch_rand(32, 1, height, width))
    assert not found(x.mean(2, keepdim=True).expand_as(x) + 0.01 * torch_rand(*x.shape))  # stripes


def test_what_oscillates_in_time_is_cut_rightly() -> None:
    """Channels by time, with a period of just as many points as there are channels."""
    time, phase = torch.arange(66.0), 6.28 * torch_rand(32, 1, 22, 1)
    x = torch.sin(6.2832 / 22 * time + phase) + torch_rand(32, 1, 22, 66)
    made = layer(x.flatten(1), kind="Conv2d", shape=tuple(x.shape))
    assert not [*askew(first(replace(made, cut=tuple(_cut(x, made).tolist()))))]


def test_a_beat_is_in_all_rows() -> None:
    """Where a row ends is as near to the beat as where any other one begins."""
    since = (torch.arange(128) + torch.randint(32, (32, 1, 1))) % 32
    x = (torch.exp(-since / 3) * torch_rand(32, 32, 1) + 0.3 * torch_rand(32, 32, 128))[:, None]
    made = layer(x.flatten(1), kind="Conv2d", shape=tuple(x.shape))
    assert not [*askew(first(replace(made, cut=tuple(_cut(x, made).tolist()))))]


def pooled(images: Tensor, labels: Tensor) -> Rows:
    """What is kept of an epoch of one batch."""
    first, second = Place().item(0), Place().item(1)
    pool = _Pool(Inputs((first,), (0,), first, second))
    trainer: Any = SimpleNamespace(num_training_batches=1)
    moment = Moment("on_train_batch_start", trainer, None, 0, None, None, batch=(images, labels))
    pool.hear(moment)
    return pool.told()


@pytest.mark.parametrize("turn", [None, "mT", "flip"])
@pytest.mark.parametrize("form", ["one channel", "class numbers", "shares"])
def test_masks_that_lie_beside_what_they_mark(turn: str | None, form: str) -> None:
    """A disc is bright in the image where the mask has it, and nowhere else."""
    centre = (16 * torch_rand(128, 2, 1, 1)).long() + 4
    rows, columns = torch.arange(24)[:, None], torch.arange(24)[None]
    mask = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < 9
    images = (mask + torch_rand(128, 24, 24))[:, None]
    mask = {None: mask, "mT": mask.mT, "flip": mask.flip(2)}[turn].float()
    labels = 3 * mask.long() if form == "class numbers" else mask[:, None]
    labels = labels + 0.1 * torch_rand(128, 1, 24, 24) if form == "shares" else labels
    told = pooled(images, labels)
    found = [*misplaced_masks(told)] if told.is_mask else []
    assert bool(found) == (turn is not None and form != "shares")


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("turns", [[2], [1, 2]])
@pytest.mark.parametrize("pair", [False, True])
def test_masks_that_are_mirrored_on_their_own(apart: bool, turns: list[int], pair: bool) -> None:
    """Each belongs where it is, or to the other side; one of a pair belongs to both sides."""
    seed()
    centre = torch.randint(3, 21, (400, 2, 1, 1))
    rows, columns = torch.arange(24)[:, None], torch.arange(24)[None]
    mask = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < 9).float()
    images = 2 * (mask + pair * mask.flip(2)) + torch.rand(400, 24, 24)
    for turn in turns * apart:
        own = (torch.rand(400, 1, 1) < 0.5).float()
        mask = own * mask + (1 - own) * mask.flip(turn)
    found = [*misplaced_masks(pooled(images[:, None], mask[:, None]))]
    assert bool(found) == (apart and (not pair or 1 in turns))


def test_a_mask_is_not_held_against_an_image_whose_colours_are_last() -> None:
    """What is next to each other there are columns and colours."""
    images, labels = torch_rand(8, 24, 24, 3), torch.ones(8, 1, 24, 24)
    assert pooled(images, labels).parts is None


@pytest.mark.parametrize(
    ("turn", "sick"),
    [
        (lambda x: x, False),
        (lambda x: x.mT, True),
        (lambda x: x.flip(2), True),
        (lambda x: x.rot90(1, (2, 3)), True),
        (lambda x: torch.cat([x[::2], x[1::2].flip(3)]), False),  # flips that train for more
        (lambda x: x.roll(3, 2), False),
        (lambda x: x[:40].flip(2), False),
    ],
)
def test_images_of_validation_that_are_turned(turn: Any, sick: bool) -> None:
    """On the whole they are those of training, when these are turned as well."""
    x, _ = digits(1400, image=True)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    x = F.interpolate(x, (12, 12)).repeat(1, 3, 1, 1)
    (train,), (validation,) = _planes(x[:500]), _planes(turn(x[500:900]))
    rows = Rows("batch[0]", "", torch_rand(500, 6), planes=(train, validation))
    assert bool([*turned_images(rows)]) == sick
    assert not _planes(x.movedim(1, -1))


@pytest.mark.parametrize("given", [torch.arange(4), torch.ones(0, 3, 8, 8)])
def test_what_is_no_image_has_no_likeness(given: torch.Tensor) -> None:
    """One number a sample, as an embedding gets, or no sample at all."""
    assert _likeness(given, 2 * (given.dim() - 1)).count_nonzero() == 0


# -- order


def succession(x: torch.Tensor, y: torch.Tensor | None = None) -> Succession:
    """Batches of 32."""
    parts = zip(x.split(32), [None] * 99 if y is None else y.split(32), strict=False)
    return _judged("batch[0]", _moments([_values(*part) for part in parts]))


@pytest.mark.parametrize("carries_state", [False, True])
@pytest.mark.parametrize("shuffles", [False, None, True])
def test_unshuffled_training(shuffles, carries_state: bool) -> None:
    """Order is an illness if it means something, nobody shuffles, and no state is carried on."""
    x = torch_rand(1024, 5)
    loader, net = replace(LOADER, shuffles=shuffles), first(carries_state=carries_state)
    rule = InputDetector().unshuffled_training
    assert not fired(rule, succession(x), loader, net)
    ordered = succession(x[x[:, 2].argsort()])
    assert fired(rule, ordered, loader, net) == (shuffles is False and not carries_state)


@pytest.mark.parametrize("stride", [1, 3])
def test_windows_that_slide_over_a_series_come_in_order(stride: int) -> None:
    """There it is the custom; what is merely sorted does not overlap."""
    series = torch_rand(400, 2)
    assert lag(series.unfold(0, 24, stride).transpose(1, 2).contiguous()) == 2
    assert lag(series.unfold(0, 24, stride).contiguous()) == 1
    assert lag(series[:, 0].unfold(0, 24, stride)) == 1
    assert not lag(torch_rand(32, 24).sort(0).values)


def test_an_order_of_classes_is_a_matter_of_cls103() -> None:
    """What is sorted by class is sorted by all that tells the classes apart."""
    y = torch.arange(1024) // 128
    x = torch_rand(1024, 5) + y[:, None]
    unshuffled = replace(LOADER, shuffles=False)
    assert not fired(InputDetector().unshuffled_training, succession(x, y), unshuffled, first())
    assert fired(InputDetector().unshuffled_training, succession(x, x[:, 0]), unshuffled, first())


@pytest.mark.parametrize("means_something", [False, True])
def test_sentences_are_put_in_the_order_of_their_length(means_something: bool) -> None:
    """To spare padding, that is the custom; what they are rated must not depend on it."""
    seed()
    length = torch.randint(3, 11, (800,)).sort().values
    x = torch.randint(1, 60, (800, 10)) * (torch.arange(10) < length[:, None])
    y = length * float(means_something) + torch.randn(800)

    class Rated(Classifier):
        def loss(self, x, y):
            return nn.functional.mse_loss(self(x)[:, 0], y)

    detector = InputDetector(select=["INP201"])
    train = DataLoader(TensorDataset(x, y), 32)
    fit(Program(Rated(Reader()), train, train, trainer={"max_epochs": 1}), detector)
    assert ("INP201" in [one.code for one in detector.findings]) == means_something


# -- training and validation


@pytest.mark.parametrize(
    ("overlap", "sick"),
    [
        (Overlap(200, 200, known=150, trained=1000, repeats=0, look=1), True),
        (Overlap(200, 200, known=200, trained=1000, repeats=0, look=1), True),
        (Overlap(200, 200, known=200, trained=200, repeats=0, look=1), False),  # fit(net, a, a)
        (Overlap(200, 200, known=6, trained=1000, repeats=0, look=1), True),
        (Overlap(1000, 1000, known=6, trained=9000, repeats=0, look=1), False),
        (Overlap(200, 180, known=100, trained=1000, repeats=400, look=1), False),  # categories
        (Overlap(200, 200, known=0, trained=1000, repeats=0, look=1), False),
        (Overlap(4, 4, known=4, trained=1000, repeats=0, look=1), False),
    ],
)
def test_samples_of_validation_in_training(overlap: Overlap, sick: bool) -> None:
    """What repeats by nature is in both by nature."""
    assert fired(InputDetector().train_val_overlap, Leaks("batch[0]", overlap)) == sick


def test_copies_of_continuous_rows_are_no_chance() -> None:
    """Oversampled before the split: half of all rows have a copy, in either set."""
    overlap = Overlap(200, 180, known=100, trained=1000, repeats=400, look=1)
    rows = Rows("batch[0]", "", torch_rand(300, 5))
    assert fired(InputDetector().train_val_overlap, Leaks("batch[0]", overlap, rows))
    rows = Rows("batch[0]", "", (4 * torch_rand(300, 5)).round())
    assert not fired(InputDetector().train_val_overlap, Leaks("batch[0]", overlap, rows))


@pytest.mark.parametrize(("copies", "sick"), [(0.0, True), (0.025, False), (0.4, True)])
def test_a_table_has_a_few_copies(copies: float, sick: bool) -> None:
    """A split at random parts some twins; that all copies were made before it is another matter."""
    overlap = Overlap(500, 499, known=22, trained=1900, repeats=50, look=1, copies=copies)
    overlap = overlap if copies < 0.1 else replace(overlap, known=300)
    rows = Rows("batch[0]", "", torch_rand(300, 5))
    assert fired(InputDetector().train_val_overlap, Leaks("batch[0]", overlap, rows)) == sick


@pytest.mark.parametrize(("replaces", "sick"), [(False, False), (True, True)])
def test_drawn_again_is_no_copy(replaces: bool, sick: bool) -> None:
    """What a sampler draws twice has no twin in the data that could be in validation by chance."""
    x, y = torch_rand(1000, 6), torch.randint(0, 2, (1000,))
    again = torch.arange(30)
    x, y = torch.cat([x, x[again]]), torch.cat([y, y[again]])
    order = torch.randperm(len(x))
    train, val = (TensorDataset(x[part], y[part]) for part in (order[:730], order[730:]))
    sampler = RandomSampler(train, replacement=replaces, num_samples=200 if replaces else None)
    detector = InputDetector(select=["INP203"])
    seen = DataLoader(train, 10, sampler=sampler)
    net = Classifier(nn.Linear(6, 2))
    if replaces:
        val = TensorDataset(x[order[:100]], y[order[:100]])
    fit(Program(net, seen, DataLoader(val, 30), trainer={"max_epochs": 1}), detector)
    assert ("INP203" in [one.code for one in detector.findings]) == sick


@pytest.mark.parametrize(
    ("make", "is_class", "columns"),
    [
        (lambda x, y: torch.cat([x, y[:, None]], 1), True, [5]),
        (lambda x, y: torch.cat([x, 2 * y[:, None] - 1], 1), True, [5]),
        (lambda x, y: torch.cat([x, F.one_hot(y.long()).float()], 1), True, [5, 6, 7, 8]),
        (lambda x, y: torch.cat([x, y[:, None]], 1), False, [5]),
        (lambda x, y: torch.cat([x, y[:, None] + 0.1 * x[:, :1]], 1), True, []),
        (lambda x, y: torch.cat([x, 2 * y[:, None] + 1], 1), False, []),  # a task, if an easy one
        (lambda x, y: y[:, None], True, []),
        (lambda x, y: F.one_hot(y.long()).float(), True, []),  # to be remembered
        (lambda x, y: torch.cat([0 * x, y[:, None]], 1), True, []),
        (lambda x, y: x, True, []),
        (lambda x, y: 0 * x, True, []),
    ],
)
def test_a_column_that_is_the_target(make, is_class: bool, columns: list[int]) -> None:
    """Up to scale for classes, which are but names; to the letter for values."""
    y = torch.arange(80) % 4
    assert leak(make(torch_rand(80, 5), y.float()), y.double(), is_class=is_class) == columns


@pytest.mark.parametrize(
    ("column", "beside", "labels", "sick"),
    [
        ("row", "features", "blocks", True),
        ("row", "features", "shuffled", False),  # it is in the way, and tells nothing
        ("measured", "features", "blocks", False),  # it tells the classes apart by what it is
        ("row", "curve", "blocks", False),  # a function of time
        ("row", "sensors", "blocks", False),  # what is worn out, one of which drifts
        ("row", "noise", "blocks", False),  # a dose, and nothing else counts
        ("hours", "features", "blocks", False),  # each comes several times
    ],
)
def test_the_number_of_a_row_tells_its_class(column, beside, labels, sick: bool) -> None:
    """In a file that is sorted by class, whose index is in the table."""
    place = torch.arange(900.0)
    number = {"row": place, "measured": place.square(), "hours": place // 3}[column]
    y = (torch.arange(900) // 300).double()
    curve, noise = torch.stack([place.sqrt(), place**2], 1), torch_rand(900, 3)
    features = torch.cat([noise[:, :1], noise[:, 1:] + 0.3 * y[:, None]], 1)
    drift = torch.cat([features, features.cumsum(0)[:, :1] / 10], 1)
    others = {"curve": curve, "noise": noise, "features": features, "sensors": drift}[beside]
    x = torch.cat([number[:, None] / 300 - 1, others], 1)
    y = y[torch.randperm(900)] if labels == "shuffled" else y
    order = torch.randperm(900, generator=torch.Generator().manual_seed(0))
    rows = Rows(
        "batch[0]", "batch[1]", x[order[:500]], y[order[:500]], is_class=True,
        validation=x[order[500:]],
    )  # fmt: skip
    found = [*InputDetector().train_val_overlap(Leaks("batch[0]", rows=rows))]
    assert [one.severity for one in found] == [Severity.WARNING] * sick
    assert (row_number(rows) == 0) == sick


def test_a_number_that_counts_up_to_a_limit() -> None:
    """Of two classes one may begin at a time, or a dose: that is told without a warning."""
    x, y = torch_rand(600, 4), (torch.arange(600) // 300).double()
    x[:, 0], x[:, 1] = torch.arange(600.0) / 300 - 1, x[:, 1] + y
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    leaks = Leaks("batch[0]", rows=Rows("batch[0]", "batch[1]", x[order], y[order], is_class=True))
    found = [*InputDetector().train_val_overlap(leaks)]
    assert [one.severity for one in found] == [Severity.INFO]


@pytest.mark.parametrize(
    ("foresight", "sick"),
    [
        (Foresight("batch", shift=1, change=0.5, own=0.5), True),
        (Foresight("batch", shift=1, change=1e-6, own=0.5), False),
        (Foresight("batch", shift=0, change=1e-6, own=0.5), True),  # asked for what it is given
        (Foresight("batch", shift=0, change=0.5, own=0.5), False),  # restores a whole sequence
        (Foresight("batch", shift=0, change=1e-6, own=1e-6), False),  # shifts by itself
        (Foresight("batch", shift=-1, change=1e-6, own=0.5), True),  # shifted the wrong way
    ],
)
def test_tokens_that_are_seen_ahead_of_time(foresight: Foresight, sick: bool) -> None:
    """A language model must not see the next token, and must be asked for it."""
    assert fired(InputDetector().train_val_overlap, Leaks("batch", foresight=foresight)) == sick


NOISY = torch.cat([torch.full((200, 20), -1.0), torch_rand(200, 20)], 1)


@pytest.mark.parametrize(
    ("train", "validation", "is_image", "sick"),
    [
        (U.repeat(2, 1), U, False, False),
        (torch_rand(200, 6), 2 + torch_rand(99, 6), False, True),
        (torch_rand(200, 6) - 0.5, 10 * (torch_rand(99, 6) - 0.5), False, True),
        (torch_rand(200, 6), torch_rand(99, 6) * LARGE, False, True),  # another unit
        (
            torch_rand(200, 40),
            torch_rand(99, 40) + F.one_hot(torch.tensor(3), 40) * 2,
            False,
            False,
        ),
        (NOISY + 0.3 * torch.randn(200, 40), NOISY, True, False),  # noise on a background
        (U, 9 + U[:20], False, False),
        (0 * U, 0 * U, False, False),
        (U, U[:, :3] + 9, False, False),
        (U, U.log().clamp_min(-9) * float("nan"), False, False),
    ],
)
def test_train_val_skew(train, validation, is_image: bool, sick: bool) -> None:
    """Most columns must be off, or one by very much."""
    rows = Rows("batch[0]", "", train, validation=validation, is_image=is_image)
    assert fired(InputDetector().train_val_skew, rows) == sick


@pytest.mark.parametrize(
    ("fill", "share", "in_training", "sick"),
    [
        (-9.0, 0.1, False, True),
        (-9.0, 0.01, False, False),  # a stray value
        (0.5, 0.1, False, False),  # among the others
        (-9.0, 0.1, True, False),
    ],
)
def test_gaps_are_filled_with_what_training_has_seen(fill, share, in_training, sick: bool) -> None:
    """A value that nothing in training comes near to is no chance if it comes again and again."""
    train, validation = torch_rand(400, 6), torch_rand(300, 6)
    validation[: int(300 * share), 2] = fill
    train[: int(400 * share * in_training), 2] = fill
    rows = Rows("batch[0]", "", train, validation=validation)
    assert fired(InputDetector().train_val_skew, rows) == sick
    steps = replace(rows, train=(9 * train).round(), validation=(9 * validation).round())
    assert not fired(InputDetector().train_val_skew, steps)


@pytest.mark.parametrize(
    ("columns", "labelled", "sick"), [(6, True, True), (3, True, False), (6, False, False)]
)
def test_a_column_that_validation_has_lost(columns: int, labelled: bool, sick: bool) -> None:
    """It differs from sample to sample in training; validation may be a slice, all the same."""
    train, validation = torch_rand(400, columns) - 0.5, torch_rand(300, columns) - 0.5
    labels = {"labels": train[:, 0], "validation_labels": validation[:, 0]} if labelled else {}
    rows = Rows("batch[0]", "batch[1]", train, validation=validation, **labels)
    assert not fired(InputDetector().train_val_skew, rows)
    validation[:, 1] = 0
    found = list(InputDetector().train_val_skew(rows))
    assert [one.severity for one in found] == [Severity.INFO] * sick
    train[:, 1] = train[:, 1].round()  # a few kinds, of which validation has one
    assert not fired(InputDetector().train_val_skew, rows)


@pytest.mark.parametrize(("unit", "sick"), [(1.0, False), (100.0, True), (0.02, True)])
def test_a_series_that_goes_on_is_no_skew(unit: float, sick: bool) -> None:
    """Later windows have another level; their steps are the same, unless their unit is another."""
    time = torch.arange(1000.0)
    series = 0.02 * time + (time / 4).sin()[None] + torch_rand(2, 1000) / 4
    windows = series.T.unfold(0, 24, 1).transpose(1, 2).flatten(1)
    late = Rows("batch[0]", "", windows[:800], validation=windows[824:] * unit, lag=2)
    assert fired(InputDetector().train_val_skew, late) == sick
    assert fired(InputDetector().train_val_skew, replace(late, lag=0))


# -- labels


def test_near_neighbours_tell_whether_labels_mean_anything() -> None:
    """For classes and for values; the score of random labels is that of chance."""
    x, y = digits(400)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    assert relation(x, y, is_class=True) > 20
    assert abs(relation(x, y[order], is_class=True)) < 3
    assert relation(x, x[:, 20] + x[:, 40], is_class=False) > 5
    assert abs(relation(x, (x[:, 20] + x[:, 40])[order], is_class=False)) < 3


def test_values_of_either_sign_belong_to_inputs_that_tell_their_size() -> None:
    """Their mean is the same everywhere, and their distance from it is not."""
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    signs = torch.randint(2, (400,), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    size = 1 + x[:, 0].sigmoid()
    assert relation(x, signs * size, is_class=False) > 5
    assert abs(relation(x, signs * size.flip(0), is_class=False)) < 2.5


@pytest.mark.parametrize(
    ("shuffled", "learned", "sick"),
    [
        (True, Learned(z=0.3, samples=400, worth=400, target="batch[1]"), True),
        (
            True,
            Learned(z=9.0, samples=400, worth=400, target="batch[1]"),
            False,
        ),  # a parity, at last
        (True, Learned(z=0.3, samples=100, worth=100, target="batch[1]"), True),
        (
            True,
            Learned(z=1.5, samples=100, worth=100, target="batch[1]"),
            False,
        ),  # it may well be more
        (True, Learned(z=0.3, samples=50, worth=50, target="batch[1]"), False),
        (True, Learned(z=0.3, samples=400, worth=400, target="batch[2]"), False),
        (
            False,
            Learned(z=0.3, samples=400, worth=400, target="batch[1]"),
            False,
        ),  # not learned yet
    ],
)
def test_unrelated_labels(shuffled: bool, learned: Learned, sick: bool) -> None:
    """Neither neighbours nor the net may see anything in them."""
    x, y = digits(400)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    labels = (y[order] if shuffled else y).double()
    rows = Rows("batch[0]", "batch[1]", x, labels, is_class=True)
    assert fired(InputDetector().unrelated_labels, Likeness(rows), learned) == sick


@pytest.mark.parametrize(("by", "sick"), [("features", False), ("tokens", False), ("", True)])
def test_labels_are_related_if_any_likeness_says_so(by: str, sick: bool) -> None:
    """That of raw values may say nothing, and that of tokens has none."""
    x, y = digits(400)
    noise = torch_rand(400, 64)
    features = Features(
        target="batch[1]",
        rows=tuple((x if by == "features" else noise).split(32)),
        tokens=tuple((x if by == "tokens" else noise).split(32)),
        labels=tuple(y.double().split(32)),
        is_class=True,
    )
    rows = Rows("batch[0]", "batch[1]", noise, y.double(), is_class=True)
    learned = Learned(z=0.3, samples=400, worth=400, target="batch[1]")
    for one in (Likeness(rows, features), Likeness(None, features)):
        assert fired(InputDetector().unrelated_labels, one, learned) == sick


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("loss", [F.binary_cross_entropy_with_logits, F.mse_loss])
def test_several_answers_to_a_sample_are_judged(loss, shuffled: bool) -> None:
    """Tags, or values."""
    seed()
    x = torch.randn(800, 12)
    y = x @ torch.randn(12, 5)
    y = (y > 0).float() if loss is not F.mse_loss else y / 4
    y = y[torch.randperm(800)] if shuffled else y

    class Several(Classifier):
        def loss(self, x, y):
            return loss(self(x), y)

    train = DataLoader(TensorDataset(x[:640], y[:640]), 32, shuffle=True)
    val = DataLoader(TensorDataset(x[640:], y[640:]), 32)
    detector = InputDetector()
    module = Several(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)), lr=1e-5)
    fit(Program(module, train, val, trainer={"max_epochs": 2}), detector)
    assert ("INP204" in [one.code for one in detector.findings]) == shuffled


@pytest.mark.parametrize("shuffled", [True, False])
def test_the_masks_of_other_images_are_unrelated(shuffled: bool) -> None:
    """That one corner of the images is masked more often than the other is no relation."""
    seed()
    y = (torch.randn(300, 1, 12, 12) + torch.ones(12, 12).tril() > 0.8).float()
    x = y + 0.5 * torch.randn(300, 1, 12, 12)
    y = y[torch.randperm(300)] if shuffled else y

    class Masks(Classifier):
        def loss(self, x, y):
            return F.binary_cross_entropy_with_logits(self(x), y)

    train = DataLoader(TensorDataset(x[:240], y[:240]), 16, shuffle=True)
    val = DataLoader(TensorDataset(x[240:], y[240:]), 16)
    detector = InputDetector()
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    fit(Program(Masks(net), train, val, trainer={"max_epochs": 2}), detector)
    assert ("INP204" in [one.code for one in detector.findings]) == shuffled


@pytest.mark.parametrize("shuffled", [True, False])
def test_what_is_masked_looks_different(shuffled: bool) -> None:
    """A net that has not begun to learn, and images of noise, say nothing; their places do."""
    masks = (torch_rand(300, 64) > 0.8).double()
    look = 0.3 * masks + torch_rand(300, 64)
    masks = masks.flip(0) if shuffled else masks
    rows = Rows("batch[0]", "batch[1]", torch_rand(300, 64), answers=masks, parts=look[:, None])
    learned = Learned(z=0.3, samples=400, worth=400, target="batch[1]")
    assert fired(InputDetector().unrelated_labels, Likeness(rows), learned) == shuffled


def test_one_token_for_each_sample_tells_no_likeness() -> None:
    """A user alone, of whom the batch tells what was bought: nothing is said, and nothing fails."""
    user, item = torch.randint(40, (640,)), torch.randint(30, (640,))

    class Tower(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)), lr=1e-3)
            self.user, self.item = nn.Embedding(40, 4), nn.Embedding(30, 4)

        def training_step(self, batch, batch_idx):
            user, item, y = batch
            out = self.net(torch.cat([self.user(user), self.item(item)], 1))
            return F.mse_loss(out.squeeze(1), y)

    data = DataLoader(TensorDataset(user, item, (user + item) / 70), 32, shuffle=True)
    detector = InputDetector()
    fit(Program(Tower(), data, trainer={"max_epochs": 2}), detector)
    assert "INP204" not in [one.code for one in detector.findings]


def test_labels_that_are_all_the_same_are_not_called_unrelated() -> None:
    """There is nothing that they could have to do with anything."""
    rows = Rows("batch[0]", "batch[1]", digits(400)[0], torch.full((400,), 2.5).double())
    learned = Learned(z=0.0, samples=400, worth=400, target="batch[1]")
    assert not fired(InputDetector().unrelated_labels, Likeness(rows), learned)


def test_what_is_not_finite_is_like_nothing() -> None:
    """There is nothing to be said of it."""
    x, y = digits(400)
    x[7, 20] = float("nan")
    rows = Rows("batch[0]", "batch[1]", x, y.double(), is_class=True)
    learned = Learned(z=0.3, samples=400, worth=400, target="batch[1]")
    assert not fired(InputDetector().unrelated_labels, Likeness(rows), learned)


class Reader(nn.Module):
    """Reads a sentence word by word."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(60, 16), nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, tokens):
        return self.out(self.rnn(self.embed(tokens))[1][0])


@pytest.mark.parametrize("shuffled", [True, False])
def test_labels_of_sentences_are_judged(shuffled: bool) -> None:
    """Tokens have no values, and a run may be too short to learn anything from them."""
    seed()
    y = torch.randint(4, (800,))
    x = torch.where(torch.rand(800, 10) < 0.2, torch.randint(5, (800, 10)) + 5 * y[:, None], 40)
    y = y[torch.randperm(800)] if shuffled else y
    train = DataLoader(TensorDataset(x[:640], y[:640]), 32, shuffle=True)
    val = DataLoader(TensorDataset(x[640:], y[640:]), 32)
    detector = InputDetector()
    module = Classifier(Reader(), lr=1e-5)
    fit(Program(module, train, val, trainer={"max_epochs": 2}), detector)
    assert ("INP204" in [one.code for one in detector.findings]) == shuffled


def test_agreement_has_the_variance_that_it_says() -> None:
    """Over random orders of the labels."""
    a, b = (torch.randn(40, 3) for _ in range(2))
    a, b = a - a.mean(0), b - b.mean(0)
    sums = torch.stack([_cross(a, b[torch.randperm(40)])[0] for _ in range(4000)])
    assert float(sums.var() / _cross(a, b)[1]) == pytest.approx(1.0, abs=0.1)
    assert abs(float(sums.mean() / sums.std())) < 0.1


def test_advice() -> None:
    """Few samples and much padding are told, and no more."""
    detector = InputDetector()
    few = replace(SAMPLES, is_whole=True, distinct=60, class_sizes={0: 57, 1: 3})
    assert fired(detector.too_few_samples, few)
    assert not fired(detector.too_few_samples, replace(few, class_sizes={0: 30, 1: 30}))
    assert not fired(detector.too_few_samples, replace(few, class_sizes=dict(Counter(range(60)))))
    fewer = replace(SAMPLES, epoch=1, overlap=replace(VALIDATION, trained=64, distinct=800))
    assert fired(detector.too_few_samples, fewer)
    assert not fired(detector.too_few_samples, replace(fewer, epoch=0))
    assert not fired(
        detector.too_few_samples,
        replace(fewer, overlap=replace(VALIDATION, trained=400, distinct=800)),
    )
    assert fired(detector.mostly_padding, Padding("batch['attention_mask']", 0.8))
    assert not fired(detector.mostly_padding, Padding("batch['attention_mask']", 0.4))


PADDED = 1.5 * (torch.arange(32) < torch.tensor([6, 10]).repeat(8)[:, None])


@pytest.mark.parametrize(
    ("batch", "share"),
    [
        (PADDED, 0.75),
        (PADDED.flip(1), 0.75),
        (PADDED.long(), 0.75),
        (PADDED[..., None].expand(-1, -1, 3), 0.75),
        (PADDED[:, None].expand(-1, 3, -1), 0.75),
        (PADDED.flip(1) + PADDED, None),  # zeros in the middle, as of counts that are sparse
        (F.one_hot(torch.arange(16)), None),
        (PADDED[:1].expand(16, -1), None),  # columns that are never filled
        (PADDED != 0, None),
        (torch.randn(16, 32), None),
        (torch.randn(16, 4).tril(), None),  # too short to tell
    ],
)
def test_zeros_to_the_end_of_each_sequence_are_padding(batch: Tensor, share: float | None) -> None:
    """Of different lengths, and with none among what remains; no mask is needed to see that."""
    found = Padding.take(SimpleNamespace(batch=[batch]), SimpleNamespace())  # type: ignore[arg-type]
    assert (found and round(found.share, 2)) == share


# -- whole runs


class Stream(IterableDataset):
    """Samples in order; split between the workers, or not."""

    def __init__(self, *, split: bool) -> None:
        self.x, self.y = digits(640)
        self.split = split

    def __iter__(self):
        info = get_worker_info()
        start, step = (info.id, info.num_workers) if self.split and info else (0, 1)
        yield from ((self.x[i], self.y[i]) for i in range(start, len(self.y), step))


@pytest.mark.parametrize("split", [False, True])
def test_workers_that_all_read_the_whole_stream(split: bool) -> None:
    """Every batch comes once from each worker, unless the stream is split."""
    seed()
    detector = InputDetector()
    train = DataLoader(Stream(split=split), batch_size=32, num_workers=2)
    fit(Program(Classifier(), train, trainer={"max_epochs": 1}), detector)
    assert [one.code for one in detector.findings] == ([] if split else ["INP102"])


class Whole(IterableDataset):
    """Samples in order, the same in each process, or every other one."""

    def __init__(self, *, split: bool) -> None:
        self.x, self.y = digits(640)
        self.split = split

    def __iter__(self):
        apart = self.split and torch.distributed.is_initialized()
        start = torch.distributed.get_rank() if apart else 0
        yield from zip(self.x[start :: 1 + apart], self.y[start :: 1 + apart], strict=True)


@pytest.mark.ddp
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("data", "options", "sick"),
    [
        (TensorDataset(*digits(640)), {}, False),
        (TensorDataset(*digits(640)), {"use_distributed_sampler": False}, True),
        (Whole(split=False), {"max_steps": 12}, True),
        (Whole(split=True), {}, False),
    ],
    ids=["sampler", "no sampler", "stream", "split stream"],
)
def test_processes_that_go_through_the_same_samples(data, options, sick: bool) -> None:
    """Each is to have its own; a stream is seen through long before it is over."""
    seed()
    train = DataLoader(data, batch_size=16, shuffle=None if isinstance(data, Whole) else True)
    options = {"strategy": "ddp_fork", "devices": 2, "max_epochs": 1, **options}
    detector = InputDetector(select=["INP106"], halt_on="warning")
    told = pytest.raises(Exception, match="all 2 processes go through the same samples")
    with told if sick else nullcontext():
        fit(Program(Classifier(), train), detector, **options)


def test_an_input_that_the_step_scales_is_scaled() -> None:
    """What counts is what the first layer gets."""
    x, y = digits()
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    class Scaling(Classifier):
        def forward(self, x):
            return self.net(x / 127.5 - 1)

    detector = InputDetector()
    fit(Program(Scaling(net), loader((x + 1) * 127.5, y), trainer={"max_steps": 12}), detector)
    assert not detector.findings


class Language(pl.LightningModule):
    """Predicts the next token."""

    def __init__(self, *, both_ways: bool, way: int = 1) -> None:
        super().__init__()
        self.embed, self.head, self.way = nn.Embedding(30, 16), nn.Linear(16, 30), way
        self.rnn = nn.GRU(16, 8 if both_ways else 16, batch_first=True, bidirectional=both_ways)

    def training_step(self, batch, batch_idx):
        ids, *following = batch
        logits = self.head(self.rnn(self.embed(ids))[0])
        if following:
            return F.cross_entropy(logits.reshape(-1, 30), following[0].reshape(-1))
        logits, ids = (logits[:, :-1], ids[:, 1:]) if self.way > 0 else (logits[:, 1:], ids[:, :-1])
        return F.cross_entropy(logits.reshape(-1, 30), ids.reshape(-1))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def said_of(net: Language, *data: Tensor) -> list[str]:
    """What is found while it is trained for an epoch."""
    detector = InputDetector()
    train = DataLoader(TensorDataset(*data), batch_size=16)
    fit(Program(net, train, trainer={"max_epochs": 1}), detector)
    return [one.code for one in detector.findings]


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_language_model_that_sees_the_next_token(both_ways: bool) -> None:
    """It is tried out, once, in a sandbox."""
    seed()
    ids = torch.randint(30, (256, 12))
    assert said_of(Language(both_ways=both_ways), ids) == ["INP203"] * both_ways


def test_a_language_model_that_is_asked_for_the_token_before() -> None:
    """Its step has cut the wrong end off, or its data have.

    Who is to echo begins with a blank, or repeats symbols that come at random.
    """
    seed()
    steps, net = (
        (torch.rand(256, 12) < 0.2) * torch.randint(30, (256, 12)) + 1,
        Language(both_ways=False),
    )
    ids = steps.cumsum(1) % 30
    assert said_of(Language(both_ways=False, way=-1), ids) == ["INP203"]
    assert said_of(net, ids[:, 1:], ids[:, :-1]) == ["INP203"]
    assert said_of(net, ids[:, :-1], ids[:, 1:]) == []
    assert said_of(net, ids, ids.roll(1, 1)) == []
    assert said_of(net, ids, F.pad(ids[:, :-1], (1, 0))) == []
    ids = torch.randint(30, (256, 12))
    assert said_of(Language(both_ways=False, way=-1), ids) == []
    assert said_of(net, ids[:, 1:], ids[:, :-1]) == []


@pytest.mark.parametrize("is_class", [False, True])
@pytest.mark.parametrize("own", [True, False])
def test_a_mean_of_targets_that_holds_the_own_one(is_class: bool, own: bool) -> None:
    """It tells much in training and nothing in validation, where all others tell as much."""
    draws = torch.Generator().manual_seed(0)
    x, group = torch.randn(4000, 4, generator=draws), torch.arange(4000) % 1500
    y = x[:, 0] - x[:, 1] + torch.randn(4000, generator=draws)
    y = (y > 1).float() if is_class else y
    known = y * (torch.arange(4000) < 3000)
    total = torch.zeros(1500).index_add(0, group, known)[group]
    mean = (total if own else total - known) / 2
    x = torch.cat([x, mean[:, None]], dim=1)
    rows = Rows(
        "batch[0]", "batch[1]", x[:512], y[:512].double(), is_class=is_class,
        validation=x[3000:3400], validation_labels=y[3000:3400].double(),
    )  # fmt: skip
    found = [*_told_in_training(Leaks("batch[0]", rows=rows))]
    assert [one.where for one in found] == ["batch[0] column 4"] * own
    assert all(one.severity is Severity.WARNING for one in found)  # no copy: not a fact
    # A world that has changed: all that is told may be told otherwise now.
    moved = replace(rows, validation=x[3000:3400] + 0.8)
    assert not [*_told_in_training(Leaks("batch[0]", rows=moved))]
    order = y[3000:3400].argsort()  # one stretch of a series tells of no other
    series = replace(rows, validation=x[3000:3400][order])
    series = replace(series, validation_labels=y[3000:3400][order].double())
    assert not [*_told_in_training(Leaks("batch[0]", rows=series))]
    assert not [*_told_in_training(Leaks("batch[0]", rows=replace(rows, validation_labels=None)))]


@pytest.mark.parametrize("sick", [True, False])
def test_labels_that_are_noisier_in_validation(sick: bool) -> None:
    """They weaken all columns alike, which a strong one shows and weak ones cannot."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 4, generator=draws)
    y = 2 * x[:, 0] + 0.5 * x[:, 1] - 0.4 * x[:, 2] + 0.3 * torch.randn(1000, generator=draws)
    x[512:, 0] = torch.randn(488, generator=draws) if sick else x[512:, 0]
    y[512:] += 0 if sick else 2 * torch.randn(488, generator=draws)
    rows = Rows(
        "batch[0]", "batch[1]", x[:512], y[:512].double(),
        validation=x[512:], validation_labels=y[512:].double(),
    )  # fmt: skip
    assert bool([*_told_in_training(Leaks("batch[0]", rows=rows))]) == sick
    flag = torch.cat([(x[:, :1] > 0).float(), x[:, 1:]], dim=1)
    rows = replace(rows, train=flag[:512], validation=flag[512:])
    # Of two values, such as the sex of a few patients, none is a mean.
    assert not [*_told_in_training(Leaks("batch[0]", rows=rows))]


class Tastes(pl.LightningModule):
    """Predicts stars by a vector for each user."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(80, 8)
        self.out = nn.Linear(12, 1)

    def loss(self, batch: Any) -> Tensor:
        x, user, stars = batch
        return F.mse_loss(self.out(torch.cat([x, self.user(user)], 1))[:, 0], stars)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@pytest.mark.parametrize("split", ["by user", "at random", "many new ones"])
def test_rows_that_training_never_looked_up_are_as_they_were(split: str) -> None:
    """Unless users come once in training as well: then nobody knows their row."""
    seed()
    draws = torch.Generator().manual_seed(0)
    user = torch.randint(80, (2000,), generator=draws)
    user = user.sort().values if split == "by user" else user
    x = torch.randn(2000, 4, generator=draws)
    stars = x[:, 0] + torch.randn(80, generator=draws)[user]
    train, val = (TensorDataset(x[part], user[part], stars[part]) for part in (slice(1600), slice(1600, None)))  # fmt: skip
    module = Tastes()
    if split == "many new ones":
        module.user = nn.Embedding(100_000, 8)
        train, val = (
            TensorDataset(x[:n], torch.arange(i, i + n), stars[:n])
            for i, n in ((0, 1600), (1600, 400))
        )
    detector = InputDetector()
    data = DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=100)
    fit(Program(module, *data), detector, max_epochs=1 + (split != "many new ones"))
    told = [(one.code, one.where) for one in detector.findings if "looks up" in one.message]
    assert told == [("INP202", "user")] * (split == "by user")
