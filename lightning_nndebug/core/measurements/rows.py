"""A bounded random part of the samples, with their labels: what can be asked of the data alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor, nn

from . import Measurement, Moment
from .inputs import Inputs, sampled, stride
from .succession import lag

_ROWS = 512  # samples of training, and as many of validation,
_FEATURES = 512  # and so many values of each: 1 MB each
_ANSWERS = 64  # to a sample, at most
_PARTS = 8  # of a mask, from side to side
_CHANNELS = 4  # of an image, at most
_VALIDATIONS = 3  # that are looked at


@dataclass(frozen=True)
class Rows(Measurement):
    """Samples from all over the first epoch, as rows of the main input's values.

    They are taken evenly from all batches, since the data may be sorted. Not known of tokens, whose
    numbers mean nothing.

    Attributes:
        name: Where the input is.
        target: Where the labels are; empty if there are none.
        train: Rows of training, on the host.
        labels: A class number or value for each; None if there is none.
        answers: Several answers or values for each, instead.
        parts: For each, what an image is like in each part of its mask: the mean of each channel,
            and how rough it is. None where the answers are no masks.
        is_class: Whether these are class numbers, or answers of yes and no.
        is_mask: Whether the answers say which share of each part belongs to something.
        validation: Rows of validation; None unless one is just over.
        validation_labels: A class number or value for each of those; None if there is none.
        is_image: Whether the values of a row are in a grid.
        lag: How many columns later the next moment is, if validation has windows that slide over a
            series; else 0.
        blank: Which of the samples of training have the same value throughout, in all that is read;
            None where inputs beside this one may tell them apart.
        planes: How bright each part of an image is, beside its mean, for images of training and of
            validation; None if they are no images, or have their colours last.
        step: Of which only every so many-th is in the row.
        look: How often this was read, counted from 1.
    """

    hooks: ClassVar[tuple[str, ...]] = Inputs.hooks
    needs: ClassVar[tuple[type[Measurement], ...]] = (Inputs,)
    lasting: ClassVar[bool] = True

    name: str
    target: str
    train: Tensor
    labels: Tensor | None = None
    is_class: bool = False
    is_mask: bool = False
    validation: Tensor | None = None
    validation_labels: Tensor | None = None
    answers: Tensor | None = None
    parts: Tensor | None = None
    is_image: bool = False
    lag: int = 0
    blank: Tensor | None = None
    planes: tuple[Tensor, Tensor] | None = None
    step: int = 1
    look: int = 1

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Rows | None:
        """Keeps a few rows of each batch on their device, and reads them once they are complete."""
        inputs = moment.take(Inputs)
        if inputs is None or inputs.tokens:
            return None
        if not hasattr(memory, "pool"):
            memory.pool = _Pool(inputs)
        pool: _Pool = memory.pool
        if moment.hook == "on_train_batch_end" and pool.train:
            return None  # only of the first batch did the step have to show what is what
        if moment.hook.startswith("on_train_batch"):
            return pool.told() if pool.hear(moment) else None
        if moment.hook == "on_validation_batch_start":
            pool.hear_validation(moment)
            return None
        return pool.told_of_validation() if "validation" in moment.hook else pool.told_once()


class _Pool:
    """The rows so far."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.train: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.blank: list[Tensor] = []
        self.answers: list[Tensor] = []
        self.parts: list[Tensor] = []
        self.binary: list[Tensor] = []
        self.validation: list[Tensor] = []
        self.validation_labels: list[Tensor] = []
        self.planes: list[Tensor] = []
        self.validation_planes: list[Tensor] = []
        self.shape: torch.Size | None = None
        self.is_class = False
        self.count = self.looks = self.validations = self.lag = 0
        self.is_told = self.is_over = False

    def hear(self, moment: Moment) -> bool:
        """Notes a batch of training; returns whether that completes the rows."""
        if self.is_over or self.count >= _ROWS:  # a second epoch brings no other rows
            return False
        rows = self.inputs.read_main(moment.batch)
        chosen = self._chosen(rows, moment.trainer.num_training_batches)
        if rows is None or chosen is None:
            return False
        self.train.append(_values(rows[chosen]))
        self.planes += _planes(rows[chosen])
        flat = rows[chosen].flatten(1) if rows.dim() > 1 else rows[chosen].unsqueeze(1)
        self.blank.append((flat == flat[:, :1]).all(1))
        place = self.inputs.target
        labels = None if place is None else place.read(moment.batch)
        if labels is not None and _tells_objects(labels, rows):
            labels = (labels > 0).to(torch.uint8).unsqueeze(1)
        answers = None if labels is None else answers_of(labels)
        if labels is not None and answers is not None and len(answers) == len(rows):
            self.is_class = not labels.is_floating_point()
            (self.labels if answers.dim() == 1 else self.answers).append(answers[chosen].clone())
            if is_map(labels) and _is_above(labels, rows):
                self.parts.append(_parts(rows[chosen]))
                self.binary.append(((labels == 0) | (labels == 1)).all())
        self.count += len(self.train[-1])
        return self.count >= _ROWS

    def hear_validation(self, moment: Moment) -> None:
        """Notes a batch of the first set to validate on."""
        if self.validations >= _VALIDATIONS or moment.dataloader_idx:
            return
        batches = moment.trainer.num_val_batches
        rows = self.inputs.read_main(moment.batch)
        chosen = self._chosen(rows, batches[0] if isinstance(batches, list) else batches)
        if rows is not None and chosen is not None and len(self.validation) < _ROWS:
            self.lag = self.lag if self.validation else lag(rows)
            self.validation.append(_values(rows[chosen]))
            self.validation_planes += _planes(rows[chosen])
            place = self.inputs.target
            labels = None if place is None else place.read(moment.batch)
            if labels is not None and labels.numel() == len(labels) == len(rows):
                self.validation_labels.append(labels.detach().flatten()[chosen].double())

    def told_of_validation(self) -> Rows | None:
        """Returns the rows of both, when a validation is over."""
        if not self.validation or not self.train:
            return None
        self.validations += 1
        validation, labels, planes = torch.cat(self.validation).cpu(), None, None
        if self.planes and self.validation_planes:
            planes = torch.cat(self.planes).cpu(), torch.cat(self.validation_planes).cpu()
        if len(self.validation_labels) == len(self.validation):
            labels = torch.cat(self.validation_labels).cpu()
        self.validation.clear()
        self.validation_labels.clear()
        self.validation_planes.clear()
        return replace(self.told(validation, labels), planes=planes)

    def told_once(self) -> Rows | None:
        """Returns the rows at the end of the first epoch, if they were not complete before."""
        self.is_over = bool(self.train)
        return self.told() if self.train and not self.is_told else None

    def told(
        self, validation: Tensor | None = None, validation_labels: Tensor | None = None
    ) -> Rows:
        """Returns the rows."""
        self.looks += 1
        self.is_told |= validation is None
        shape = self.shape or ()
        step = stride(math.prod(shape), _FEATURES)
        is_labelled = len(self.labels) == len(self.train)
        labels = torch.cat(self.labels).cpu() if is_labelled else None
        several = torch.cat(self.answers).cpu() if len(self.answers) == len(self.train) else None
        are_answers = labels is not None and bool(((labels == 0) | (labels == 1)).all())
        return Rows(
            name=str(self.inputs.main),
            target=str(self.inputs.target or ""),
            train=torch.cat(self.train).cpu(),
            labels=labels,
            answers=several,
            parts=torch.cat(self.parts).cpu() if len(self.parts) == len(self.train) else None,
            is_class=self.is_class or are_answers,
            is_mask=bool(self.binary) and bool(torch.stack(self.binary).all()),
            validation=validation,
            validation_labels=validation_labels,
            is_image=len(shape) > 1,
            lag=math.lcm(self.lag, step) // step,
            blank=torch.cat(self.blank).cpu() if len(self.inputs.places) == 1 else None,
            step=step,
            look=self.looks,
        )

    def _chosen(self, rows: Tensor | None, batches: float) -> slice | None:
        """Returns which rows to take of a batch: as many of each, evenly spaced."""
        if rows is None or rows.is_complex() or self.shape not in (None, rows.shape[1:]):
            return None
        self.shape = rows.shape[1:]
        count = math.ceil(_ROWS / batches) if batches and math.isfinite(batches) else 16
        step = max(1, len(rows) // count)
        return slice(0, count * step, step)


def answers_of(targets: Tensor) -> Tensor | None:
    """Returns the answers for each sample: one, or a few; of a mask, what share of each part."""
    if is_map(targets):
        return coarse(targets).double()
    if not targets.dim() or targets.is_complex() or not targets.numel():
        return None
    if targets.numel() == len(targets):
        return targets.detach().flatten().double()
    is_table = targets.dim() == 2 and targets.shape[1] <= _ANSWERS  # noqa: PLR2004
    return targets.detach().double() if is_table else None


def is_map(x: Tensor) -> bool:
    """Returns whether there is a single value for each place of an image."""
    return x.dim() == 4 and x.shape[1] == 1 and min(x.shape[2:]) >= _PARTS and not x.is_complex()  # noqa: PLR2004


def coarse(maps: Tensor) -> Tensor:
    """Returns the means over eight times eight parts of each map."""
    return nn.functional.adaptive_avg_pool2d(maps.detach().float(), _PARTS).flatten(1)


def _tells_objects(labels: Tensor, images: Tensor) -> bool:
    """Whether each pixel has a class, of which 0 is the background."""
    is_index = not labels.is_floating_point() and not labels.is_complex()
    return is_index and images.dim() == 4 and labels.shape[1:] == images.shape[2:]  # noqa: PLR2004


def _is_above(maps: Tensor, images: Tensor) -> bool:
    """Whether each place of a map is one of the image: where colours are last, it is not."""
    if images.dim() != maps.dim():
        return False
    (*_, height, width), (*_, rows, columns) = images.shape, maps.shape
    return height * columns == width * rows


def _parts(images: Tensor) -> Tensor:
    """Returns the mean of each channel in each part, and the variance of their sum."""
    x = images.detach()[:, :_CHANNELS].float()
    x = torch.cat([x, x.sum(1, keepdim=True), x.sum(1, keepdim=True).square()], dim=1)
    means = nn.functional.adaptive_avg_pool2d(x, _PARTS).flatten(2)
    return torch.cat([means[:, :-1], means[:, -1:] - means[:, -2:-1].square()], dim=1)


def _planes(images: Tensor) -> list[Tensor]:
    """Returns how bright each part is, if these are images with their channels first."""
    if images.dim() != 4 or images.shape[1] > _CHANNELS or min(images.shape[2:]) < _PARTS:  # noqa: PLR2004
        return []
    parts = coarse(images.detach().float().mean(1, keepdim=True))
    return [parts - parts.mean(1, keepdim=True)]


def _values(rows: Tensor) -> Tensor:
    return sampled(rows, _FEATURES).float().clone()
