"""All encoders by the names that `encoder.name` takes."""

from caption.config import EncoderConfig
from caption.config.model import TIMM
from caption.encoders import cnn, timm, torchvision
from caption.encoders.base import BackboneBuilder, Encoder
from caption.errors import UserError

# One line for each family. Names are global: a family whose names another has too needs a prefix, as timm has.
ENCODERS: dict[str, BackboneBuilder] = {
    **dict.fromkeys(cnn.NETWORKS, cnn.build),
    **dict.fromkeys(torchvision.NAMES, torchvision.build),
}


def build_encoder(config: EncoderConfig, image_size: int, load_weights: bool = True) -> Encoder:
    """Return the encoder `config.name` for images of S = `image_size` pixels.

    `load_weights=False` leaves its weights random, for a checkpoint that will fill them. Raises UserError for an
    unknown name, and for settings that the encoder does not have.
    """
    build = timm.build if config.name.startswith(TIMM) else ENCODERS.get(config.name)
    if build is None:
        raise UserError(f"unknown encoder {config.name!r}; known: {', '.join(ENCODERS)}, {TIMM}NAME")
    return Encoder(config, build(config, image_size, load_weights), image_size)
