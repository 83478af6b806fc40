"""What an exception says, put in terms of the user's modules and tensors."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..core.measurements.crash import Crash, Operand
from .advice import last_words

_SIZE = re.compile(r"tried to allocate ([\d.]+)\s*(bytes|[KMGT]iB)", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[a-z)\]`])\. (?=[A-Z])")
_WRITTEN = re.compile(r"\[torch\.\S+ (\[.*?\])\], which is output (\d+) of (\w+),"
                      r" is at version (\d+); expected version (\d+)")  # fmt: skip
_REFUSED = re.compile(r"`self\.log\((\S+), .*\)` was called, but ([^.]*)", re.DOTALL)
_AXES = re.compile(r"\dD .*input|to be \dD")  # the input has more axes than wanted, or fewer
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
# What a module takes along its last dimension, and what along its second.
_FEATURES = ("in_features", "input_size", "embed_dim")
_OUTPUTS = ("num_classes", "num_labels", "num_outputs")  # of a metric
_CLASSIFYING = ("cross_entropy", "nll_loss")
_WEIGHTS = ("weight", "bias", "running_mean", "running_var")
_GIVEN = 4  # tensors shown: what follows are weights
_CHANNELS = ("in_channels", "num_features", "num_channels")


@dataclass(frozen=True)
class Reading:
    """What was seen, the likely causes in this very case, and what to try."""

    seen: str
    causes: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()


def shapes(crash: Crash) -> Reading:
    """Tells which module or line got which shapes, and what it takes."""
    part, got = crash.part, crash.given[:1]
    if part is not None and got and (expected := _expected(crash)) is not None:
        size, axis, name = expected
        has_axes = axis < 0 or not _AXES.search(crash.text)
        if has_axes and got[0].shape[axis:][:1] != (size,):
            seen = f"{part.name}, {part.code}, takes {name}={size} and got {_shown(got)}"
            return Reading(seen, *_advice(got[0].shape, size, axis, name))
        seen = f"{part.name}, {part.code}, got {_shown(crash.given[:_GIVEN])}"
        return Reading(f"{seen}: {first_line(crash.text)}")
    if crash.given:
        if crash.operation[:1].isupper():  # a class, thus a metric
            own = part if part is not None and part.kind == crash.operation else None
            name = f"{own.name}, {own.code}," if own is not None else crash.operation
            advice = _of_metric(crash.given, crash.operation, own.sizes if own is not None else {})
            return Reading(f"{name} got {_shown(crash.given)}", *advice)
        where = f"{part.name}, {part.code}," if part is not None else "the module"
        if crash.operation:
            where = crash.operation + (f" in {where}" if part is not None else "")
        compare = _of_classes if crash.operation in _CLASSIFYING else _between
        inputs = tuple(one for one in crash.given if one.name not in _WEIGHTS)
        return Reading(f"{where} got {_shown(crash.given[:_GIVEN])}", *compare(inputs))
    if crash.operands:
        return Reading(f"{_code(crash)} has {_shown(crash.operands)}", *_between(crash.operands))
    return Reading(f"{_code(crash)}: {first_line(crash.text)}")


def indices(crash: Crash) -> Reading:
    """Tells which value is out of which range."""
    known = {one.name: one for one in crash.given}
    if "elements of target should" in crash.text:
        return Reading(
            f"{_code(crash)} takes targets from 0 to 1: {first_line(crash.text)}",
            ("class numbers, or pixels of 0 to 255, where a probability belongs",),
            ("divide pixels by 255; cross_entropy takes class numbers",),
        )
    if "between 0 and 1" in crash.text:
        return Reading(
            f"{_code(crash)} takes probabilities: {first_line(crash.text)}",
            ("the net gives scores of any size (logits)",),
            ("use binary_cross_entropy_with_logits",),
        )
    index, weight = known.get("input"), known.get("weight")
    if crash.operation == "embedding" and index is not None and weight is not None:
        name = crash.part.name if crash.part is not None else "embedding"
        return _out_of_range(f"{name} has {weight.shape[0]} rows", index, weight.shape[0], (
            f"set num_embeddings to at least {_needed(index)}",
            "map unknown values to an index of their own",
        ))  # fmt: skip
    target = known.get("target")
    if target is not None and index is not None and len(index.shape) > 1:
        classes = index.shape[1]
        return _out_of_range(f"{crash.operation} tells {classes} classes apart", target, classes, (
            f"let the last layer have at least {_needed(target)} outputs",
            "give labels that do not count the ignore_index (-100)",
            "number the classes from 0",
        ))  # fmt: skip
    whole = [one for one in (*crash.given, *crash.operands) if one.high is not None]
    listed = ", ".join(f"{one} in [{one.low}, {one.high}]" for one in whole)
    others = [one for one in crash.operands if one.high is None]
    return Reading(f"{_code(crash)} has {', '.join(filter(None, [listed, _shown(others)]))}"
                   if listed else f"{_code(crash)}: {first_line(crash.text)}")  # fmt: skip


def kinds(crash: Crash) -> Reading:
    """Tells which tensors are of which dtype."""
    found, part = _distinct(crash, "dtype"), crash.part
    seen = f"{_code(crash)} has {_shown(found)}" if found else first_line(crash.text)
    names = {one.dtype for one in found}
    if part is not None and part.dtype and found and names != {part.dtype}:
        seen = f"{part.name}, {part.code}, is {part.dtype} and got {_shown(found)}"
        names.add(part.dtype)
    fixes: tuple[str, ...] = ()
    causes: tuple[str, ...] = ("integers and floats are mixed",)
    if "float64" in names:
        causes = ("float64 from numpy or pandas in a float32 net",)
        fixes = ("convert what comes from numpy: x.float(), or .astype(np.float32) in the dataset",)
    elif crash.operation in ("cross_entropy", "nll_loss"):
        causes = ("class numbers must be integers, or probabilities in the shape of the output",)
        fixes = ("give class numbers as integers: y.long()",)
    elif crash.operation == "embedding":
        fixes = ("give an embedding integers: x.long()",)
    elif names & {"int64", "int32", "uint8"}:
        fixes = ("convert the integers before they are mixed with floats: x.float()",)
    else:
        causes = ()
    return Reading(seen, causes, fixes)


def devices(crash: Crash) -> Reading:
    """Tells which tensors are where."""
    operands = {one.name: one for one in (*crash.operands, *crash.given)}.values()
    listed = ", ".join(f"{one.name} on {one.device}" for one in operands)
    part = crash.part
    if part is not None and listed and {one.device for one in operands} != {part.device}:
        return Reading(f"{part.name} is on {part.device}, {listed}, in {_code(crash)}")
    return Reading(f"{_code(crash)} has {listed}" if listed else first_line(crash.text))


def memory(crash: Crash) -> Reading:
    """Tells what was wanted, and what held the rest."""
    usage, wanted = crash.usage, _SIZE.search(crash.text)
    size = f"{_bytes(_parsed(wanted))} wanted" if wanted else "memory ran out"
    batch = f"a batch of {crash.batch[0]}" if crash.batch else ""
    static = usage.parameters + usage.gradients + usage.optimizer
    held = (
        f"parameters hold {_bytes(usage.parameters)}, gradients {_bytes(usage.gradients)}, "
        f"the optimizer {_bytes(usage.optimizer)}"
    )
    if usage.allocated > static:
        held += f", activations and all else {_bytes(usage.allocated - static)}"
    seen = f"{size} at {_code(crash)} with {batch or 'this batch'}; {held}"
    fixes: tuple[str, ...] = ()
    rows = crash.batch[0].shape[0] if crash.batch and crash.batch[0].shape else 0
    if usage.total and rows > 1 and usage.allocated > static:
        each = (usage.allocated - static + _parsed(wanted)) / rows
        fits = int(0.9 * (usage.total - static) / each)
        if 0 < fits < rows:
            fixes = (f"a batch of about {fits} would fit; accumulate_grad_batches makes up for it",)
    elif static and wanted and _parsed(wanted) > 100 * static:
        fixes = ("look at the sizes in the named line: no batch size makes up for this",)
    return Reading(seen, (), fixes)


def overwritten(crash: Crash) -> Reading:
    """Tells which operation's output was written to."""
    found = _WRITTEN.search(crash.text)
    if found is None:
        return Reading(f"{_code(crash)}: {first_line(crash.text)}")
    shape, _, what, version, expected = found.groups()
    seen = f"the tensor {shape} that {what.removesuffix('Backward0')} gave has been written to "
    times = int(version) - int(expected)
    return Reading(seen + ("since" if times == 1 else f"{times} times since"))


