"""How exceptions are told apart: by what torch, Lightning and Python write in their messages."""

from __future__ import annotations

import re

from torch import Tensor

from ..core.measurements.crash import Crash
from .advice import anyof, last_words

# The first that fits. What is raised in a worker of a DataLoader keeps its message.
_SIGNS = {
    "out_of_memory": r"out of memory|can't allocate memory|MemoryError|Unable to allocate"
    r"|STATUS_ALLOC_FAILED",
    "dead_worker": r"DataLoader worker \(pid.*\) (exited|is killed)|unable to (open|write to|mmap)"
    r".*(shared memory|/torch_|file <)|Bus error|shared memory \(shm\)|received 0 items of ancdata",
    "unpicklable": r"[Cc]an't pickle|[Cc]annot pickle|Can't get local object",
    "state_dict_mismatch": r"Error\(s\) in loading state_dict|loaded state dict (has|contains)|"
    + anyof("state_dict_mismatch"),
    "log_refused": anyof("log_refused"),
    "wrong_setup": anyof("wrong_setup"),
    "uneven_samples": r"stack expects each tensor to be equal size|each element in list of batch"
    r"|default_collate: batch must contain|Trying to resize storage that is not resizable"
    r"|expected sequence of length|Unable to create tensor, you should probably activate",
    "batch_of_one": r"Expected more than 1 (value|spatial element)",
    "no_gradient": r"does not require grad and does not have a grad_fn|" + anyof("no_gradient"),
    "graph_used_twice": r"backward through the graph a second time",
    "modified_in_place": r"modified by an inplace operation|a leaf Variable that requires grad"
    r"|is a view and is being modified inplace",
    "unused_parameters": r"finished reduction in the prior iteration"
    r"|parameters that were not used in producing the loss",
    "loss_not_scalar": r"grad can be implicitly created only for scalar outputs"
    r"|'loss' key needs to be present|`training_step` must return a Tensor",
    "not_a_tensor": r"must be (Tensor|tuple of Tensors), not |expected Tensor as element \d+ in arg"
    r"|received an invalid combination of arguments|new\(\): invalid data type"
    r"|unsupported operand type.*'(Tensor' and|\w+' and 'Tensor')",
    "metric_not_there": r"conditioned on metric|could not find the monitored key|monitored key",
    "device_clash": r"on the same device|Input type \(torch\.(cuda|mps)|weight type \(torch\.(cuda"
    r"|mps)|can't convert (cuda|mps).* to numpy|is not on the expected device|on device meta"
    r"|device type .* but got device type|[Mm]eta tensors?|expected device"
    r"|Expected one of cpu, cuda|out of meta tensor|" + anyof("device_clash"),
    "index_out_of_range": r"index out of range|is out of bounds|device-side assert"
    r"|must be smaller than num_classes|elements of (input|target) should be between 0 and 1"
    r"|in the valid range|indices should be|Class values must be|out of range: tried to access"
    r"|target out of range|bincount only supports|p_in <= 1|n_sample > prob_dist|"
    + anyof("index_out_of_range")
    + r"|Detected the following values in `(target|preds)`",
    "dtype_clash": r"scalar type|same dtype|[Dd]type|not implemented for '|can't be cast to"
    r"|Input type \([\w: ]+\) and (bias|weight) type|Input type \(torch\.\w+Tensor\)|be same type"
    r"|input must have the type|floating[ -]point type for target|Integral inputs"
    r"|to be an? (float|int)\w* tensor|" + anyof("dtype_clash"),
    "shape_mismatch": r"shapes? .*cannot be multiplied|must match|mat1|mat2|size mismatch"
    r"|expected input.*channels|shape '.*' is invalid for input|[Tt]arget size|batch_size"
    r"|[Ss]izes of tensors|(should contain|[Ee]xpected) .*(elements?|input|dim|size)|Kernel size"
    r"|padded input size|[Dd]imension|must be equal|einsum|not broadcastable|broadcast"
    r"|input\.size|targets? (tensor )?(expected|of dimension|supported)|invalid for input"
    r"|spatial targets|too many indices|dims? |\dD |same\)? shape|[Tt]he shape of the"
    r"|must be a (matrix|vector)|iteration over a 0-d|len\(\) of a 0-d|\dD? tensor|\d-[dD] "
    r"|inconsistent input_size|batch size|(batch|size|shape).* (does not|doesn't) match"
    r"|[Mm]ismatch of parameter|weight tensor should be defined|incorrect size"
    r"|Index is supposed|BxC|number of columns|cannot reshape array|at least two samples"
    r"|to be equal to (the )?number|should be equal to (the )?number|Number of indices"
    r"|inconsistent numbers? of samples|" + anyof("shape_mismatch"),
}
_COMPILED = {name: re.compile(sign, re.DOTALL) for name, sign in _SIGNS.items()}
_KINDS = (
    "RuntimeError", "ValueError", "IndexError", "TypeError", "AttributeError", "MemoryError",
    "OutOfMemoryError", "PicklingError", "TorchRuntimeError", "MisconfigurationException",
    "AcceleratorError", "OSError", "NotImplementedError", "AssertionError", "UnpicklingError",
)  # fmt: skip
# Messages of the user's own code may contain any word: these signs need torch to speak.
_LOST = ("ConnectionResetError", "EOFError", "BrokenPipeError")  # what is left of a dead worker
# What may end a run while samples are put together, and is no fault of the samples.
_OF_SYSTEM = {"out_of_memory", "dead_worker", "unpicklable"}
_OF_TORCH = {
    "shape_mismatch", "dtype_clash", "index_out_of_range", "device_clash", "wrong_setup",
    "log_refused", "not_a_tensor",
}  # fmt: skip
# What Python says of the user's own line, where a batch or an output is something else.
_OF_PYTHON = re.compile(
    r"values to unpack|cannot unpack non-iterable|object is not (subscriptable|iterable)"
    r"|'(tuple|list|dict|Tensor|NoneType)' object is not callable|indices must be integers"
    r"|'(tuple|list|dict|Tensor)' object has no attribute"
)
_ATTRIBUTE = re.compile(
    r"'(tuple|list|dict|NoneType|int|float|bool|str|Dataset|DataFrame|Series|Image|BatchEncoding"
    r"|PackedSequence|\w*Output\w*|numpy\.ndarray|numpy\.\w+)' object has no attribute '(\w+)'"
)
_ANYBODYS = ("name", "data", "type", "names", "is_shared", "register_hook")  # not tensors' alone
_SHAPE = re.compile(r"\.(shape|size\(\))")
_LOG = re.compile(r"\.log(_dict)?\(")
# Whatever these refuse has been set up or called in a wrong way.
_MAKERS = ("torch.optim", "torch.utils.data.dataloader", "torch.utils.data.sampler")
_CALLERS = ("lightning.", "pytorch_lightning.", "torch.nn.modules.module")


