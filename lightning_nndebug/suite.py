"""NNDebug: all detectors as one callback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .activations import ActivationDetector
from .class_balance import ClassBalanceDetector
from .core.causality import by_cause
from .core.detector import RULES, Detector
from .core.record import find
from .core.sinks import log_figures
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
from .zero_code import FOUND

log = logging.getLogger("lightning_nndebug")

_LONG = 60.0  # seconds: after so long a run, the second or two of drawing are not felt

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
        report: Whether to write ``report.html`` when the run ends, and to log its figures where a
            logger takes some. None does so if the run was long enough for that not to be felt;
            ``nndebug report`` writes it at any time.
        input_key: Where the inputs are in a batch: ``"image"``, ``0``. None finds them.
        target_key: Where the targets are, likewise.
        target_fn: A function from a batch to its targets, for batches that no key describes.
        sample_id_key: What tells samples apart, if the batch has numbers for them.
    """

    detectors: Sequence[Detector] | None = None
    report: bool | None = None
    input_key: str | int | None = None
    target_key: str | int | None = None
    target_fn: Callable[[Any], Any] | None = None
    sample_id_key: str | int | None = None

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

    def conclude(self, trainer: Any, directory: Path) -> None:
        """Draws the report, if it was asked for or the run was long."""
        _draw(trainer, directory, asked=self.report)

    def state_dict(self) -> dict[str, Any]:
        """Returns the memory of every detector that has one."""
        states = {type(one).__qualname__: one.state_dict() for one in self.members}
        states = {name: memory for name, memory in states.items() if memory}
        return {"version": 1, "detectors": states} if states else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the memory of every detector that is still there."""
        for one in self.members:
            one.load_state_dict(state_dict.get("detectors", {}).get(type(one).__qualname__, {}))


class ZeroCode(Detector):
    """The suite that ``NNDEBUG=1`` brings: it yields to detectors that the script has already.

    It has a name of its own, so that a Trainer takes it beside a suite of the user's, and keeps
    nothing in checkpoints: they are those of the script as it stands.

    Args:
        report: See ``NNDebug``.
    """

    report: bool | None = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._members = NNDebug().members

    @property
    def members(self) -> tuple[Detector, ...]:
        """The detectors that it brings to the run."""
        return self._members

    def conclude(self, trainer: Any, directory: Path) -> None:
        """Draws the report."""
        _draw(trainer, directory, asked=self.report)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Notes what was found, by whichever of our callbacks in the Trainer."""
        super().on_train_end(trainer, pl_module)
        _note(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Likewise."""
        super().on_exception(trainer, pl_module, exception)
        _note(trainer)


def _draw(trainer: Any, directory: Path, *, asked: bool | None) -> None:
    if asked is False:
        return
    from .report import Story, pictures, write

    story = Story.read(find(directory))
    if asked or story.seconds > _LONG:
        path = directory / "report.html"
        write(story, path)
        log.info("nndebug: the report of this run is %s", path)
        log_figures(trainer, lambda: pictures(story))


def _note(trainer: Any) -> None:
    ours = (one for one in trainer.callbacks if isinstance(one, Detector))
    found = (finding for callback in ours for finding in callback.findings)
    ordered = by_cause(found, {code: one.caused_by for code, (_, one) in RULES.items()})
    FOUND.extend(one for one in ordered if one not in FOUND)
