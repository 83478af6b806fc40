"""The autopsy of a step whose loss or gradients are not finite: a canary, then a replay."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..mode_effects import is_norm
from ..repro import write_repro
from ..sandbox import Sandbox, Snapshot, find_generators
from ..tracer import Culprit, trace
from ..trainer import plain_name
from ..undo import Draws
from . import Cadence, Measurement, Moment

log = logging.getLogger("lightning_nndebug")

# The 1-D parameters (biases, norms) sum the error over the batch: a NaN shows there nearly always.
# The rare rest, such as a penalty on one weight matrix, is seen when all gradients are read.
_ALL_GRADIENTS = Cadence(every=10, since=5)  # when they are read anyway
# A GradScaler halves its scale until the gradients fit: some skipped updates are how it works.
_SCALER_PATIENCE = 4
# Once the weights are gone, every further step is a consequence.
_MOST_REPLAYS = 3
_MOST_NAMES = 5
_MEANS = ("exp_avg", "momentum_buffer")


@dataclass(frozen=True)
class Autopsy(Measurement):
    """What made the loss or a gradient non-finite. Taken only when one is.

    Attributes:
        in_loss: Whether the loss itself is bad, or only gradients are.
        loss: The loss, as Lightning hands it to the backward.
        gradients: Names of parameters with a bad gradient, the first few.
        parameters: Names of parameters that are bad themselves, the first few.
        statistics: Names of norms whose running statistics are, although all the rest is well.
        culprit: The origin; None if the step, run again, did not show it, or could not be.
        replayed: Whether the step was run again.
        exact: Whether it came to the same loss then, bit for bit.
        modified: Tensors of the batch that the step had written to.
        optimizer_notes: What the optimizer's state tells of the bad parameters.
        had_bad_gradients: Whether that state remembers gradients that were not finite.
        scaled: Whether a GradScaler is at work, which skips this update by itself.
        skipped: How many updates ``skip_bad_steps`` has left out, this one included; 0 if this
            one is let through.
        repro: The file from which the step can be run again, if one was written.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_before_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
    )
    restless: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("skip_bad_steps", "repro_mb")

    in_loss: bool
    loss: float
    gradients: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    culprit: Culprit | None = None
    replayed: bool = False
    exact: bool = False
    modified: tuple[str, ...] = ()
    optimizer_notes: tuple[str, ...] = ()
    had_bad_gradients: bool = False
    scaled: bool = False
    skipped: int = 0
    repro: str | None = None

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Autopsy | None:
        """Keeps what a replay needs, looks at the canary, and opens the body if it is dead."""
        if moment.hook == "on_train_batch_start":
            _begin(moment, memory)
        elif moment.hook == "on_before_backward":
            memory.step.losses.append(moment.loss.detach())
        elif moment.hook == "on_before_optimizer_step":
            return _before_update(moment, memory)
        else:
            memory.draws.end_step()
            if not memory.stepped:
                return _without_update(moment, memory)
            memory.step = None  # or the next batch could not have the memory of this one
        return None

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Lets go of the batch."""
        memory.step = memory.suspect = None


@dataclass
class _Step:
    """A micro-batch, as far as it must be known to be run again."""

    snapshot: Snapshot
    batch_idx: int
    losses: list[Tensor] = field(default_factory=list)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Returns whether all tensors are finite, with one transfer to the host.

    A sum is the fastest witness of small tensors, and the L2 norm that of large ones (5 to 10 times
    faster than ``isfinite().all()`` on a CPU). Finite values may overflow both, so a bad one is
    looked into.
    """
    if not tensors:
        return True
    parts, large = [], []
    for one in map(_values, tensors):
        if one.dim() > 1 or one.is_complex():
            large.append(one)
        else:
            parts.append(one if one.dim() else one.reshape(1))
    if large:
        parts += [one.reshape(1) for one in torch._foreach_norm(large)]
    device = parts[0].device
    if any(one.device != device for one in parts):
        parts = [one.to(device) for one in parts]
    witness = torch.cat(parts).sum(dtype=torch.float32)
    if math.isfinite(witness.item()):
        return True
    return all(bool(_values(one).isfinite().all()) for one in tensors)


