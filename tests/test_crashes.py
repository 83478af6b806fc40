"""Crashes, from the exception to the explanation."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest
import torch
import torchmetrics
from cases import CASES
from cases._parts import Classifier, loader
from program import Program, digits, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lightning_nndebug import CrashDetector, Finding, NNDebug
from lightning_nndebug.core.measurements.crash import Crash, Usage
from lightning_nndebug.core.record import read
from lightning_nndebug.crashes.reading import memory
from lightning_nndebug.crashes.signs import sign


def crash(step, module: nn.Module | None = None) -> Crash | None:
    """Returns what is known of the exception that a function raises."""
    trainer = SimpleNamespace(
        optimizers=[], strategy=SimpleNamespace(root_device=torch.device("cpu")), state=None
    )
    moment = SimpleNamespace(trainer=trainer, module=module)
    try:
        step()
    except BaseException:
        assert sys.exc_info()[1] is not None
        return Crash.take(moment, SimpleNamespace())
    raise AssertionError("nothing was raised")


def explained(step, module: nn.Module | None = None) -> list:
    found = crash(step, module)
    assert found is not None
    detector = CrashDetector()
    return [
        (one.code, evidence) for one in detector.rules for evidence in one.method(detector, found)
    ]


def added():
    x, y = torch.zeros(4, 3), torch.zeros(4, 5)
    return x + y


def out_of_bounds():
    return F.cross_entropy(torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]))


def column():
    return F.binary_cross_entropy_with_logits(torch.zeros(4, 1), torch.zeros(4))


def bag():
    words = nn.EmbeddingBag(5, 2)
    return words(torch.tensor([[0, 5]]))


def indexed():
    table, index = torch.zeros(5), torch.tensor([7])
    return table[index]


def doubled():
    return nn.Linear(3, 2)(torch.zeros(4, 3, dtype=torch.float64))


def huge():
    return torch.empty(2**50)


def worker():
    """Raises as torch does in the main process for an error in a worker."""
    wrapper = object.__new__(torch._utils.ExceptionWrapper)
    wrapper.exc_type, wrapper.where = IndexError, "in DataLoader worker process 0"
    wrapper.exc_msg = (
        'Traceback (most recent call last):\n  File "/home/me/data.py", line 12, in __getitem__\n'
        "    return self.table[index]\n"
        "IndexError: index 7 is out of bounds for dimension 0 with size 5\n"
    )
    wrapper.reraise()


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        (added, "ERR101", "x float32[4, 3] and y float32[4, 5]"),
        (column, "ERR101", "input float32[4, 1] and target float32[4]"),
        (out_of_bounds, "ERR102", "has values from 0 to 3"),
        (indexed, "ERR102", "index int64[1] in [7, 7]"),
        (bag, "ERR102", "in [0, 5]"),
        (doubled, "ERR103", "float64[4, 3]"),
        (huge, "ERR105", "4.1e+03 TiB wanted"),
    ],
)
def test_an_exception_is_explained_by_one_rule(step, code: str, words: str) -> None:
    """With the tensors of the user's line, and their shapes or values."""
    ((found, evidence),) = explained(step)
    assert found == code
    assert words in evidence.message


@pytest.mark.parametrize(
    ("metric", "predicted", "wanted", "fix"),
    [
        (torchmetrics.F1Score("binary"), (8, 2), (8,), "num_classes=2, in place of BinaryF1Score"),
        (torchmetrics.Accuracy("multiclass", num_classes=5), (8, 3), (8,), "set num_classes=3"),
        (torchmetrics.Accuracy("multiclass", num_classes=5), (8, 5), (8, 1), "target.squeeze(-1)"),
        (torchmetrics.Accuracy("multilabel", num_labels=5), (8, 4), (8, 4), "set num_labels=4"),
        (torchmetrics.MeanSquaredError(), (8, 1), (8,), "preds.squeeze(-1)"),
        (torchmetrics.MeanSquaredError(), (8, 3), (8,), "give the net one output"),
        (torchmetrics.R2Score(), (8, 2, 2), (8, 2, 2), ""),
    ],
)
def test_a_metric_that_was_given_the_wrong_shapes(metric, predicted, wanted, fix: str) -> None:
    """It is named, with the shapes as they were given, and what would make them fit."""
    net = nn.ModuleDict({"score": metric})
    is_real = "Squared" in repr(metric) or "R2" in repr(metric)

    def step():
        y = torch.rand(wanted) if is_real else torch.randint(2, wanted)
        net["score"](torch.randn(predicted), y)

    ((code, evidence),) = explained(step, net)
    assert code == "ERR101"
    assert evidence.message.startswith(f"score, {type(metric).__name__}(), got preds float32[8")
    assert fix in "; ".join(evidence.fixes)


