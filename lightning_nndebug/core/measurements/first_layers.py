"""The batch as the first layers of the net see it, after whatever the step does to it before."""

from __future__ import annotations

import functools
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..listening import hookable
from ..mode_effects import can_thaw, is_norm
from ..sandbox import running
from ..trainer import eagerly, plain_name
from . import Cadence, Measurement, Moment
from .batches import tensors
from .inputs import Inputs

_FEATURES = 1024  # channels or columns are told apart, at most,
_DESCRIBED = 8  # layers, in the record
_COLOURS = (3, 4)  # channels of an image,
_FEW, _PIXELS = 2**12, 2**18  # of so many values of which rows are compared
_PAIRS = 3  # of places that are not neighbours, for a comparison
_ORDER, _CUT = 4, 5  # numbers
_SIDE, _ASIDE = 6, 3  # pixels of the shorter side of an image, at least, and of a shift
_RATHER = 0.1  # of the likeness within rows: so much more alike is what is next to each other
_EPS = 1e-5  # of the variance, as norms have it
_SAMPLES = 256  # samples of a batch are looked at,
_POSITIONS = 64  # and positions along each dimension of an image or a sequence
# What multiplies its input by weights: for these, the scale of the input matters.
_WEIGHING = (
    nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase,
)  # fmt: skip


@dataclass(frozen=True)
class FirstLayer:
    """A layer that nothing trainable comes before, and what it was given.

    Attributes:
        name: The module.
        kind: Its class.
        is_weighing: Whether it multiplies its input by weights that are being trained.
        is_normed: Whether a norm takes its output.
        place: The tensor of the batch that it was given, as the user writes it; empty if the step
            made something else of it.
        shape: The shape of what it was given.
        origin: The shape of that tensor in the batch.
        is_reinterpreted: Whether the two differ while the numbers lie in the same order in memory.
        features: The size of the input as the layer expects it: channels or columns.
        low: The least value,
        high: and the largest one.
        means: Mean of each channel or column, evenly spaced ones of too many,
        deviations: and standard deviation.
        dtype: The type of what it was given.
        rows: Of colour images, how alike rows are that lie 1, 2, ... apart, read plane by plane:
            correlations up to two times as many rows as there are colours.
        cut: Of images that are not square, how alike pixels are that lie a row apart, and so they
            are if width and height are exchanged; then those that lie about as far apart, those at
            the end of a row and the beginning of the next one, and neighbours within a row.
        along: The dimension that it reads along, as a convolution or recurrent module does with
            sequences; 0 if it has none.
        order: How much more alike neighbours along it are than others, and the standard error of
            that; then the same along the dimension of the features.
    """

    name: str
    kind: str
    is_weighing: bool
    is_normed: bool
    place: str
    shape: tuple[int, ...]
    origin: tuple[int, ...]
    is_reinterpreted: bool
    features: int
    low: float
    high: float
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    dtype: str = ""
    rows: tuple[float, ...] = ()
    cut: tuple[float, ...] = ()
    along: int = 0
    order: tuple[float, ...] = ()

    @property
    def sizes(self) -> tuple[float, ...]:
        """The root mean square of each channel or column."""
        return tuple(math.hypot(*one) for one in zip(self.means, self.deviations, strict=True))


@dataclass(frozen=True)
class FirstNorm:
    """The first norm with running statistics, and what it was given in train or eval mode.

    Attributes:
        name: The module.
        was_fresh: Whether it had no statistics when the run began.
        shift: By how many standard deviations, as they were running at the first look, the mean of
            a channel is off, in the median.
        ratio: How many times as large the standard deviation of a channel is, in the median.
        thaws: Whether what comes before it is frozen, and there is code that may free it.
    """

    name: str
    was_fresh: bool
    shift: float
    ratio: float
    thaws: bool = False


