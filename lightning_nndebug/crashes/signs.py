"""How exceptions are told apart: by what torch, Lightning and Python write in their messages."""

from __future__ import annotations

import re

from ..core.measurements.crash import Crash

# The first that fits. What is raised in a worker of a DataLoader keeps its message.
_SIGNS = {
    "out_of_memory": r"out of memory|can't allocate memory|MemoryError|Unable to allocate",
    "dead_worker": r"DataLoader worker \(pid.*\) (exited|is killed)|unable to (open|write to|mmap)"
    r".*(shared memory|/torch_|file <)|Bus error|shared memory \(shm\)|received 0 items of ancdata",
    "unpicklable": r"[Cc]an't pickle|[Cc]annot pickle|Can't get local object",
    "state_dict_mismatch": r"Error\(s\) in loading state_dict|loaded state dict (has|contains)",
    "uneven_samples": r"stack expects each tensor to be equal size|each element in list of batch"
    r"|default_collate: batch must contain|Trying to resize storage that is not resizable",
    "batch_of_one": r"Expected more than 1 (value|spatial element)",
    "no_gradient": r"does not require grad and does not have a grad_fn",
    "graph_used_twice": r"backward through the graph a second time",
    "modified_in_place": r"modified by an inplace operation|a leaf Variable that requires grad"
    r"|is a view and is being modified inplace",
    "unused_parameters": r"finished reduction in the prior iteration"
    r"|parameters that were not used in producing the loss",
    "loss_not_scalar": r"grad can be implicitly created only for scalar outputs",
    "not_a_tensor": r"must be Tensor, not |received an invalid combination of arguments"
    r"|'(tuple|list|dict|Dataset|NoneType)' object has no attribute '(size|shape|dim|view|to|float"
    r"|reshape|flatten|mean|ndim|backward)'",
    "metric_not_there": r"conditioned on metric|could not find the monitored key|monitored key",
    "device_clash": r"on the same device|Input type \(torch\.(cuda|mps)|weight type \(torch\.(cuda"
    r"|mps)|can't convert (cuda|mps).* to numpy|is not on the expected device|on device meta"
    r"|device type .* but got device type|meta tensors?|expected device",
    "index_out_of_range": r"index out of range|is out of bounds|device-side assert"
    r"|must be smaller than num_classes|elements of (input|target) should be between 0 and 1"
    r"|in the valid range|indices should be|Class values must be"
    r"|Detected the following values in `(target|preds)`",
    "dtype_clash": r"scalar type|same dtype|[Dd]type|not implemented for '|can't be cast to"
    r"|Input type \(\w+\) and (bias|weight) type|Input type \(torch\.\w+Tensor\)|be same type"
    r"|floating[ -]point type for target",
    "shape_mismatch": r"shapes? .*cannot be multiplied|must match|mat1|mat2|size mismatch"
    r"|expected input.*channels|shape '.*' is invalid for input|[Tt]arget size|batch_size"
    r"|[Ss]izes of tensors|(should contain|[Ee]xpected) .*(elements?|input|dim|size)|Kernel size"
    r"|padded input size|[Dd]imension|must be equal|einsum|not broadcastable|broadcast"
    r"|input\.size|targets? (tensor )?(expected|of dimension|supported)|invalid for input"
    r"|spatial targets|too many (indices|values)|dims? |same\)? shape|to be equal to (the )?number"
    r"|should be equal to (the )?number|inconsistent numbers? of samples",
}
_COMPILED = {name: re.compile(sign, re.DOTALL) for name, sign in _SIGNS.items()}
_KINDS = (
    "RuntimeError", "ValueError", "IndexError", "TypeError", "AttributeError", "MemoryError",
    "OutOfMemoryError", "PicklingError", "TorchRuntimeError", "MisconfigurationException",
    "AcceleratorError", "OSError", "NotImplementedError",
)  # fmt: skip
# Messages of the user's own code may contain any word: these signs need torch to speak.
_LOST = ("ConnectionResetError", "EOFError", "BrokenPipeError")  # what is left of a dead worker
# What may end a run while samples are put together, and is no fault of the samples.
_OF_SYSTEM = {"out_of_memory", "dead_worker", "unpicklable"}
_OF_TORCH = {"shape_mismatch", "dtype_clash", "index_out_of_range", "device_clash"}


def sign(crash: Crash) -> str | None:
    """Returns the name of the rule that this exception belongs to, or None."""
    if crash.kind in _LOST and crash.loading:
        return "dead_worker"
    if crash.kind not in _KINDS and not (crash.collating and crash.kind == "KeyError"):
        return None
    text = f"{crash.kind}: {crash.text}"
    found = next((name for name, one in _COMPILED.items() if one.search(text)), None)
    nothing = "NoneType" in crash.text
    if crash.collating and found not in {*_OF_SYSTEM, *(() if nothing else ("dtype_clash",))}:
        return "uneven_samples"
    if crash.missing and nothing:  # a collate function of the user's own has stumbled over it
        return "uneven_samples"
    return None if found in _OF_TORCH and crash.raised_by_user else found
