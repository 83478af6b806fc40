"""A linter for training runs: Lightning callbacks that name what makes a run sick."""

from .activations import ActivationDetector as ActivationDetector
from .class_balance import ClassBalanceDetector as ClassBalanceDetector
from .core.detector import RULES as RULES
from .core.detector import Detector as Detector
from .core.detector import rule as rule
from .core.detector import state as state
from .core.detector import threshold as threshold
from .core.detector import vital as vital
from .core.findings import Evidence as Evidence
from .core.findings import Finding as Finding
from .core.findings import Severity as Severity
from .core.findings import TrainingHalted as TrainingHalted
from .core.measurements import Cadence as Cadence
from .core.measurements import Measurement as Measurement
from .core.measurements import Moment as Moment
from .crashes import CrashDetector as CrashDetector
from .generalization import GeneralizationDetector as GeneralizationDetector
from .gradients import GradientDetector as GradientDetector
from .inputs import InputDetector as InputDetector
from .learning_rate import LearningRateDetector as LearningRateDetector
from .losses import LossDetector as LossDetector
from .modes import ModeDetector as ModeDetector
from .nonfinite import NonFiniteDetector as NonFiniteDetector
from .outputs import OutputDetector as OutputDetector
from .preflight import PreflightDetector as PreflightDetector
from .preflight import check as check
from .structure import StructureDetector as StructureDetector
from .suite import NNDebug as NNDebug
from .updates import UpdateDetector as UpdateDetector

__version__ = "0.1.0"
