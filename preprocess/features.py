"""The frozen encoder of `--store features`."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from caption.config import EncoderConfig
from caption.device import autocast, choose_device, set_tf32, to_cpu, to_device, tune
from caption.encoders.registry import build_encoder
from caption.errors import UserError

GPU_BATCH = 128  # images encoded at a time on a GPU, which fewer would leave idle
# By the type of the device: the precisions to encode in, the next one where features are not finite in the one before.
PRECISIONS = {"cuda": ("fp16", "fp32")}


class FeatureEncoder(NamedTuple):
    """A frozen encoder."""

    encode: Callable[[NDArray[np.uint8]], NDArray[np.float16]]  # images [B, 3, S, S] -> features [B, L, D]
    shape: tuple[int, int]  # (L, D)
    fingerprint: dict[str, Any]
    batch_size: int  # that suits its device


def build_feature_encoder(config: EncoderConfig, size: int, device_name: str, batch_size: int) -> FeatureEncoder:
    """Return the encoder on a device. A GPU encodes in half precision, in which features are stored, and more than
    `batch_size` images at a time.

    Raises UserError for an encoder that is to be trained, or has random weights."""
    if config.finetune_from:
        raise UserError(
            f"encoder.finetune_from is {config.finetune_from!r}, but stored features cannot be trained further; leave "
            "it empty, or store images with --store pixels"
        )
    if config.weights == "none":
        raise UserError("encoder.weights is none, but features of a random encoder are useless; give weights")
    device = choose_device(device_name)
    tune(device)
    set_tf32(device, allowed=False)
    encoder = build_encoder(config, size).eval().to(device)

    @torch.inference_mode()
    def encode(images: NDArray[np.uint8]) -> NDArray[np.float16]:
        batch = to_device(torch.from_numpy(images), device)
        for precision in PRECISIONS.get(device.type, ("fp32",)):
            with autocast(device, precision):
                regions = encoder(batch).half().contiguous()
            features, largest = to_cpu(regions, regions.abs().max())  # a GPU is waited for once
            if math.isfinite(largest):
                return features.numpy()
        raise UserError(
            f"features of {config.name} exceed {torch.finfo(torch.float16).max:.0f}, the largest number of half "
            "precision; choose another encoder.layer, or --store pixels"
        )

    shape = encoder.grid[0] * encoder.grid[1], encoder.width
    return FeatureEncoder(encode, shape, encoder.fingerprint(), GPU_BATCH if device.type == "cuda" else batch_size)
