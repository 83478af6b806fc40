"""The weights that training starts from, and what kind of parameter each of them is."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..trainer import plain_name
from . import Measurement, Moment
from .gradients import is_sharded

Kind = Literal["matrix", "bias", "norm", "embedding", "other"]

LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)
_TABLES = (nn.Embedding, nn.EmbeddingBag)
NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
)
ENTRIES = 1024  # of each tensor are looked at
_CORNER = 64  # rows and columns tell, nearly always, that units differ
_FILLED, _END = 64, 0.95  # so many entries reach so near to the end of an interval that they fill
_JUDGED = 16  # entries, at least, tell a distribution
_MATRIX = re.compile(r"weight(_[ih]h(_l\d+(_reverse)?)?)?")
_ERRORS = 4.0  # standard errors are chance
_UNIFORM, _NORMAL = (1.8, 5.0), (3.0, 24.0)  # kurtosis, and the variance of its estimate times n


@dataclass(frozen=True)
class Weight:
    """One trainable parameter, as training starts.

    Attributes:
        name: The parameter.
        kind: What it is for: a matrix multiplies, a bias is added, a norm's parameter scales or
            shifts, an embedding is looked up, and of others nothing is known.
        fan_in: How many inputs it sums over; 1 if it does not.
        units: How many rows it has.
        size: Root mean square of its entries.
        is_constant: Whether all entries are equal.
        is_alike: Whether all units of the layer are equal, to the last bit.
        is_normalized: Whether a norm layer stands next to it, so that its scale does not matter.
        looks_random: Whether it has the look of a fresh initialization; None if that cannot be
            told.
    """

    name: str
    kind: Kind
    fan_in: int
    size: float
    units: int = 1
    is_constant: bool = False
    is_alike: bool = False
    is_normalized: bool = False
    looks_random: bool | None = None

    @property
    def gain(self) -> float:
        """By how much a matrix amplifies independent inputs."""
        return self.size * math.sqrt(self.fan_in)


@dataclass(frozen=True)
class InitialWeights(Measurement):
    """The trainable parameters before the first step. Not known where they are sharded.

    Attributes:
        weights: One for each, in the order of the module.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_start",)
    lasting: ClassVar[bool] = True

    weights: tuple[Weight, ...]

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> InitialWeights | None:
        """Reads a sample of each."""
        module = moment.module
        named = [(name, p) for name, p in module.named_parameters() if is_dense(p)]
        named = [(name, p) for name, p in named if p.requires_grad]
        if not named or is_sharded(moment.trainer, named):
            return None
        tree = dict(module.named_modules())
        samples = torch.stack([entries(p).cpu() for _, p in named]).double()
        weights = []
        for (name, p), row in zip(named, samples, strict=True):
            owner = tree[name.rpartition(".")[0]]
            weights.append(
                Weight(
                    name=plain_name(name),
                    kind=kind_of(owner, name, p),
                    fan_in=fan_in(owner, p),
                    units=len(p) if p.dim() else 1,
                    size=float(row.square().mean().sqrt()),
                    is_constant=bool((row == row[0]).all()),
                    is_alike=has_units(owner, p) and are_alike(p),
                    is_normalized=is_normalized(tree, name),
                    looks_random=looks_random(owner, p, row),
                )
            )
        return cls(tuple(weights))


def is_dense(p: Tensor) -> bool:
    """Returns whether a parameter has entries that can be read, as a lazy one has not."""
    return (
        not is_lazy(p)
        and p.layout is torch.strided
        and p.is_floating_point()
        and p.numel() > 0
        and p.device.type != "meta"
    )


def entries(x: Tensor) -> Tensor:
    """Returns some entries of a dense tensor, spread all over it: always the same, in float32."""
    flat = x.detach()
    flat = flat.to_local() if hasattr(flat, "to_local") else flat  # a part of a sharded one
    n = flat.numel()
    # The order does not matter: what lies dense in memory need not be copied.
    if not flat.is_contiguous() and _is_dense_in_memory(flat):
        flat = flat.as_strided((n,), (1,))
    return flat.reshape(-1).index_select(0, _places(n, flat.device)).float()


