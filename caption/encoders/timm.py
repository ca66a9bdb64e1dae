"""The models of timm (pip install timm), cut at a layer: `timm/NAME`, with the weights and statistics that timm has.

Every model whose features timm can return as a map will do: convolutional nets, and Transformers, whose patches become
the map and whose prefix tokens (class, registers) are dropped.
"""

import difflib
import math
import warnings
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from caption.config import EncoderConfig, ImageConfig
from caption.config.model import TIMM, Fit, Interpolation
from caption.encoders.base import Backbone
from caption.encoders.weights import load_file
from caption.errors import UserError, one_line


def build(config: EncoderConfig, image_size: int, load_weights: bool) -> Backbone:
    """Return a model of timm up to `config.layer`, by default its last features. See `BackboneBuilder`.

    Features of the last layer are those that the model's classifier would pool. Position embeddings are resampled to
    images of this size, after the weights are loaded.
    """
    timm = _import_timm(config.name)
    if config.padding != "torchvision":
        raise UserError("encoder.padding is tensorflow, but timm's models know their own padding; leave it out")
    from_file = Path(config.weights).is_file()
    if load_weights and not from_file and config.weights not in ("none", "DEFAULT"):
        raise UserError(
            f"encoder.weights {config.weights!r} is neither a file nor weights of {config.name}: give a state dict's "
            "path, none, or DEFAULT"
        )
    network = _create(timm, config, pretrained=load_weights and config.weights == "DEFAULT")
    names = network.state_dict().keys()
    statistics = timm.data.resolve_model_data_config(network)
    if config.layer:
        _cut(network, config)
    else:
        network.reset_classifier(0, "")  # no classes, no pooling
        network.register_forward_hook(_as_map)
    if load_weights and from_file:
        load_file(network, names, config)
    if hasattr(network, "set_input_size"):
        _set_image_size(network, config.name, image_size)
    return Backbone(network, config.layer, statistics["mean"], statistics["std"])


def usual_images(config: EncoderConfig, fit: Fit) -> ImageConfig:
    """Return the images that a model's weights were trained with, but for the fit. Raises UserError for a model that
    timm does not have."""
    timm = _import_timm(config.name)
    statistics = timm.get_pretrained_cfg(_known(timm, config))
    interpolation: Interpolation = "bilinear" if statistics.interpolation == "bilinear" else "bicubic"
    return ImageConfig(max(statistics.input_size[1:]), fit, interpolation)


def _import_timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise UserError(f"encoder.name {name}: needs timm; pip install timm") from None
    return timm


def _known(timm: ModuleType, config: EncoderConfig) -> str:
    """Return timm's name of the model. Raises UserError for one that it does not have."""
    name = config.name.removeprefix(TIMM)
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), 3)) or "none"
        raise UserError(f"encoder.name {config.name}: unknown to timm {timm.__version__}; nearest: {near}")
    return name


def _create(timm: ModuleType, config: EncoderConfig, pretrained: bool) -> Any:
    """Return the model with its classifier. Raises UserError for weights that cannot be downloaded."""
    name = _known(timm, config)
    try:
        return timm.create_model(name, pretrained=pretrained)
    except Exception as error:  # of the network, of HTTP, of the Hub, of a tag: it has no common ancestor
        raise UserError(
            f"encoder.weights {config.weights} of {config.name} cannot be had ({type(error).__name__}: "
            f"{one_line(error)}); fetch the file elsewhere, and give its path as encoder.weights"
        ) from None


def _cut(network: Any, config: EncoderConfig) -> None:
    """Drop the layers behind `config.layer`, and let the network return that layer's map.

    Raises UserError for a layer whose features timm does not return.
    """
    layers = [str(info["module"]) for info in network.feature_info]
    if config.layer not in layers:
        raise UserError(f"encoder.layer {config.layer!r} has no features in {config.name}; known: {', '.join(layers)}")
    (index,) = network.prune_intermediate_layers([layers.index(config.layer)], prune_norm=True, prune_head=True)
    # Bound to the instance: with a module around it, names of weights would not be timm's.
    network.forward = partial(network.forward_intermediates, indices=[index], intermediates_only=True)
    network.register_forward_hook(lambda network, inputs, outputs: outputs[0])


def _set_image_size(network: Any, name: str, image_size: int) -> None:
    """Resample what a Transformer knows of positions. Raises UserError for a size that it cannot have."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, of how timm interpolates
            network.set_input_size(img_size=(image_size, image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"encoder {name} cannot read images of {image_size} pixels ({one_line(error)}); make the data with "
            "another --size"
        ) from None


def _as_map(network: nn.Module, inputs: tuple[Tensor, ...], features: Tensor) -> Tensor:
    """Return the last features as a map [B, D, rows, columns], as a forward hook; they may be tokens [B, N, D], of
    which the first are no patches, or a map whose channels are last."""
    if features.dim() == 3:
        patches = features[:, getattr(network, "num_prefix_tokens", 0) :]
        side = math.isqrt(patches.shape[1])  # patches that are no square are refused by `Encoder`
        return patches.transpose(1, 2).reshape(len(patches), -1, side, side)
    return features.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else features
