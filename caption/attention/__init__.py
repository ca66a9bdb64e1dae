"""Attention over the regions of an image: a score, a window on them, and a way to select by both; several heads; or
glimpses of their plane."""

from caption.attention.base import Attention, AttentionOutput, Draw, Memory
from caption.attention.glimpses import GLIMPSES, GaussianGrid, Retina
from caption.attention.hard import HardAttention
from caption.attention.multihead import MultiHeadAttention
from caption.attention.scores import SCORES, AdditiveScore, ConcatScore
from caption.attention.soft import SoftAttention
from caption.attention.windows import WINDOWS

SELECTIONS = {"soft": SoftAttention, "hard": HardAttention}

__all__ = [
    "GLIMPSES",
    "SCORES",
    "SELECTIONS",
    "WINDOWS",
    "AdditiveScore",
    "Attention",
    "AttentionOutput",
    "ConcatScore",
    "Draw",
    "GaussianGrid",
    "HardAttention",
    "Memory",
    "MultiHeadAttention",
    "Retina",
    "SoftAttention",
]