@dataclass(frozen=True)
class Recurrent:
    """A recurrent or attention module, and the order of the dimensions of what it was given.

    Attributes:
        name: The module.
        kind: Its class.
        batch_first: Whether it takes samples first, and time second.
        shape: What it was given.
    """

    name: str
    kind: str
    batch_first: bool
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FirstLayers(Measurement):
    """What the first layers were given in one step.

    Attributes:
        layers: Layers that nothing trainable comes before.
        norm: The first norm with running statistics, if there is one.
        recurrent: Recurrent and attention modules, each in its first call.
        carries_state: Whether a recurrent module was given a state to start from.
        samples: How many samples the batch has; 0 if that is not known.
        looks: How many looks there were, with this one.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=4, every=200)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Inputs,)
    lasting: ClassVar[bool] = True

    layers: tuple[FirstLayer, ...]
    norm: FirstNorm | None
    recurrent: tuple[Recurrent, ...]
    carries_state: bool
    samples: int
    looks: int

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Hooks every module that computes something by itself."""
        memory.watch = watch = _Watch(moment, vars(memory).setdefault("before", {}))
        watch.stack.enter_context(eagerly(moment.module))
        for name, module in hookable(moment.module):
            if module is not moment.module:
                watch.add(plain_name(name), module)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> FirstLayers | None:
        """Reads what was noted on the device, if anybody listened in this step."""
        watch: _Watch | None = vars(memory).get("watch")
        if watch is None:
            return None
        if watch.error is not None:
            raise watch.error
        inputs = moment.take(Inputs)
        rows = inputs.read(moment.batch) if inputs is not None else []
        memory.looks = vars(memory).get("looks", 0) + 1
        return watch.read(cls, len(rows[0]) if rows else 0, memory.looks)

    def snapshot(self) -> dict[str, Any]:
        """What the first layers were given in the first step, as the first batch is described."""
        if self.looks > 1 or not self.layers:
            return {}
        return {"tensors": [_described(one) for one in self.layers[:_DESCRIBED]]}

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks."""
        if hasattr(memory, "watch"):
            memory.watch.stack.close()
            del memory.watch


class _Watch:
    """The hooks of one step. They run in the user's forward: they may not raise."""

    def __init__(self, moment: Moment, before: dict[str, tuple[Tensor, Tensor]]) -> None:
        self.stack = ExitStack()
        self.error: Exception | None = None
        self._before = before  # the statistics at the first look: in train mode they follow
        self._leaves = [(place, one) for place, one in tensors(moment.batch) if one.numel()]
        self._layers: list[tuple[FirstLayer, Tensor]] = []
        self._called: list[tuple[str, bool]] = []
        self._norm: tuple[str, Tensor, bool] | None = None
        self._trained: list[bool] = []  # whether each parameter so far is
        self._can_thaw = any(map(can_thaw, map(type, (moment.module, *moment.trainer.callbacks))))
        self._weighing = 0  # layers so far: a norm behind several is not given the data
        self._recurrent: dict[str, Recurrent] = {}
        self._carries_state = False

    def add(self, name: str, module: nn.Module) -> None:
        """Listens to a module."""
        hook = functools.partial(self._calling, name)
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        self.stack.callback(handle.remove)

    def read(self, cls: type[FirstLayers], samples: int, looks: int) -> FirstLayers:
        """Copies all numbers at once."""
        rows = [row for _, row in self._layers] + ([self._norm[1]] if self._norm else [])
        device = rows[0].device if rows else None
        lengths = [len(row) for row in rows]
        numbers = torch.cat([row.to(device) for row in rows]).tolist() if rows else []
        read = [numbers[sum(lengths[:i]) : sum(lengths[: i + 1])] for i in range(len(rows))]
        layers = [
            _completed(one, row, self._is_normed(one.name))
            for (one, _), row in zip(self._layers, read, strict=False)
        ]
        norm = None
        if self._norm is not None:
            (name, _, thaws), (fresh, shift, ratio) = self._norm, read[-1]
            norm = FirstNorm(name, bool(fresh), shift, ratio, thaws)
        recurrent = tuple(self._recurrent.values())
        return cls(tuple(layers), norm, recurrent, self._carries_state, samples, looks)

    def _is_normed(self, name: str) -> bool:
        names = [one for one, _ in self._called]
        after = names.index(name) + 1
        return self._called[after - 1][1] or (after < len(names) and self._called[after][1])

    def _calling(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        # Checkpointed modules are called for a second time in the backward.
        if self.error or running() or torch._C._current_graph_task_id() != -1:
            return
        try:
            with torch.no_grad():
                self._note(name, module, args, kwargs)
        except Exception as error:
            self.error = error

    def _note(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
        if given is None or not given.numel() or given.layout is not torch.strided:
            return
        if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            self._note_order(name, module, given)
            state = [*args[1:2], kwargs.get("hx")]
            is_recurrent = isinstance(module, nn.RNNBase)
            self._carries_state |= is_recurrent and any(one is not None for one in state)
        is_first = self._norm is None and self._weighing <= 1
        if is_norm(module) and is_first and given.dim() > 1:
            norm: Any = module
            mean, variance = (one.detach().float() for one in (norm.running_mean, norm.running_var))
            self._before.setdefault(name, (mean.clone(), variance.clone()))
            thaws = self._can_thaw and not any(self._trained or _trained(module))
            self._norm = name, _against(*self._before[name], given), thaws
        self._trained += _trained(module)
        if not computes(module) or name in dict(self._called):
            return
        place, leaf = next(
            ((place, one) for place, one in self._leaves if _is_view(given, one)), (None, None)
        )
        if given.grad_fn is None and (place is not None or not self._called):
            origin = () if leaf is None else tuple(leaf.shape)
            layer = FirstLayer(
                name=name,
                kind=type(module).__name__,
                is_weighing=isinstance(module, _WEIGHING)
                and any(p.requires_grad for p in module.parameters(recurse=False)),
                is_normed=False,
                place="" if place is None else str(place),
                shape=tuple(given.shape),
                origin=origin,
                is_reinterpreted=leaf is not None and _is_reinterpreted(given, leaf),
                features=_expected(module),
                low=math.nan,
                high=math.nan,
                means=(),
                deviations=(),
                dtype=str(given.dtype)[6:],
                along=_along(module, given),
            )
            if not given.is_complex():
                likeness = _likeness(given, _apart(layer))
                told = (_statistics(module, given), likeness, _cut(given, layer))
                self._layers.append((layer, torch.cat((*told, _order(given, layer.along)))))
        self._called.append((name, _normalizes(module)))
        self._weighing += isinstance(module, _WEIGHING)

    def _note_order(self, name: str, module: Any, given: Tensor) -> None:
        if given.dim() == 3:  # noqa: PLR2004
            kind, shape = type(module).__name__, tuple(given.shape)
            self._recurrent.setdefault(name, Recurrent(name, kind, module.batch_first, shape))


def computes(module: nn.Module) -> bool:
    """Tells whether a module works on its input by itself, rather than by its children."""
    if type(module).__module__.startswith("torch.nn.utils"):  # computes a weight
        return False
    if isinstance(module, nn.MultiheadAttention) or _normalizes(module):
        return True
    parts = [
        one for one in module.children() if not type(one).__module__.startswith("torch.nn.utils")
    ]
    return not any(True for one in parts for _ in one.parameters()) and any(
        True for _ in module.parameters()
    )


def _trained(module: nn.Module) -> list[bool]:
    return [p.requires_grad for p in module.parameters(recurse=False)]


def _normalizes(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) or "norm" in type(module).__name__.lower()


def _expected(module: Any) -> int:
    """Returns the number of channels or columns that a layer was made for; 0 if nobody knows."""
    names = ("in_channels", "in_features", "input_size", "embed_dim", "num_features")
    return next((int(getattr(module, one)) for one in names if hasattr(module, one)), 0)


def _is_view(one: Tensor, of: Tensor) -> bool:
    if one.device != of.device:
        return False
    return one.untyped_storage().data_ptr() == of.untyped_storage().data_ptr()


def _is_reinterpreted(one: Tensor, of: Tensor) -> bool:
    """Tells whether a tensor is another one that was cut into rows anew, as by ``view``."""
    plain = one.is_contiguous() and of.is_contiguous() and one.numel() == of.numel()
    return plain and one.shape != of.shape and one.data_ptr() == of.data_ptr()


def _statistics(module: nn.Module, x: Tensor) -> Tensor:
    """Returns the least and largest value, then means and deviations of the features."""
    spatial = isinstance(module, (nn.modules.conv._ConvNd, _NormBase, nn.GroupNorm))
    axis = 1 if spatial and x.dim() > 1 else -1
    x = x.detach()[:_SAMPLES].movedim(axis, -1)
    for inner in range(1, x.dim() - 1):
        x = x[(slice(None),) * inner + (slice(None, None, -(-x.shape[inner] // _POSITIONS)),)]
    x = x[..., :: -(-x.shape[-1] // _FEATURES)]
    x = x.reshape(-1, x.shape[-1]).float()
    ends = torch.stack([x.amin(), x.amax()])
    return torch.cat([ends, x.mean(0), x.std(0, correction=0)])


def _apart(layer: FirstLayer) -> int:
    """Returns how many rows apart those of colour images are compared; 0 if it gets none."""
    if not layer.kind.startswith("Conv2d") or len(layer.shape) != 4:  # noqa: PLR2004
        return 0
    _, colours, height, _ = layer.shape
    return 2 * colours if colours in _COLOURS and height > 2 * colours else 0


def _likeness(images: Tensor, apart: int) -> Tensor:
    """Returns the correlations between rows that lie so far apart, for each distance up to it."""
    if not apart or not len(images):
        return images.new_zeros(apart, dtype=torch.float32)
    width = images.shape[-1]
    flat = images.detach()[: max(1, _PIXELS // images[0].numel())].flatten(1).float()
    flat = flat - flat.mean(1, keepdim=True)
    pairs = [(flat[:, k * width :], flat[:, : -k * width]) for k in range(1, apart + 1)]
    found = [torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in pairs]
    return torch.stack(found) if flat.numel() >= _FEW else flat.new_zeros(apart)


def _is_oblong(layer: FirstLayer) -> bool:
    if not layer.kind.startswith("Conv2d") or len(layer.shape) != 4:  # noqa: PLR2004
        return False
    samples, *_, height, width = layer.shape
    return samples > 1 and height != width and min(height, width) >= _SIDE


def _cut(images: Tensor, layer: FirstLayer) -> Tensor:
    """Returns what tells whether images were cut into rows of the right width.

    What all samples have in common, such as a frame, is left out.
    """
    if not _is_oblong(layer):
        return images.new_zeros(0, dtype=torch.float32)
    height, width = images.shape[-2:]
    x = images.detach()[: max(2, _PIXELS // images[0].numel())].float()
    rows = (x - x.mean(0)).flatten(0, 1)
    flat = rows.flatten(1)

    def alike(a: Tensor, b: Tensor) -> Tensor:
        return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)

    own, other, *about = (
        alike(flat[:, k:], flat[:, :-k])
        for k in (width, height, height // 2, height - _ASIDE, height + _ASIDE)
    )
    within = alike(rows[..., 1:], rows[..., :-1])
    seam, further = (alike(rows[:, :-k, -1], rows[:, k:, 0]) for k in (1, 2))
    # What all rows have in common, such as a beat, is at the beginning of any of them.
    seam = seam * (seam > further + _RATHER * within)
    return torch.stack([own, other, torch.stack(about).amax(), seam, within])


def _along(module: Any, x: Tensor) -> int:
    if x.dim() != 3 or not x.is_floating_point():  # noqa: PLR2004
        return 0
    if isinstance(module, nn.RNNBase):
        return 1 if module.batch_first else 0
    return 2 if isinstance(module, nn.Conv1d) and module.kernel_size[0] > 1 else 0


def _order(x: Tensor, along: int) -> Tensor:
    """Returns whether neighbours are more alike, along this dimension and along the other one.

    What all samples have in common is left out.
    """
    if not along:
        return x.new_zeros(0, dtype=torch.float32)
    x = x.detach()[:_SAMPLES, :_POSITIONS, :_POSITIONS].float()
    x = x - x.mean(0)
    told = []
    for axis in (along, 3 - along):
        alike = x.movedim(axis, 0).flatten(1).corrcoef().nan_to_num().reshape(x.shape[axis], -1)
        apart = torch.ones_like(alike).triu(2).bool()
        next_, others = alike.diagonal(1), alike[apart]
        if len(others) < _PAIRS:
            told += [others.new_zeros(()), others.new_ones(())]
        else:
            told += [next_.mean() - others.mean(), others.std() / math.sqrt(len(next_))]
    return torch.stack(told)


def _described(layer: FirstLayer) -> dict[str, Any]:
    mean = sum(layer.means) / max(1, len(layer.means))
    square = sum(one**2 for one in layer.sizes) / max(1, len(layer.sizes))
    about = {"where": layer.name, "of": layer.kind, "type": layer.dtype, "shape": list(layer.shape)}
    numbers = {"low": layer.low, "high": layer.high, "mean": mean}
    return {**about, **numbers, "std": math.sqrt(max(0.0, square - mean**2))}


def _completed(layer: FirstLayer, numbers: list[float], is_normed: bool) -> FirstLayer:
    low, high, *rest = numbers
    rest, order = (rest[:-_ORDER], rest[-_ORDER:]) if layer.along else (rest, [])
    rest, cut = (rest[:-_CUT], rest[-_CUT:]) if _is_oblong(layer) else (rest, [])
    end = len(rest) - _apart(layer)
    half = end // 2
    return replace(
        layer,
        low=low,
        high=high,
        means=tuple(rest[:half]),
        deviations=tuple(rest[half:end]),
        rows=tuple(rest[end:]),
        cut=tuple(cut),
        order=tuple(order),
        is_normed=is_normed,
    )


def _against(mean: Tensor, variance: Tensor, x: Tensor) -> Tensor:
    """Returns whether a norm had no statistics yet, and how far off what it is given is."""
    rows = x.detach()[:_SAMPLES].transpose(0, 1).flatten(1).float()
    fresh = (mean == 0).all() & (variance == 1).all()
    shift = (rows.mean(1) - mean).abs() / (variance + _EPS).sqrt()
    ratio = ((rows.var(1, correction=0) + _EPS) / (variance + _EPS)).sqrt()
    return torch.stack([fresh.float(), shift.median(), ratio.median()])
