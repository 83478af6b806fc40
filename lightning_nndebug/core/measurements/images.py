"""Images in a batch: which of its tensors are some, and what they look like."""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_IMAGES, _PIXELS = 8, 32
_CHANNELS = (1, 3)


def is_image(tensor: Tensor) -> bool:
    """Whether it looks like a batch of images, channels first or last."""
    sides = 4
    if tensor.dim() != sides or tensor.layout is not torch.strided:
        return False
    _, first, height, last = tensor.shape
    return (first in _CHANNELS or last in _CHANNELS) and sides <= height


def channels_first(images: Tensor) -> Tensor:
    """Returns the first few of them, with their channels where torch wants them."""
    some = images[:_IMAGES].detach()
    return some if some.shape[1] in _CHANNELS else some.movedim(-1, 1)


def thumbnails(images: Tensor) -> dict[str, Any]:
    """Returns the first few as bytes in base64, with their number, height, width and channels."""
    some = channels_first(images).float().cpu()
    scale = min(1.0, _PIXELS / max(some.shape[-2:]))
    size = [max(1, round(side * scale)) for side in some.shape[-2:]]
    some = F.interpolate(some, size=size, mode="area")
    low, high = some.amin(), some.amax()
    some = ((some - low) / (high - low).clamp_min(1e-12) * 255).nan_to_num().byte()
    pixels = some.movedim(1, -1).contiguous().numpy().tobytes()
    shape = [len(some), *size, some.shape[1]]
    return {"shape": shape, "pixels": base64.b64encode(pixels).decode("ascii")}
