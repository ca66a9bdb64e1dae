"""Decoders write the caption: `prepare`, `start`, `step` and `forward` are their protocol (`base.Decoder`)."""

from collections.abc import Callable

from caption.attention import Grid
from caption.config import DecoderConfig
from caption.decoders.adaptive import AdaptiveDecoder
from caption.decoders.base import Decoder, DecoderOutput, RecurrentDecoder, shift_right
from caption.decoders.luong import LuongDecoder
from caption.decoders.show_attend_tell import ShowAttendTellDecoder
from caption.decoders.transformer import TransformerDecoder
from caption.decoders.up_down import UpDownDecoder
from caption.errors import UserError

DECODERS: dict[str, Callable[[DecoderConfig, int, Grid, int], RecurrentDecoder | TransformerDecoder]] = {
    "show_attend_tell": ShowAttendTellDecoder,
    "luong": LuongDecoder,
    "adaptive": AdaptiveDecoder,
    "up_down": UpDownDecoder,
    "transformer": TransformerDecoder,
}

__all__ = [
    "DECODERS", "AdaptiveDecoder", "Decoder", "DecoderOutput", "LuongDecoder", "RecurrentDecoder",
    "ShowAttendTellDecoder", "TransformerDecoder", "UpDownDecoder", "build_decoder", "shift_right",
]  # fmt: skip


def build_decoder(
    config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int
) -> RecurrentDecoder | TransformerDecoder:
    """Return the decoder of a configuration for regions of width D on a grid of rows and columns, and V words.

    Raises UserError for an unknown name.
    """
    if config.name not in DECODERS:
        raise UserError(f"decoder.name is {config.name!r}, but must be one of {', '.join(DECODERS)}")
    return DECODERS[config.name](config, region_width, grid, vocabulary_size)
