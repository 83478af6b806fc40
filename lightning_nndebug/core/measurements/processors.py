"""What the makers of a pretrained net say of the images that it takes, where the run has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor, nn

from . import Measurement, Moment


@dataclass(frozen=True)
class Processor(Measurement):
    """How images are normalized for a pretrained net: by an image processor, or its weights' own.

    Looked for among the attributes of the module, the data module and the data set: nothing is
    downloaded, and nothing imported.

    Attributes:
        name: Where it is, such as ``self.processor``; empty if there is none.
        mean: What is subtracted from each channel of images from 0 to 1,
        std: and what they are divided by then.
        was_trained: Whether the net came with weights that had been trained.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_start",)
    lasting: ClassVar[bool] = True

    name: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    was_trained: bool = False

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Processor:
        """Takes the first one that there is."""
        for name, one in _attributes(moment):
            known = _normalization(one)
            if known is not None:
                # What this run has trained in an earlier part, it may have trained otherwise.
                was_trained = not moment.trainer.global_step and _is_trained(moment.module)
                return cls(name, *known, was_trained)
        return cls()


def _attributes(moment: Moment) -> Iterator[tuple[str, Any]]:
    combined = getattr(moment.trainer.fit_loop, "_combined_loader", None)
    datasets = [getattr(one, "dataset", None) for one in getattr(combined, "flattened", ())]
    owners = [("self", moment.module), ("datamodule", getattr(moment.trainer, "datamodule", None))]
    for name, owner in [*owners, *(("dataset", one) for one in datasets)]:
        for key, value in getattr(owner, "__dict__", {}).items():
            yield f"{name}.{key}", value


def _normalization(one: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns mean and standard deviation, as Hugging Face and torchvision have them."""
    is_weights = type(one).__module__.startswith("torchvision.models") and hasattr(one, "meta")
    preset = one.transforms() if is_weights else one
    is_preset = type(preset).__module__ == "torchvision.transforms._presets"
    names = ("mean", "std") if is_preset else ("image_mean", "image_std")
    own = getattr(preset, "__dict__", {})  # attributes that are computed might fail
    mean, std = (own.get(name) for name in names)
    if not (isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple))):
        return None
    return (tuple(mean), tuple(std)) if mean and std and own.get("do_normalize", True) else None


def _is_trained(module: nn.Module) -> bool:
    """Tells whether some norm scales its channels differently, which none does that is new."""
    for one in module.modules():
        scale = getattr(one, "weight", None) if "norm" in type(one).__name__.lower() else None
        if isinstance(scale, Tensor) and scale.numel() > 1:
            values = scale.detach().flatten()
            if bool((values != values[0]).any()):
                return True
    return False
