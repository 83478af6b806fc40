"""Modes: does each module train while training and evaluate while validating?"""

from __future__ import annotations

from .core.detector import Detector


class ModeDetector(Detector):
    """Modes: does each module train while training and evaluate while validating?"""