def kind_of(owner: nn.Module, name: str, p: Tensor) -> Kind:
    """Returns what a parameter is for, by the module that owns it."""
    if isinstance(owner, NORMS):
        return "norm"
    if isinstance(owner, _TABLES):
        return "embedding"
    if is_lazy(p):
        return "other"
    if "bias" in name.rpartition(".")[2] and p.dim() == 1:
        return "bias"
    # A layer with a forward of its own may scale its weights as it likes.
    is_plain = isinstance(owner, LAYERS) and f"{type(owner).__module__}.".startswith("torch.")
    return "matrix" if is_plain and _MATRIX.fullmatch(name.rpartition(".")[2]) else "other"


def fan_in(owner: nn.Module, p: Tensor) -> int:
    """Returns how many inputs each unit sums over."""
    if not isinstance(owner, LAYERS):
        return 1
    weight = p if p.dim() > 1 else next((one for one in owner.parameters() if one.dim() > 1), p)
    return max(1, weight.numel() // max(1, weight.shape[0]))


def has_units(owner: nn.Module, p: Tensor) -> bool:
    """Returns whether the rows of a parameter are units that see the same input."""
    is_layer = isinstance(owner, LAYERS) and p.dim() > 1 and len(p) > 1
    return is_layer and getattr(owner, "groups", 1) == 1 and not getattr(owner, "transposed", False)


def are_alike(p: Tensor) -> bool:
    """Returns whether all rows are equal, to the last bit."""
    rows = p.detach().flatten(1)
    corner = rows[:_CORNER, :_CORNER]
    return bool((corner == corner[0]).all()) and bool((rows == rows[0]).all())


def _is_dense_in_memory(x: Tensor) -> bool:
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return reach == x.numel() - 1


@functools.lru_cache(maxsize=256)
def _places(n: int, device: torch.device) -> Tensor:
    """A stride that has no divisor in common with the size meets each row and column."""
    step = max(1, int(0.618 * n))
    while math.gcd(step, n) != 1:
        step += 1
    return torch.arange(ENTRIES, device=device) * step % n


def is_normalized(tree: dict[str, nn.Module], name: str) -> bool:
    """Returns whether the next module in the same parent is a norm."""
    owner, parent = name.rpartition(".")[0], name.rpartition(".")[0].rpartition(".")[0]
    siblings = list(tree[parent].named_children()) if owner else []
    names = [f"{parent}.{one}" if parent else one for one, _ in siblings]
    after = names.index(owner) + 1 if owner in names else len(names)
    return after < len(names) and isinstance(siblings[after][1], NORMS)


def looks_random(owner: nn.Module, p: Tensor, row: Tensor) -> bool | None:
    """Tells a fresh initialization from weights that have been trained.

    A norm starts from ones and zeros, a bias from one number or within the bounds of its layer, a
    matrix from a uniform or a normal distribution. Training spoils all three.
    """
    if bool((row == row[0]).all()):
        is_round = float(f"{float(row[0]):.3g}") == round(float(row[0]), 6)
        return True if p.numel() > 1 or is_round else None
    if isinstance(owner, NORMS):
        return False
    if p.numel() < _JUDGED:
        return None
    if p.dim() > 1:
        return any(_has_kurtosis(row, p.numel(), *known) for known in (_UNIFORM, _NORMAL))
    width = owner.hidden_size if isinstance(owner, nn.RNNBase) else fan_in(owner, p)
    return bool(row.abs().max() <= width**-0.5 * (1 + 1e-6))


def is_drawn(owner: nn.Module, p: Tensor) -> bool:
    """Tells whether the weights of a layer fill the interval that torch draws them from."""
    row = entries(p)
    reach = float(row.abs().max()) * fan_in(owner, p) ** 0.5
    is_filled = p.numel() >= _FILLED and _END < reach <= 1 + 1e-6
    return is_filled and _has_kurtosis(row, p.numel(), *_UNIFORM)


def _has_kurtosis(row: Tensor, n: int, expected: float, variance: float) -> bool:
    """Compares the fourth moment with that of a distribution, within the errors of a sample."""
    centred = row - row.mean()
    kurtosis = float(centred.pow(4).mean() / centred.square().mean().square())
    return abs(kurtosis - expected) < _ERRORS * math.sqrt(variance / min(n, len(row)))
