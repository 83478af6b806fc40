"""How evenly the classes are dealt out to the optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from ..statistics import Graph, Likeness
from ..trainer import is_stepping
from . import Measurement, Moment
from .labels import Labels, Target

_FIRST = 8  # the labels of so many steps are read at once,
_EVERY = 16  # and then those of so many together: to read makes the host wait for the device


@dataclass(frozen=True)
class LabelStream(Measurement):
    """How evenly the classes have been dealt out to the optimizer steps so far, on this rank.

    Attributes:
        target: Where the labels were.
        counts: How often each class has come.
        purity: By how much more often two samples of one step are of one class than any two
            samples: 0 if the steps are random draws, 1 if each step has a single class;
        purity_p: and the chance of so much if they are random draws.
        order: By how much more alike two steps in a row are than any two steps: 0 if steps come in
            random order, towards 1 if classes come one after the other;
        order_p: and the chance of so much if they come in random order.
        regular: The share of steps with several classes and equally many samples of each.
        steps: How many optimizer steps there were.
        look: How often this was read, counted from 1.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_train_epoch_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (Labels,)

    target: Target
    counts: tuple[float, ...]
    purity: float
    purity_p: float
    order: float
    order_p: float
    regular: float
    steps: int
    look: int

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> LabelStream | None:
        """Gathers the counts on their device, and reads those of several steps together."""
        if not hasattr(memory, "past"):
            memory.pending, memory.open, memory.past = [], None, None
        if moment.hook != "on_train_epoch_end":
            labels = moment.take(Labels)
            if labels is None or not labels.target.is_single or not labels.is_new(moment):
                return None
            memory.target = labels.target
            counts = labels.counts if memory.open is None else memory.open + labels.counts
            if moment.module.automatic_optimization and not is_stepping(moment.trainer):
                memory.open = counts  # micro-batches make one step together
                return None
            memory.open = None
            memory.pending.append(counts)
            known = 0 if memory.past is None else memory.past.steps
            if known >= _FIRST and len(memory.pending) < _EVERY:
                return None
        if not memory.pending:
            return None
        steps = torch.stack(memory.pending).double().cpu()
        memory.pending.clear()
        memory.past = memory.past or _Past(steps.shape[1])
        memory.past.add(steps)
        return memory.past.judged(memory.target)  # type: ignore[no-any-return]


class _Past:
    """Running sums over steps; of the steps themselves, only the last one is kept."""

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self.joins, self.within = 0.0, Graph()
        self.sum, self.lengths = self.counts.clone(), self.counts.clone()
        self.outer: Tensor | None = None
        self.length = self.length2 = self.chain = 0.0
        self.last: Tensor | None = None
        self.steps = self.regular = self.look = 0

    def add(self, steps: Tensor) -> None:
        steps = steps[steps.sum(1) > 0]  # without labels, such as those of an unlabelled batch
        sizes = steps.sum(1)
        self.counts += steps.sum(0)
        self.joins += float((steps * (steps - 1)).sum()) / 2
        pairs = sizes * (sizes - 1) / 2
        self.within += Graph(float(pairs.sum()), float((pairs * (sizes - 2)).sum()))
        mixes = steps / sizes.unsqueeze(1)
        squares = (mixes**2).sum(1)
        self.sum += mixes.sum(0)
        self.lengths += squares @ mixes
        outer = mixes.mT @ mixes
        self.outer = outer if self.outer is None else self.outer + outer
        self.length += float(squares.sum())
        self.length2 += float((squares**2).sum())
        chain = mixes if self.last is None else torch.cat([self.last, mixes])
        self.chain += float((chain[1:] * chain[:-1]).sum())
        self.last = chain[-1:]
        self.steps += len(steps)
        largest = steps.amax(1, keepdim=True)
        equal = ((steps == 0) | (steps == largest)).all(1)
        self.regular += int((equal & ((steps > 0).sum(1) > 1) & (largest[:, 0] > 1)).sum())

    def judged(self, target: Target) -> LabelStream:
        self.look += 1
        counts = tuple(self.counts.tolist())
        labels, mixes = Likeness.of_labels(counts), self._mixes()
        purity = labels.excess(self.joins, self.within) if labels else (0.0, 1.0)
        chain = Graph(self.steps - 1, self.steps - 2)
        order = mixes.excess(self.chain, chain) if mixes else (0.0, 1.0)
        regular = self.regular / max(1, self.steps)
        return LabelStream(target, counts, *purity, *order, regular, self.steps, self.look)

    def _mixes(self) -> Likeness | None:
        """How much alike any two steps are: the chance that a sample of each is of one class."""
        n = self.steps
        if n < 4 or self.outer is None:  # noqa: PLR2004
            return None
        pairs = float(self.sum @ self.sum) - self.length
        squares = float((self.outer**2).sum()) - self.length2
        rows = float(self.sum @ self.outer @ self.sum - 2 * self.lengths @ self.sum) + self.length2
        return Likeness(
            pair=pairs / (n * (n - 1)),
            square=squares / (n * (n - 1)),
            fork=(rows - squares) / (n * (n - 1) * (n - 2)),
            apart=(pairs**2 - 4 * rows + 2 * squares) / (n * (n - 1) * (n - 2) * (n - 3)),
        )
