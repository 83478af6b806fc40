"""What a pretrained net gets, against what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.findings import Evidence
from ..core.measurements.first_layers import FirstLayers
from ..core.measurements.processors import Processor

_BLACK, _WHITE = 0.02, 0.9  # the least and the largest value of images that go from 0 to 1
_BEYOND = 1.0  # as far as from black to white: no noise adds that much


def unnormalized(first: FirstLayers, processor: Processor) -> Iterator[Evidence]:
    """Images that are as their processor gets them, or that cannot come from it."""
    if not processor.was_trained:
        return
    mean, std = processor.mean, processor.std
    for layer in first.layers:
        if not layer.kind.startswith("Conv2d") or len(layer.means) != len(mean):
            continue
        span = f"{layer.name} gets values from {layer.low:.3g} to {layer.high:.3g}"
        low = min((0 - m) / s for m, s in zip(mean, std, strict=True))
        high = max((1 - m) / s for m, s in zip(mean, std, strict=True))
        room = _BEYOND / min(std)
        if 0 <= layer.low < _BLACK and _WHITE < layer.high <= 1 and low < -_BEYOND / 2:
            cause, fix = "The images are not normalized", f"Normalize by ``{processor.name}``"
        elif layer.low < low - room or layer.high > high + room:
            cause, fix = "The images are normalized twice, or not rescaled first", "Normalize once"
        else:
            continue
        told = f"{span}; {processor.name} makes {low:.3g} to {high:.3g} of black and white"
        yield Evidence(
            where=layer.name,
            measured=told,
            message=told,
            causes=(cause,),
            fixes=(fix,),
            details={"low": layer.low, "high": layer.high, "mean": list(mean), "std": list(std)},
        )
