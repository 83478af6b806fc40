"""What is wrong with the labels that a loss was given, and how to mend it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from ..core.findings import Evidence
from ..core.measurements.loss_calls import LabelCalls, LossCall, is_trained

Made = dict[str, list[float]]  # of labels that the step makes: looks, how many, least, largest

_LOOKS, _LABELS = 10, 200  # until labels that are all alike are no chance
_LAST = {"Addmm", "Linear", "Convolution"}  # what makes scores of classes, rather than of partners
_LARGEST = (
    "``torch.max(y, 1)[0]`` is the largest value; its place is ``[1]``",
    "Take the class number by ``argmax(1)``",
)
_VOID = 255  # what an image has where it has no label, and where a mask says yes


def misencoded(call: LossCall) -> tuple[str, str] | None:
    """Returns what is wrong and what to do about it, or None if the labels may be right."""
    if call.target is None or _is_misshapen(call, call.target):
        return None
    if call.padding is not None:
        return (
            f"padded tokens have class {call.padding}, and the loss counts them",
            f"Set these labels to -100, or pass ignore_index={call.padding}",
        )
    if call.is_signed:
        masked = call.options.get("reduction") == "none"
        return _signs(call) if call.strange and not masked else None
    if call.spells:
        return _letters(call) if call.strange else None
    if call.is_binary:
        return _answers(call)
    return _numbers(call) if call.strange else _kind(call) if call.failed else None


def made_alike(heard: LabelCalls, seen: Made) -> Iterator[Evidence]:
    """Labels that are computed in the step, and are all of one class."""
    for call in heard.calls:
        if not call.has_indices or call.target is None or math.isnan(call.lowest):
            continue
        key = f"{call.function} of {call.classes}"  # several calls may each have a class of its own
        looks, count, low, high = seen.get(key, [0, 0, float("inf"), float("-inf")])
        low, high = min(low, call.lowest), max(high, call.highest)
        seen[key] = [looks + 1, count + call.target.numel(), low, high]
        # The right one of several candidates, each with a score of its own, may be where it likes.
        is_last = call.features == call.classes or call.made_by == "Convolution"
        is_last &= call.made_by in _LAST and call.place is None and is_trained(call.input)
        if looks >= _LOOKS and count >= _LABELS and low == high and is_last:
            yield Evidence(
                where=key,
                measured=1.0,
                limit=2.0,
                message=f"all {int(count):,} labels that the step has made are of class "
                f"{int(low)}, of the {call.classes} that the loss tells apart, at {call.line}",
                causes=_LARGEST[:1] if low == 1 else (),
                fixes=_LARGEST[1:] if low == 1 else (),
            )


def _is_misshapen(call: LossCall, target: Tensor) -> bool:
    """Whether the classes are along another dimension than the one where the loss takes them."""
    if not call.failed or call.axis is None:
        return False
    rest = [size for axis, size in enumerate(call.shape) if axis != call.axis]
    return tuple(target.shape) == call.shape[:-1] != tuple(rest)


def _answers(call: LossCall) -> tuple[str, str] | None:
    """Yes and no must be 1 and 0; other numbers between them are shares, and may be meant."""
    masked = call.options.get("reduction") == "none" or call.options.get("weight") is not None
    if call.strange and 0 < call.highest < 1:
        told = f"the targets are 0 or 1 / {1 / call.highest:.0f}, and should be 0 or 1"
        return told, "Do not divide a mask of 0 and 1 by 255, as ToTensor does with images"
    if not call.strange or masked or any(one != int(one) for one in call.strange):
        return None
    told = f"the targets are {_span(call)}, and should be 0 to 1"
    if call.strange == (-1,):
        return told, "Map -1 and 1 to 0 and 1: (target + 1) / 2"
    if call.highest == _VOID:
        return told, "Divide by 255"
    if call.strange == (2,) and call.lowest == 1:
        return told, "Count from 0: target - 1"
    return told, "Use cross_entropy for class numbers, or make them one-hot"


def _signs(call: LossCall) -> tuple[str, str]:
    """Yes and no must be 1 and -1: of a 0, a margin has nothing to say."""
    return f"the targets are {_span(call)}, and should be -1 and 1", "Map 0 to -1: 2 * target - 1"


def _letters(call: LossCall) -> tuple[str, str]:
    """What says that nothing is there cannot be spelled."""
    blank = f"{call.strange[0]:g}"
    told = f"the texts hold {blank}, and that is the blank, which stands between letters"
    fix = "Count letters from 1, and give the net an output more; if it fills texts up, pass their"
    return told, f"{fix} lengths without it"


def _numbers(call: LossCall) -> tuple[str, str]:
    """Class numbers must go from 0 to the number of outputs, exclusively."""
    classes = call.classes or 0
    told = f"the labels are {_span(call)}, and should be 0 to {classes - 1} for {classes} outputs"
    if call.strange == (classes,) and call.lowest >= 1:
        return told, "Count from 0: target - 1"
    if max(call.strange) < 0:
        marker = f"{call.strange[0]:g}"
        return told, f"If {marker} means unknown: ignore_index={marker}"
    if call.strange == (_VOID,) and classes == 2:  # noqa: PLR2004
        return told, "If it is a mask of 0 and 255: (target > 0).long()"
    if call.strange == (_VOID,):
        return told, "If 255 means no label: ignore_index=255"
    return told, f"Give the net {int(call.highest) + 1} outputs, or find out where they come from"


def _kind(call: LossCall) -> tuple[str, str] | None:
    """Class numbers must be integers of the right kind; only asked when the loss has refused."""
    target = call.target
    if target is None or call.axis is None:
        return None
    kind = str(target.dtype).removeprefix("torch.")
    if tuple(target.shape) == call.shape and not target.is_floating_point():
        return "the labels are one-hot integers", "Pass class numbers, target.argmax(1), or floats"
    if target.dim() < len(call.shape) and kind not in ("int64", "uint8"):
        return f"the class numbers are {kind}, and should be int64", "target.long()"
    return None


def _span(call: LossCall) -> str:
    return f"{call.lowest:g} to {call.highest:g}"
