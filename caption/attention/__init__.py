"""Attention over the regions of an image: a score, and a way to select by it."""

from caption.attention.additive import AdditiveScore
from caption.attention.base import Attended, Draw, Memory, at_least_single
from caption.attention.hard import HardAttention
from caption.attention.soft import SoftAttention

SELECTIONS = {"soft": SoftAttention, "hard": HardAttention}

__all__ = [
    "SELECTIONS",
    "AdditiveScore",
    "Attended",
    "Draw",
    "HardAttention",
    "Memory",
    "SoftAttention",
    "at_least_single",
]
