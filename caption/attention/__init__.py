"""Attention over the regions of an image: a score, a window and a selection; several heads; or glimpses of a plane."""

from caption.attention.base import Attention, AttentionOutput, GumbelSoftmax, Memory, Sample
from caption.attention.glimpses import GLIMPSES, DrawGlimpse, Retina
from caption.attention.hard import HardAttention
from caption.attention.multihead import MultiHeadAttention
from caption.attention.scores import SCORES, AdditiveScore, ConcatScore
from caption.attention.soft import SoftAttention
from caption.attention.windows import WINDOWS, Grid
from caption.config import DecoderConfig
from caption.errors import UserError

__all__ = [
    "GLIMPSES", "SCORES", "SELECTIONS", "WINDOWS", "AdditiveScore", "Attention", "AttentionOutput", "ConcatScore",
    "DrawGlimpse", "Grid", "GumbelSoftmax", "HardAttention", "Memory", "MultiHeadAttention", "Retina", "Sample",
    "SoftAttention", "build_attention",
]  # fmt: skip

SELECTIONS = {"soft": SoftAttention, "hard": HardAttention}


def build_attention(config: DecoderConfig, region_width: int, grid: Grid) -> Attention:
    """Return a score with a window and a selection, or several heads, or glimpses, for regions of width D on a grid.

    Raises UserError for an unknown score.
    """
    hidden, width = config.hidden_dim, config.attention_dim
    if config.score == "multi_head":
        return MultiHeadAttention(hidden, region_width, width, config.heads, config.temperature)
    if config.attention in GLIMPSES:
        return GLIMPSES[config.attention](hidden, region_width, width, grid, config.glimpse_size)
    if config.score not in SCORES:
        raise UserError(f"decoder.score is {config.score!r}, but must be one of {', '.join(SCORES)}, multi_head")
    score = SCORES[config.score](hidden, region_width, width)
    window = None
    if config.window != "global":
        plane = config.window_dims == "2d"
        window = WINDOWS[config.window](grid, config.window_radius, plane, hidden, width)
    return SELECTIONS[config.attention](score, region_width, config.temperature, window)