def sign(crash: Crash) -> str | None:
    """Returns the name of the rule that this exception belongs to, or None."""
    if crash.kind in _LOST and crash.loading:
        return "dead_worker"
    found = _by_message(crash) or _by_place(crash)
    if found == "uneven_samples" and crash.line is not None and not crash.loading:
        found = "shape_mismatch"  # a stack in the step
    nothing = "NoneType" in crash.text
    if crash.collating and found not in {*_OF_SYSTEM, *(() if nothing else ("dtype_clash",))}:
        return "uneven_samples"
    if crash.missing and nothing:  # a collate function of the user's own has stumbled over it
        return "uneven_samples"
    is_own = crash.raised_by_user and (found in _OF_TORCH or crash.kind == "AssertionError")
    return None if is_own else found


def _by_message(crash: Crash) -> str | None:
    of_lightning = crash.source.startswith(("lightning.", "pytorch_lightning."))
    known = crash.kind in _KINDS or "Checkpoint file not found" in crash.text
    if not known and not (
        crash.kind == "KeyError" and (of_lightning or crash.source.startswith("torch.optim"))
    ):
        return None
    text = f"{crash.kind}: {last_words(crash.text)}"
    found = next((name for name, one in _COMPILED.items() if one.search(text)), None)
    if "tuple index" in text and crash.line is not None and _SHAPE.search(crash.line.text):
        return "shape_mismatch"
    return None if crash.kind == "KeyError" and found != "wrong_setup" else found


def _by_place(crash: Crash) -> str | None:
    """Tells what Python's own exceptions mean: they speak of no tensors."""
    known = ("TypeError", "ValueError", "AttributeError", "KeyError", "ZeroDivisionError")
    return (_refused(crash) or _mistaken(crash)) if crash.kind in known else None


def _refused(crash: Crash) -> str | None:
    """Tells what torch or Lightning stumbled over."""
    of_lightning = crash.source.startswith(_CALLERS[:2])
    if of_lightning and crash.line is not None and _LOG.search(crash.line.text):
        return "log_refused"
    is_call = crash.kind == "TypeError" and "argument" in crash.text
    is_setup = (
        crash.source.startswith(_MAKERS)
        or (of_lightning and crash.hook != "training_step")
        or (is_call and crash.source.startswith(_CALLERS))
        or (crash.kind == "AttributeError" and crash.source == "torch.nn.modules.module")
    )
    return "wrong_setup" if is_setup else None


def _mistaken(crash: Crash) -> str | None:
    """Tells what the user's line took for a tensor, or for a batch of another make."""
    text, match = crash.text, _ATTRIBUTE.search(crash.text)
    if crash.kind == "AttributeError" and match and hasattr(Tensor, match[2]):
        if match[2] == "detach" and crash.line is None:  # Lightning, with what the step returned
            return "loss_not_scalar"
        if match[2] not in _ANYBODYS:
            return "not_a_tensor"
    if not crash.is_of_user or crash.line is None:
        return None
    if "unpack" in text and crash.operands and _SHAPE.search(crash.line.text):
        return "shape_mismatch"
    if crash.kind != "KeyError" and not _OF_PYTHON.search(text):
        return None
    is_batch = crash.holders or (crash.operands and crash.kind != "KeyError")
    return "not_a_tensor" if is_batch else None
