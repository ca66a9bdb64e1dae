"""The frozen encoder of `--store features`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caption.config import EncoderConfig
from caption.device import choose_device
from caption.encoders.registry import build_encoder
from caption.errors import UserError


def build_feature_encoder(
    config: EncoderConfig, size: int, device_name: str
) -> tuple[Callable[[NDArray[np.uint8]], NDArray[np.float16]], tuple[int, int], dict[str, Any]]:
    """Return a function from images uint8 [B, 3, S, S] to features float16 [B, L, D], its (L, D), and the encoder's
    fingerprint. Raises UserError for an encoder that is to be trained, or has random weights."""
    if config.finetune_from:
        raise UserError(
            f"encoder.finetune_from is {config.finetune_from!r}, but stored features cannot be trained further; leave "
            "it empty, or store images with --store pixels"
        )
    if config.weights == "none":
        raise UserError("encoder.weights is none, but features of a random encoder are useless; give weights")
    device = choose_device(device_name)
    encoder = build_encoder(config, size).eval().to(device)
    limit = torch.finfo(torch.float16).max

    @torch.inference_mode()
    def encode(images: NDArray[np.uint8]) -> NDArray[np.float16]:
        regions = encoder(torch.from_numpy(images).to(device))
        if float(regions.abs().max()) > limit:
            raise UserError(
                f"features of {config.name} exceed {limit:.0f}, the largest number of half precision; choose another "
                "encoder.layer, or --store pixels"
            )
        return regions.half().cpu().contiguous().numpy()

    return encode, (encoder.grid[0] * encoder.grid[1], encoder.width), encoder.fingerprint()
