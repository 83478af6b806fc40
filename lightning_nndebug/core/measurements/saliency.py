"""Which pixels the loss hangs on: its gradient by the images of a batch."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..foreign import is_consumable
from ..sandbox import Sandbox
from . import Measurement, Moment
from .batches import tensors
from .images import channels_first, is_image, thumbnails
from .repeatable import Repeatable, is_repeatable
from .schedules import planned_steps

log = logging.getLogger("lightning_nndebug")

_FIRST, _GROWTH = 10, 10  # looks after 10, 100, 1,000, ... steps
_LATE = 0.9  # of the planned steps are over: the last look


@dataclass(frozen=True)
class Saliency(Measurement):
    """How much the loss of a step would change with each pixel of its first images.

    Attributes:
        where: Where the images are in the batch.
        images: Some of them, as thumbnails.
        maps: The size of the gradient by each pixel, relative to the largest of its image.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_start",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Repeatable,)

    where: str
    images: dict[str, Any]
    maps: dict[str, Any]

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Saliency | None:
        """Runs a step again now and then; never where other processes would have to take part."""
        if not hasattr(memory, "due"):
            draws = "dataloader_iter" in inspect.signature(moment.module.training_step).parameters
            memory.due = math.inf if moment.trainer.world_size > 1 or draws else _FIRST
        if moment.step < memory.due:
            return None
        late = _LATE * planned_steps(moment.trainer)
        memory.due = min(_GROWTH * moment.step, late) if moment.step < late else math.inf
        found = next(((place, one) for place, one in tensors(moment.batch) if _is_leaf(one)), None)
        if found is None or not is_repeatable(moment) or is_consumable(moment.batch):
            return None
        place, images = found
        try:
            gradient = _gradient(moment, images)
        except Exception as error:
            memory.due = math.inf
            log.info("nndebug: which pixels the loss hangs on is not known: %s", error)
            return None
        if gradient is None:
            return None
        size = channels_first(gradient).float().abs().amax(1, keepdim=True)
        largest = size.amax((1, 2, 3), keepdim=True)
        if not largest.isfinite().all() or not largest.any():
            return None
        maps = size / largest.clamp_min(torch.finfo(torch.float32).tiny)
        return cls(str(place), thumbnails(images), thumbnails(maps))

    def snapshot(self) -> dict[str, Any]:
        """Everything."""
        return {"where": self.where, "images": self.images, "maps": self.maps}


def _is_leaf(tensor: Tensor) -> bool:
    """Whether these are images by which a loss can be differentiated."""
    usable = tensor.is_floating_point() and tensor.is_leaf and not tensor.requires_grad
    return usable and not tensor.is_inference() and tensor.numel() > 0 and is_image(tensor)


def _gradient(moment: Moment, images: Tensor) -> Tensor | None:
    with Sandbox(moment.trainer, moment.module) as sandbox, _differentiable(images):
        loss = sandbox.training_step(moment.batch, moment.batch_idx).loss
        if not moment.module.automatic_optimization:
            return images.grad
        if loss is None or not loss.requires_grad:
            return None
        (found,) = torch.autograd.grad(loss, images, allow_unused=True)
        return found


@contextmanager
def _differentiable(images: Tensor) -> Iterator[None]:
    """Lets the images take part in the graph, and puts back what they were."""
    before = images.grad
    images.requires_grad_()
    try:
        yield
    finally:
        images.requires_grad = False
        images.grad = before
