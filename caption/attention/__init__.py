"""Attention over the regions of an image: a score, and a way to select by it."""

from caption.attention.additive import AdditiveScore
from caption.attention.base import Attended, Memory, at_least_single
from caption.attention.soft import SoftAttention

__all__ = ["AdditiveScore", "Attended", "Memory", "SoftAttention", "at_least_single"]
