"""The loss of one batch in both modes: as it is trained on, and as validation would see it."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from ..listening import hookable
from ..mode_effects import FRAMEWORKS, effect
from ..sandbox import Sandbox
from ..trainer import accumulation, plain_name
from . import Measurement, Moment
from .repeatable import Repeatable, is_repeatable
from .schedules import planned_steps

log = logging.getLogger("lightning_nndebug")

# Not at round numbers, where schedules change what the net gets to see.
_EARLY = tuple(53 * 2**k for k in range(30))
_LATE = (0.53, 0.77, 1.0)
_SHORTEST = 10  # steps, before anything is compared
_INITIAL = 5  # steps whose mean loss is the one before training
_RUNS = 4  # of which the mean is taken, if there is doubt
_WORTH = 0.1  # There is, where this share of the progress is lost.
_SETTLED = 3.0  # time constants after which running statistics are within 5 % of their target
_FRESH = 5.0  # time constants at the start of a run, where the target moves fastest
_LONGER = 1.5  # times as far in the run, at least, is a second look
_USUAL = 0.1  # the momentum of a norm in torch
_TORN = 0.5  # of the rows, if single units are dropped
_WHOLE = {"SingleDeviceStrategy", "DDPStrategy"}  # where each process has all of the parameters


@dataclass(frozen=True)
class BothModes(Measurement):
    """The loss of a fresh batch, with the norms and dropouts of the net in both modes.

    All else stays in train mode, and so does the code of the user's that asks for the mode.

    Attributes:
        train: The loss in train mode, the mean of several runs if they do not agree.
        eval: The loss with norms and dropouts in eval mode, likewise.
        eval_norms: The loss with the norms alone in eval mode; NaN where ``eval`` is well.
        initial: The mean loss of the first steps, in train mode.
        spread: Its standard deviation from step to step.
        norms: Classes of the norms in question.
        noises: Classes of the dropouts and the like.
        momentum: The least momentum of the norms; NaN without norms.
        batches: Batches since the beginning.
        settling: Time constants of the quickest norm's running statistics in the planned run; inf
            if that is not known. Below 1, much of what they were at the beginning is in them still.
        unscaled: Dropouts of the user's own that leave what they keep as it is, in both modes: the
            share that they keep, by name.
        wobble: By how many standard deviations the running mean of a norm, of those that forget
            fastest, is off by chance: it is a mean of few values.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_start", "on_train_batch_end")
    needs: ClassVar[tuple[type[Measurement], ...]] = (Repeatable,)

    train: float
    eval: float
    eval_norms: float
    initial: float
    spread: float
    norms: tuple[str, ...]
    noises: tuple[str, ...]
    momentum: float
    batches: int
    settling: float = math.inf
    unscaled: Mapping[str, float] = field(default_factory=dict)
    wobble: float = 0.0

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> BothModes | None:
        """Looks at steps 53, 106, 212, ..., and three times in the second half of any run."""
        if not hasattr(memory, "initial"):
            late = _LATE[0] * (planned_steps(moment.trainer) - 1)
            memory.initial, memory.next = [], max(_SHORTEST, min(_EARLY[0], late))
            memory.looks = _can_look(moment)
        if not memory.looks:
            return None
        if moment.hook == "on_train_batch_end":
            _keep_initial(moment, memory)
            return None
        if moment.step < memory.next or len(memory.initial) < _INITIAL:
            return None
        if not is_repeatable(moment):
            return None
        plan = planned_steps(moment.trainer)
        look = _look(cls, moment, memory, is_late=moment.step >= plan / 2)
        regular = (*_EARLY, *(share * (plan - 1) for share in _LATE))
        memory.next = min((one for one in regular if one > 1.2 * moment.step), default=math.inf)
        if look is not None and look.is_doubtful and moment.trainer.world_size == 1:
            # Running statistics lag behind whatever has just changed in the data: give them time.
            settled = moment.step + _SETTLED / look.momentum if look.momentum else math.inf
            settled = max(settled, _LONGER * moment.step)
            memory.next = settled if settled < plan else memory.next
        return look

    @property
    def is_doubtful(self) -> bool:
        """Whether eval mode does worse by an amount that is worth a second look."""
        return self.eval - self.train > _WORTH * (self.initial - self.train)


def _can_look(moment: Moment) -> bool:
    strategies = {kind.__name__ for kind in type(moment.trainer.strategy).__mro__}
    return bool(strategies & _WHOLE)


def _keep_initial(moment: Moment, memory: SimpleNamespace) -> None:
    loss = moment.outputs.get("loss") if isinstance(moment.outputs, Mapping) else None
    if len(memory.initial) < _INITIAL and isinstance(loss, Tensor):
        memory.initial.append(loss.detach().float().mean() * accumulation(moment.trainer))