def _begin(moment: Moment, memory: SimpleNamespace) -> None:
    if not hasattr(memory, "generators"):
        memory.generators = find_generators(moment.module)
        memory.draws = Draws(memory.generators)
        memory.updates = memory.streak = memory.skipped = memory.replays = 0
        memory.suspect, memory.let_through, memory.lost = None, False, False
        memory.spoilt = False
    rng = memory.draws.begin_step()
    snapshot = Snapshot.take(moment.module, moment.batch, rng=rng)
    memory.step = _Step(snapshot, moment.batch_idx)
    memory.stepped = False


def _before_update(moment: Moment, memory: SimpleNamespace) -> Autopsy | None:
    memory.stepped = True
    parameters = [one for group in moment.optimizer.param_groups for one in group["params"]]
    is_canary = not _ALL_GRADIENTS.due(memory.updates, 0.0, 0.0)
    memory.updates += 1
    # A net of embeddings alone has no small parameters.
    chosen = [one for one in parameters if is_canary and one.dim() <= 1] or parameters
    gradients = [one.grad for one in chosen if one.grad is not None]
    step, suspect = memory.step, memory.suspect
    # Ranks share their gradients, but not their losses: only what all of them see may start a
    # replay, since the collectives in the step need all of them.
    alone = moment.trainer.world_size == 1
    if all_finite([*gradients, *(step.losses if alone else ())]):
        memory.streak, memory.suspect = 0, None
        if not alone:
            return _of_this_rank(moment, memory, suspect or step)
        return None if is_canary else _of_statistics(moment, memory)
    in_loss = suspect is not None or not all_finite(step.losses)
    scaled = getattr(moment.trainer, "scaler", None) is not None and not in_loss
    if scaled:
        memory.streak += 1
        if memory.streak != _SCALER_PATIENCE:
            return None
    memory.suspect = None
    found = _dissect(moment, memory, suspect or step, in_loss=in_loss, parameters=parameters)
    if memory.skipped < memory.skip_bad_steps and not scaled:
        memory.skipped += 1
        for one in parameters:  # an optimizer leaves a parameter without gradient as it is
            one.grad = None
        log.warning(
            "nndebug left out the update of step %d: its gradients are not finite (%d of %d).",
            moment.step, memory.skipped, memory.skip_bad_steps,
        )  # fmt: skip
        return found and replace(found, skipped=memory.skipped)
    memory.let_through = not scaled
    return found


def _of_this_rank(moment: Moment, memory: SimpleNamespace, step: _Step) -> Autopsy | None:
    """Tells of a bad loss that has spoilt no gradient: the others do not know, so nothing is run.

    The derivative of log(x) at -1 is -1: there are such losses.
    """
    if all_finite(step.losses):
        return None
    loss = next(float(one.float().mean()) for one in step.losses if not all_finite([one]))
    repro = write_repro(moment, step.snapshot, step.batch_idx, memory.repro_mb)
    return Autopsy(in_loss=True, loss=loss, repro=repro)


def _of_statistics(moment: Moment, memory: SimpleNamespace) -> Autopsy | None:
    """Tells of running statistics that have seen a batch whose update somebody has left out."""
    norms = {name: one for name, one in moment.module.named_modules() if is_norm(one)}
    if memory.spoilt or all_finite([one.running_var for one in norms.values()]):
        return None
    memory.spoilt = True
    gone = [name for name, one in norms.items() if not all_finite([one.running_var])]
    loss = float(memory.step.losses[-1].float().mean()) if memory.step.losses else math.nan
    names = tuple(map(plain_name, gone[:_MOST_NAMES]))
    return Autopsy(in_loss=False, loss=loss, statistics=names)


