"""Attention over the regions of an image: a score, a window and a selection; several heads; or glimpses of a plane."""

from caption.attention.base import Attention, AttentionOutput, Memory, Sample
from caption.attention.build import SELECTIONS, build_attention
from caption.attention.glimpses import GLIMPSES, DrawGlimpse, Retina
from caption.attention.hard import HardAttention
from caption.attention.multihead import MultiHeadAttention
from caption.attention.scores import SCORES, AdditiveScore, ConcatScore
from caption.attention.soft import SoftAttention
from caption.attention.windows import WINDOWS

__all__ = [
    "GLIMPSES",
    "SCORES",
    "SELECTIONS",
    "WINDOWS",
    "AdditiveScore",
    "Attention",
    "AttentionOutput",
    "ConcatScore",
    "DrawGlimpse",
    "HardAttention",
    "Memory",
    "MultiHeadAttention",
    "Retina",
    "Sample",
    "SoftAttention",
    "build_attention",
]
