"""How much of a batch of sequences is padding."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch

from . import Cadence, Measurement, Moment
from .batches import Place, tensors

_MASKS = ("attention_mask", "padding_mask", "key_padding_mask", "src_key_padding_mask")


@dataclass(frozen=True)
class Padding(Measurement):
    """Which share of the positions of a batch is padding, where a mask tells.

    Attributes:
        name: Where the mask is.
        share: The share.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_start",)
    cadence: ClassVar[Cadence] = Cadence(first=4, every=100)

    name: str
    share: float

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Padding | None:
        """Reads the mask; one of attention marks what counts, one of padding the rest."""
        for place, mask in tensors(moment.batch):
            if _name(place) in _MASKS and mask.dim() == 2 and mask.numel():  # noqa: PLR2004
                marked = float((mask.detach() != 0).to(torch.float32).mean())
                return cls(str(place), marked if "padding" in _name(place) else 1 - marked)
        return None


def _name(place: Place) -> str:
    key = place.keys[-1] if place.keys else None
    return key.lower() if isinstance(key, str) else ""
