"""NNDebug: all detectors as one callback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .activations import ActivationDetector
from .class_balance import ClassBalanceDetector
from .core.detector import Detector
from .crashes import CrashDetector
from .generalization import GeneralizationDetector
from .gradients import GradientDetector
from .inputs import InputDetector
from .learning_rate import LearningRateDetector
from .losses import LossDetector
from .modes import ModeDetector
from .nonfinite import NonFiniteDetector
from .outputs import OutputDetector
from .preflight import PreflightDetector
from .structure import StructureDetector
from .updates import UpdateDetector

DETECTORS: tuple[type[Detector], ...] = (
    NonFiniteDetector,
    GradientDetector,
    ModeDetector,
    ClassBalanceDetector,
    LearningRateDetector,
    LossDetector,
    UpdateDetector,
    StructureDetector,
    ActivationDetector,
    OutputDetector,
    InputDetector,
    GeneralizationDetector,
    CrashDetector,
)

# Those that cost more than a run of theirs should: added by the user, or not at all.
OPTIONAL: tuple[type[Detector], ...] = (PreflightDetector,)


class NNDebug(Detector):
    """Watches a training run for everything that this package knows.

    The options hold for every detector; a detector's own option goes before the suite's.

    Args:
        detectors: Detectors with options of their own, which stand in for the default one of
            their class, and detectors of your own. Narrow the suite down with ``select``.
            None means every detector of this package as it comes.
        target_key: Where the targets are in a batch: ``"labels"``, ``1``. None finds them.
        target_fn: A function from a batch to its targets, for batches that no key describes.
    """

    detectors: Sequence[Detector] | None = None
    target_key: str | int | None = None
    target_fn: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        own = tuple(self.detectors or ())
        for one in own:
            if not isinstance(one, Detector) or isinstance(one, NNDebug):
                raise TypeError(f"detectors takes instances of Detector, got {one!r}.")
        replaced = {type(one) for one in own}
        self._members = (*(kind() for kind in DETECTORS if kind not in replaced), *own)

    @property
    def members(self) -> tuple[Detector, ...]:
        """The detectors that the suite brings to the run."""
        return self._members

    def state_dict(self) -> dict[str, Any]:
        """Returns the memory of every detector that has one."""
        states = {type(one).__qualname__: one.state_dict() for one in self.members}
        states = {name: memory for name, memory in states.items() if memory}
        return {"version": 1, "detectors": states} if states else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the memory of every detector that is still there."""
        for one in self.members:
            one.load_state_dict(state_dict.get("detectors", {}).get(type(one).__qualname__, {}))
