"""Gradients: do they arrive, and in a size the optimizer can use?"""

from __future__ import annotations

from .core.detector import Detector


class GradientDetector(Detector):
    """Gradients: do they arrive, and in a size the optimizer can use?"""
