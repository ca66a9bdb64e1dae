"""Attention over the regions of an image: a score, a window on them, and a way to select by both."""

from caption.attention.base import Attended, Draw, Memory, at_least_single
from caption.attention.hard import HardAttention
from caption.attention.scores import SCORES, AdditiveScore
from caption.attention.soft import SoftAttention
from caption.attention.windows import WINDOWS

SELECTIONS = {"soft": SoftAttention, "hard": HardAttention}

__all__ = [
    "SCORES",
    "SELECTIONS",
    "WINDOWS",
    "AdditiveScore",
    "Attended",
    "Draw",
    "HardAttention",
    "Memory",
    "SoftAttention",
    "at_least_single",
]
