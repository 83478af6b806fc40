"""What the net makes of samples that are new to it: a likeness of samples that nobody taught it."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..listening import hookable
from ..sandbox import running
from ..trainer import eagerly
from . import Cadence, Measurement, Moment
from .first_layers import computes
from .inputs import Inputs, sampled
from .rows import Rows, answers_of

_BATCHES = 32  # the first ones of the run: what comes later may have been learned by heart
_ROWS = 512  # samples,
_FEATURES = 512  # and so many values of each: 1 MB, and as much of tokens
_BATCH = 8  # samples of a batch at least, to say what is usual in it


@dataclass(frozen=True)
class Features(Measurement):
    """What the last layer is given, of the first samples of the run.

    A net that knows nothing yet is a fair judge of which samples are alike: none of them has been
    shown to it before. Each batch is standardized by itself, since the net moves on between them.

    Attributes:
        target: Where the labels are.
        rows: What the last layer was given, one row for each sample, batch by batch.
        tokens: How often each token occurs, likewise; empty if there are none.
        labels: A class number or value for each, or several answers or values.
        is_class: Whether these are class numbers, or answers of yes and no.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_batch_end",)
    prepares: ClassVar[str | None] = "on_train_batch_start"
    cadence: ClassVar[Cadence] = Cadence(first=_BATCHES, every=math.inf)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Inputs,)
    lasting: ClassVar[bool] = True

    target: str
    rows: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    is_class: bool

    @classmethod
    def prepare(cls, moment: Moment, memory: SimpleNamespace) -> None:
        """Listens to the last layer, and in the first step to all, to find out which it is."""
        memory.stack, memory.given = ExitStack(), {}
        if not hasattr(memory, "known"):
            memory.known = ([], [], [])
        if moment.trainer.current_epoch or sum(map(len, memory.known[2])) >= _ROWS:
            return
        found = vars(memory).get("last")
        layers = [found] if found else [one for _, one in hookable(moment.module) if computes(one)]
        memory.stack.enter_context(eagerly(moment.module))

        def calling(module: nn.Module, args: Any) -> None:
            given = args[0] if args else None
            if not isinstance(given, Tensor) or not given.is_floating_point() or running():
                return
            # In the backward, a checkpoint is run again.
            if torch._C._current_graph_task_id() == -1 and not (found and memory.given):
                memory.given = {module: given.detach()}

        for one in layers:
            memory.stack.callback(one.register_forward_pre_hook(calling).remove)

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Features | None:
        """Keeps what the last layer was given, and the labels."""
        inputs = moment.take(Inputs)
        if inputs is None or inputs.target is None or not vars(memory).get("given"):
            return None
        ((memory.last, given),) = memory.given.items()
        main, labels = inputs.read_main(moment.batch), inputs.target.read(moment.batch)
        if main is None or labels is None or not given.dim():
            return None
        if inputs.tokens and main.dim() < 2:  # noqa: PLR2004 -- one of several that go together
            return None
        answers = answers_of(labels)
        if answers is None or not len(given) == len(main) == len(answers) >= _BATCH:
            return None
        rows, tokens, known = memory.known
        rows.append(_standardized(_flat(given)))
        known.append(answers)
        if inputs.tokens and not main.is_floating_point():
            tokens.append(_counted(main))
        is_class = not labels.is_floating_point()
        return cls(str(inputs.target), tuple(rows), tuple(tokens), tuple(known), is_class)

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks, and lets go of what was given."""
        if hasattr(memory, "stack"):
            memory.stack.close()
            memory.given = {}


@dataclass(frozen=True)
class Likeness(Measurement):
    """All that tells which samples are alike, as far as it has come to be known.

    Attributes:
        rows: Samples as they are; None of tokens, whose numbers mean nothing.
        features: What the net makes of them.
    """

    hooks: ClassVar[tuple[str, ...]] = Inputs.hooks
    needs: ClassVar[tuple[type[Measurement], ...]] = (Rows, Features)
    lasting: ClassVar[bool] = True

    rows: Rows | None = None
    features: Features | None = None

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Likeness | None:
        """Joins what is new at this moment to what is known."""
        known: Likeness = vars(memory).get("known", cls())
        rows, features = moment.take(Rows) or known.rows, moment.take(Features) or known.features
        if rows is known.rows and features is known.features:
            return None
        memory.known = joined = cls(rows, features)
        return joined


def _flat(given: Tensor) -> Tensor:
    """Returns a row for each sample: of an image or a sequence, the mean over its places."""
    if given.dim() == 3:  # noqa: PLR2004
        given = given.mean(1)  # (sample, time, feature)
    elif given.dim() > 3:  # noqa: PLR2004
        given = given.flatten(2).mean(2)  # (sample, channel, height, width)
    return sampled(given, _FEATURES).float()


def _standardized(rows: Tensor) -> Tensor:
    return (rows - rows.mean(0)) / rows.std(0).clamp_min(1e-6)


def _counted(tokens: Tensor) -> Tensor:
    """Returns how often each token occurs in a sample, as a direction."""
    flat = tokens.detach().flatten(1).long() % _FEATURES
    counts = torch.zeros(len(flat), _FEATURES, device=flat.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float32))
    return nn.functional.normalize(counts.sqrt())
