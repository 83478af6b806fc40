"""Class balance: do the batches show the classes the way the task needs them?"""

from __future__ import annotations

from .core.detector import Detector


class ClassBalanceDetector(Detector):
    """Class balance: do the batches show the classes the way the task needs them?"""
