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

import torch
from torch import Tensor, nn

from caption.config import EncoderConfig, ImageConfig
from caption.config.model import TIMM, Fit, Interpolation
from caption.encoders.base import Backbone
from caption.encoders.weights import load_file
from caption.errors import UserError, one_line


def build(config: EncoderConfig, image_size: int, load_weights: bool) -> Backbone:
    """Return a model of timm up to `config.layer`, by default its last features. See `BackboneBuilder`.

    The last features are those that the model's classifier would pool or, where timm cannot leave out the pooling, the
    last that it returns as a map. Position embeddings are resampled to images of this size, after the weights are
    loaded. Whatever a model raises becomes a UserError.
    """
    try:
        return _build(config, image_size, load_weights)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of a thousand models: it has no common ancestor
        raise UserError(
            f"encoder {config.name} cannot be cut ({type(error).__name__}: {one_line(error)}); give another "
            "encoder.layer, or another model"
        ) from error


def _build(config: EncoderConfig, image_size: int, load_weights: bool) -> Backbone:
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
        _cut(network, _index(network, config))
    else:
        _drop_classifier(network)
    if load_weights and from_file:
        load_file(network, names, config)
    if hasattr(network, "set_input_size"):
        _set_image_size(network, config.name, image_size)
    if not config.layer and not _gives_map(network, image_size):
        _cut(network, -1, norm=True)
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


def _index(network: Any, config: EncoderConfig) -> int:
    """Return the position of `config.layer` among the features that timm returns. Raises UserError if it is none."""
    layers = [str(info["module"]) for info in network.feature_info]
    if config.layer not in layers:
        raise UserError(f"encoder.layer {config.layer!r} has no features in {config.name}; known: {', '.join(layers)}")
    return layers.index(config.layer)


def _cut(network: Any, layer: int, norm: bool = False) -> None:
    """Drop what is behind a layer, and let the network return that layer's map, after the model's last norm or not."""
    (index,) = network.prune_intermediate_layers([layer], prune_norm=not norm, prune_head=True)
    # Bound to the instance: with a module around it, names of weights would not be timm's.
    network.forward = partial(network.forward_intermediates, indices=[index], norm=norm, intermediates_only=True)
    network.register_forward_hook(lambda network, inputs, outputs: outputs[0])


def _drop_classifier(network: Any) -> None:
    """Drop the classifier and the pooling, or the classifier alone where timm's model insists on pooling."""
    try:
        network.reset_classifier(0, "")
    except AssertionError:
        network.reset_classifier(0)


def _gives_map(network: Any, image_size: int) -> bool:
    """Return whether the network without its classifier gives a map of more than one region, which it then returns."""
    as_map = network.register_forward_hook(_as_map)
    try:
        with torch.no_grad():
            features = network.eval()(torch.zeros(1, 3, image_size, image_size))
        if features.dim() == 4 and features[0, 0].numel() > 1:
            return True
    except Exception:  # such as a list, or tokens of which the first are no patches
        pass
    as_map.remove()
    return False


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
