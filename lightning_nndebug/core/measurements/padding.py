"""How much of a batch of sequences is padding."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from . import Cadence, Measurement, Moment
from .batches import Place, tensors

_LONG = 8  # positions
_FEW = 4  # samples
_MASKS = ("attention_mask", "padding_mask", "key_padding_mask", "src_key_padding_mask")


@dataclass(frozen=True)
class Padding(Measurement):
    """Which share of the positions of a batch is padding, where a mask or the values tell.

    They do where zeros begin at another position of each sample and go on to its end, or come from
    its beginning, and there are none among what remains.

    Attributes:
        name: Where the mask is, or else the sequences.
        share: The share.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_start",)
    cadence: ClassVar[Cadence] = Cadence(first=4, every=100)

    name: str
    share: float

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Padding | None:
        """Reads the mask; one of attention marks what counts, one of padding the rest."""
        leaves = tensors(moment.batch)
        for place, mask in leaves:
            if _name(place) in _MASKS and mask.dim() == 2 and mask.numel():  # noqa: PLR2004
                marked = float((mask.detach() != 0).to(torch.float32).mean())
                return cls(str(place), marked if "padding" in _name(place) else 1 - marked)
        for place, one in leaves:
            if (share := _padded(one.detach())) is not None:
                return cls(str(place), share)
        return None


def _padded(x: Tensor) -> float | None:
    """Returns the share of zeros behind or before the sequences of a batch, if it is padded so."""
    if x.dim() not in (2, 3) or x.dtype is torch.bool or len(x) < _FEW:
        return None
    ways = [(x != 0)] if x.dim() == 2 else [(x != 0).any(2), (x != 0).any(1)]  # noqa: PLR2004
    for real in ways:
        size = real.shape[1]
        if size < _LONG:
            continue
        places = torch.arange(1, size + 1, device=x.device)
        there = real.sum(1)
        ends = [(one * places).amax(1) for one in (real, real.flip(1))]
        varies = there.amin() < there.amax()
        is_padded = torch.stack([(there == one).all() & varies for one in ends]).any()
        told, share = torch.stack([is_padded.float(), 1 - there.float().mean() / size]).tolist()
        if told:
            return float(share)
    return None


def _name(place: Place) -> str:
    key = place.keys[-1] if place.keys else None
    return key.lower() if isinstance(key, str) else ""
