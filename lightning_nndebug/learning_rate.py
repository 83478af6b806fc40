"""The learning rate: too high, too low, zero, or not the one that was meant."""

from __future__ import annotations

from .core.detector import Detector


class LearningRateDetector(Detector):
    """The learning rate: too high, too low, zero, or not the one that was meant."""
