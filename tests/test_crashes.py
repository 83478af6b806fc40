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
from lightning_nndebug.crashes.advice import ADVICE, advice, last_words
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


class Own(Dataset):
    """Raises what its user has written."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        raise ValueError("batch_size must match the dimension of the tensor")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_user_raises_in_a_dataset_needs_no_explanation(workers: int) -> None:
    """In a worker as in the main process."""
    assert not explained(lambda: list(DataLoader(Own(), 2, num_workers=workers)))


def test_the_traceback_of_a_worker_is_no_part_of_its_message() -> None:
    """A line of source may hold any word."""
    text = (
        "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (most recent call"
        ' last):\n  File "/home/me/data.py", line 3, in __getitem__\n    return batch_size[dtype]\n'
        "    ~~~~~~^^^\nTypeError: 'int' object is odd\n"
    )
    assert last_words(text) == "TypeError: 'int' object is odd"
    assert sign(Crash("TypeError", text)) is None


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
        # dtypes
        ("RuntimeError", "Input type (unsigned char) and bias type (float) should", "dtype_clash"),
        ("RuntimeError", "Input type (long int) and bias type (float) should be", "dtype_clash"),
        ("RuntimeError", "Input type (c10::Half) and bias type (float) should", "dtype_clash"),
        ("RuntimeError", "mat1 and mat2 must have the same dtype, but got Byte", "dtype_clash"),
        ("ValueError", "input must have the type torch.float32, got type", "dtype_clash"),
        ("RuntimeError", "one_hot is only applicable to index tensor", "dtype_clash"),
        ("IndexError", "tensors used as indices must be long, int, byte or", "dtype_clash"),
        ("TypeError", "can't convert np.ndarray of type numpy.object_.", "dtype_clash"),
        ("RuntimeError", "Negation, the `-` operator, on a bool tensor is not", "dtype_clash"),
        # shapes
        ("RuntimeError", "Given input size: (3x1x1). Output size is too small", "shape_mismatch"),
        ("RuntimeError", "stack expects a non-empty TensorList", "shape_mismatch"),
        ("ValueError", "torch.cat(): expected a non-empty list of Tensors", "shape_mismatch"),
        ("IndexError", "The shape of the mask [5] at index 0 does not match", "shape_mismatch"),
        (
            "RuntimeError",
            "a Tensor with 3 elements cannot be converted to Scalar",
            "shape_mismatch",
        ),
        ("RuntimeError", "Boolean value of Tensor with several is ambiguous", "shape_mismatch"),
        ("RuntimeError", "batch1 must be a 3D tensor", "shape_mismatch"),
        ("RuntimeError", "input has inconsistent input_size: got 5 expected 3", "shape_mismatch"),
        ("RuntimeError", "For batched 3-D input, hx should also be 3-D but got", "shape_mismatch"),
        ("RuntimeError", "`lengths` array must be sorted in decreasing order", "shape_mismatch"),
        ("AssertionError", "was expecting embedding dimension of 4, but got 6", "shape_mismatch"),
        ("RuntimeError", "The shape of the 2D attn_mask is torch.Size([3, 3])", "shape_mismatch"),
        ("RuntimeError", "weight tensor should be defined either for all 3", "shape_mismatch"),
        # values
        (
            "RuntimeError",
            "probability tensor contains either `inf`, `nan` or",
            "index_out_of_range",
        ),
        ("ValueError", "of distribution Normal() to satisfy the constraint", "index_out_of_range"),
        ("RuntimeError", "target out of range", "index_out_of_range"),
        # gradients, and what the step returns
        ("RuntimeError", "Can't call numpy() on Tensor that requires grad.", "no_gradient"),
        ("RuntimeError", "Inference tensors cannot be saved for backward.", "no_gradient"),
        ("RuntimeError", "support the deepcopy protocol at the moment.", "no_gradient"),
        ("MisconfigurationException", "the 'loss' key needs to be present", "loss_not_scalar"),
        # files and devices
        ("UnpicklingError", "Weights only load failed. This file can", "state_dict_mismatch"),
        ("FileNotFoundError", "Checkpoint file not found: a.ckpt", "state_dict_mismatch"),
        ("AssertionError", "Torch not compiled with CUDA enabled", "device_clash"),
        # set-ups
        ("MisconfigurationException", "Unknown configuration for model optimizers", "wrong_setup"),
        (
            "MisconfigurationException",
            "The lr scheduler dict must include a monitor when a",
            "wrong_setup",
        ),
        ("ValueError", "optimizer got an empty parameter list", "wrong_setup"),
        ("ValueError", "Invalid learning rate: -1", "wrong_setup"),
        ("ValueError", "Tried to step 4 times. The specified number of total", "wrong_setup"),
        ("ValueError", "sampler option is mutually exclusive with shuffle", "wrong_setup"),
        ("ValueError", "num_samples should be a positive integer value", "wrong_setup"),
        ("ValueError", "DataLoader with IterableDataset: expected unspecified", "wrong_setup"),
        ("ValueError", "batch_size should be a positive integer value", "wrong_setup"),
        ("NotImplementedError", '[Net] is missing the required "forward" function', "wrong_setup"),
        ("AttributeError", "cannot assign module before Module.__init__() call", "wrong_setup"),
        ("TypeError", "Linear.forward() takes 2 positional arguments but 3", "wrong_setup"),
        ("TypeError", "list is not a Module subclass", "wrong_setup"),
        ("TypeError", "An invalid dataloader was passed to `Trainer.fit(", "wrong_setup"),
        # self.log
        (
            "ValueError",
            "`self.log(a, [1])` was called, but `list` values cannot be logged",
            "log_refused",
        ),
        (
            "MisconfigurationException",
            "You called `self.log(a, ...)` twice in `training_step` with different arguments.",
            "log_refused",
        ),
        ("MisconfigurationException", "You can't `self.log()` inside `setup`.", "log_refused"),
        ("FileNotFoundError", "No such file or directory: 'shapes must match'", None),
        ("KeyError", "'optimizer'", None),
        ("AssertionError", "", None),
        ("RuntimeError", "something else entirely", None),
    ],
)
def test_messages_are_told_apart(kind: str, text: str, name: str | None) -> None:
    """Those of a GPU, and of other versions of torch, too."""
    assert sign(Crash(kind, text)) == name


def test_the_advice_of_every_message_stands_in_a_table_of_a_rule() -> None:
    """Each pattern compiles, and none hides what another rule of the catalogue reads."""
    rules = {one.method.__name__ for one in CrashDetector().rules}
    assert set(ADVICE) <= rules
    assert advice("wrong_setup", "optimizer got an empty parameter list") is not None
    assert advice("wrong_setup", "the batch is odd") is None
    assert all(len(entry) == 2 for table in ADVICE.values() for entry in table.values())


BATCH = [torch.zeros(4, 3), torch.zeros(4).long()]
LABELLED = {"image": torch.zeros(4, 3), "label": torch.zeros(4).long()}


def three_of_two():
    batch = BATCH
    x, y, mask = batch
    return x, y, mask


def a_key_of_a_list():
    batch = BATCH
    return batch["image"]


def another_key():
    batch = LABELLED
    return batch["images"]


def a_list_as_a_tensor():
    batch = BATCH
    return batch.view(4, -1)


def an_axis_too_few():
    x = torch.zeros(4, 3)
    rows, channels, height, width = x.shape
    return rows, channels, height, width


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        (three_of_two, "ERR116", "batch is a list of 2: float32[4, 3], int64[4]"),
        (a_key_of_a_list, "ERR116", "batch is a list of 2: float32[4, 3], int64[4]"),
        (another_key, "ERR116", "batch is a dict with the keys 'image', 'label'"),
        (a_list_as_a_tensor, "ERR116", "batch is a list of 2"),
        (an_axis_too_few, "ERR101", "x float32[4, 3]"),
    ],
)
def test_a_batch_that_is_taken_apart_as_what_it_is_not(step, code: str, words: str) -> None:
    """The finding says what it is made of."""
    ((found, evidence),) = explained(step)
    assert found == code
    assert words in evidence.message


def a_key_of_no_batch():
    x, options = torch.zeros(4, 3), {"weight": 1.0}
    return x * options["weights"]


def text_in_two():
    x, first = torch.zeros(4, 3), "a-b-c"
    one, other = first.split("-")
    return x, one, other


def a_name_of_ones_own():
    x, own = torch.zeros(4, 3), SimpleNamespace()
    return x * own.weight


def raised_by_oneself():
    if BATCH:
        raise ValueError("optimizer got an empty parameter list")


def asserted():
    assert len(BATCH) == 3, "size mismatch"


@pytest.mark.parametrize(
    "step", [a_key_of_no_batch, text_in_two, a_name_of_ones_own, raised_by_oneself, asserted]
)
def test_a_slip_in_the_logic_of_the_user_is_left_alone(step) -> None:
    """Python has said it all, and a tensor that stands nearby has no part in it."""
    assert not explained(step)


@pytest.mark.parametrize(
    ("net", "inputs", "words", "fix"),
    [
        (nn.GRU(3, 2), (torch.zeros(4, 5, 3), torch.zeros(1, 4, 2)), "and hx", "new_zeros(layers"),
        (nn.BatchNorm2d(3), (torch.zeros(4, 3),), "got input float32[4, 3]: expected 4D", "x.unsqueeze(1)"),
        (nn.Conv2d(3, 2, 3), (torch.zeros(8, 8),), "got input float32[8, 8]", "x.unsqueeze(1)"),
        (nn.LSTM(3, 2), (torch.zeros(4, 5, 6),), "takes input_size=3", "set input_size=6"),
        (nn.LSTM(3, 2), (torch.zeros(4, 3, 6),), "takes input_size=3", "x.movedim(1, -1)"),
        (nn.LayerNorm(3), (torch.zeros(4, 5),), "layer_norm in part, LayerNorm(", ""),
        (nn.CrossEntropyLoss(), (torch.zeros(4, 7, 3), torch.zeros(4, 7).long()), "got input",
         "x.movedim(-1, 1)"),
        (nn.CrossEntropyLoss(), (torch.zeros(4, 3), torch.zeros(4, 1).long()), "got input",
         "squeeze(1)"),
    ],
)  # fmt: skip
def test_what_fits_is_not_blamed(net, inputs, words: str, fix: str) -> None:
    """A layer whose width is right was given something else that is wrong."""
    holder = nn.ModuleDict({"part": net})
    ((code, evidence),) = explained(lambda: holder["part"](*inputs), holder)
    assert code == "ERR101"
    assert words in evidence.message
    assert fix in "; ".join(evidence.fixes)


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        (lambda: torch.optim.SGD(nn.Linear(1, 1), lr=0.1), ""),
        (lambda: torch.optim.SGD([{"weights": []}], lr=0.1), "an optimizer takes parameters"),
        (lambda: torch.optim.SGD([torch.zeros(1)], lr="0.1"), ""),
        (lambda: nn.ModuleList([nn.ReLU()])(torch.zeros(1)), "a container is called"),
        (lambda: nn.Linear(1, 1).head, "the name is misspelt"),
        (lambda: nn.Linear(1, 1)(torch.zeros(1), torch.zeros(1)), "with other arguments"),
        (lambda: DataLoader([], shuffle=True), "the dataset is empty"),
    ],
)
def test_what_torch_refuses_to_make_is_a_wrong_set_up(step, cause: str) -> None:
    """Whatever words Python has for it."""
    ((code, evidence),) = explained(step)
    assert code == "ERR118"
    assert cause in "; ".join(evidence.causes)


class Configured(Classifier):
    """Returns from configure_optimizers, or from its step, what it was given."""

    def __init__(self, made, *, step=None) -> None:
        super().__init__()
        self.made, self.step = made, step

    def configure_optimizers(self):
        return self.made(self)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if self.step is None else self.step(self, loss)


def adam(module):
    return torch.optim.Adam(module.parameters())


@pytest.mark.parametrize(
    ("module", "code", "where"),
    [
        (Configured(lambda one: one.parameters()), "ERR118", "configure_optimizers"),
        (Configured(lambda one: {"optim": adam(one)}), "ERR118", "configure_optimizers"),
        (Configured(lambda one: ([adam(one)], [len])), "ERR118", "configure_optimizers"),
        (Configured(adam, step=lambda one, loss: {"total": loss}), "ERR115", "training_step"),
        (Configured(adam, step=lambda one, loss: loss.item()), "ERR115", "training_step"),
        (Configured(adam, step=lambda one, loss: {"loss": 1.0}), "ERR115", "training_step"),
        (Configured(adam, step=lambda one, loss: one.log_dict(loss)), "ERR119", "test_crashes"),
        (Configured(adam, step=lambda one, loss: one.log("a", "b")), "ERR119", "test_crashes"),
    ],
)
def test_what_a_hook_returns_or_logs_is_found_in_that_hook(module, code: str, where: str) -> None:
    """It is Lightning that stumbles, and the user who has to look."""
    detector = CrashDetector()
    with pytest.raises(Exception):  # noqa: B017, PT011 -- Lightning's
        fit(Program(module, loader()), detector)
    (found,) = detector.findings
    assert found.code == code
    assert found.where.startswith(where)


def test_findings_of_a_crash_survive_json() -> None:
    """They hold plain builtins alone."""
    seed(0)
    detector = CrashDetector()
    with pytest.raises(IndexError):
        fit(CASES["err102_index_out_of_range"].sick(), detector)
    (found,) = detector.findings
    assert Finding.from_dict(found.to_dict()) == found
    assert "Set num_embeddings to at least 17" in found.fixes