def samples(crash: Crash) -> Reading:
    """Tells which sample is None, or what the samples differ in."""
    said = first_line(crash.text)
    if "NoneType" in crash.text:
        what = crash.missing or "a sample of the dataset, or an entry of one,"
        return Reading(
            f"{what} is None, and cannot become part of a batch: {said}",
            ("__getitem__ returns None, or a function without return, for what is missing",),
            (
                "return a value of the same shape for what is missing, or leave such samples out",
                "filter in a collate_fn: [one for one in batch if one is not None]",
            ),
        )
    if crash.kind == "KeyError":
        return Reading(
            f"the samples of a batch do not have the same keys: {said}",
            ("a key is given for some of the samples alone",),
            ("give every sample the same keys, or write a collate_fn",),
        )
    return Reading(f"{_code(crash)}: {said}" if crash.line is not None else said)


def arguments(crash: Crash) -> Reading:
    """Tells what a layer was given in place of a tensor."""
    said, what = first_line(crash.text), crash.text.split("not ")[-1].strip()
    if crash.kind == "KeyError":
        said = f"there is no {said}"
    seen = f"`{crash.line.text}`: {said}" if crash.line is not None else said
    if what.startswith("str") and "must be Tensor" in said:
        causes = ("a dictionary was unpacked, which gives its keys",)
        return Reading(seen, causes, ('take the values: x, y = batch["x"], batch["y"]',))
    if what.startswith("NoneType") and "must be Tensor" in said:
        causes = ("a function has returned nothing: a forward without return",)
        return Reading(seen, causes, ("return its output",))
    if crash.holders:
        return Reading(
            f"{seen}; {'; '.join(crash.holders)}",
            ("the batch, or the output, is not made up as this line takes it",),
            ("take it apart as the dataset, or the forward, has put it together",),
        )
    if what.startswith("tuple"):
        causes = ("the output of a recurrent layer or of attention is a tuple: (output, state)",)
        return Reading(seen, causes, ("take the first: output, state = rnn(x)",))
    if what.startswith("dict"):
        return Reading(seen, ("the whole batch was given",), ("take what is meant: batch['x']",))
    return Reading(seen)


