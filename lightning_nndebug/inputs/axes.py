"""Dimensions in another order than a layer takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torch import Tensor

from ..core.findings import Evidence
from ..core.measurements.axes import Axes
from ..core.measurements.first_layers import FirstLayers
from ..core.measurements.rows import Rows

_COLOURS = (1, 3, 4)  # channels of an image
_RATHER = 0.1  # of a correlation: so much more alike are the rows of an image that are next
_ORDERED, _UNORDERED = 0.3, 0.1  # of a correlation: so much more alike are neighbours, or less,
_SURE = 4.0  # and by so many standard errors
_MANY = 16  # features that have an order; of a handful, two may well be alike
_LONGER = 2  # times as many as there are steps: some features have an order, such as maturities
_SIDE = 6  # pixels of the shorter side of an image, at least
_SEAMLESS = 0.5  # of the correlation within rows is there from the end of one to the next as well,
_BEYOND = 2.0  # and so many standard errors
_MASKS = 64  # samples with masks
_CLEAR, _TIMES = 10.0, 3.0  # standard deviations, and times as many as for masks as they are
_HALF = 0.5  # of the agreement of masks as they are: turned ones have more, beyond symmetry,
_OPPOSED = 4.0  # and by so many standard errors it is either that or this
_IMAGES = 64  # of each set, whose mean is compared
_OFF, _AT = 10.0, 2.0  # squared standard errors between two means that differ, or that do not
_TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda masks: masks.mT,
    "mirrored from left to right": lambda masks: masks.flip(2),
    "turned upside down": lambda masks: masks.flip(1),
    "turned by half": lambda masks: masks.flip(1, 2),
    "turned to the left": lambda masks: masks.rot90(1, (1, 2)),
    "turned to the right": lambda masks: masks.rot90(-1, (1, 2)),
}


def scrambled_images(first: FirstLayers) -> Iterator[Evidence]:
    """Images whose last dimension is the colour, at a layer that takes the colour first."""
    for layer in first.layers:
        if not layer.kind.startswith("Conv2d"):
            continue
        if layer.is_reinterpreted and _is_cut_anew(layer.origin, layer.shape):
            told = f"{layer.place} is {_size(layer.origin)}, with the channels last, and ``view`` "
            told += f"made {_size(layer.shape)} of it for {layer.name}, without moving anything"
        elif layer.shape == layer.origin and _has_colours_last(layer.shape):
            told = (
                f"{layer.place} is {_size(layer.shape)}, with the channels last, and {layer.name} "
            )
            told += f"takes its {layer.features} rows for channels"
        elif _are_interleaved(layer.rows):
            colours = layer.shape[1]
            told = f"{layer.place or 'the input'} of {layer.name} is {_size(layer.shape)}, and its "
            told += f"rows are more like those {colours} further on ({layer.rows[colours - 1]:.2f})"
            told += f" than like the next ones ({layer.rows[0]:.2f}): the colours were last when "
            told += "``view`` or ``reshape`` put them first, without moving anything"
        else:
            continue
        yield Evidence(
            where=layer.place,
            measured=told,
            message=told,
            causes=("Images come as (N, H, W, C)",),
            fixes=("Move the channels: ``x.permute(0, 3, 1, 2)``",),
            details={"shape": list(layer.shape), "origin": list(layer.origin)},
        )


def scrambled_sequences(first: FirstLayers) -> Iterator[Evidence]:
    """Samples where a recurrent or attention module has its time, and the reverse."""
    for one in first.recurrent:
        time, samples = (1, 0) if one.batch_first else (0, 1)
        if first.samples < 2 or one.shape[time] != first.samples:  # noqa: PLR2004
            continue
        others = one.shape[samples]
        if others == 1 or others % first.samples == 0:  # views of the samples, as long as many
            continue
        told = (
            f"{one.name} ({one.kind}, batch_first={one.batch_first}) gets {_size(one.shape)}: it "
        )
        told += f"takes the {first.samples} samples of the batch for {first.samples} points in time"
        yield Evidence(
            where=one.name,
            measured=told,
            message=told,
            causes=("``batch_first=False`` is the default",) if not one.batch_first else (),
            fixes=(f"``batch_first={not one.batch_first}``, or transpose before and after",),
            details={"shape": list(one.shape), "samples": first.samples},
        )


def recut(first: FirstLayers) -> Iterator[Evidence]:
    """Sequences, tables and clips that ``view`` has made another order of, moving nothing."""
    for layer in first.layers:
        # A dimension of 1 may stand anywhere.
        was, now = ([one for one in sizes if one > 1] for sizes in (layer.origin, layer.shape))
        exchanged = was != now and sorted(was) == sorted(now)
        clips = layer.kind.startswith("Conv3d") and len(was) == 5  # noqa: PLR2004
        if not (layer.is_reinterpreted and exchanged and (clips or len(was) in (2, 3))):
            continue
        told = f"{layer.place} is {_size(layer.origin)}, and ``view`` made {_size(layer.shape)} of "
        told += f"it for {layer.name} ({layer.kind}), without moving anything"
        yield Evidence(
            where=layer.place,
            measured=told,
            message=told,
            causes=("``view`` or ``reshape`` was taken for a transposition",),
            fixes=("Exchange the dimensions: ``x.transpose(1, 2)``",),
            details={"shape": list(layer.shape), "origin": list(layer.origin)},
        )


def askew(first: FirstLayers) -> Iterator[Evidence]:
    """Images whose rows are as long as they should be many: each begins where it should not.

    A row that is cut rightly ends somewhere else in the image than the next one begins.
    """
    for layer in first.layers:
        if not layer.cut:
            continue
        own, other, about, seam, within = layer.cut
        samples, channels, height, width = layer.shape
        ends, pixels = samples * channels * (height - 1), samples * channels * height * width
        is_periodic = other > max(own, about) + _RATHER * within + _SURE / math.sqrt(pixels)
        if not (is_periodic and seam > max(_SEAMLESS * within, _BEYOND / math.sqrt(ends))):
            continue
        told = (
            f"{layer.place or 'the input'} of {layer.name} is {_size(layer.shape)}; pixels "
            f"{height} apart are more alike ({other:.2f}) than those of one row and the next "
            f"({own:.2f}), and a row ends where the next one begins: the images are {height} wide, "
            f"{width} high, and ``view`` or ``reshape`` has cut them into other rows"
        )
        yield Evidence(
            where=layer.place or layer.name,
            measured=told,
            message=told,
            causes=("Width and height were exchanged where bytes become an image",),
            fixes=("Cut them as ``(height, width)``: ``x.view(-1, channels, height, width)``",),
            details={"shape": list(layer.shape), "likeness": list(layer.cut)},
        )


def read_across(first: FirstLayers) -> Iterator[Evidence]:
    """Sequences that a layer reads along their features, and whose steps in time it weighs."""
    for layer in first.layers:
        if not layer.along or layer.shape != layer.origin:
            continue
        (along, doubt), (across, error) = layer.order[:2], layer.order[2:]
        steps, features = layer.shape[layer.along], layer.shape[3 - layer.along]
        known = doubt < 1 or layer.kind.startswith("Conv")  # along so few, nobody convolves
        is_long = features >= max(_MANY, _LONGER * steps)
        is_ordered = is_long and across > max(_ORDERED, _SURE * error)
        if not (known and is_ordered and along < min(_UNORDERED, 2 * doubt)):
            continue
        told = (
            f"{layer.place} is {_size(layer.shape)}, and {layer.name} ({layer.kind}) reads along "
            f"its {steps} places, where neighbours are as alike as any others; among the "
            f"{features} that it takes for features, neighbours are more alike, by a correlation "
            f"of {across:.2f}: these are the sequence"
        )
        order = "(N, features, time)" if layer.along == 2 else "(N, time, features)"  # noqa: PLR2004
        yield Evidence(
            where=layer.place,
            measured=told,
            message=told,
            causes=(f"{layer.kind} takes {order}",),
            fixes=("Exchange the dimensions: ``x.transpose(1, 2)``",),
            details={"shape": list(layer.shape), "order": list(layer.order)},
        )


def exchanged_sides(axes: Axes) -> Iterator[Evidence]:
    """Images of validation that are as wide as those of training are high, and the reverse."""
    if axes.sizes is None:
        return
    train, validation = axes.sizes
    if train == validation or train != validation[::-1]:
        return
    told = f"all images of training are {_pair(train)} (height x width), all those of validation "
    told += _pair(validation)
    yield Evidence(
        where=axes.name,
        measured=told,
        message=told,
        causes=("PIL and OpenCV say (width, height), torch says (height, width)",),
        fixes=("Exchange the two where one of the sets is resized",),
        details={"train": list(train), "validation": list(validation)},
    )


def turned_images(rows: Rows) -> Iterator[Evidence]:
    """Images of validation that are, on the whole, those of training when turned or mirrored."""
    if rows.planes is None or min(map(len, rows.planes)) < _IMAGES:
        return
    (mean, error), (new, new_error) = (
        (one.mean(0, keepdim=True), one.var(0, keepdim=True) / len(one)) for one in rows.planes
    )
    least = 1e-6 * mean.square().mean() + 1e-30

    def off(turn: Callable[[Tensor], Tensor]) -> float:
        doubt = _turned(error, turn) + new_error + least
        return float(((_turned(mean, turn) - new).square() / doubt).mean())

    own, found = off(lambda one: one), {name: off(turn) for name, turn in _TURNS.items()}
    name = min(found, key=found.__getitem__)
    if not (own > _OFF and found[name] < _AT):
        return
    train, validation = map(len, rows.planes)
    yield Evidence(
        where=rows.name,
        measured=own,
        limit=_OFF,
        message=f"the mean image of validation is that of training {name}, and not as it is: "
        f"{found[name]:.3g} and {own:.3g} squared standard errors apart ({train} images of "
        f"training, {validation} of validation)",
        causes=("Only one of the two is transposed, rotated or flipped",),
        fixes=("Look at an image of each, as the net gets it, and load both in the same way",),
        details={"as it is": own, **found},
    )


def misplaced_masks(rows: Rows) -> Iterator[Evidence]:
    """Masks that lie where their objects are in the image only when they are turned or mirrored.

    All of them do, or as many as are mirrored on their own.
    """
    if rows.parts is None or rows.answers is None or len(rows.answers) < _MASKS:
        return
    masks = rows.answers.float()
    own = _agreement(rows.parts, masks)
    found = {name: _agreement(rows.parts, _turned(masks, turn)) for name, turn in _TURNS.items()}
    clear = sorted((one for one in found if found[one] >= _CLEAR), key=found.__getitem__)[::-1]
    turned = next((one for one in clear if found[one] >= _TIMES * own), "")
    either = (one for one in clear if _is_either(rows.parts, masks, _TURNS[one], found[one] / own))
    name = turned or next(either, "")
    if not name:
        return
    told = (
        f"{rows.target} has {'little' if turned else 'less'} to do with {rows.name} place by place "
        f"(z = {own:.2g}) {'and much' if turned else 'than it should, and as much'} when it is "
        f"{name} (z = {found[name]:.2g}, of {len(masks)} samples): "
        f"{'the' if turned else 'some'} masks lie beside what they mark"
    )
    cause = "Columns were taken for rows, or only one of image and mask was mirrored"
    yield Evidence(
        where=rows.target,
        measured=own,
        limit=found[name] / (_TIMES if turned else _HALF),
        message=told,
        causes=(cause if turned else "The transform draws anew for the mask",),
        fixes=("Draw at ``mask[y, x]``, and give image and mask the same transforms",),
        details={"as it is": own, **found},
    )


def _is_either(
    parts: Tensor, masks: Tensor, turn: Callable[[Tensor], Tensor], share: float
) -> bool:
    """Tells whether each mask belongs where it is or where it would be when turned, but not both.

    Then it is the difference of the two that varies from sample to sample, and not their sum. Where
    images or masks are symmetric, a mask has to do with both.
    """
    planes = parts.float().unbind(1)
    symmetry = max(_likeness(one, _turned(one, turn)) for one in (masks, *planes))
    if share < _HALF + symmetry:
        return False
    y, other = (one - one.mean(0) for one in (masks, _turned(masks, turn)))
    ways = [one / one.norm(dim=1, keepdim=True).clamp_min(1e-12) for one in (y - other, y + other)]
    found = []
    for one in planes:
        difference, total = (float(((one - one.mean(0)) * way).sum(1).var()) for way in ways)
        found.append(math.log(max(difference, 1e-30) / max(total, 1e-30)))
    return max(found) * math.sqrt(len(masks)) / 2 > _OPPOSED


def _turned(flat: Tensor, turn: Callable[[Tensor], Tensor]) -> Tensor:
    side = math.isqrt(flat.shape[1])
    return turn(flat.view(-1, side, side)).flatten(1)


def _likeness(one: Tensor, other: Tensor) -> float:
    """Returns how much the deviations of two sets of images go together, whatever the sign."""
    x, y = one - one.mean(0), other - other.mean(0)
    return abs(float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-30)))


def _agreement(parts: Tensor, masks: Tensor) -> float:
    """Returns how much what is masked differs from the rest, by whatever an image can be like.

    In standard deviations of what masks of other samples would give.
    """
    y = masks - masks.mean(0)
    spread = y.T @ y
    found = []
    for one in parts.float().unbind(1):
        x = one - one.mean(0)
        variance = (x.T @ x * spread).sum() / (len(y) - 1)
        found.append(abs(float((x * y).sum() / variance.clamp_min(1e-30).sqrt())))
    return max(found)


def _is_cut_anew(origin: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Tells whether colours were first and are last now; a single one may stand anywhere."""
    if len(origin) != 4 or len(shape) != 4 or origin[3] not in (3, 4):  # noqa: PLR2004
        return False
    return shape[1] == origin[3] and sorted(shape) == sorted(origin) and min(origin[1:3]) >= _SIDE


def _has_colours_last(shape: tuple[int, ...]) -> bool:
    if len(shape) != 4:  # noqa: PLR2004
        return False
    _, rows, columns, colours = shape
    return colours in _COLOURS and rows == columns >= _SIDE


def _are_interleaved(rows: tuple[float, ...]) -> bool:
    """Tells whether images are rather read with the colours last: a row is as many rows then.

    What is one row below, and two, is more alike than all that lies between.
    """
    colours = len(rows) // 2
    if not colours or not rows[colours - 1] > rows[-1]:
        return False
    below, further = (
        rows[at + colours - 1] - max(rows[at : at + colours - 1]) for at in (0, colours)
    )
    return below > _RATHER and further > 0


def _size(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _pair(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
