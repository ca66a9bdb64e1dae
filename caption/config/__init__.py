"""Configuration: frozen dataclasses, checked where they are made; named experiments; flags."""

from caption.config.model import DecoderConfig, EncoderConfig, ImageConfig, TransformerConfig
from caption.config.search import Attend, SearchConfig
from caption.config.training import DRAWING, Config, ReinforceConfig, SelfCriticalConfig, TrainingConfig

__all__ = [
    "DRAWING",
    "Attend",
    "Config",
    "DecoderConfig",
    "EncoderConfig",
    "ImageConfig",
    "ReinforceConfig",
    "SearchConfig",
    "SelfCriticalConfig",
    "TrainingConfig",
    "TransformerConfig",
]