def _without_update(moment: Moment, memory: SimpleNamespace) -> Autopsy | None:
    """Looks at a micro-batch that only accumulates, or at raw optimizers that no hook tells of."""
    step, memory.step = memory.step, None
    loss = moment.outputs.get("loss") if isinstance(moment.outputs, dict) else None
    if not step.losses and isinstance(loss, Tensor):
        step.losses.append(loss)
    if all_finite(step.losses):
        return None
    if moment.trainer.world_size > 1:
        memory.suspect = memory.suspect or step  # until all ranks meet, before the update
        return None
    return _dissect(moment, memory, step, in_loss=True, parameters=list(moment.module.parameters()))


def _dissect(
    moment: Moment, memory: SimpleNamespace, step: _Step, *, in_loss: bool, parameters: list[Tensor]
) -> Autopsy | None:
    can_replay = _can_replay(moment.trainer)
    if memory.lost or (can_replay and memory.replays >= _MOST_REPLAYS):
        return None
    names = {id(one): plain_name(name) for name, one in moment.module.named_parameters()}
    gone = [one for one in parameters if not bool(_values(one).isfinite().all())]
    memory.lost = bool(gone)
    if gone and memory.let_through:
        return None  # the consequence of what was reported before
    bad = [one for one in parameters if one.grad is not None and not all_finite([one.grad])]
    culprit, replayed, exact = None, False, False
    if can_replay:
        memory.replays += 1
        with Sandbox(moment.trainer, moment.module, step.snapshot, memory.generators) as sandbox:
            result = trace(sandbox, step.snapshot.batch, step.batch_idx)
        culprit, replayed = result.culprit, True
        exact = result.replay.exact(step.losses[-1] if step.losses else None)
        if not step.losses:  # a raw backward in manual optimization
            in_loss = culprit is not None and culprit.kind == "forward"
    return Autopsy(
        in_loss=in_loss,
        loss=float(step.losses[-1].float().mean()) if step.losses else math.nan,
        gradients=_named(bad, names),
        parameters=_named(gone, names),
        culprit=culprit,
        replayed=replayed,
        exact=exact,
        modified=step.snapshot.modified(),
        optimizer_notes=tuple(_post_mortem(moment.optimizer, gone)),
        had_bad_gradients=any(_had_bad_gradients(moment.optimizer, one) for one in gone[:1]),
        scaled=getattr(moment.trainer, "scaler", None) is not None,
        repro=write_repro(moment, step.snapshot, step.batch_idx, memory.repro_mb)
        if culprit
        else None,
    )


def _post_mortem(optimizer: Any, gone: list[Tensor]) -> Iterable[str]:
    """Tells what an optimizer's state says about parameters that it has spoilt."""
    if optimizer is None or not gone:
        return
    first = gone[0]
    group: dict[str, Any] = next(
        (g for g in optimizer.param_groups if any(one is first for one in g["params"])), {}
    )
    for key in ("lr", "eps", "weight_decay"):
        if key in group:
            yield f"{key}={float(group[key]):.3g}"
    lost = ~first.isfinite()
    for key, value in getattr(optimizer, "state", {}).get(first, {}).items():
        if not isinstance(value, Tensor) or value.shape != first.shape:
            continue
        if not bool(value.isfinite().all()):
            yield f"{key} is not finite either"
        elif key.endswith("_sq") and torch.equal(value == 0, lost):
            yield f"{key} is 0 exactly where the parameter is lost"


def _had_bad_gradients(optimizer: Any, parameter: Tensor) -> bool:
    """Whether a mean of the gradients so far is not finite: it is made of nothing else."""
    state = getattr(optimizer, "state", {}).get(parameter, {})
    means = [state.get(key) for key in _MEANS]
    return any(isinstance(one, Tensor) and not bool(one.isfinite().all()) for one in means)


def _can_replay(trainer: Any) -> bool:
    """A sharded module cannot run its step alone; replicas and single devices can."""
    return trainer.world_size == 1 or "DDP" in type(trainer.strategy).__name__


def _named(tensors: list[Tensor], names: dict[int, str]) -> tuple[str, ...]:
    return tuple(names.get(id(one), "a parameter of no module") for one in tensors[:_MOST_NAMES])


def _values(tensor: Tensor) -> Tensor:
    if tensor.is_sparse:
        return tensor._values()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