def logged(crash: Crash) -> Reading:
    """Names the line and the refusal, without the value, which may be long."""
    found = _REFUSED.search(crash.text)
    said = f"self.log({found[1]}, ...): {found[2]}" if found else first_line(crash.text)
    return Reading(f"{_code(crash)}: {said}" if crash.line is not None else said)


def first_line(text: str) -> str:
    """Returns the first line of a message that says something."""
    lines = [one.strip() for one in last_words(text).splitlines() if one.strip()]
    return _SENTENCE.split(lines[0])[0].rstrip(".") if lines else ""


def _expected(crash: Crash) -> tuple[int, int, str] | None:
    """Returns how much the module takes, along which axis, and what that is called."""
    part = crash.part
    if part is None:
        return None
    for name in _FEATURES:
        if name in part.sizes:
            return part.sizes[name], -1, name
    for name in _CHANNELS:
        if name in part.sizes:
            return part.sizes[name], 1, name
    return None


def _advice(
    shape: tuple[int, ...], size: int, axis: int, name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if axis == -1:
        return _of_features(shape, size, name)
    if size in shape[2:]:
        where = shape.index(size, 1)
        order = [0, where, *(one for one in range(1, len(shape)) if one != where)]
        return ("channels come last",), (f"move them: x.permute{tuple(order)}",)
    if size == 1 and len(shape) == 3:  # noqa: PLR2004
        return ("the channel dimension is missing",), ("add it: x.unsqueeze(1)",)
    channels = shape[1] if len(shape) > 1 else 0
    return (f"the input has {channels} channels",), (f"set {name}={channels}",)


def _of_features(
    shape: tuple[int, ...], size: int, name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not shape:
        return ("the input is a single number",), ("give it a batch, and the features last",)
    flat, width = math.prod(shape[1:]), f"set {name}={shape[-1]}"
    if flat == size and len(shape) > 2:  # noqa: PLR2004
        return ("the input was not flattened",), ("flatten the input first: x.flatten(1)",)
    if shape[0] == size and len(shape) == 2:  # noqa: PLR2004
        return ("the input is transposed",), ("give it the batch first: x.T",)
    if size in shape[1:-1]:
        where = shape.index(size, 1)
        return ("features do not come last",), (f"move them: x.movedim({where}, -1)",)
    if len(shape) > 2 and name == "in_features":  # noqa: PLR2004
        width = f"flatten the input, and set {name}={flat}"
    return (f"the input has {shape[-1]} features",), (width,)


def _between(given: tuple[Operand, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compares two tensors that should go together."""
    if len(given) < 2:  # noqa: PLR2004
        return (), ()
    one, other = given[:2]
    if one.shape == (*other.shape, 1):
        cause = f"{one.name} has a last dimension of 1 that {other.name} has not"
        return (cause,), (f"squeeze it: {one.name}.squeeze(-1)",)
    if other.shape == (*one.shape, 1):
        cause = f"{other.name} has a last dimension of 1 that {one.name} has not"
        return (cause,), (f"squeeze it: {other.name}.squeeze(-1)",)
    if one.shape and other.shape and one.shape[0] != other.shape[0]:
        return (f"{one.name} and {other.name} do not hold equally many samples",), ()
    return (), ()


def _of_classes(given: tuple[Operand, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compares scores with classes: (N, C, ...) and (N, ...)."""
    one, other = (given[0].shape, given[1].shape) if len(given) > 1 else ((), ())
    if len(one) > 2 and one[:-1] == other:  # noqa: PLR2004
        cause = f"classes come second in {given[0].name}, and here they are last"
        return (cause,), ("flatten both: x.flatten(0, -2) and y.flatten(), or x.movedim(-1, 1)",)
    if len(one) > 1 and other == (one[0], 1, *one[2:]):
        cause = f"{given[1].name} has a dimension of 1 where {given[0].name} has its classes"
        return (cause,), (f"squeeze it: {given[1].name}.squeeze(1)",)
    return _between(given)


def _of_metric(
    given: tuple[Operand, ...], kind: str, sizes: dict[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compares what a metric was given with what its task wants."""
    one, other = given[:2]
    if one.shape[:1] != other.shape[:1] or (*other.shape, 1) == one.shape:
        return _between(given)
    wide = one.shape[1] if len(one.shape) > 1 else 0
    if wide > 1 and other.shape == (one.shape[0], 1):
        return (f"{other.name} has a last dimension of 1",), (
            f"squeeze it: {other.name}.squeeze(-1)",
        )
    found = next(((key, sizes[key]) for key in _OUTPUTS if key in sizes), None)
    is_made_for_another = wide > 0 and found is not None and found[1] != wide
    if (
        found is not None
        and is_made_for_another
        and (found[0] == "num_classes" or one.shape == other.shape)
    ):
        name, size = found
        cause = f"it was made for {name}={size}, and {one.name} holds {wide} for each sample"
        return (cause,), (f"set {name}={wide} in the metric, or change the last layer",)
    if wide > 1 and one.shape[:1] + one.shape[2:] == other.shape:
        cause = f"{one.name} holds {wide} numbers for each sample, and {other.name} one"
        if "float" in other.dtype:
            return (cause,), ("give the net one output, or choose the one that is meant",)
        fixes = [f'task="multiclass" with num_classes={wide}, in place of {kind}']
        if wide == 2 and "float" in one.dtype:  # noqa: PLR2004
            fixes.append(f"or give it the score of class 1: {one.name}.softmax(1)[:, 1]")
        return (cause,), tuple(fixes)
    return _between(given)


def _out_of_range(what: str, index: Operand, size: int, fixes: tuple[str, ...]) -> Reading:
    if index.low is None or index.high is None:
        return Reading(f"{what}; the values of {index} could not be read")
    seen = f"{what}, 0 to {size - 1}, and {index} has values from {index.low} to {index.high}"
    if index.high < size:
        return Reading(seen, ("a negative value, such as a mark for what is missing",), fixes[1:])
    if index.low == 1 and index.high == size:
        return Reading(seen, ("numbers begin at 1",), ("begin at 0: subtract 1",))
    return Reading(seen, ("there are more of them than the net was made for",), fixes)


def _needed(index: Operand) -> int:
    return (index.high or 0) + 1


def _distinct(crash: Crash, what: str) -> list[Operand]:
    """Returns the tensors of the innermost place that differ in this."""
    for among in (crash.given, crash.operands):
        if len({getattr(one, what) for one in among}) > 1:
            return list(among)
    return list(crash.given or crash.operands)


def _shown(operands: object) -> str:
    return " and ".join(map(str, operands)) if isinstance(operands, (list, tuple)) else ""


def _code(crash: Crash) -> str:
    return f"`{crash.line.text}`" if crash.line is not None else "the step"


def _parsed(match: re.Match[str] | None) -> float:
    return float(match[1].rstrip(".")) * _UNITS[match[2].lower()] if match else 0.0


def _bytes(size: float) -> str:
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} bytes"
