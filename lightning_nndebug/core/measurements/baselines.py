"""What simple models make of the same data: the best constant, a linear one, one with kernels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import Measurement, Moment
from .batches import tensors
from .loss_calls import LossCall, LossCalls
from .loss_curve import LossCurve
from .schedules import planned_steps
from .skill import Skill, only, sums_of, tally

_KEPT = 512  # samples
_LEAST = 96
_STEPS = 200  # before the first look
_ENTRIES = 4096  # of a sample
_MOST_CLASSES = 100
_VIEWS = 5  # that may come between a layer and the loss
_LAYERS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear")
_RESHAPED = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Permute", "Transpose",
             "TBackward", "ToCopy", "LogSoftmax", "Flatten", "Mean", "Select", "Slice")  # fmt: skip
# What asks for the class or the mean, as the models that the net is held against do.
_FITTING = {
    "cross_entropy", "nll_loss", "mse_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
}  # fmt: skip
_PENALTIES = (1e-3, 1e-2, 1e-1)  # relative to the mean eigenvalue of the kernel times its size
_STRETCHES = 20  # of equal learning; in fewer, nothing can be told from noise
_SHARE = 0.25  # of the run, in which the loss is held against as much of it before
_SETTLED = 0.1  # of all that was gained, and of what is left, gained in that


@dataclass(frozen=True)
class Baselines(Measurement):
    """The net beside simple models. Taken when its loss no longer falls, at doubling intervals.

    The simple models are ridge regressions on up to 512 samples of the training data, and each
    sample is predicted from all the others (leave one out): what they know, they know of data that
    they have not seen. Errors are shares: of wrong answers, or of the variance.

    Attributes:
        net: The error of the net: in training, or in validation if that is less.
        constant: That of the best constant.
        linear: That of the linear model.
        kernel: That of the one with Gaussian kernels, which takes in any smooth function.
        samples: How many samples they had.
        gain: What the error of the net may lose in twice the time, as it goes in the second half.
        dropout: The largest p of a dropout.
        decay: The largest weight decay of an optimizer.
        parameters: How many parameters are trained.
        layers: How many weight matrices and kernels are among them.
    """

    hooks: ClassVar[tuple[str, ...]] = (*LossCurve.hooks, "on_validation_end")
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls, LossCurve, Skill)

    net: float
    constant: float
    linear: float
    kernel: float
    samples: int
    gain: float = 0.0
    dropout: float = 0.0
    decay: float = 0.0
    parameters: int = 0
    layers: int = 2

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Baselines | None:
        """Keeps samples while loss calls are heard; compares when the loss has settled."""
        if not hasattr(memory, "parts"):
            memory.inputs, memory.targets, memory.kept = [], [], 0
            memory.parts, memory.function, memory.validation = [], "", math.inf
            memory.direct = False
        if moment.hook == "on_validation_end":
            skill = moment.take(Skill)
            if skill is not None:  # else what the one before has shown still holds
                seen = skill.looks[-1].validation
                memory.validation = seen.error / _whole(seen)
            return None
        if moment.hook == "on_train_batch_end":
            heard = moment.take(LossCalls)
            call = only(heard.calls) if heard is not None else None
            if call is not None and not call.is_weighed:
                _keep(moment, call, memory)
        curve = moment.take(LossCurve)
        if curve is None or memory.kept < _LEAST or not _has_settled(curve):
            return None
        least = max(_STEPS, 0 if curve.over else planned_steps(moment.trainer) / 2)
        if curve.step < least:  # before the middle of the run it may be a plateau
            return None
        late = [sums for step, sums in memory.parts if step > curve.step / 2]
        net = tally(memory.function, late)
        if net is None or not (memory.direct or math.isfinite(memory.validation)):
            return None
        trained = [one for one in moment.module.parameters() if one.requires_grad]
        parameters = sum(one.numel() for one in trained)
        if 2 * parameters < sum(one.numel() for one in moment.module.parameters()):
            return None  # what frozen layers make of the input is the user's choice
        linear, kernel, constant = errors(torch.cat(memory.inputs), torch.cat(memory.targets))
        groups = [group for one in moment.trainer.optimizers for group in one.param_groups]
        error = min(net.error / _whole(net), memory.validation)
        return cls(
            net=error,
            constant=constant,
            linear=linear,
            kernel=kernel,
            samples=memory.kept,
            gain=error * _gain(curve),
            dropout=max((float(getattr(one, "p", 0.0)) for one in moment.module.modules()
                         if "Dropout" in type(one).__name__), default=0.0),
            decay=max((float(group.get("weight_decay") or 0.0) for group in groups), default=0.0),
            parameters=parameters,
            layers=sum(one.dim() > 1 for one in trained),
        )  # fmt: skip


def errors(inputs: Tensor, targets: Tensor) -> tuple[float, float, float]:
    """Returns the errors that a linear model, one with kernels and a constant make, left one out.

    Args:
        inputs: One row for each sample.
        targets: Class numbers, or one row of values for each sample.
    """
    is_class = targets.dim() == 1
    wanted = torch.nn.functional.one_hot(targets).double() if is_class else targets.double()
    wanted = wanted - wanted.mean(0)
    found = []
    for trials in left_out(inputs, wanted):
        if is_class:
            wrong = [(wanted - one).argmax(1) != targets for one in trials]
            found.append(min(float(one.double().mean()) for one in wrong))
        else:
            found.append(min(float(one.square().sum() / wanted.square().sum()) for one in trials))
    constant = 1 - float(torch.bincount(targets).max()) / len(targets) if is_class else 1.0
    return found[0], found[1], constant


def left_out(inputs: Tensor, wanted: Tensor) -> Iterator[list[Tensor]]:
    """Yields by what simple models miss each sample when they know all others.

    First those of linear models, then those of models with Gaussian kernels; several of each, from
    the least penalty to the largest (ridge regression, left one out in closed form).

    Args:
        inputs: One row for each sample.
        wanted: One row of values for each sample, of mean 0.
    """
    inputs = inputs.double()
    inputs = inputs - inputs.mean(0)
    spread = inputs.square().mean(0).sqrt()
    inputs = inputs / spread.clamp_min(1e-6 * float(spread.max()) + 1e-30)
    gram = inputs @ inputs.T
    squares = gram.diagonal()[:, None] + gram.diagonal()[None] - 2 * gram
    gaussian = torch.exp(-squares / squares.median().clamp_min(1e-12))
    for kernel in (gram, gaussian - gaussian.mean(0) - gaussian.mean(1)[:, None] + gaussian.mean()):
        values, vectors = torch.linalg.eigh(kernel)
        values, inner = values.clamp_min(0), vectors.T @ wanted
        residuals = []
        for penalty in _PENALTIES:
            shrunk = 1 / (values + penalty * values.max() + 1e-12)
            own = (vectors.square() @ shrunk)[:, None]  # the mean is left out, too
            residuals.append((vectors @ (shrunk[:, None] * inner)) / own)
        yield residuals


def _whole(one: Any) -> float:
    """What an error is a share of: all answers, or the variance."""
    return 1.0 if one.classes else float(one.constant_error)


def _gain(curve: LossCurve) -> float:
    """Returns the share of the loss that may fall off in twice the time.

    The descent is one in the logarithm of time: a doubling brings as much as the one before, of
    which the third and the fourth quarter show about a half.
    """
    curve = curve.by_rate()
    before, after = (statistics.fmean(curve.part(start, start + 0.25)) for start in (0.5, 0.75))
    return max(0.0, 2 * (before / after - 1)) if after > 0 else 0.0


def _keep(moment: Moment, call: LossCall, memory: SimpleNamespace) -> None:
    sums = sums_of(call)
    if sums is None or call.target is None or call.function not in _FITTING:
        return
    if not call.input.dim() or not call.target.dim():  # a batch of one, squeezed
        return
    memory.function, memory.direct = call.function, _is_plain(call.input)
    memory.parts = [*memory.parts[-63:], (moment.step, sums)]
    single = call.target.numel() == len(call.input) and (call.classes or 0) <= _MOST_CLASSES
    if memory.kept >= _KEPT or not (single or not call.tells_classes):
        return
    # Of one epoch alone: a sample that comes again has not been left out.
    memory.epoch = vars(memory).get("epoch", moment.trainer.current_epoch)
    if memory.epoch != moment.trainer.current_epoch:
        return
    inputs, targets, room = _inputs(moment.batch, call), _targets(call), _KEPT - memory.kept
    if inputs is None or len(inputs) != len(targets) or (call.tells_classes and targets.min() < 0):
        return
    memory.inputs.append(inputs[:room])
    memory.targets.append(targets[:room])
    memory.kept += len(memory.inputs[-1])


def _inputs(batch: Any, call: LossCall) -> Tensor | None:
    """Returns the numbers that the net gets to see; None if it sees more than numbers."""
    rows = len(call.shape) and call.shape[0]
    given = [one for place, one in tensors(batch) if place != call.place and one is not call.target]
    if not given or call.place is None or any(len(one) != rows or one.dim() < 2 for one in given):  # noqa: PLR2004
        return None
    if not all(one.is_floating_point() for one in given):
        return None
    # What is to be given back, cleaned or not, has to pass a bottleneck that no linear model has.
    if call.target is not None and any(one.shape == call.target.shape for one in given):
        return None
    whole = torch.cat([one.detach().reshape(rows, -1).float() for one in given], 1)
    if not bool(whole.isfinite().all()):  # missing values, which the net may know to handle
        return None
    return whole[:, :: math.ceil(whole.shape[1] / _ENTRIES)].cpu().clone()


def _is_plain(output: Tensor) -> bool:
    """Tells whether these are scores as a layer gives them, to which no margin was added."""
    node = output.grad_fn
    for _ in range(_VIEWS):
        name = node.name() if node is not None else ""
        if name.startswith(_LAYERS):
            return True
        if node is None or not name.startswith(_RESHAPED):
            return False
        node = node.next_functions[0][0]
    return False


def _targets(call: LossCall) -> Tensor:
    target = call.target
    if target is None:
        raise ValueError("a call without targets has no baseline")
    target = target.detach().cpu().clone()
    if call.tells_classes:
        return target.reshape(len(target), -1)[:, 0].long()
    return target.reshape(len(target), -1)


def _has_settled(curve: LossCurve) -> bool:
    """Tells whether the loss has fallen, and then has stopped to, by itself."""
    curve = curve.by_rate()
    if len(curve.means) < _STRETCHES:
        return False
    gained, error = curve.gain(_SHARE)
    late, before = curve.part(1 - _SHARE, 1), curve.part(1 - 2 * _SHARE, 1 - _SHARE)
    goes_on = statistics.fmean(before) > (1 + _SETTLED) * statistics.fmean(late)
    return gained < _SETTLED and error < _SETTLED / 2 and not goes_on
