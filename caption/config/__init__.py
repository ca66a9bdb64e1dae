"""Configuration: frozen dataclasses that validate themselves, named experiments (presets) and flags."""

from caption.config.model import DecoderConfig, EncoderConfig, ImageConfig, TransformerConfig
from caption.config.search import HardAttentionMode, SearchConfig
from caption.config.training import STOCHASTIC, Config, ReinforceConfig, SelfCriticalConfig, TrainingConfig

__all__ = [
    "STOCHASTIC",
    "Config",
    "DecoderConfig",
    "EncoderConfig",
    "HardAttentionMode",
    "ImageConfig",
    "ReinforceConfig",
    "SearchConfig",
    "SelfCriticalConfig",
    "TrainingConfig",
    "TransformerConfig",
]