def _look(
    cls: type[BothModes], moment: Moment, memory: SimpleNamespace, *, is_late: bool
) -> BothModes | None:
    modules = [one for one in moment.module.modules() if one.training]
    norms = [one for one in modules if effect(one) == "norm"]
    noises = [one for one in modules if effect(one) == "noise"]
    batches = moment.trainer.fit_loop.total_batch_idx + 1
    planned = planned_steps(moment.trainer) * accumulation(moment.trainer)
    momentum = min((_momentum(one) for one in norms), default=math.nan)
    quickest = max((_momentum(one) or math.inf for one in norms), default=math.inf)
    # Statistics with torch's own momentum lag behind at first in any run, however short it is.
    is_slow = is_late and momentum < _USUAL
    is_settled = is_slow or not norms or batches * momentum >= _FRESH
    if not (norms or noises) or not is_settled:
        return None
    first = torch.stack(memory.initial)
    initial, spread = torch.stack([first.mean(), first.std()]).tolist()
    try:
        with (
            _Shares(moment.module) as shares,
            _Wobbles(norms) as wobbles,
            Sandbox(moment.trainer, moment.module) as sandbox,
        ):

            def losses(changed: list[nn.Module], runs: int = 1) -> list[float]:
                sandbox.rewind()
                for one in changed:
                    one.training = False
                values = [_loss(sandbox, moment) for _ in range(runs)]
                return torch.stack(values).tolist()

            (train,), (evaluated,), alone = losses([]), losses([*norms, *noises]), math.nan
            # Ranks must run the step equally often, for the sake of the collectives in it.
            is_shared = moment.trainer.world_size > 1
            if is_shared or evaluated - train > _WORTH * (initial - train):
                alone = evaluated  # of norms alone, where nothing is left to chance
                if is_shared or noises or len({train, *losses([], 2)}) > 1:
                    train = fmean(losses([], _RUNS))
                    evaluated = fmean(losses([*norms, *noises], _RUNS))
                    alone = fmean(losses(norms, _RUNS)) if norms else train
    except Exception as error:
        memory.looks = moment.trainer.world_size > 1  # other ranks do not know of it
        log.info("nndebug: the modes are not compared, for a step cannot be run again: %s", error)
        return None
    return cls(
        train=train,
        eval=evaluated,
        eval_norms=alone,
        initial=initial,
        spread=spread,
        norms=_kinds(norms),
        noises=_kinds(noises),
        momentum=momentum,
        batches=batches,
        settling=planned * quickest,
        unscaled=shares.unscaled(),
        wobble=max(wobbles.found, default=0.0),
    )


class _Wobbles(ExitStack):
    """Sees of how many values norms make their running statistics.

    The running mean averages batches with weights that fall by 1 - momentum from each to the one
    before. Positions of one sample are much alike, and count half.
    """

    def __init__(self, norms: list[nn.Module]) -> None:
        super().__init__()
        self.found: list[float] = []
        for one in norms:
            # The values of other positions, or processes, are not counted here.
            if isinstance(one, _NormBase) and not isinstance(
                one, (_InstanceNorm, nn.SyncBatchNorm)
            ):
                self.callback(one.register_forward_pre_hook(self._see).remove)

    def _see(self, norm: nn.Module, given: Any) -> None:
        x = given[0] if given else None
        if isinstance(x, Tensor) and x.dim() > 1 and x.numel() and norm.training:
            values = len(x) * (1 + (x[0, 0].numel() - 1) / 2)
            momentum = _momentum(norm)
            self.found.append(math.sqrt(momentum / (2 - momentum) / values))


class _Shares(ExitStack):
    """Sees what dropouts of the user's own do to the answers of layers, in either mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._kept: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        self._is_hidden = False  # what comes before the first layer is data, to be corrupted
        leaves = [(plain_name(name), one) for name, one in hookable(module) if not one._modules]
        own = [
            (name, one)
            for name, one in leaves
            if one.training and effect(one) == "noise" and not _is_of_framework(one)
        ]
        for name, one in own:
            self.callback(one.register_forward_hook(functools.partial(self._see, name)).remove)
        for _, one in leaves if own else ():
            if next(one.parameters(), None) is not None:
                self.callback(one.register_forward_hook(self._layer).remove)

    def _layer(self, *_: Any) -> None:
        self._is_hidden = True

    def _see(self, name: str, module: nn.Module, given: Any, result: Any) -> None:
        x = given[0] if given else None
        if not (self._is_hidden and isinstance(x, Tensor) and isinstance(result, Tensor)):
            return
        if x.shape != result.shape or x.dim() < 2:  # noqa: PLR2004
            return
        is_left = (result == x) | (result == 0)
        kept, there = (result != 0).sum(-1), (x != 0).sum(-1)
        # Whole rows may be left out: a word, a branch, a modality.
        is_torn = ((kept > 0) & (kept < there)).float().mean() > _TORN
        share = kept.sum() / there.sum()
        is_dropout = is_left.all() & (is_torn if module.training else share == 1)
        self._kept[module.training][name] = torch.where(is_dropout, share, torch.nan)

    def unscaled(self) -> dict[str, float]:
        """Returns the share that is kept in train mode, of those that keep everything in eval."""
        names = [name for name in self._kept[True] if name in self._kept[False]]
        if not names:
            return {}
        shares = [torch.stack([self._kept[mode][name] for name in names]) for mode in (True, False)]
        kept = torch.where(shares[1].isnan(), torch.nan, shares[0]).tolist()
        return {name: one for name, one in zip(names, kept, strict=True) if one < 1}


def _is_of_framework(module: nn.Module) -> bool:
    return f"{type(module).__module__}.".startswith(FRAMEWORKS)


def _kinds(modules: list[nn.Module]) -> tuple[str, ...]:
    return tuple(sorted({type(one).__name__ for one in modules}))


def _momentum(norm: Any) -> float:
    """How much of the batch goes into the running statistics; those of None average all batches."""
    return float(norm.momentum) if isinstance(norm, _NormBase) and norm.momentum else 0.0


def _loss(sandbox: Sandbox, moment: Moment) -> Tensor:
    replay = sandbox.training_step(moment.batch, moment.batch_idx, grad=False)
    if replay.loss is None or len(replay.losses) != 1:
        raise ValueError("the training step has no single loss")
    return replay.loss.detach().float().mean()
