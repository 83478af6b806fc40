"""NaN and infinity: the first one, and where it came from"""

from __future__ import annotations

from .core.detector import Detector


class NonFiniteDetector(Detector):
    """NaN and infinity: the first one, and where it came from"""