def test_a_metric_that_no_module_holds_is_named_by_its_class() -> None:
    """And one that is a function by its name."""
    x, y = torch.rand(8, 2), torch.ones(8).long()
    metric = torchmetrics.F1Score("binary")
    ((code, evidence),) = explained(lambda: metric.update(x, y))
    assert code == "ERR101"
    assert "BinaryF1Score got preds float32[8, 2]" in evidence.message
    ((code, evidence),) = explained(lambda: torchmetrics.functional.accuracy(x, y, task="binary"))
    assert code == "ERR101"
    assert "accuracy got preds float32[8, 2] and target int64[8]" in evidence.message


def unpacked(samples):
    x, y = zip(*samples, strict=True)
    return torch.stack(x), torch.tensor(y)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("odd", "usual", "words"),
    [
        (None, (torch.ones(3), 1), "sample 2 is None"),
        ((torch.ones(3), None), (torch.ones(3), 1.0), "1 of sample 2 is None"),
        ({"x": None}, {"x": torch.ones(3)}, "'x' of sample 2 is None"),
        (None, torch.ones(3), "sample 2 is None"),
        (None, 1, "sample 2 is None"),
        ({"x": 1}, {"x": 1, "y": 2}, "do not have the same keys"),
        (torch.ones(2), torch.ones(3), ": "),
    ],
)
def test_samples_that_make_no_batch(odd, usual, words: str, workers: int) -> None:
    """One that is None is named by its index; of a worker it is known that there is one."""
    samples = [usual, usual, odd, usual]
    ((code, evidence),) = explained(lambda: list(DataLoader(samples, 4, num_workers=workers)))
    assert code == "ERR113"
    assert (words if workers == 0 else words.rpartition("sample 2 ")[2]) in evidence.message


def test_a_sample_that_is_none_is_found_by_a_collate_function_too() -> None:
    """What stumbles is the user's own line."""
    samples = [(torch.ones(3), 1), None]
    ((code, evidence),) = explained(lambda: list(DataLoader(samples, 2, collate_fn=unpacked)))
    assert code == "ERR113"
    assert "sample 1 is None" in evidence.message


def test_a_none_in_the_code_of_a_dataset_is_no_matter_of_samples() -> None:
    """It never got as far as a batch."""

    class Broken(Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            return len(None)

    assert not explained(lambda: list(DataLoader(Broken(), 2)))
    assert not explained(lambda: len(None))


def test_an_error_in_a_worker_is_traced_to_the_line_of_the_dataset() -> None:
    """Its traceback comes as text."""
    ((code, evidence),) = explained(worker)
    assert code == "ERR102"
    assert evidence.where == "data.py:12"


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(1), GeneratorExit()],
    ids=["ctrl_c", "exit", "closed"],
)
def test_an_end_that_was_asked_for_is_no_crash(error: BaseException) -> None:
    """Nothing is explained that needs no explanation."""

    def step():
        raise error

    assert crash(step) is None


def test_what_the_user_raises_himself_needs_no_explanation() -> None:
    """His message may speak of shapes and sizes, too."""

    def step():
        raise ValueError("the size of the tensor must match my expectations")

    assert not explained(step)


def test_an_unknown_exception_is_left_alone() -> None:
    """A guess is no answer."""

    def step():
        return {}["a"]

    assert not explained(step)


class Crashing(Classifier):
    """Fails in its third step, or in validation, with an error that it keeps."""

    def __init__(self, error: BaseException, *, validating: bool = False) -> None:
        super().__init__()
        self.error, self.validating = error, validating

    def training_step(self, batch, batch_idx):
        if batch_idx == 2:
            raise self.error
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        return self.net(batch[0][:, :32])


def test_the_exception_goes_on_as_it_is() -> None:
    """The same object, with its traceback, whatever we have to say of it."""
    error = IndexError("index out of range in self")
    with pytest.raises(IndexError) as caught:
        fit(Program(Crashing(error), loader()), NNDebug())
    assert caught.value is error
    assert error.__cause__ is None
    assert not getattr(error, "__notes__", [])


