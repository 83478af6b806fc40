"""When measurements rest, so that a long run of tiny steps is not slowed down."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from statistics import median

_UNRESTED = 200  # batches at the start, in which everything is watched
_IN_A_ROW = 16  # batches are watched, and then as many are left out as it takes
_AGE = 0.25  # of a run so far: nobody rests longer, and each quarter of a run has a look
_SHARE = 0.005  # of the time of a step, for all measurements that can rest


class Rest:
    """Decides which batches of training only the restless measurements see.

    What the others cost is the difference between the batches that all see and those that only the
    restless ones do. Where it is less than half a percent of a step, nobody ever rests.

    Args:
        is_stepping: Tells whether the batch at hand ends in an optimizer step.
        left: Tells how many steps are to come; the last ones are watched.
    """

    def __init__(
        self, is_stepping: Callable[[], bool], left: Callable[[], float] = lambda: math.inf
    ) -> None:
        self.now = False
        self._is_stepping, self._left = is_stepping, left
        self._batches, self._until, self._woken, self._resting = 0, _UNRESTED, 0, False
        self._costs: dict[bool, deque[float]] = {
            kind: deque([0.0], maxlen=_IN_A_ROW) for kind in (False, True)
        }

    def end_batch(self, cost: float, step_time: float) -> None:
        """Takes account of a batch; all who rest begin and end with an optimizer step.

        Args:
            cost: The seconds that we took.
            step_time: The seconds that the batch took without us.
        """
        self._batches += 1
        self._costs[self.now].append(cost)
        if self._batches >= self._until and self._is_stepping():
            extra = median(self._costs[False]) - median(self._costs[True])
            pause = 0 if self._resting else _IN_A_ROW * (extra / (_SHARE * step_time) - 1)
            pause = int(min(pause, _AGE * self._batches, self._left() - _IN_A_ROW))
            self._resting = pause > 0
            self._until = self._batches + (pause if self._resting else _IN_A_ROW)
        now = self._resting and self._batches >= self._woken
        if now != self.now and self._is_stepping():
            self.now = now

    def wake(self, batches: int) -> None:
        """Has all watch so many batches from the next one on."""
        self._woken = max(self._woken, self._batches + 1 + batches)
