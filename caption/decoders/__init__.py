"""Decoders write the caption: `prepare`, `start`, `step` and `forward` are their protocol (`base.Decoder`)."""

from caption.attention.windows import Grid
from caption.config import DecoderConfig
from caption.decoders.base import Decoder, DecoderOutput, RecurrentDecoder, RecurrentState, shift_right
from caption.decoders.luong import LuongDecoder
from caption.decoders.show_attend_tell import ShowAttendTellDecoder
from caption.decoders.transformer import TransformerDecoder

DECODERS: dict[str, type[ShowAttendTellDecoder | LuongDecoder | TransformerDecoder]] = {
    "show_attend_tell": ShowAttendTellDecoder,
    "luong": LuongDecoder,
    "transformer": TransformerDecoder,
}

__all__ = [
    "DECODERS",
    "Decoder",
    "DecoderOutput",
    "LuongDecoder",
    "RecurrentDecoder",
    "RecurrentState",
    "ShowAttendTellDecoder",
    "TransformerDecoder",
    "build_decoder",
    "shift_right",
]


def build_decoder(
    config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int
) -> ShowAttendTellDecoder | LuongDecoder | TransformerDecoder:
    """Return the decoder of a configuration for regions of width D on a grid of rows and columns, and V words."""
    name = (
        "transformer"
        if config.kind == "transformer"
        else {"previous_state": "show_attend_tell", "current_state": "luong"}[config.attend_with]
    )
    return DECODERS[name](config, region_width, grid, vocabulary_size)