def test_the_finding_is_printed_and_recorded_before_the_exception(tmp_path, caplog) -> None:
    """On the console, in the record, and in ``findings``."""
    seed(0)
    detector = CrashDetector()
    with caplog.at_level(logging.INFO, "lightning_nndebug"), pytest.raises(RuntimeError):
        fit(CASES["err101_shape_mismatch"].sick(), detector, default_root_dir=tmp_path)
    assert [one.code for one in detector.findings] == ["ERR101"]
    assert "takes in_features=128" in caplog.text
    kinds = [one["kind"] for one in read(tmp_path)]
    assert kinds[-2:] == ["finding", "end"]


def test_a_crash_in_the_sanity_check_is_explained(caplog) -> None:
    """It comes before training begins, which is where most runs fail."""
    module = Crashing(RuntimeError(), validating=True)
    detector = CrashDetector()
    with pytest.raises(RuntimeError):
        fit(Program(module, loader(), loader()), detector, num_sanity_val_steps=2)
    (found,) = detector.findings
    assert found.code == "ERR101"
    assert "sanity check" in found.message
    assert "is off" not in caplog.text


def test_a_halt_is_no_crash() -> None:
    """It was asked for."""
    x, y = digits()
    x[0] = float("nan")
    detector = CrashDetector()
    with pytest.raises(RuntimeError):
        fit(Program(Classifier(), loader(x, y)), detector, NNDebug(halt_on="error"))
    assert not detector.findings


def test_memory_that_the_batch_takes_is_told_from_what_is_always_there() -> None:
    """So a batch that would fit can be named."""
    gib = 2**30
    measured = Crash(
        "OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...",
        batch=(crash_operand := _operand(64),),
        usage=Usage(4 * gib, 4 * gib, 8 * gib, allocated=78 * gib, total=80 * gib),
    )  # fmt: skip
    reading = memory(measured)
    assert "2 GiB wanted" in reading.seen
    assert "activations and all else 62 GiB" in reading.seen
    assert str(crash_operand) in reading.seen
    assert "about 57" in reading.fixes[0]


def _operand(rows: int):
    from lightning_nndebug.core.measurements.crash import Operand

    return Operand("batch[0]", "float32", (rows, 3, 224, 224), "cuda:0")


@pytest.mark.parametrize(
    ("kind", "text", "name"),
    [
        ("RuntimeError", "Expected all tensors to be on the same device", "device_clash"),
        ("RuntimeError", "Input type (torch.cuda.FloatTensor) and weight type", "device_clash"),
        ("RuntimeError", "Input type (double) and bias type (float) should be", "dtype_clash"),
        ("RuntimeError", "expected scalar type Long but found Float", "dtype_clash"),
        ("RuntimeError", "\"nll_loss_out_frame\" not implemented for 'Half'", "dtype_clash"),
        ("RuntimeError", "CUDA error: device-side assert triggered", "index_out_of_range"),
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB.", "out_of_memory"),
        ("RuntimeError", "DataLoader worker (pid 12) is killed by signal: Killed.", "dead_worker"),
        ("RuntimeError", "einsum(): subscript j has size 3 for operand 1", "shape_mismatch"),
        ("RuntimeError", "Expected 3D or 4D input to conv2d, but got input of", "shape_mismatch"),
        ("RuntimeError", "Calculated padded input size per channel: (2 x 2).", "shape_mismatch"),
        ("RuntimeError", "a leaf Variable that requires grad is being used", "modified_in_place"),
        ("MisconfigurationException", "could not find the monitored key", "metric_not_there"),
        ("FileNotFoundError", "No such file or directory: 'shapes must match'", None),
        ("RuntimeError", "something else entirely", None),
    ],
)
def test_messages_are_told_apart(kind: str, text: str, name: str | None) -> None:
    """Those of a GPU, and of other versions of torch, too."""
    assert sign(Crash(kind, text)) == name


def test_findings_of_a_crash_survive_json() -> None:
    """They hold plain builtins alone."""
    seed(0)
    detector = CrashDetector()
    with pytest.raises(IndexError):
        fit(CASES["err102_index_out_of_range"].sick(), detector)
    (found,) = detector.findings
    assert Finding.from_dict(found.to_dict()) == found
    assert "Set num_embeddings to at least 17" in found.fixes
